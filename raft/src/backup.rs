//! Backups: the applied state as one file that outlives its cluster, and the new cluster that begins
//! with what such a file, or a replica that lost its quorum, holds.
//!
//! A backup is a snapshot file ([`crate::snapshot`]) without what belongs to the cluster that wrote
//! it: the authority and its key, and the table of answered commands. What begins with one is another
//! cluster, with an id, an authority and a first replica of its own; replicas of the old one cannot
//! take part in it.

mod company;
mod lineage;
mod recover;
mod restore;
mod stream;
#[cfg(test)]
mod tests;

use std::io;

pub use self::company::Heard;
pub use self::recover::{
    Loss, LostMember, RecoverError, Recovered, examine, is_broken_off, recover,
};
pub use self::restore::{RestoreError, Restored, restore};
pub use self::stream::BackupStream;
use crate::engine::{KeyRange, Read, Table};
use crate::fatal::chain;
use crate::records::{ClusterRecords, level_of};
use crate::snapshot::{
    SnapshotError, SnapshotHeader, SnapshotReader, SnapshotWriter, snapshot_position,
};
use crate::storage::meta;
use crate::{FEATURE_LEVELS, Levels, MachineError, ReplicaId, Row};

/// The tables of a backup, in file order.
const TABLES: [Table; 2] = [Table::State, Table::Cluster];

/// What a backup says about itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackupInfo {
    /// Cluster (UUID) that it is of.
    pub cluster_id: String,
    /// Version of the file's format.
    pub format: u32,
    /// Feature level of the cluster then.
    pub level: u32,
    /// Name and version of what wrote it.
    pub created_by: String,
    /// When it was taken, by the clock of the replica that wrote it, milliseconds since the Unix
    /// epoch; a file that replicas made for each other does not say.
    pub taken_at_ms: Option<i64>,
    /// Replicated time of the last command in it, milliseconds since the Unix epoch.
    pub now_ms: i64,
    /// Log index of the last entry in it.
    pub index: u64,
    /// Term of that entry.
    pub term: u64,
    /// The members then, by id and name.
    pub replicas: Vec<(ReplicaId, String)>,
}

impl BackupInfo {
    fn of<R: io::Read>(reader: &SnapshotReader<R>) -> Self {
        let SnapshotHeader {
            cluster_id,
            position,
            taken_at_ms,
            level,
        } = reader.header().clone();
        let members = position.membership.membership().nodes();
        Self {
            cluster_id,
            format: SnapshotReader::<R>::FORMAT,
            level,
            created_by: reader.created_by().to_owned(),
            taken_at_ms: Some(taken_at_ms).filter(|at| *at != 0),
            now_ms: position.now_ms,
            index: position.index(),
            term: position
                .applied
                .map_or(0, |id| id.committed_leader_id().term),
            replicas: members
                .map(|(id, member)| (ReplicaId(*id), member.name.clone()))
                .collect(),
        }
    }
}

/// Begins to read a backup, which may be of any feature level in `levels`: what rows of another one
/// mean is not known.
fn open<R: io::Read>(input: R, levels: Levels) -> Result<SnapshotReader<R>, BackupError> {
    let reader = SnapshotReader::new(input)?;
    let level = reader.header().level;
    if levels.includes(level) {
        Ok(reader)
    } else {
        Err(BackupError::Level {
            level,
            supported: levels,
            created_by: reader.created_by().to_owned(),
        })
    }
}

/// Reads a backup to its end and checks every byte of it; the application's rows go to `row`, in key
/// order.
///
/// # Errors
/// The backup is damaged, cut short, of an unknown format or of a feature level that this version does
/// not support, or `row` refuses one.
pub fn read_backup(
    input: impl io::Read,
    mut row: impl FnMut(Row) -> Result<(), MachineError>,
) -> Result<BackupInfo, BackupError> {
    let mut reader = open(input, FEATURE_LEVELS)?;
    while let Some((table, rows)) = reader.next_block()? {
        if table != Table::State {
            continue;
        }
        for (key, value) in rows {
            row(Row { key, value }).map_err(BackupError::Row)?;
        }
    }
    Ok(BackupInfo::of(&reader))
}

/// Writes what `view` shows.
fn write<W: io::Write>(view: &dyn Read, out: W, taken_at_ms: i64) -> Result<W, SnapshotError> {
    if view.value(Table::Meta, meta::INSTALLING)?.is_some() {
        return Err(SnapshotError::Torn);
    }
    let cluster_id = view.value(Table::Meta, meta::CLUSTER_ID)?;
    let header = SnapshotHeader {
        cluster_id: String::from_utf8_lossy(&cluster_id.unwrap_or_default()).into_owned(),
        position: snapshot_position(view)?,
        taken_at_ms,
        level: level_of(view)?,
    };
    let mut writer = SnapshotWriter::new(out, &header)?;
    for table in TABLES {
        for row in view.rows(table, KeyRange::all()) {
            let (key, value) = row?;
            if table != Table::Cluster || ClusterRecords::outlives_the_cluster(&key) {
                writer.row(table, &key, &value)?;
            }
        }
    }
    writer.finish()
}

/// Why a backup was not made or cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// The file is no good.
    #[error("the backup cannot be used: {reason}")]
    Unusable {
        /// What is wrong with it.
        reason: String,
    },
    /// It is of a version before or after this one.
    #[error(
        "the backup cannot be used: it has feature level {level}, and this version supports \
         {supported}: use the version that wrote it ({created_by}), or one between it and this one"
    )]
    Level {
        /// Level of the backup.
        level: u32,
        /// What the program supports.
        supported: Levels,
        /// Name and version of what wrote it.
        created_by: String,
    },
    /// The application does not understand what is in it.
    #[error("the backup holds a row that this version does not understand")]
    Row(#[source] MachineError),
    /// None was made, or not to its end.
    #[error("no backup can be made: {reason}")]
    Failed {
        /// Why.
        reason: String,
    },
}

impl From<SnapshotError> for BackupError {
    fn from(error: SnapshotError) -> Self {
        let reason = match &error {
            SnapshotError::Magic => "it does not begin like a backup".to_owned(),
            SnapshotError::Version(found) => format!(
                "it has format {found} and this version reads format {}: use the version that \
                 wrote it",
                SnapshotReader::<io::Empty>::FORMAT
            ),
            SnapshotError::Length => {
                "it is cut short, or goes on behind its end: copy it again".to_owned()
            }
            SnapshotError::Io { .. }
            | SnapshotError::Engine(_)
            | SnapshotError::Oversized { .. }
            | SnapshotError::Corrupted(_)
            | SnapshotError::Part(_)
            | SnapshotError::Order
            | SnapshotError::Count
            | SnapshotError::Codec(_)
            | SnapshotError::WrongCluster { .. }
            | SnapshotError::Cancelled
            | SnapshotError::Level(_)
            | SnapshotError::LevelRow(_)
            | SnapshotError::Torn => chain(&error),
        };
        Self::Unusable { reason }
    }
}
