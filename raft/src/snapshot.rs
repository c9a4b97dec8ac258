//! Snapshots: the applied state as one file that any version and any engine can read.
//!
//! A file is, in order: magic and format version; a header (cluster, position in the log,
//! membership, replicated time); blocks of rows, table after table in key order, each compressed
//! and with its own checksum; a footer with row counts and a digest of everything before it. A
//! file under its final name was written completely and synced; a name in the store's reference
//! row is the one that openraft knows as current.

pub(crate) mod builder;
mod format;
mod reader;
mod receiver;
mod store;
#[cfg(test)]
mod tests;
mod writer;

use std::io;
use std::path::{Path, PathBuf};
use std::time::Instant;

use hydrascale_proto::raft::v1 as pb;
use openraft::alias::SnapshotOf;

pub(crate) use self::builder::{
    SnapshotBuilder, build as build_snapshot, position as snapshot_position,
};
pub(crate) use self::reader::SnapshotReader;
pub(crate) use self::receiver::SnapshotReceiver;
pub(crate) use self::store::SnapshotStore;
pub(crate) use self::writer::SnapshotWriter;
use crate::codec::{CodecError, SnapshotMeta};
use crate::engine::EngineError;
use crate::levels::{self, LevelError};
use crate::machine_store::load::Position;
use crate::records::LevelRowError;
use crate::type_config::TypeConfig;

/// A complete snapshot on disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SnapshotFile {
    path: PathBuf,
    meta: SnapshotMeta,
}

impl SnapshotFile {
    /// The file at `path`, whose header says `meta`.
    pub(crate) fn new(path: PathBuf, meta: SnapshotMeta) -> Self {
        Self { path, meta }
    }

    /// Where it is; it may be deleted while two newer ones exist, an open file stays readable.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Position and membership that it holds.
    pub(crate) fn meta(&self) -> &SnapshotMeta {
        &self.meta
    }

    /// File name without folder.
    pub(crate) fn name(&self) -> String {
        self.path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned()
    }

    /// Tells operators what was done with it since `began`: its size and the time taken.
    pub(crate) fn note(&self, done: &str, began: Instant) {
        let bytes = std::fs::metadata(&self.path).map_or(0, |file| file.len());
        tracing::info!(
            snapshot = self.name(),
            raft.index = self.meta.last_log_id.map_or(0, |id| id.index),
            bytes,
            took_ms = began.elapsed().as_secs_f64() * 1000.0,
            "snapshot {done}"
        );
    }

    /// As openraft passes it around.
    pub(crate) fn into_raft(self) -> SnapshotOf<TypeConfig, Self> {
        SnapshotOf::<TypeConfig, Self> {
            meta: self.meta.clone(),
            snapshot: self,
        }
    }
}

/// A snapshot's first part.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct SnapshotHeader {
    /// Cluster that wrote it; empty before the cluster has an id.
    pub(crate) cluster_id: String,
    /// Where its state stands in the log.
    pub(crate) position: Position,
    /// When a backup was taken, milliseconds since the Unix epoch by its writer's clock; 0 for what
    /// replicas send each other.
    pub(crate) taken_at_ms: i64,
    /// Feature level of its rows.
    pub(crate) level: u32,
}

impl SnapshotHeader {
    /// The part that openraft looks at.
    pub(crate) fn meta(&self) -> SnapshotMeta {
        SnapshotMeta {
            last_log_id: self.position.applied,
            last_membership: self.position.membership.clone(),
        }
    }

    fn to_proto(&self) -> pb::SnapshotFileHeader {
        pb::SnapshotFileHeader {
            cluster_id: self.cluster_id.clone(),
            state: Some(self.position.to_proto()),
            created_by: concat!(env!("CARGO_PKG_NAME"), " ", env!("CARGO_PKG_VERSION")).to_owned(),
            taken_at_ms: self.taken_at_ms,
            level: levels::to_state(self.level),
        }
    }

    fn from_proto(header: pb::SnapshotFileHeader) -> Result<Self, CodecError> {
        let state = header
            .state
            .ok_or(CodecError::Missing("snapshot_header.state"))?;
        Ok(Self {
            cluster_id: header.cluster_id,
            position: Position::from_proto(state)?,
            taken_at_ms: header.taken_at_ms,
            level: levels::stated(header.level),
        })
    }
}

/// A snapshot that cannot be written, read or accepted.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SnapshotError {
    /// A file operation failed.
    #[error("cannot {step}")]
    Io {
        /// What was being done.
        step: &'static str,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// The rows could not be read from or recorded in the database.
    #[error("database")]
    Engine(#[from] EngineError),
    /// It ends before its footer, or goes on after it.
    #[error("file is cut short or has trailing bytes")]
    Length,
    /// It does not start like a snapshot.
    #[error("not a snapshot file")]
    Magic,
    /// Written in a format that this version does not read.
    #[error("format version {0} is not supported")]
    Version(u32),
    /// A part states a size beyond what writers make.
    #[error("{part} of {bytes} bytes is larger than any writer makes it")]
    Oversized {
        /// Header, block, record or footer.
        part: &'static str,
        /// Stated size.
        bytes: u64,
    },
    /// A checksum or the digest does not match.
    #[error("{0} is corrupted")]
    Corrupted(&'static str),
    /// A part has an unknown tag.
    #[error("unknown part {0:#04x}")]
    Part(u8),
    /// Tables or keys are not in order.
    #[error("rows are out of order")]
    Order,
    /// The footer counts other rows than the blocks hold.
    #[error("footer counts other rows than the file has")]
    Count,
    /// Header or footer cannot be decoded.
    #[error("malformed header or footer")]
    Codec(#[from] CodecError),
    /// It belongs to another cluster.
    #[error("snapshot is of cluster {found}, this replica is of cluster {expected}")]
    WrongCluster {
        /// Cluster in the file.
        found: String,
        /// Cluster of this replica.
        expected: String,
    },
    /// The state is being replaced by a snapshot from another replica.
    #[error("the state is being replaced by a snapshot: try again in a moment")]
    Torn,
    /// It was written at a feature level that this program does not support.
    #[error(transparent)]
    Level(#[from] LevelError),
    /// The feature level of the rows cannot be read.
    #[error("feature level")]
    LevelRow(#[from] LevelRowError),
    /// The builder was asked twice, or its task was cancelled.
    #[error("snapshot build was cancelled")]
    Cancelled,
}

impl SnapshotError {
    fn io(step: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { step, source }
    }
}

impl From<SnapshotError> for io::Error {
    fn from(error: SnapshotError) -> Self {
        Self::other(error)
    }
}
