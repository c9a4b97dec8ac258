//! Reports that were refused because the cluster takes the node to be at another replica.
//!
//! A replica that lags behind, as any does that has lost its leader, does not know of the node's
//! newest session when it takes a report. So a report may look older than a session that it is
//! newer than. Who is right shows soon: the node's stream here ends, or its session comes here.

use std::collections::BTreeMap;

use hydrascale_proto::state::v1 as pb;

use crate::state::{SessionNo, State};
use crate::types::{NodeId, ReplicaId};

/// At most one report of each node that streams here.
#[derive(Default)]
pub(super) struct Disputed {
    /// How many map streams each node has here.
    streams: BTreeMap<u64, usize>,
    /// With the session for which they were refused.
    reports: BTreeMap<u64, (SessionNo, pb::UpdateNode)>,
}

impl Disputed {
    /// A map stream of the node begins.
    pub(super) fn begin(&mut self, node_id: u64) {
        *self.streams.entry(node_id).or_default() += 1;
    }

    /// A map stream of the node ended. With the last one goes what is kept: its next one begins with
    /// a report of its own.
    pub(super) fn end(&mut self, node_id: u64) {
        if let Some(count) = self.streams.get_mut(&node_id) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                self.streams.remove(&node_id);
                self.reports.remove(&node_id);
            }
        }
    }

    /// Keeps a report that was refused for this session, if the node streams here; tells whether.
    pub(super) fn keep(&mut self, mut update: pb::UpdateNode, refused_for: SessionNo) -> bool {
        let node_id = update.node_id;
        if !self.streams.contains_key(&node_id) {
            return false;
        }
        if let Some(mut older) = self.take(node_id) {
            super::soft::merge(&mut older, update);
            update = older;
        }
        self.reports.insert(node_id, (refused_for, update));
        true
    }

    /// What is kept of a node, for beside what it reports now.
    pub(super) fn take(&mut self, node_id: u64) -> Option<pb::UpdateNode> {
        self.reports.remove(&node_id).map(|(_, update)| update)
    }

    /// Takes the reports of nodes whose newest session turned out to be here, and forgets those of
    /// nodes that have moved on.
    pub(super) fn settle(&mut self, state: &State, here: ReplicaId) -> Vec<pb::UpdateNode> {
        let mut settled = Vec::new();
        self.reports.retain(|node_id, (refused_for, update)| {
            let node = NodeId(*node_id);
            let Some(session) = state.session(node).filter(|s| s.no > *refused_for) else {
                return state.node(node).is_some();
            };
            if session.replica == here {
                settled.push(pb::UpdateNode {
                    known_session: Some(session.no.into()),
                    ..std::mem::take(update)
                });
            }
            false
        });
        settled
    }

    pub(super) fn is_empty(&self) -> bool {
        self.reports.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use hydrascale_proto::state::v1::command::Op;

    use super::*;
    use crate::cluster::{Cluster, plain_tailnet};
    use crate::netmap::testing::World;
    use crate::types::{RegionId, Timestamp};

    const HERE: ReplicaId = ReplicaId(2);
    /// Longer than a refused report waits to be looked into.
    const SETTLED: Duration = Duration::from_secs(5);

    fn report(node: NodeId, home_derp: u32) -> pb::UpdateNode {
        pb::UpdateNode {
            node_id: node.0,
            home_derp: Some(home_derp),
            ..Default::default()
        }
    }

    /// Each replica is in its first incarnation, which the world counts through.
    fn open(world: &mut World, node: NodeId, replica_id: u64) -> SessionNo {
        let open = pb::OpenSession {
            node_id: node.0,
            replica_id,
            incarnation: replica_id,
            known: None,
        };
        let done = world.run(Op::OpenSession(open)).unwrap();
        done.session_no.unwrap_or_default().into()
    }

    /// A node with a session at replica 1, and a stream at replica 2 that nobody has heard of.
    fn disputed() -> (World, NodeId, SessionNo, Disputed) {
        let mut world = World::new();
        for replica in 1..=3 {
            world.replica_up(replica);
        }
        let node = world.register(1, 11, "alice").unwrap();
        let elsewhere = open(&mut world, node, 1);
        let mut disputed = Disputed::default();
        disputed.begin(node.0);
        assert!(disputed.keep(report(node, 901), elsewhere));
        (world, node, elsewhere, disputed)
    }

    #[test]
    fn a_report_is_sent_again_when_the_node_turns_out_to_be_here() {
        let (mut world, node, _, mut disputed) = disputed();
        assert_eq!(disputed.settle(&world.state, HERE), []);
        world.close(node);
        assert_eq!(disputed.settle(&world.state, HERE), []);
        let here = open(&mut world, node, HERE.0);
        let again = pb::UpdateNode {
            known_session: Some(here.into()),
            ..report(node, 901)
        };
        assert_eq!(disputed.settle(&world.state, HERE), [again]);
        assert!(disputed.is_empty());
    }

    #[test]
    fn a_report_of_a_node_that_moved_on_or_left_is_forgotten() {
        let (mut world, node, _, mut disputed) = disputed();
        open(&mut world, node, 3);
        assert_eq!(disputed.settle(&world.state, HERE), []);
        assert!(disputed.is_empty());
        let refused_for = SessionNo::default();
        assert!(disputed.keep(report(node, 901), refused_for));
        disputed.begin(node.0);
        disputed.end(node.0);
        assert!(!disputed.is_empty(), "another stream still runs");
        disputed.end(node.0);
        assert!(disputed.is_empty());
        assert!(!disputed.keep(report(node, 901), refused_for), "not here");
    }

    #[test]
    fn of_two_reports_the_later_one_wins() {
        let (_, node, elsewhere, mut disputed) = disputed();
        let later = pb::UpdateNode {
            capver: Some(130),
            ..report(node, 902)
        };
        disputed.keep(later.clone(), elsewhere);
        disputed.keep(report(node, 903), elsewhere);
        let kept = pb::UpdateNode {
            home_derp: Some(903),
            ..later
        };
        assert_eq!(disputed.take(node.0), Some(kept));
    }

    fn pre_auth_key() -> (pb::CreatePreAuthKey, pb::RegisterNode) {
        let (prefix, secret) = ("0123456789ab".to_owned(), vec![3; 32]);
        let key = pb::CreatePreAuthKey {
            prefix: prefix.clone(),
            secret_hash: secret.clone().into(),
            user_id: Some(1),
            expires_at_ms: Some(i64::MAX),
            ..Default::default()
        };
        let register = pb::RegisterNode {
            machine_key: vec![1; 32].into(),
            node_key: vec![2; 32].into(),
            hostinfo_json: "{}".into(),
            capver: 130,
            auth_key: Some(pb::PreAuthKeyProof {
                prefix,
                secret_hash: secret.into(),
            }),
            ..Default::default()
        };
        (key, register)
    }

    #[tokio::test(start_paused = true)]
    async fn a_report_taken_by_a_replica_that_missed_the_nodes_last_session_is_not_lost() {
        let (cluster, control) = Cluster::local(plain_tailnet(), Timestamp::default())
            .await
            .unwrap();
        let user = pb::CreateUser {
            name: "alice".to_owned(),
            ..Default::default()
        };
        cluster.propose(Op::CreateUser(user)).await.unwrap();
        let (key, register) = pre_auth_key();
        cluster.propose(Op::CreatePreAuthKey(key)).await.unwrap();
        let done = cluster.propose(Op::RegisterNode(register)).await.unwrap();
        let node = NodeId(done.id);
        let behind = control.join_lagging(HERE).await.unwrap();
        let missed = cluster.open_session(node, SessionNo::default()).await;

        let stream = behind.begin_stream(node);
        behind.update_node(report(node, 901));
        tokio::time::sleep(SETTLED).await;
        let home = || cluster.state().node(node).unwrap().home_derp;
        assert_eq!(home(), None, "refused");
        cluster.close_session(node, missed.unwrap());
        tokio::time::sleep(SETTLED).await;
        let known = cluster.newest_session(node);
        behind.open_session(node, known).await.unwrap();
        tokio::time::sleep(SETTLED).await;
        assert_eq!(home(), Some(RegionId(901)));
        drop(stream);
    }
}
