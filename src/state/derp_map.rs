//! The map of relays as clients get it: a pure function of the replicas' rows and of the nodes'
//! homes, so every replica sends the same bytes.

use std::collections::BTreeMap;

use super::{Relay, Replica, State};
use crate::tailcfg::{DerpHomeParams, DerpMap, DerpNode, DerpRegion};
use crate::types::RegionId;

/// Factor on the latency of a region whose replica is dead, drained or about to stop. It passes both
/// hysteresis tests of the client's netcheck whatever the latencies are, and clients that reach
/// nothing else still stay.
const SCORE_DOWN: f64 = 10_000.0;

/// Factor of a healthy region: written out, because clients keep a factor that they are not told.
const SCORE_UP: f64 = 1.0;

impl State {
    /// The map of relays: one region per replica that runs one. The region of a relay that is gone
    /// stays, neither measured nor chosen, while a node still calls it home: peers would else be
    /// unable to reach that node.
    pub fn derp_map(&self) -> DerpMap {
        let regions: BTreeMap<RegionId, DerpRegion> = self
            .replicas
            .values()
            .filter_map(|replica| self.region(replica))
            .collect();
        let score = |replica: &Replica| match repels(replica) {
            true => SCORE_DOWN,
            false => SCORE_UP,
        };
        let scores = self.replicas.values().filter_map(|replica| {
            let region = replica.region_id.filter(|id| regions.contains_key(id))?;
            Some((region, score(replica)))
        });
        DerpMap {
            home_params: Some(DerpHomeParams {
                region_score: Some(scores.collect()),
            }),
            regions: Some(regions),
            omit_default_regions: true,
        }
    }

    /// Whether the region belongs to a relay that is gone.
    pub(super) fn is_retired_region(&self, region: RegionId) -> bool {
        let replica = self.index.replica_by_region.get(&region);
        replica
            .and_then(|id| self.replicas.get(id))
            .is_some_and(|replica| replica.relay.is_none())
    }

    fn region(&self, replica: &Replica) -> Option<(RegionId, DerpRegion)> {
        let id = replica.region_id?;
        let retired = || {
            replica
                .retired_relay
                .as_ref()
                .filter(|_| self.index.nodes_by_home.has(id))
        };
        let relay = replica.relay.as_ref().or_else(retired)?;
        let or_name = |text: &str| {
            let text = if text.is_empty() { &replica.name } else { text };
            if text.is_empty() {
                format!("r{}", replica.id)
            } else {
                text.to_owned()
            }
        };
        let region = DerpRegion {
            region_id: id,
            region_code: or_name(&relay.region_code),
            region_name: or_name(&relay.region_name),
            no_measure_no_home: replica.relay.is_none(),
            nodes: vec![relay_node(id, relay)],
            ..DerpRegion::default()
        };
        Some((id, region))
    }
}

/// Whether nodes shall call another relay home: this one is gone, about to go or to have none.
fn repels(replica: &Replica) -> bool {
    replica.down_since.is_some() || replica.drained_since.is_some() || replica.stopping
}

fn relay_node(id: RegionId, relay: &Relay) -> DerpNode {
    DerpNode {
        name: format!("{id}a"),
        region_id: id,
        host_name: relay.hostname.clone(),
        cert_name: relay.cert_name.clone(),
        ipv4: relay.ipv4.clone(),
        ipv6: relay.ipv6.clone(),
        stun_port: relay.stun_port,
        derp_port: relay.derp_port,
        insecure_for_tests: relay.insecure_for_tests,
        can_port_80: relay.can_port_80,
        ..DerpNode::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::testing::World;
    use crate::types::{NodeId, ReplicaId};

    fn json(world: &World) -> String {
        serde_json::to_string(&world.state.derp_map()).unwrap()
    }

    #[test]
    fn a_replica_with_a_relay_is_a_region_with_a_score() {
        let mut world = World::new();
        assert_eq!(
            json(&world),
            r#"{"HomeParams":{"RegionScore":{}},"Regions":{},"omitDefaultRegions":true}"#
        );
        world.replica_up(1, 1);
        assert_eq!(
            json(&world),
            concat!(
                r#"{"HomeParams":{"RegionScore":{"900":1.0}},"Regions":{"900":{"RegionID":900,"#,
                r#""RegionCode":"alpha","RegionName":"alpha","Nodes":[{"Name":"900a","#,
                r#""RegionID":900,"HostName":"derp1.example.com","IPv4":"192.0.2.1","#,
                r#""IPv6":"none","STUNPort":3478,"DERPPort":8443}]}},"omitDefaultRegions":true}"#
            )
        );
    }

    #[test]
    fn a_dead_replica_repels_until_it_is_back() {
        let mut world = World::new();
        world.replica_up(1, 1);
        assert!(world.replica_down(1, 1).change.derp_map);
        assert!(json(&world).contains(r#"{"900":10000.0}"#));
        assert!(world.replica_up(1, 2).change.derp_map);
        assert!(json(&world).contains(r#"{"900":1.0}"#));
    }

    #[test]
    fn a_drained_replica_repels_until_it_is_undrained() {
        let mut world = World::new();
        world.replica_up(1, 1);
        let drain = |drained| hydrascale_proto::state::v1::DrainReplica {
            replica_id: 1,
            drained,
        };
        assert!(world.ok(drain(true)).change.derp_map);
        assert!(json(&world).contains(r#"{"900":10000.0}"#));
        assert!(world.ok(drain(false)).change.derp_map);
        assert!(json(&world).contains(r#"{"900":1.0}"#));
    }

    #[test]
    fn a_replica_that_is_about_to_stop_repels_until_it_starts_again() {
        let mut world = World::new();
        world.replica_up(1, 1);
        let stopping = |incarnation| hydrascale_proto::state::v1::ReplicaStopping {
            replica_id: 1,
            incarnation,
        };
        assert!(world.ok(stopping(1)).change.derp_map);
        assert!(json(&world).contains(r#"{"900":10000.0}"#));
        assert!(!world.ok(stopping(1)).change.derp_map, "once");
        assert!(world.replica_up(1, 2).change.derp_map);
        assert!(json(&world).contains(r#"{"900":1.0}"#));
        assert!(!world.ok(stopping(1)).change.derp_map, "too late");
        assert!(json(&world).contains(r#"{"900":1.0}"#));
    }

    #[test]
    fn the_region_of_a_removed_replica_stays_while_a_node_calls_it_home() {
        let mut world = World::new();
        world.replica_up(1, 1);
        let node = world.add_node(1);
        world.set_home(node, 900);
        assert!(world.remove_replica(1).change.derp_map);
        let map = world.state.derp_map();
        assert!(map.regions.as_ref().unwrap()[&RegionId(900)].no_measure_no_home);
        assert!(world.set_home(node, 901).change.derp_map);
        assert_eq!(world.state.derp_map().regions.unwrap().len(), 0);
        assert!(world.state.replica(ReplicaId(1)).is_none());
    }

    #[test]
    fn deleting_the_last_node_at_home_removes_a_retired_region() {
        let mut world = World::new();
        world.replica_up(1, 1);
        let node = world.add_node(1);
        world.set_home(node, 900);
        world.remove_replica(1);
        assert!(world.delete_node(NodeId(node.0)).change.derp_map);
    }
}
