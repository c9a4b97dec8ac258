//! Names and addresses for `/bootstrap-dns`: how clients whose DNS is broken find the control plane.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use arc_swap::ArcSwap;
use tokio::net::lookup_host;
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

/// Names that are resolved every ten minutes. A name that cannot be resolved keeps its last
/// addresses. Dropping this ends the resolving.
#[derive(Debug)]
pub struct ResolvedNames {
    known: Arc<ArcSwap<BTreeMap<String, Vec<IpAddr>>>>,
    task: JoinHandle<()>,
}

impl ResolvedNames {
    /// Starts to resolve `names`; literal addresses stand for themselves.
    pub fn spawn(names: Vec<String>) -> Self {
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

async fn refresh_forever(names: Vec<String>, known: Arc<ArcSwap<BTreeMap<String, Vec<IpAddr>>>>) {
    let mut ticks = interval(BOOTSTRAP_REFRESH_INTERVAL);
    loop {
        ticks.tick().await;
        let mut addresses = BTreeMap::clone(&known.load());
        for name in &names {
            if let Some(found) = resolve(name).await {
                addresses.insert(name.trim_end_matches('.').to_ascii_lowercase(), found);
            }
        }
        known.store(Arc::new(addresses));
    }
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

    #[test]
    fn names_without_addresses_are_left_out() {
        let names = StaticNames::from_iter([("a".to_owned(), vec![])]);
        assert_eq!(names.addresses(), BTreeMap::new());
    }
}
