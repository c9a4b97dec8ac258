//! Replacing the whole applied state by a snapshot's, so that a crash at any moment leaves the old
//! state or the new one.
//!
//! The steps: check the file, write a marker naming it and sync, clear and load the tables, write
//! the position together with the marker's removal, sync. From the marker on the old state is
//! given up; a start that finds the marker does the whole install again from the same file.

use std::io;
use std::time::Instant;

use prost::Message;

use crate::engine::{Engine, EngineError, KeyRange, Read, Table, WriteBatch};
use crate::fatal::Fatal;
use crate::planted::{Bug, is_planted};
use crate::snapshot::{SnapshotError, SnapshotFile, SnapshotReader, SnapshotStore};
use crate::storage::meta;

/// Why a snapshot was not installed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum InstallError {
    /// The file is unusable; before the marker this leaves the old state whole.
    #[error("snapshot file {name}")]
    Snapshot {
        /// Name of the file.
        name: String,
        /// What is wrong with it.
        #[source]
        source: SnapshotError,
    },
    /// The engine failed: the next start repeats the install.
    #[error("snapshot cannot be written to the database")]
    Engine(#[from] EngineError),
}

/// Installs `file`; an IO error ends the process.
pub(crate) fn install(
    engine: &dyn Engine,
    snapshots: &SnapshotStore,
    file: &SnapshotFile,
    fatal: &Fatal,
) -> io::Result<()> {
    let began = Instant::now();
    let installed =
        check_and_install(engine, snapshots, file).map(|()| file.note("installed", began));
    installed.map_err(|error| {
        if let InstallError::Engine(cause) = &error {
            fatal.report("install a snapshot", cause);
        }
        io::Error::other(error)
    })
}

fn check_and_install(
    engine: &dyn Engine,
    snapshots: &SnapshotStore,
    file: &SnapshotFile,
) -> Result<(), InstallError> {
    let bad_file = |source| InstallError::Snapshot {
        name: file.name(),
        source,
    };
    let file = snapshots.bring_in(file).map_err(bad_file)?;
    let meta = SnapshotReader::open(file.path())
        .and_then(SnapshotReader::verify)
        .map_err(bad_file)?
        .meta();
    let mut batch = WriteBatch::new();
    batch.put(Table::Meta, meta::INSTALLING, file.name());
    if !is_planted(Bug::InstallMarkerNotStored) {
        engine.write(batch)?;
        engine.sync()?;
    }
    replace_tables(
        engine,
        snapshots,
        &SnapshotFile::new(file.path().to_owned(), meta),
    )
}

/// Finishes an install that a crash interrupted; returns whether there was one.
pub(crate) fn resume(engine: &dyn Engine, snapshots: &SnapshotStore) -> Result<bool, InstallError> {
    let Some(name) = engine.value(Table::Meta, meta::INSTALLING)? else {
        return Ok(false);
    };
    let name = String::from_utf8_lossy(&name).into_owned();
    tracing::info!(snapshot = name, "interrupted snapshot install starts again");
    let path = snapshots.path_of(&name);
    let header = SnapshotReader::open(&path)
        .and_then(SnapshotReader::verify)
        .map_err(|source| InstallError::Snapshot { name, source })?;
    replace_tables(engine, snapshots, &SnapshotFile::new(path, header.meta()))?;
    Ok(true)
}

fn replace_tables(
    engine: &dyn Engine,
    snapshots: &SnapshotStore,
    file: &SnapshotFile,
) -> Result<(), InstallError> {
    for table in Table::REPLICATED {
        clear(engine, table)?;
    }
    let bad_file = |source| InstallError::Snapshot {
        name: file.name(),
        source,
    };
    let mut reader = SnapshotReader::open(file.path()).map_err(bad_file)?;
    let mut batch = WriteBatch::new();
    while let Some((table, rows)) = reader.next_block().map_err(bad_file)? {
        for (key, value) in rows {
            batch.put(table, key, value);
        }
        engine.write(std::mem::take(&mut batch))?;
    }
    let position = reader.header().position.to_proto().encode_to_vec();
    batch.put(Table::StateMeta, meta::POSITION, position);
    batch.delete(Table::Meta, meta::INSTALLING);
    snapshots.adopt(file, batch, true)?;
    Ok(())
}

/// Deletes every row of a table.
pub(crate) fn clear(engine: &dyn Engine, table: Table) -> Result<(), EngineError> {
    let Some((last, _)) = Read::last(engine, table, KeyRange::all())? else {
        return Ok(());
    };
    let mut batch = WriteBatch::new();
    batch.delete_range(table, bytes::Bytes::new(), last.clone());
    batch.delete(table, last);
    engine.write(batch)
}

#[cfg(test)]
mod tests;
