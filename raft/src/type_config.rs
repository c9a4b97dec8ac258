//! The types that openraft is instantiated with.

use std::fmt;

use bytes::Bytes;
use hydrascale_proto::raft::v1::Proposal;

openraft::declare_raft_types!(
    /// Ids are plain numbers inside this crate; [`crate::ReplicaId`] is their public face.
    pub(crate) TypeConfig:
        D = Command,
        R = Response,
        NodeId = u64,
        Node = Member,
        AsyncRuntime = Runtime,
);

#[cfg(test)]
use crate::simulation::Runtime;
#[cfg(not(test))]
use openraft::TokioRuntime as Runtime;

/// A proposal as openraft carries it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Command(pub(crate) Proposal);

impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "proposal seq {}", self.0.seq)
    }
}

/// What applying an entry answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Response {
    /// The entry was no proposal (blank or membership).
    Empty,
    /// The outcome's bytes, of this application or of the one that it repeats.
    Outcome(Bytes),
    /// Below the proposer's lowest unacknowledged sequence: its answer is no longer kept.
    Stale,
}

/// A member's name and address in the committed membership.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Member {
    /// Configured name of the replica.
    pub(crate) name: String,
    /// `host:port` of its peer listener.
    pub(crate) addr: String,
}
