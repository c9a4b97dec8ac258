//! Replicas: announced, drained, dead, removed; and the DERP region that each relay is given for good.

use std::time::Duration;

use hydrascale_proto::state::v1::{
    DrainReplica, Refusal, RefusalCode, RemoveReplica, ReplicaDown, ReplicaStopping, ReplicaUp,
};

use super::super::convert::{relay_from_proto, timestamp};
use super::super::{Replica, names};
use super::{Txn, Verdict, done, invalid, refuse};
use crate::types::{RegionId, ReplicaId, Timestamp};

/// The first region id for relays of one's own. By convention such regions end at 999; a cluster
/// that replaced a hundred replicas goes on above, because an id never changes hands.
const FIRST_REGION: u16 = 900;

impl Txn<'_> {
    /// A replica started or came back. Sessions of its earlier incarnations ended, at the latest
    /// now.
    pub(super) fn replica_up(&mut self, op: &ReplicaUp) -> Verdict {
        let id = ReplicaId(op.replica_id);
        for text in [&op.name, &op.version, &op.config_digest] {
            names::check_text(text)?;
        }
        let old = self
            .state
            .replicas
            .get(&id)
            .map(|replica| (**replica).clone());
        if let Some(old) = &old {
            check_successor(old, op.incarnation)?;
        }
        let relay = op.relay.as_ref().map(relay_from_proto).transpose()?;
        let old_region = old.as_ref().and_then(|old| old.region_id);
        let region_id = match (&op.relay, old_region) {
            (Some(relay), None) => Some(self.free_region(relay.wanted_region_id)?),
            (_, region) => region,
        };
        let retired = old
            .as_ref()
            .and_then(|old| old.relay.as_ref().or(old.retired_relay.as_ref()))
            .cloned();
        let replica = Replica {
            id,
            incarnation: op.incarnation,
            name: op.name.clone(),
            version: op.version.clone(),
            levels: (op.level_min, op.level_max),
            config_digest: op.config_digest.clone(),
            retired_relay: retired.filter(|_| relay.is_none()),
            relay,
            region_id,
            down_since: None,
            // Whoever drains a replica to restart it says when it is done.
            drained_since: old.as_ref().and_then(|old| old.drained_since),
            stopping: false,
            removed_at: None,
            ended: old
                .map(|old| self.ended_incarnations(&old, op.incarnation))
                .unwrap_or_default(),
        };
        self.put_replica(replica);
        Ok(done(region_id.map_or(0, |id| u64::from(id.0))))
    }

    /// Earlier incarnations of which sessions are left, and when they ended.
    fn ended_incarnations(&self, old: &Replica, now_runs: u64) -> Vec<(u64, Timestamp)> {
        let mut ended = old.ended.clone();
        if now_runs != old.incarnation {
            let now = self.now();
            ended.push((old.incarnation, old.down_since.unwrap_or(now)));
        }
        let sessions = || self.state.index.sessions_by_replica.of(old.id);
        ended.retain(|(incarnation, _)| {
            let mut left = sessions().filter_map(|node| self.state.session(*node));
            left.any(|session| session.incarnation == *incarnation)
        });
        ended
    }

    fn free_region(&self, wanted: u32) -> Result<RegionId, Refusal> {
        let wanted = u16::try_from(wanted)
            .map_err(|_| invalid(format!("wanted_region_id {wanted} is above 65535")))?;
        let is_free = |id: &RegionId| !self.state.index.replica_by_region.contains_key(id);
        let wanted = Some(RegionId(wanted)).filter(|id| id.0 != 0 && is_free(id));
        let lowest = || (FIRST_REGION..=u16::MAX).map(RegionId).find(is_free);
        let used_up = || refuse(RefusalCode::Precondition, "DERP region ids are used up");
        wanted.or_else(lowest).ok_or_else(used_up)
    }

    /// The leader counts a replica as dead. Ignored when it runs again as another incarnation.
    pub(super) fn replica_down(&mut self, op: &ReplicaDown) -> Verdict {
        let replica = self.existing_replica(op.replica_id)?;
        if replica.incarnation == op.incarnation && replica.down_since.is_none() {
            let now = self.now();
            let last_heard = match op.silence_ms {
                Some(ms) => Some(now.saturating_sub(Duration::from_millis(ms))),
                None => timestamp(op.last_heard_ms),
            };
            self.put_replica(Replica {
                down_since: Some(last_heard.map_or(now, |heard| heard.min(now))),
                ..replica
            });
        }
        Ok(done(op.replica_id))
    }

    /// A replica shall have no clients any more, or may have some again.
    pub(super) fn drain_replica(&mut self, op: &DrainReplica) -> Verdict {
        let replica = self.existing_replica(op.replica_id)?;
        if replica.drained_since.is_some() != op.drained {
            let now = self.now();
            self.put_replica(Replica {
                drained_since: op.drained.then_some(now),
                ..replica
            });
        }
        Ok(done(op.replica_id))
    }

    /// A replica is about to stop. Ignored when it runs again as another incarnation.
    pub(super) fn replica_stopping(&mut self, op: &ReplicaStopping) -> Verdict {
        let replica = self.existing_replica(op.replica_id)?;
        if replica.incarnation == op.incarnation && replica.removed_at.is_none() {
            self.put_replica(Replica {
                stopping: true,
                ..replica
            });
        }
        Ok(done(op.replica_id))
    }

    /// A replica left for good. Its row stays, because neither its id nor its region is given away.
    pub(super) fn remove_replica(&mut self, op: &RemoveReplica) -> Verdict {
        let replica = self.existing_replica(op.replica_id)?;
        let now = self.now();
        self.put_replica(Replica {
            removed_at: Some(now),
            down_since: replica.down_since.or(Some(now)),
            drained_since: None,
            stopping: false,
            retired_relay: replica.relay.or(replica.retired_relay),
            relay: None,
            ..replica
        });
        Ok(done(op.replica_id))
    }

    fn existing_replica(&self, id: u64) -> Result<Replica, Refusal> {
        let missing = || refuse(RefusalCode::NotFound, format!("replica {id} is not known"));
        self.state
            .replica(ReplicaId(id))
            .map(|row| (**row).clone())
            .ok_or_else(missing)
    }
}

fn check_successor(old: &Replica, incarnation: u64) -> Result<(), Refusal> {
    let id = old.id;
    if old.removed_at.is_some() {
        return Err(refuse(
            RefusalCode::Precondition,
            format!("replica {id} was removed: clear its data folder and join again"),
        ));
    }
    if incarnation < old.incarnation {
        return Err(refuse(
            RefusalCode::Precondition,
            format!(
                "replica {id} ran as incarnation {} already and says {incarnation}: its data folder \
                 is an old copy or another process uses its id; join again with an empty one",
                old.incarnation
            ),
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::testing::{World, done_id, refusal, replica};
    use crate::types::NodeId;

    fn wanting(id: u64, wanted_region_id: u32) -> ReplicaUp {
        let mut up = replica(id, 1);
        up.relay.as_mut().unwrap().wanted_region_id = wanted_region_id;
        up
    }

    fn region(world: &World, id: u64) -> Option<u16> {
        let replica = world.state.replica(ReplicaId(id))?;
        replica.region_id.map(|region| region.0)
    }

    #[test]
    fn regions_are_the_lowest_free_or_the_wanted_ones() {
        let mut world = World::new();
        assert_eq!(done_id(&world.ok(wanting(1, 0))), 900);
        assert_eq!(done_id(&world.ok(wanting(2, 999))), 999);
        assert_eq!(
            done_id(&world.ok(wanting(3, 999))),
            901,
            "the wanted one is taken"
        );
        assert_eq!(done_id(&world.ok(wanting(4, 77))), 77);
        assert_eq!(
            refusal(&world.apply(wanting(5, 65_536))).0,
            RefusalCode::Invalid
        );
    }

    #[test]
    fn a_region_is_kept_for_good() {
        let mut world = World::new();
        world.ok(wanting(1, 0));
        world.ok(ReplicaUp {
            incarnation: 2,
            ..wanting(1, 950)
        });
        assert_eq!(region(&world, 1), Some(900));
        world.ok(ReplicaUp {
            incarnation: 3,
            relay: None,
            ..replica(1, 3)
        });
        assert_eq!(region(&world, 1), Some(900));
        world.remove_replica(1);
        assert_eq!(done_id(&world.ok(wanting(2, 900))), 901);
    }

    #[test]
    fn a_removed_replica_stays_out_and_an_old_copy_is_refused() {
        let mut world = World::new();
        world.replica_up(1, 5);
        let (code, message) = refusal(&world.apply(replica(1, 4)));
        assert_eq!(code, RefusalCode::Precondition);
        assert!(message.contains("incarnation 5"), "{message}");
        world.remove_replica(1);
        assert!(
            refusal(&world.apply(replica(1, 6)))
                .1
                .contains("was removed")
        );
        assert_eq!(world.state.replicas().count(), 0);
        assert_eq!(
            refusal(&world.apply(RemoveReplica { replica_id: 1 })).0,
            RefusalCode::NotFound
        );
    }

    #[test]
    fn malformed_relays_are_refused_and_named() {
        let mut world = World::new();
        for (field, text) in [
            ("host", "hostname"),
            ("key", "public_key"),
            ("port", "derp_port"),
        ] {
            let mut up = replica(1, 1);
            let relay = up.relay.as_mut().unwrap();
            match field {
                "host" => relay.hostname.clear(),
                "key" => relay.public_key = vec![1; 3].into(),
                _ => relay.derp_port = 65_536,
            }
            let (code, message) = refusal(&world.apply(up));
            assert_eq!(code, RefusalCode::Invalid);
            assert!(message.contains(text), "{message}");
        }
        let named = ReplicaUp {
            name: "a\"b".into(),
            ..replica(1, 1)
        };
        assert_eq!(refusal(&world.apply(named)).0, RefusalCode::Invalid);
    }

    #[test]
    fn one_entry_takes_all_nodes_of_a_dead_replica_offline_after_the_grace() {
        let mut world = World::new();
        world.replica_up(1, 1);
        world.replica_up(2, 1);
        let nodes: Vec<NodeId> = (1..=3).map(|device| world.add_node(device)).collect();
        for node in &nodes {
            world.open(*node, 1, 1);
        }
        world.pass(60_000);
        let died = world.now;
        assert_eq!(world.replica_down(1, 1).writes.len(), 1);
        world.pass(20_000);
        world.open(nodes[0], 2, 1);
        assert!(world.tick_after(4_999).change.is_empty());
        let applied = world.tick_after(1);
        let offline: Vec<NodeId> = applied.change.nodes.keys().copied().collect();
        assert_eq!(offline, nodes[1..]);
        assert_eq!(world.state.node(nodes[1]).unwrap().last_seen, Some(died));
        assert!(world.state.is_online(nodes[0]));
    }

    #[test]
    fn nodes_of_a_dead_replica_do_not_flap_when_the_leader_s_clock_is_off() {
        let mut world = World::new();
        world.replica_up(1, 1);
        let node = world.add_node(1);
        world.open(node, 1, 1);
        world.pass(10_000);
        world.ok(ReplicaDown {
            replica_id: 1,
            incarnation: 1,
            // By a clock a minute behind the one that stamps the log.
            last_heard_ms: Some(world.now.unix_ms() - 70_000),
            silence_ms: Some(10_000),
        });
        world.tick_after(14_999);
        assert!(world.state.is_online(node));
        world.tick_after(1);
        assert!(!world.state.is_online(node));
    }

    #[test]
    fn a_silence_longer_than_time_is_no_panic() {
        let mut world = World::new();
        world.replica_up(1, 1);
        world.ok(ReplicaDown {
            replica_id: 1,
            incarnation: 1,
            last_heard_ms: None,
            silence_ms: Some(u64::MAX),
        });
        let replica = world.state.replica(ReplicaId(1)).unwrap();
        assert!(replica.down_since.is_some_and(|since| since < world.now));
    }

    #[test]
    fn the_grace_counts_from_when_the_leader_last_heard() {
        let mut world = World::new();
        world.replica_up(1, 1);
        let node = world.add_node(1);
        world.open(node, 1, 1);
        world.pass(10_000);
        let heard = Some(world.now.unix_ms() - 10_000);
        world.ok(ReplicaDown {
            replica_id: 1,
            incarnation: 1,
            last_heard_ms: heard,
            silence_ms: None,
        });
        world.tick_after(14_999);
        assert!(world.state.is_online(node));
        world.tick_after(1);
        assert!(!world.state.is_online(node));
    }

    #[test]
    fn a_replica_that_was_only_cut_off_gets_its_streams_back() {
        let mut world = World::new();
        world.replica_up(1, 1);
        let node = world.add_node(1);
        world.open(node, 1, 1);
        world.replica_down(1, 1);
        world.pass(20_000);
        world.replica_up(1, 1);
        assert!(world.tick_after(3_600_000).change.is_empty());
        assert!(world.state.is_online(node));
    }

    #[test]
    fn a_restart_ends_the_streams_of_before_and_the_news_of_its_death_is_late() {
        let mut world = World::new();
        world.replica_up(1, 1);
        let (one, two) = (world.add_node(1), world.add_node(2));
        world.open(one, 1, 1);
        world.pass(1_000);
        world.replica_up(1, 2);
        world.open(two, 1, 2);
        world.pass(10_000);
        assert!(world.replica_down(1, 1).writes.is_empty());
        world.replica_up(1, 3);
        let ended = &world.state.replica(ReplicaId(1)).unwrap().ended;
        assert_eq!(
            ended
                .iter()
                .map(|(incarnation, _)| *incarnation)
                .collect::<Vec<_>>(),
            [1, 2]
        );
        world.tick_after(15_000);
        assert!(!world.state.is_online(one) && world.state.is_online(two));
        world.tick_after(10_000);
        assert!(!world.state.is_online(two));
        world.replica_up(1, 4);
        assert_eq!(world.state.replica(ReplicaId(1)).unwrap().ended, []);
    }

    #[test]
    fn a_replica_stays_drained_through_restarts_until_it_is_told_otherwise() {
        let mut world = World::new();
        world.replica_up(1, 1);
        let drain = |drained| DrainReplica {
            replica_id: 1,
            drained,
        };
        let drained = world.ok(drain(true));
        assert!(drained.change.derp_map);
        let since = world.state.replica(ReplicaId(1)).unwrap().drained_since;
        assert_eq!(since, Some(world.now));
        world.pass(1_000);
        assert!(world.ok(drain(true)).writes.is_empty(), "said twice");
        world.replica_up(1, 2);
        assert_eq!(
            world.state.replica(ReplicaId(1)).unwrap().drained_since,
            since
        );
        assert!(world.ok(drain(false)).change.derp_map);
        assert_eq!(
            world.state.replica(ReplicaId(1)).unwrap().drained_since,
            None
        );
        let unknown = DrainReplica {
            replica_id: 7,
            drained: true,
        };
        assert_eq!(refusal(&world.apply(unknown)).0, RefusalCode::NotFound);
    }

    #[test]
    fn removal_ends_the_streams_too() {
        let mut world = World::new();
        world.replica_up(1, 1);
        let node = world.add_node(1);
        world.open(node, 1, 1);
        world.remove_replica(1);
        world.tick_after(25_000);
        assert!(!world.state.is_online(node));
    }
}
