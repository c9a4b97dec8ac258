//! Restoring a backup: an empty folder becomes the first replica of a new cluster.

use std::io;
use std::path::Path;
use std::sync::Arc;

use prost::Message;

use super::lineage::{self, LineageError};
use super::{BackupError, BackupInfo};
use crate::engine::{Engine, Table, WriteBatch};
use crate::identity::Folder;
use crate::replica::Cause;
use crate::storage::{self, meta};
use crate::{InitError, Levels, ReplicaConfig, ReplicaId, StateMachine};

/// A cluster that began with the state of another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Restored {
    /// The new cluster's id (UUID).
    pub cluster_id: String,
    /// Its first replica: greater than every id that the backup knows. Where the old cluster went on
    /// after the backup it may have given the same one.
    pub replica: ReplicaId,
    /// What it began with.
    pub backup: BackupInfo,
}

/// Makes the empty data folder of `config` the first replica, and only voter, of a new cluster that
/// begins with the state of the backup `input`. Offline; blocks on the disk. `machine` reads the rows
/// once, so that a replica that could not start is not made.
///
/// # Errors
/// The folder is in use, or the backup is no good. The folder is then empty again; what a broken-off
/// attempt leaves is removed by the next one.
pub fn restore(
    config: &ReplicaConfig,
    input: impl io::Read,
    machine: &dyn StateMachine,
) -> Result<Restored, RestoreError> {
    let folder = Folder::new(&config.data_dir);
    folder.claim_to_fill()?;
    let unusable = |source| InitError::Folder {
        path: config.data_dir.clone(),
        source,
    };
    let unfinished = folder.begin_filling().map_err(unusable)?;
    let restored = fill(config, &folder, input, machine);
    if restored.is_err() {
        // What stays is removed by the next attempt.
        let _ = unfinished.discard();
        return restored;
    }
    unfinished.finish().map_err(unusable)?;
    restored
}

fn fill(
    config: &ReplicaConfig,
    folder: &Folder,
    input: impl io::Read,
    machine: &dyn StateMachine,
) -> Result<Restored, RestoreError> {
    let failed = |error: LineageError| RestoreError::of(folder.path(), error);
    let engine = storage::create(folder.path()).map_err(|error| failed(error.into()))?;
    let engine: Arc<dyn Engine> = Arc::new(engine);
    let backup = copy_rows(input, config.levels, &*engine).map_err(|error| match error {
        CopyError::Backup(error) => RestoreError::Backup(error),
        CopyError::Lineage(error) => failed(error),
    })?;
    let founded = lineage::found(config, folder, &engine, machine).map_err(failed)?;
    Ok(Restored {
        cluster_id: founded.cluster_id,
        replica: ReplicaId(founded.replica_id),
        backup,
    })
}

enum CopyError {
    Backup(BackupError),
    Lineage(LineageError),
}

impl<E: Into<BackupError>> From<E> for CopyError {
    fn from(error: E) -> Self {
        Self::Backup(error.into())
    }
}

/// Writes the backup's rows and position; the last block counts only once the footer was right, so
/// that nothing of this may be used before it returned.
fn copy_rows(
    input: impl io::Read,
    levels: Levels,
    engine: &dyn Engine,
) -> Result<BackupInfo, CopyError> {
    let stored = |error: crate::engine::EngineError| CopyError::Lineage(error.into());
    let mut reader = super::open(input, levels)?;
    while let Some((table, rows)) = reader.next_block()? {
        let mut batch = WriteBatch::new();
        for (key, value) in rows {
            batch.put(table, key, value);
        }
        engine.write(batch).map_err(stored)?;
    }
    let mut batch = WriteBatch::new();
    let position = reader.header().position.to_proto().encode_to_vec();
    batch.put(Table::StateMeta, meta::POSITION, position);
    engine.write(batch).map_err(stored)?;
    Ok(BackupInfo::of(&reader))
}

/// Why a backup was not restored.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// The data folder or the configuration cannot be used.
    #[error(transparent)]
    Folder(#[from] InitError),
    /// The backup cannot be used.
    #[error(transparent)]
    Backup(#[from] BackupError),
    /// The new cluster cannot be made.
    #[error("the new cluster cannot be made in {}", path.display())]
    Lineage {
        /// The folder.
        path: std::path::PathBuf,
        /// Why.
        #[source]
        source: Cause,
    },
}

impl RestoreError {
    fn of(path: &Path, error: LineageError) -> Self {
        Self::Lineage {
            path: path.to_owned(),
            source: error.into(),
        }
    }
}
