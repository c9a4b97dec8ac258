//! The folder of snapshot files and which of them is current.

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::{SnapshotBuilder, SnapshotError, SnapshotFile, SnapshotReader, SnapshotReceiver};
use crate::codec::{LogId, SnapshotMeta};
use crate::counters::Counters;
use crate::engine::{Engine, EngineError, Table, WriteBatch};
use crate::levels::Levels;
use crate::storage::{disk, meta};

/// The snapshots of one replica.
pub(crate) struct SnapshotStore {
    engine: Arc<dyn Engine>,
    dir: PathBuf,
    current: Mutex<Option<SnapshotFile>>,
    pub(super) building: AtomicBool,
    backups: Arc<Semaphore>,
    pub(super) levels: Levels,
    counters: Arc<Counters>,
}

impl SnapshotStore {
    /// Uses the folder `dir`, creating it if need be; reads nothing yet.
    pub(crate) fn open(
        engine: Arc<dyn Engine>,
        dir: PathBuf,
        levels: Levels,
        counters: Arc<Counters>,
    ) -> Result<Self, SnapshotError> {
        fs::create_dir_all(&dir).map_err(SnapshotError::io("create the snapshot folder"))?;
        Ok(Self {
            engine,
            dir,
            current: Mutex::new(None),
            building: AtomicBool::new(false),
            backups: Arc::new(Semaphore::new(BACKUPS_MAX)),
            levels,
            counters,
        })
    }

    /// Finds the current snapshot and deletes every file that is neither it nor a predecessor
    /// kept: parts of interrupted builds and transfers, and snapshots received but not installed.
    pub(crate) fn recover(&self) -> Result<(), SnapshotError> {
        let mut current = None;
        if let Some(name) = self.engine.value(Table::Meta, meta::SNAPSHOT)? {
            let name = String::from_utf8_lossy(&name).into_owned();
            let path = self.path_of(&name);
            match SnapshotReader::open(&path).and_then(SnapshotReader::verify) {
                Ok(header) => current = Some(SnapshotFile::new(path, header.meta())),
                // The state itself is in the database: openraft has a new one built when needed.
                Err(error) => {
                    let error = crate::fatal::chain(&error);
                    tracing::warn!(snapshot = name, error, "current snapshot is unusable");
                }
            }
        }
        self.delete_others(current.as_ref(), true)?;
        *self.current.lock() = current;
        Ok(())
    }

    /// The newest snapshot that is part of this replica's history.
    pub(crate) fn current(&self) -> Option<SnapshotFile> {
        self.current.lock().clone()
    }

    /// Starts a build, unless it may be put off and another one runs or the disk is nearly full.
    pub(crate) async fn start_build(self: &Arc<Self>, force: bool) -> Option<SnapshotBuilder> {
        let running = self.building.swap(true, Ordering::SeqCst);
        if !force && (running || self.disk_is_low()) {
            self.building.store(running, Ordering::SeqCst);
            self.counters.snapshots_put_off.add_one();
            return None;
        }
        Some(SnapshotBuilder::start(Arc::clone(self)).await)
    }

    /// A place among the backups being made, while there is one.
    pub(crate) fn backup_turn(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.backups).try_acquire_owned().ok()
    }

    /// A file to receive a snapshot into.
    pub(crate) fn receive(self: &Arc<Self>) -> Result<SnapshotReceiver, SnapshotError> {
        SnapshotReceiver::create(Arc::clone(self))
    }

    /// Makes `file` the current snapshot, in one batch with `batch`, unless a newer one is.
    pub(crate) fn adopt(
        &self,
        file: &SnapshotFile,
        mut batch: WriteBatch,
        sync: bool,
    ) -> Result<(), EngineError> {
        let mut current = self.current.lock();
        let last = |file: &SnapshotFile| file.meta().last_log_id;
        let newer = sync
            || current
                .as_ref()
                .is_none_or(|current| last(current) <= last(file));
        if newer {
            batch.put(Table::Meta, meta::SNAPSHOT, file.name());
        }
        self.engine.write(batch)?;
        if sync {
            self.engine.sync()?;
        }
        if newer {
            *current = Some(file.clone());
        }
        if let Err(error) = self.delete_others(current.as_ref(), false) {
            let error = crate::fatal::chain(&error);
            tracing::warn!(error, "old snapshots cannot be deleted");
        }
        Ok(())
    }

    /// The file itself if it lies in this folder, else a copy of it that does.
    pub(crate) fn bring_in(&self, file: &SnapshotFile) -> Result<SnapshotFile, SnapshotError> {
        if file.path().parent() == Some(self.dir.as_path()) {
            return Ok(file.clone());
        }
        let temp = TempFile::new(&self.dir, "recv");
        let mut source = File::open(file.path()).map_err(SnapshotError::io("open the snapshot"))?;
        let mut out = temp.writer()?;
        std::io::copy(&mut source, &mut out).map_err(SnapshotError::io("copy the snapshot"))?;
        temp.publish(out, self, file.meta().clone())
    }

    /// Cluster of this replica; empty while it has none.
    pub(crate) fn cluster_id(&self) -> Result<String, EngineError> {
        let id = self.engine.value(Table::Meta, meta::CLUSTER_ID)?;
        Ok(id
            .map(|id| String::from_utf8_lossy(&id).into_owned())
            .unwrap_or_default())
    }

    /// Where the file of a name is.
    pub(crate) fn path_of(&self, name: &str) -> PathBuf {
        self.dir
            .join(Path::new(name).file_name().unwrap_or_default())
    }

    /// The database that the snapshots are of.
    pub(crate) fn engine(&self) -> &dyn Engine {
        &*self.engine
    }

    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    pub(super) fn build_ended(&self, built: bool) {
        self.building.store(false, Ordering::SeqCst);
        if built {
            self.counters.snapshots_built.add_one();
        }
    }

    fn disk_is_low(&self) -> bool {
        disk::FreeSpace::of(&self.dir).is_ok_and(|space| space.is_low())
    }

    /// Deletes what is older than the newest [`KEPT`]; `all` also deletes what is newer than the
    /// current one or unfinished, which may only be done when nothing is in progress.
    fn delete_others(
        &self,
        current: Option<&SnapshotFile>,
        all: bool,
    ) -> Result<(), SnapshotError> {
        let list = SnapshotError::io("list the snapshot folder");
        let current = current.map(SnapshotFile::name);
        let mut older = Vec::new();
        for entry in fs::read_dir(&self.dir).map_err(list)? {
            let entry = entry.map_err(SnapshotError::io("list the snapshot folder"))?;
            let name = entry.file_name().to_string_lossy().into_owned();
            // Names sort as positions in the log do.
            let is_older = current.as_ref().is_some_and(|current| name < *current);
            if name.ends_with(SUFFIX) && is_older {
                older.push(name);
            } else if all && current.as_ref() != Some(&name) {
                self.delete(&name)?;
            }
        }
        older.sort_unstable();
        let drop = older.len().saturating_sub(KEPT - 1);
        older
            .iter()
            .take(drop)
            .try_for_each(|name| self.delete(name))
    }

    fn delete(&self, name: &str) -> Result<(), SnapshotError> {
        fs::remove_file(self.path_of(name)).map_err(SnapshotError::io("delete an old snapshot"))
    }
}

/// A file being written; deleted unless it is published.
pub(super) struct TempFile {
    path: PathBuf,
    published: bool,
}

impl TempFile {
    /// Reserves a new name.
    pub(super) fn new(dir: &Path, kind: &str) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = dir.join(format!("{kind}-{}-{number}", std::process::id()));
        Self {
            path,
            published: false,
        }
    }

    /// Where it is.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Creates the file.
    pub(super) fn writer(&self) -> Result<BufWriter<File>, SnapshotError> {
        let file = File::create(&self.path).map_err(SnapshotError::io("create the snapshot"))?;
        Ok(BufWriter::with_capacity(WRITE_BYTES, file))
    }

    /// Makes the content durable and gives the file its final name.
    pub(super) fn publish(
        mut self,
        mut out: BufWriter<File>,
        store: &SnapshotStore,
        meta: SnapshotMeta,
    ) -> Result<SnapshotFile, SnapshotError> {
        out.flush()
            .map_err(SnapshotError::io("write the snapshot"))?;
        out.get_ref()
            .sync_all()
            .map_err(SnapshotError::io("sync the snapshot"))?;
        let path = store.dir.join(file_name(meta.last_log_id));
        fs::rename(&self.path, &path).map_err(SnapshotError::io("rename the snapshot"))?;
        self.published = true;
        let dir = File::open(&store.dir).and_then(|dir| dir.sync_all());
        dir.map_err(SnapshotError::io("sync the snapshot folder"))?;
        Ok(SnapshotFile::new(path, meta))
    }
}

impl Drop for TempFile {
    fn drop(&mut self) {
        if !self.published {
            // What cannot be deleted now is deleted at the next start.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Index first, so that names sort as log positions do.
fn file_name(last: Option<LogId>) -> String {
    let (index, term, replica) = last.map_or((0, 0, 0), |id| {
        (
            id.index(),
            id.committed_leader_id().term,
            id.committed_leader_id().node_id,
        )
    });
    format!("{index:020}-{term}-{replica}{SUFFIX}")
}

const SUFFIX: &str = ".snap";
/// Snapshots kept: the current one, and the one before it that may still be on its way to somebody.
const KEPT: usize = 2;
/// Backups at once: the scheduled one, and one that somebody asks for. Each keeps old rows on the disk.
const BACKUPS_MAX: usize = 2;
const WRITE_BYTES: usize = 256 << 10;
