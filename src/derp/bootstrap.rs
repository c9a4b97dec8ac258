//! Names and addresses for `/bootstrap-dns`: how clients whose DNS is broken find the control plane.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use arc_swap::ArcSwap;
use tokio::net::lookup_host;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{interval, timeout};

use super::limits::{BOOTSTRAP_REFRESH_INTERVAL, BOOTSTRAP_RESOLVE_TIMEOUT};

/// What `/bootstrap-dns` may tell. Asked for every request: answers come from memory.
pub trait BootstrapDns: Send + Sync + 'static {
    /// Addresses by name, in lower case and without the final dot; names without addresses are left
    /// out.
    fn addresses(&self) -> BTreeMap<String, Vec<IpAddr>>;
}

/// Names whose addresses are given.
#[derive(Clone, Debug, Default)]
pub struct StaticNames(BTreeMap<String, Vec<IpAddr>>);

impl FromIterator<(String, Vec<IpAddr>)> for StaticNames {
    fn from_iter<T: IntoIterator<Item = (String, Vec<IpAddr>)>>(names: T) -> Self {
        Self(
            names
                .into_iter()
                .filter(|(_, addresses)| !addresses.is_empty())
                .collect(),
        )
    }
}

impl BootstrapDns for StaticNames {
    fn addresses(&self) -> BTreeMap<String, Vec<IpAddr>> {
        self.0.clone()
    }
}

/// Addresses by name, in lower case and without the final dot. Names without addresses are yet to be
/// resolved.
pub type Names = BTreeMap<String, Vec<IpAddr>>;

/// Names that are resolved every ten minutes, and at once when they change. A name that cannot be
/// resolved keeps its last addresses. Dropping this ends the resolving.
#[derive(Debug)]
pub struct ResolvedNames {
    known: Arc<ArcSwap<Names>>,
    task: JoinHandle<()>,
}

impl ResolvedNames {
    /// Starts to resolve those of `names` for which no addresses are given.
    pub fn spawn(names: watch::Receiver<Names>) -> Self {
        let known = Arc::new(ArcSwap::from_pointee(BTreeMap::new()));
        let task = tokio::spawn(refresh_forever(names, Arc::clone(&known)));
        Self { known, task }
    }
}

impl BootstrapDns for ResolvedNames {
    fn addresses(&self) -> BTreeMap<String, Vec<IpAddr>> {
        BTreeMap::clone(&self.known.load())
    }
}

impl Drop for ResolvedNames {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn refresh_forever(mut wanted: watch::Receiver<Names>, known: Arc<ArcSwap<Names>>) {
    let mut ticks = interval(BOOTSTRAP_REFRESH_INTERVAL);
    ticks.tick().await; // the first is at once
    loop {
        let names = wanted.borrow_and_update().clone();
        refresh(names, &known).await;
        tokio::select! {
            _ = ticks.tick() => {}
            Ok(()) = wanted.changed() => {}
        }
    }
}

/// Tells what is known first: resolving takes time, or never ends well.
async fn refresh(mut names: Names, known: &ArcSwap<Names>) {
    let unresolved =
        |(name, given): (&String, &Vec<IpAddr>)| given.is_empty().then(|| name.clone());
    let asked: Vec<String> = names.iter().filter_map(unresolved).collect();
    let before = known.load_full();
    for name in &asked {
        if let Some(old) = before.get(name) {
            names.insert(name.clone(), old.clone());
        }
    }
    let publish = |names: &Names| known.store(Arc::new(StaticNames::from_iter(names.clone()).0));
    publish(&names);
    for name in asked {
        if let Some(found) = resolve(&name).await {
            names.insert(name, found);
        }
    }
    publish(&names);
}

async fn resolve(name: &str) -> Option<Vec<IpAddr>> {
    let found = match timeout(BOOTSTRAP_RESOLVE_TIMEOUT, lookup_host((name, 0))).await {
        Ok(Ok(found)) => found,
        Ok(Err(error)) => {
            tracing::debug!(name, %error, "bootstrap name did not resolve");
            return None;
        }
        Err(_) => {
            tracing::debug!(name, "bootstrap name did not resolve in time");
            return None;
        }
    };
    let mut addresses = found.map(|addr| addr.ip()).collect::<Vec<_>>();
    addresses.sort_unstable();
    addresses.dedup();
    (!addresses.is_empty()).then_some(addresses)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_literal_address_resolves_to_itself() {
        assert_eq!(
            resolve("192.0.2.7").await,
            Some(vec!["192.0.2.7".parse().unwrap()])
        );
    }

    #[tokio::test]
    async fn given_addresses_are_told_and_names_that_left_are_forgotten() {
        let names =
            |text: &str| Names::from([(text.to_owned(), vec!["192.0.2.7".parse().unwrap()])]);
        let known = ArcSwap::from_pointee(names("gone.example"));
        refresh(names("relay.example"), &known).await;
        assert_eq!(**known.load(), names("relay.example"));
    }

    #[test]
    fn names_without_addresses_are_left_out() {
        let names = StaticNames::from_iter([("a".to_owned(), vec![])]);
        assert_eq!(names.addresses(), BTreeMap::new());
    }
}
