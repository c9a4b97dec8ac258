//! Map streams: which replica holds the newest one of a node.

use hydrascale_proto::state::v1;
use hydrascale_proto::state::v1::{CloseSession, Done, OpenSession, RefusalCode};

use super::super::{Session, SessionNo};
use super::{Txn, Verdict, done, refuse};
use crate::types::{NodeId, ReplicaId};

impl Txn<'_> {
    /// A map stream began: it takes the place of any earlier one of the node, wherever that is. Not
    /// of a later one that runs elsewhere: the proposal may have waited while the node moved on.
    pub(super) fn open_session(&mut self, op: &OpenSession, position: u32) -> Verdict {
        let node_id = self.existing_node(NodeId(op.node_id))?.id;
        let id = ReplicaId(op.replica_id);
        let missing = || refuse(RefusalCode::NotFound, format!("replica {id} is not known"));
        let replica = self.state.replica(id).ok_or_else(missing)?;
        if replica.incarnation != op.incarnation {
            return Err(refuse(
                RefusalCode::Precondition,
                format!(
                    "replica {id} runs as incarnation {}, not {}: announce it first",
                    replica.incarnation, op.incarnation
                ),
            ));
        }
        if self
            .newer_session_elsewhere(node_id, id, op.known)
            .is_some_and(|session| self.state.session_runs(&session))
        {
            return Err(refuse(
                RefusalCode::Precondition,
                format!("node {node_id} has a newer map stream on another replica"),
            ));
        }
        let no = SessionNo {
            index: self.ctx.index,
            position,
        };
        self.put_session(Session {
            node_id,
            no,
            replica: id,
            incarnation: op.incarnation,
            opened_at: self.now(),
            closed_at: None,
        });
        Ok(Done {
            id: node_id.0,
            session_no: Some(no.into()),
        })
    }

    /// The session that the node has opened on another replica since `replica` knew `known` as its
    /// newest one.
    pub(super) fn newer_session_elsewhere(
        &self,
        node: NodeId,
        replica: ReplicaId,
        known: Option<v1::SessionNo>,
    ) -> Option<Session> {
        let known = SessionNo::from(known?);
        let session = self.state.session(node).copied();
        session.filter(|session| session.replica != replica && session.no > known)
    }

    /// A map stream ended. Ignored unless it is the node's newest: a client that moved is not
    /// taken offline by the end of its former stream.
    pub(super) fn close_session(&mut self, op: &CloseSession) -> Verdict {
        let no = SessionNo::from(op.session_no.unwrap_or_default());
        let session = self.state.session(NodeId(op.node_id)).copied();
        if let Some(session) = session.filter(|open| open.no == no && open.closed_at.is_none()) {
            self.put_session(Session {
                closed_at: Some(self.now()),
                ..session
            });
        }
        Ok(done(op.node_id))
    }
}

#[cfg(test)]
mod tests {
    use hydrascale_proto::state::v1::command::Op;
    use hydrascale_proto::state::v1::{Batch, Command};

    use super::*;
    use crate::state::testing::{World, refusal};
    use crate::types::Timestamp;

    /// Two replicas, one node.
    fn world() -> (World, NodeId) {
        let mut world = World::new();
        world.replica_up(1, 1);
        world.replica_up(2, 1);
        let node = world.add_node(1);
        (world, node)
    }

    fn last_seen(world: &World, node: NodeId) -> Option<Timestamp> {
        world.state.node(node)?.last_seen
    }

    #[test]
    fn a_closed_stream_counts_as_online_for_its_grace_and_ends_once() {
        let (mut world, node) = world();
        let command = OpenSession {
            node_id: node.0,
            replica_id: 1,
            incarnation: 1,
            known: None,
        };
        assert!(world.ok(command).change.nodes[&node].online);
        let no = world.state.session(node).unwrap().no;
        world.pass(60_000);
        let closed = world.now;
        assert!(world.close(node, no).change.is_empty());
        assert!(world.tick_after(9_999).change.is_empty());
        assert!(world.state.is_online(node));
        let applied = world.tick_after(1);
        assert!(applied.change.nodes[&node].online && applied.change.nodes[&node].last_seen);
        assert!(!world.state.is_online(node));
        assert_eq!(last_seen(&world, node), Some(closed));
        assert!(world.tick_after(60_000).change.is_empty());
    }

    #[test]
    fn any_command_makes_the_transition_that_is_due() {
        let (mut world, node) = world();
        let no = world.open(node, 1, 1);
        world.close(node, no);
        world.pass(10_000);
        let refused = world.apply(OpenSession {
            node_id: 9,
            replica_id: 1,
            incarnation: 1,
            known: None,
        });
        refusal(&refused);
        assert!(refused.change.nodes[&node].online);
        assert!(!world.state.is_online(node));
    }

    #[test]
    fn a_client_that_moves_does_not_flap_and_its_former_stream_is_ignored() {
        let (mut world, node) = world();
        let first = world.open(node, 1, 1);
        world.pass(1_000);
        world.close(node, first);
        world.pass(5_000);
        let command = OpenSession {
            node_id: node.0,
            replica_id: 2,
            incarnation: 1,
            known: None,
        };
        assert!(world.ok(command).change.is_empty());
        assert!(world.close(node, first).writes.is_empty());
        assert!(world.tick_after(3_600_000).change.is_empty());
        assert!(world.state.is_online(node));
        assert_eq!(world.state.next_deadline(), None);
    }

    /// An opening on replica 1 that knows `known` as the node's newest session.
    fn late_open(node: NodeId, known: SessionNo) -> OpenSession {
        OpenSession {
            node_id: node.0,
            replica_id: 1,
            incarnation: 1,
            known: Some(known.into()),
        }
    }

    #[test]
    fn a_late_opening_does_not_take_the_session_of_a_node_that_moved_on() {
        let (mut world, node) = world();
        let known = world.open(node, 1, 1);
        let moved = world.open(node, 2, 1);
        let (code, message) = refusal(&world.apply(late_open(node, known)));
        assert_eq!(code, RefusalCode::Precondition);
        assert!(message.contains("newer map stream"), "{message}");
        assert_eq!(world.state.session(node).unwrap().no, moved);
        world.ok(late_open(node, moved));
        assert_eq!(world.state.session(node).unwrap().replica, ReplicaId(1));
    }

    #[test]
    fn a_late_opening_takes_the_place_of_a_session_that_ended() {
        let (mut world, node) = world();
        let known = world.open(node, 1, 1);
        let moved = world.open(node, 2, 1);
        world.close(node, moved);
        assert!(world.ok(late_open(node, known)).change.is_empty());
        world.open(node, 2, 1);
        world.ok(v1::ReplicaDown {
            replica_id: 2,
            incarnation: 1,
            last_heard_ms: None,
            silence_ms: None,
        });
        world.ok(late_open(node, known));
        assert_eq!(world.state.session(node).unwrap().replica, ReplicaId(1));
    }

    #[test]
    fn streams_of_one_batch_are_told_apart() {
        let (mut world, node) = world();
        let open = |replica_id| Command {
            op: Some(Op::OpenSession(OpenSession {
                node_id: node.0,
                replica_id,
                incarnation: 1,
                known: None,
            })),
        };
        world.ok(Batch {
            commands: vec![open(1), open(2)],
        });
        let session = *world.state.session(node).unwrap();
        assert_eq!((session.replica, session.no.position), (ReplicaId(2), 1));
        assert_eq!(session.no.index, world.index);
        let first = SessionNo {
            position: 0,
            ..session.no
        };
        assert!(first < session.no);
        assert!(world.close(node, first).writes.is_empty());
        assert_eq!(world.close(node, session.no).writes.len(), 1);
    }

    #[test]
    fn a_second_close_does_not_lengthen_the_grace() {
        let (mut world, node) = world();
        let no = world.open(node, 1, 1);
        world.close(node, no);
        world.pass(9_000);
        assert!(world.close(node, no).writes.is_empty());
        world.tick_after(1_000);
        assert!(!world.state.is_online(node));
    }

    #[test]
    fn unknown_nodes_replicas_and_incarnations_are_refused() {
        let (mut world, node) = world();
        let open = |node_id, replica_id, incarnation| OpenSession {
            node_id,
            replica_id,
            incarnation,
            known: None,
        };
        assert_eq!(
            refusal(&world.apply(open(9, 1, 1))).0,
            RefusalCode::NotFound
        );
        assert_eq!(
            refusal(&world.apply(open(node.0, 9, 1))).0,
            RefusalCode::NotFound
        );
        let (code, message) = refusal(&world.apply(open(node.0, 1, 2)));
        assert_eq!(code, RefusalCode::Precondition);
        assert!(message.contains("announce it first"), "{message}");
    }

    #[test]
    fn last_seen_never_goes_back() {
        let (mut world, node) = world();
        let no = world.open(node, 1, 1);
        world.close(node, no);
        world.tick_after(10_000);
        let seen = last_seen(&world, node).unwrap();
        world.open(node, 2, 1);
        world.ok(v1::ReplicaDown {
            replica_id: 2,
            incarnation: 1,
            last_heard_ms: Some(0),
            silence_ms: None,
        });
        world.tick_after(25_000);
        assert!(!world.state.is_online(node));
        assert!(last_seen(&world, node).unwrap() >= seen);
    }
}
