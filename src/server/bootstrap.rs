//! Names and addresses for `/bootstrap-dns`, on the client port and on the relay alike: the control
//! plane's and those of every relay in the DERP map.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use tokio::sync::broadcast::error::RecvError;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::cluster::{Applied, Cluster, What};
use crate::derp::{Names, ResolvedNames};
use crate::state::State;

/// Starts to follow the DERP map and to resolve the names without literal addresses.
pub(super) fn spawn(
    server_host: &str,
    cluster: &Cluster,
    tasks: &mut JoinSet<()>,
) -> Arc<ResolvedNames> {
    let mut changes = cluster.subscribe();
    let (cluster, server_host) = (cluster.clone(), server_host.to_owned());
    let (wanted, names) = watch::channel(names(&cluster.state(), &server_host));
    tasks.spawn(async move {
        loop {
            match changes.recv().await {
                Ok(applied) if !matters(&applied) => {}
                Ok(_) | Err(RecvError::Lagged(_)) => {
                    let now = self::names(&cluster.state(), &server_host);
                    wanted.send_if_modified(|known| {
                        let differs = *known != now;
                        *known = now;
                        differs
                    });
                }
                Err(RecvError::Closed) => return,
            }
        }
    });
    Arc::new(ResolvedNames::spawn(names))
}

fn matters(applied: &Applied) -> bool {
    match &applied.what {
        What::Reset => true,
        What::Change(change) => change.derp_map,
    }
}

/// Every name that a client may have to find, with the addresses that the map gives for it.
fn names(state: &State, server_host: &str) -> Names {
    let mut names: Names = BTreeMap::from([(lower(server_host), Vec::new())]);
    let regions = state.derp_map().regions.unwrap_or_default();
    for relay in regions.values().flat_map(|region| &region.nodes) {
        let given = names.entry(lower(&relay.host_name)).or_default();
        // The map says "none" where a family is off.
        let literals = [&relay.ipv4, &relay.ipv6].map(|text| text.parse::<IpAddr>().ok());
        given.extend(literals.into_iter().flatten());
    }
    names
}

fn lower(name: &str) -> String {
    name.trim_end_matches('.').to_ascii_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netmap::testing::World;

    #[test]
    fn the_names_are_those_of_the_control_plane_and_of_all_relays() {
        let mut world = World::new();
        world.replica_up(1);
        world.replica_up(2);
        let found = names(&world.state, "Hydra.Example.");
        let expected: Names = [
            ("hydra.example".to_owned(), vec![]),
            (
                "r1.example.com".to_owned(),
                vec!["192.0.2.1".parse().unwrap()],
            ),
            (
                "r2.example.com".to_owned(),
                vec!["192.0.2.2".parse().unwrap()],
            ),
        ]
        .into();
        assert_eq!(found, expected);
    }
}
