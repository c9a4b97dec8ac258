//! Names and addresses for `/bootstrap-dns`, on the client port and on the relay alike: the control
//! plane's and those of every relay in the DERP map.

use std::net::IpAddr;
use std::sync::Arc;

use tokio::sync::broadcast::error::RecvError;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::cluster::{Applied, Cluster, What};
use crate::derp::{NameSource, Names, ResolvedNames};
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
    Arc::new(ResolvedNames::spawn(names, tasks))
}

fn matters(applied: &Applied) -> bool {
    match &applied.what {
        What::Reset => true,
        What::Change(change) => change.derp_map,
    }
}

/// Every name that a client may have to find, with the addresses that the map gives for it. The map
/// speaks for relays alone: the control plane's name is resolved also where a relay has the same.
fn names(state: &State, server_host: &str) -> Names {
    let mut names = Names::new();
    let regions = state.derp_map().regions.unwrap_or_default();
    for relay in regions.values().flat_map(|region| &region.nodes) {
        let source = names.entry(lower(&relay.host_name)).or_default();
        // The map says "none" where a family is off.
        let literals = [&relay.ipv4, &relay.ipv6].map(|text| text.parse::<IpAddr>().ok());
        for literal in literals.into_iter().flatten() {
            if !source.given.contains(&literal) {
                source.given.push(literal);
            }
        }
    }
    for source in names.values_mut() {
        source.resolve = source.given.is_empty();
    }
    let control: &mut NameSource = names.entry(lower(server_host)).or_default();
    control.resolve = true;
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
            ("hydra.example".to_owned(), source(&[], true)),
            ("r1.example.com".to_owned(), source(&["192.0.2.1"], false)),
            ("r2.example.com".to_owned(), source(&["192.0.2.2"], false)),
        ]
        .into();
        assert_eq!(found, expected);
    }

    #[test]
    fn a_relay_under_the_control_planes_name_does_not_hide_the_control_plane() {
        let mut world = World::new();
        world.replica_up(1);
        let found = names(&world.state, "r1.example.com");
        let expected: Names = [("r1.example.com".to_owned(), source(&["192.0.2.1"], true))].into();
        assert_eq!(found, expected);
    }

    fn source(given: &[&str], resolve: bool) -> NameSource {
        NameSource {
            given: given.iter().map(|text| text.parse().unwrap()).collect(),
            resolve,
        }
    }
}
