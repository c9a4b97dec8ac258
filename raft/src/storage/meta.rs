//! The keys of [`Table::Meta`] and of the position row; never reused for anything else.

use bytes::Bytes;
use hydrascale_proto::raft::v1 as pb;
use prost::Message;

use crate::codec::{self, CodecError, LogId, Vote};
use crate::engine::{EngineError, Read, Table};

/// Layout of the whole database, u32 little-endian.
pub(crate) const FORMAT: &[u8] = b"format";
/// Cluster that the folder belongs to, UTF-8.
pub(crate) const CLUSTER_ID: &[u8] = b"cluster_id";
/// Number of starts, u64 little-endian.
pub(crate) const INCARNATION: &[u8] = b"incarnation";
/// Newest vote, protobuf.
pub(crate) const VOTE: &[u8] = b"vote";
/// Newest committed log id known here, protobuf.
pub(crate) const COMMITTED: &[u8] = b"committed";
/// Last log id that was purged, protobuf.
pub(crate) const LAST_PURGED: &[u8] = b"last_purged";
/// File name of the current snapshot.
pub(crate) const SNAPSHOT: &[u8] = b"snapshot";
/// File name of the snapshot that replaces the state; its presence means the state is torn.
pub(crate) const INSTALLING: &[u8] = b"installing";
/// The position of the state machine, the one row of [`Table::StateMeta`].
pub(crate) const POSITION: &[u8] = b"position";

/// The fact that repeats the replica's id, u64 big-endian.
pub(crate) const REPLICA_ID: &str = "replica_id";

const FACT_PREFIX: &[u8] = b"fact/";

/// Key of one of the replica's own facts.
pub(crate) fn fact_key(name: &str) -> Vec<u8> {
    [FACT_PREFIX, name.as_bytes()].concat()
}

/// A fixed row that cannot be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum MetaError {
    /// The engine failed.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The row is damaged.
    #[error(transparent)]
    Codec(#[from] CodecError),
}

impl From<MetaError> for std::io::Error {
    fn from(error: MetaError) -> Self {
        Self::other(error)
    }
}

impl From<MetaError> for super::OpenError {
    fn from(error: MetaError) -> Self {
        match error {
            MetaError::Engine(error) => Self::Engine(error),
            MetaError::Codec(error) => Self::Codec(error),
        }
    }
}

/// The log id stored under `key`.
pub(crate) fn log_id(engine: &dyn Read, key: &[u8]) -> Result<Option<LogId>, MetaError> {
    let decode = |row: Bytes| pb::LogId::decode(row).map(codec::log_id_from_proto);
    Ok(engine
        .value(Table::Meta, key)?
        .map(decode)
        .transpose()
        .map_err(CodecError::from)?)
}

/// The stored vote.
pub(crate) fn vote(engine: &dyn Read) -> Result<Option<Vote>, MetaError> {
    let decode = |row: Bytes| pb::Vote::decode(row).map(codec::vote_from_proto);
    Ok(engine
        .value(Table::Meta, VOTE)?
        .map(decode)
        .transpose()
        .map_err(CodecError::from)?)
}
