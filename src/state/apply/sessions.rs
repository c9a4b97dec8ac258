//! Map streams: which replica holds the newest one of a node.

use hydrascale_proto::state::v1;
use hydrascale_proto::state::v1::{CloseSession, Done, OpenSession, RefusalCode};

use super::super::{Session, SessionNo};
use super::{Txn, Verdict, done, refuse};
use crate::types::{NodeId, ReplicaId};

impl Txn<'_> {
    /// A map stream began: it takes the place of any earlier one of the node, wherever that is.
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
        let session_no = Some(v1::SessionNo {
            index: no.index,
            position: no.position,
        });
        Ok(Done {
            id: node_id.0,
            session_no,
        })
    }

    /// A map stream ended. Ignored unless it is the node's newest: a client that moved is not
    /// taken offline by the end of its former stream.
    pub(super) fn close_session(&mut self, op: &CloseSession) -> Verdict {
        let no = op.session_no.unwrap_or_default();
        let no = SessionNo {
            index: no.index,
            position: no.position,
        };
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
