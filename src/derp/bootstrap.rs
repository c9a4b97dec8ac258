//! Names and addresses for `/bootstrap-dns`: how clients whose DNS is broken find the control plane.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use arc_swap::ArcSwap;
use tokio::net::lookup_host;
use tokio::sync::watch;
use tokio::task::JoinSet;
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

/// Where the addresses of names come from, by name in lower case and without the final dot.
pub type Names = BTreeMap<String, NameSource>;

/// Where the addresses of a name come from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NameSource {
    /// Known already.
    pub given: Vec<IpAddr>,
    /// Whether others are asked of the resolver.
    pub resolve: bool,
}

/// Names that are resolved every ten minutes, and at once when they change. A name that cannot be
/// resolved keeps its last addresses.
#[derive(Debug)]
pub struct ResolvedNames {
    known: Arc<ArcSwap<Known>>,
}

type Known = BTreeMap<String, Vec<IpAddr>>;

impl ResolvedNames {
    /// Starts to resolve those of `names` that ask for it.
    pub fn spawn(names: watch::Receiver<Names>, tasks: &mut JoinSet<()>) -> Self {
        let known = Arc::new(ArcSwap::default());
        tasks.spawn(refresh_forever(names, Arc::clone(&known)));
        Self { known }
    }
}

impl BootstrapDns for ResolvedNames {
    fn addresses(&self) -> BTreeMap<String, Vec<IpAddr>> {
        BTreeMap::clone(&self.known.load())
    }
}

async fn refresh_forever(mut wanted: watch::Receiver<Names>, known: Arc<ArcSwap<Known>>) {
    let mut ticks = interval(BOOTSTRAP_REFRESH_INTERVAL);
    ticks.tick().await; // the first is at once
    let mut resolved = Known::new();
    loop {
        let names = wanted.borrow_and_update().clone();
        refresh(&names, &mut resolved, &known).await;
        tokio::select! {
            _ = ticks.tick() => {}
            Ok(()) = wanted.changed() => {}
        }
    }
}

/// Tells what is known first: resolving takes time, or never ends well.
async fn refresh(names: &Names, resolved: &mut Known, known: &ArcSwap<Known>) {
    let asked = |name: &str| names.get(name).is_some_and(|source| source.resolve);
    resolved.retain(|name, _| asked(name));
    known.store(Arc::new(all_addresses(names, resolved)));
    for name in names.keys().filter(|name| asked(name)) {
        if let Some(found) = resolve(name).await {
            resolved.insert(name.clone(), found);
        }
    }
    known.store(Arc::new(all_addresses(names, resolved)));
}

/// What is given for each name, then what else was found.
fn all_addresses(names: &Names, resolved: &Known) -> Known {
    let all = |(name, source): (&String, &NameSource)| {
        let mut addresses = source.given.clone();
        for found in resolved.get(name).into_iter().flatten() {
            if !addresses.contains(found) {
                addresses.push(*found);
            }
        }
        (name.clone(), addresses)
    };
    StaticNames::from_iter(names.iter().map(all)).0
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

    fn source(given: &str, resolve: bool) -> NameSource {
        NameSource {
            given: vec![given.parse().unwrap()],
            resolve,
        }
    }

    #[tokio::test]
    async fn given_addresses_are_told_and_names_that_left_are_forgotten() {
        let known = ArcSwap::default();
        let mut resolved = Known::new();
        for name in ["gone.example", "relay.example"] {
            let names = Names::from([(name.to_owned(), source("192.0.2.7", false))]);
            refresh(&names, &mut resolved, &known).await;
        }
        let expected = [(
            "relay.example".to_owned(),
            vec!["192.0.2.7".parse().unwrap()],
        )];
        assert_eq!(**known.load(), expected.into());
    }

    #[tokio::test]
    async fn a_name_with_given_addresses_is_told_with_those_that_it_resolves_to_as_well() {
        let known = ArcSwap::default();
        // A literal is the one name that resolves everywhere.
        let names = Names::from([("192.0.2.1".to_owned(), source("192.0.2.7", true))]);
        refresh(&names, &mut Known::new(), &known).await;
        let expected = ["192.0.2.7", "192.0.2.1"].map(|text| text.parse::<IpAddr>().unwrap());
        assert_eq!(known.load()["192.0.2.1"], expected);
    }

    #[test]
    fn names_without_addresses_are_left_out() {
        let names = StaticNames::from_iter([("a".to_owned(), vec![])]);
        assert_eq!(names.addresses(), BTreeMap::new());
    }
}
