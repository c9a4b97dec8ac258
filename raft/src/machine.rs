//! The interface of the replicated state machine: what the crate calls, in which order, and why.

use std::error::Error;
use std::fmt;

use bytes::Bytes;

/// One of the cluster's processes, numbered by the cluster and never reused.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ReplicaId(pub u64);

impl fmt::Display for ReplicaId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A stored row: key and value, both opaque here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// Unique key; rows are loaded in key order.
    pub key: Bytes,
    /// Value.
    pub value: Bytes,
}

/// One change of a stored row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RowWrite {
    /// Removes the row under this key; absent is fine.
    Delete(Bytes),
    /// Writes the row, replacing what stood under its key.
    Put(Row),
}

/// Where in the log a command stands, and when the leader took it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ApplyContext {
    /// Log index of the command's entry; grows, never repeats.
    pub index: u64,
    /// Replicated time, milliseconds since the Unix epoch; never goes back.
    pub now_ms: i64,
}

/// What applying a command does.
#[derive(Clone, Debug, Default)]
pub struct Effects {
    /// Row changes, written in one batch with the applied index.
    pub writes: Vec<RowWrite>,
    /// The answer for the proposer, stored for a repeated proposal.
    pub outcome: Bytes,
}

/// A failure that must stop the replica: its state can no longer be trusted to equal the others'.
#[derive(Debug, thiserror::Error)]
#[error("state machine halted: {message}")]
pub struct MachineError {
    /// What happened.
    pub message: String,
    /// Why, where there is a cause.
    #[source]
    pub source: Option<Box<dyn Error + Send + Sync>>,
}

/// A deterministic state machine. Calls come one at a time, from one task, in log order.
pub trait StateMachine: Send + Sync + 'static {
    /// Replaces the whole state by `rows`, read in key order as of log index `applied`: at start
    /// and after a snapshot was installed.
    ///
    /// # Errors
    /// A row that cannot be understood; the replica stops.
    fn load(
        &self,
        applied: u64,
        rows: &mut dyn Iterator<Item = Result<Row, MachineError>>,
    ) -> Result<(), MachineError>;

    /// Applies one command. Refusals are data in [`Effects::outcome`].
    ///
    /// # Errors
    /// Only when going on would make this replica differ from the others: the replica stops.
    fn apply(&self, ctx: &ApplyContext, command: &[u8]) -> Result<Effects, MachineError>;

    /// The writes of all commands up to log index `applied` are stored: show them to readers.
    fn publish(&self, applied: u64);
}
