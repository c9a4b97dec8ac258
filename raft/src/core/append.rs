//! Appending to the log here, for this replica's own commands and for those forwarded to it.

use std::time::Duration;

use bytes::Bytes;
use hydrascale_proto::raft::v1::{Proposal, proposal};
use openraft::errors::{ClientWriteError, RaftError};
use tokio::time::timeout;

use super::Core;
use crate::ProposeError;
use crate::type_config::{Command, Response};

/// What became of an attempt to append a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Appended {
    /// Committed and applied on the leader.
    Applied {
        /// Log index.
        index: u64,
        /// The state machine's answer.
        outcome: Bytes,
    },
    /// Certainly not appended: another replica leads, or none.
    NotLeader {
        /// Who leads, if known.
        leader: Option<u64>,
    },
    /// Certainly not applied again, and the first answer is gone.
    Stale,
    /// Certainly not appended.
    NotTaken(String),
    /// Certainly not appended, now or later.
    Refused(String),
    /// May be in the log.
    Unknown(String),
}

impl Core {
    /// Appends a command if this replica leads, and waits until it is applied here. The leader's
    /// clock stamps it.
    pub(crate) async fn append_here(&self, mut proposal: Proposal, patience: Duration) -> Appended {
        let known = match &proposal.body {
            Some(proposal::Body::Command(_)) => true,
            // A change that a newer version proposes decodes to nothing here, and every replica
            // would halt on it.
            Some(proposal::Body::Admin(admin)) => admin.op.is_some(),
            None => false,
        };
        if !known {
            return Appended::Refused(
                "the leader does not know this kind of change: upgrade all replicas first"
                    .to_owned(),
            );
        }
        let active = self.records.load().level();
        if proposal.level > active {
            let needed = proposal.level;
            return Appended::Refused(ProposeError::Level { needed, active }.to_string());
        }
        if self.disk.is_low() {
            return Appended::NotTaken("the leader's disk is nearly full".to_owned());
        }
        proposal.stamped_ms = match self.stamp() {
            Ok(stamp) => stamp,
            Err(reason) => return Appended::NotTaken(reason),
        };
        let writing = self.raft.client_write(Command(proposal));
        let Ok(written) = timeout(patience, writing).await else {
            return Appended::Unknown(format!("not committed within {patience:?}"));
        };
        match written {
            Ok(written) => match written.data {
                Response::Outcome(outcome) => Appended::Applied {
                    index: written.log_id.index(),
                    outcome,
                },
                Response::Stale => Appended::Stale,
                Response::Empty => Appended::Unknown("the entry had no answer".to_owned()),
            },
            Err(RaftError::APIError(ClientWriteError::ForwardToLeader(forward))) => {
                Appended::NotLeader {
                    leader: forward.leader_id.filter(|id| *id != self.id()),
                }
            }
            Err(RaftError::APIError(ClientWriteError::LogEntryDiscarded(_))) => {
                Appended::Unknown("the leader changed before the command was committed".to_owned())
            }
            Err(RaftError::APIError(
                error @ (ClientWriteError::ChangeMembershipError(_)
                | ClientWriteError::PreconditionFailed(_)),
            )) => Appended::NotTaken(error.to_string()),
            Err(RaftError::Fatal(fatal)) => Appended::Unknown(fatal.to_string()),
        }
    }
}
