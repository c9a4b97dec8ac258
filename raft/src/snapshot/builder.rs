//! Building a snapshot from one frozen view of the engine.

use std::io;
use std::sync::Arc;
use std::time::Instant;

use openraft::RaftSnapshotBuilder;
use openraft::alias::SnapshotOf;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::format::TABLES;
use super::store::TempFile;
use super::{SnapshotError, SnapshotFile, SnapshotHeader, SnapshotStore, SnapshotWriter};
use crate::blocking;
use crate::engine::{KeyRange, Read, WriteBatch};
use crate::machine_store::load::{LoadError, Position};
use crate::planted::{Bug, is_planted};
use crate::records::level_of;
use crate::type_config::TypeConfig;

/// A snapshot being written by a blocking task.
pub(crate) struct SnapshotBuilder {
    task: Option<JoinHandle<Result<SnapshotFile, SnapshotError>>>,
}

impl SnapshotBuilder {
    /// Starts writing; returns once the view is frozen, so that whatever is applied afterwards is
    /// not in the snapshot. Position and rows come from the same view.
    pub(super) async fn start(store: Arc<SnapshotStore>) -> Self {
        let (frozen, view_frozen) = oneshot::channel();
        let planted = is_planted(Bug::SnapshotMetaRace).then(|| position(store.engine()));
        let task = blocking::run(move || {
            let view = store.engine().view();
            // The other side waits in `start`, or was dropped and no longer cares.
            let _ = frozen.send(());
            let position = planted.unwrap_or_else(|| position(&*view));
            let built = position.and_then(|position| build_at(&store, &*view, position));
            store.build_ended(built.is_ok());
            built
        });
        if !is_planted(Bug::SnapshotMetaRace) {
            // An error means that the task panicked, which joining it reports.
            let _ = view_frozen.await;
        }
        Self { task: Some(task) }
    }
}

impl RaftSnapshotBuilder<TypeConfig> for SnapshotBuilder {
    type SnapshotData = SnapshotFile;

    async fn build_snapshot(&mut self) -> io::Result<SnapshotOf<TypeConfig, SnapshotFile>> {
        let task = self.task.take().ok_or(SnapshotError::Cancelled)?;
        let file = task.await.map_err(io::Error::other)??;
        Ok(file.into_raft())
    }
}

/// Writes what `view` shows to a file and makes that the current snapshot.
pub(crate) fn build(store: &SnapshotStore, view: &dyn Read) -> Result<SnapshotFile, SnapshotError> {
    build_at(store, view, position(view)?)
}

fn build_at(
    store: &SnapshotStore,
    view: &dyn Read,
    position: Position,
) -> Result<SnapshotFile, SnapshotError> {
    let header = SnapshotHeader {
        cluster_id: store.cluster_id()?,
        position,
        taken_at_ms: 0,
        level: level_of(view)?,
    };
    let began = Instant::now();
    let temp = TempFile::new(store.dir(), "tmp");
    let mut writer = SnapshotWriter::new(temp.writer()?, &header)?;
    for table in TABLES {
        for row in view.rows(table, KeyRange::all()) {
            let (key, value) = row?;
            writer.row(table, &key, &value)?;
        }
    }
    let out = writer.finish()?;
    let file = temp.publish(out, store, header.meta())?;
    store.adopt(&file, WriteBatch::new(), false)?;
    file.note("built", began);
    Ok(file)
}

/// Where the state that `view` shows stands in the log.
pub(crate) fn position(view: &dyn Read) -> Result<Position, SnapshotError> {
    Position::read(view).map_err(|error| match error {
        LoadError::Engine(error) => SnapshotError::Engine(error),
        LoadError::Position(error) => SnapshotError::Codec(error),
        LoadError::Dedup(_) | LoadError::Records(_) | LoadError::Machine(_) => {
            SnapshotError::Corrupted("position")
        }
    })
}
