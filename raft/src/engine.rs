//! The storage engine as this crate sees it: tables of ordered rows, atomic batches, one write
//! order, and an explicit point from which writes survive a power loss.
//!
//! The contract that everything above relies on:
//! - a batch is atomic and visible to readers once `write` returned;
//! - batches reach the disk in the order of their `write` calls, across all tables, so that a crash
//!   leaves a prefix of them;
//! - `sync` returns once every batch whose `write` returned before the call survives a power loss.
//!
//! RocksDB implements it in production, [`sim::SimEngine`] in tests that choose which unsynced
//! batches a crash keeps.

#[cfg(test)]
pub(crate) mod fault;
pub(crate) mod rocks;
#[cfg(test)]
pub(crate) mod sim;
pub(crate) mod synced;
#[cfg(test)]
mod tests;

use std::error::Error;
use std::io;

use bytes::Bytes;

/// A table of rows ordered by key; a column family in RocksDB.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Table {
    /// This replica's own facts: format, identity, vote, log bounds, install marker.
    Meta,
    /// Log entries by big-endian index.
    RaftLog,
    /// Rows of the application's state machine.
    State,
    /// What makes commands apply exactly once.
    Dedup,
    /// Where the state machine stands in the log.
    StateMeta,
    /// The cluster's own records.
    Cluster,
}

impl Table {
    /// Every table.
    pub(crate) const ALL: [Self; 6] = [
        Self::Meta,
        Self::RaftLog,
        Self::State,
        Self::Dedup,
        Self::StateMeta,
        Self::Cluster,
    ];

    /// The tables that a snapshot replaces.
    pub(crate) const REPLICATED: [Self; 4] =
        [Self::State, Self::Dedup, Self::StateMeta, Self::Cluster];

    /// Name on disk; never changes.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Meta => "meta",
            Self::RaftLog => "raft_log",
            Self::State => "state",
            Self::Dedup => "dedup",
            Self::StateMeta => "state_meta",
            Self::Cluster => "cluster",
        }
    }
}

/// Keys from `lower` (included) to `upper` (excluded, or no bound).
///
/// The lower bound is explicit because seeking to the first key of a purged log walks over
/// every tombstone.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct KeyRange {
    pub(crate) lower: Vec<u8>,
    pub(crate) upper: Option<Vec<u8>>,
}

impl KeyRange {
    /// Every key.
    pub(crate) fn all() -> Self {
        Self::default()
    }
}

/// One change inside a [`WriteBatch`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Write {
    /// Writes a row, replacing what stood under its key.
    Put(Table, Bytes, Bytes),
    /// Removes a row; absent is fine.
    Delete(Table, Bytes),
    /// Removes the rows from the first key (included) to the second (excluded).
    DeleteRange(Table, Bytes, Bytes),
}

/// Changes that reach the engine together or not at all.
#[derive(Clone, Debug, Default)]
pub(crate) struct WriteBatch {
    writes: Vec<Write>,
    bytes: usize,
}

impl WriteBatch {
    /// An empty batch.
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// Adds a put.
    pub(crate) fn put(&mut self, table: Table, key: impl Into<Bytes>, value: impl Into<Bytes>) {
        let (key, value) = (key.into(), value.into());
        self.bytes = self
            .bytes
            .saturating_add(key.len())
            .saturating_add(value.len());
        self.writes.push(Write::Put(table, key, value));
    }

    /// Adds a deletion.
    pub(crate) fn delete(&mut self, table: Table, key: impl Into<Bytes>) {
        let key = key.into();
        self.bytes = self.bytes.saturating_add(key.len());
        self.writes.push(Write::Delete(table, key));
    }

    /// Adds the deletion of a range of keys, the upper one excluded.
    pub(crate) fn delete_range(
        &mut self,
        table: Table,
        lower: impl Into<Bytes>,
        upper: impl Into<Bytes>,
    ) {
        self.writes
            .push(Write::DeleteRange(table, lower.into(), upper.into()));
    }

    /// Bytes of the keys and values in it.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether there is nothing to write.
    pub(crate) fn is_empty(&self) -> bool {
        self.writes.is_empty()
    }

    /// The changes, in the order that they take effect.
    pub(crate) fn into_writes(self) -> Vec<Write> {
        self.writes
    }
}

/// A stored row's key and value.
pub(crate) type KeyValue = (Bytes, Bytes);

/// Rows read one by one; ends after the first error.
pub(crate) type Rows<'a> = Box<dyn Iterator<Item = Result<KeyValue, EngineError>> + 'a>;

/// Reading: the live engine or a view frozen at one moment.
pub(crate) trait Read {
    /// The value under a key.
    fn value(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>, EngineError>;

    /// The rows of a range in key order; one consistent moment for the whole iteration.
    fn rows(&self, table: Table, range: KeyRange) -> Rows<'_>;

    /// The last row of a range.
    fn last(&self, table: Table, range: KeyRange) -> Result<Option<KeyValue>, EngineError>;
}

/// A storage engine; see the module for its contract.
pub(crate) trait Engine: Read + Send + Sync + 'static {
    /// Applies a batch without waiting for the disk.
    fn write(&self, batch: WriteBatch) -> Result<(), EngineError>;

    /// Waits until everything written before survives a power loss.
    fn sync(&self) -> Result<(), EngineError>;

    /// All tables, frozen now.
    fn view(&self) -> Box<dyn Read + '_>;

    /// Moves everything to its place on disk and stops background work, for a fast next start.
    fn close(&self) -> Result<(), EngineError>;
}

/// A failed operation of the engine.
#[derive(Debug, thiserror::Error)]
#[error("storage engine cannot {step}")]
pub(crate) struct EngineError {
    /// What was being done.
    pub(crate) step: &'static str,
    /// The engine's own error.
    #[source]
    pub(crate) source: Box<dyn Error + Send + Sync>,
}

impl EngineError {
    /// An error of `step` caused by `source`.
    pub(crate) fn new(step: &'static str, source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self {
            step,
            source: source.into(),
        }
    }
}

/// Whether an error of RocksDB, or of the mark beside it, says that files are damaged.
pub(crate) fn is_damage(error: &(dyn Error + 'static)) -> bool {
    let native = error.downcast_ref::<rocksdb::Error>();
    let is_corruption = |error: &rocksdb::Error| error.kind() == rocksdb::ErrorKind::Corruption;
    error.is::<synced::Damage>() || native.is_some_and(is_corruption)
}

impl From<EngineError> for io::Error {
    fn from(error: EngineError) -> Self {
        Self::other(error)
    }
}
