//! One replica's storage: the database with log and state, the snapshot folder, the sync thread,
//! and the replica's own durable facts.
//!
//! Opening does, in this order: check format and cluster, finish an interrupted install, find the
//! current snapshot, check the log, count the start, load the state. Whatever contradicts itself
//! is refused with an [`OpenError`]; nothing is repaired by guessing.

mod check;
pub(crate) mod disk;
pub(crate) mod meta;
#[cfg(test)]
mod power_loss;
#[cfg(test)]
mod tests;

use std::error::Error;
use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicI64;
use std::sync::{Arc, Weak};

use arc_swap::ArcSwap;
use bytes::Bytes;
use tokio::sync::watch;

use crate::blocking;
use crate::codec::{self, CodecError, Entry, LogId};
use crate::counters::Counters;
use crate::engine::rocks::RocksEngine;
use crate::engine::{self, Engine, EngineError, KeyRange, KeyValue, Read, Table, WriteBatch};
use crate::fatal::{Fatal, FatalHook};
use crate::levels::{FEATURE_LEVELS, LevelError, Levels};
use crate::log_store::LogStore;
use crate::log_store::sync::SyncThread;
use crate::machine::StateMachine;
use crate::machine_store::dedup::DedupError;
use crate::machine_store::install::{self, InstallError};
use crate::machine_store::load::{self, LoadError};
use crate::machine_store::{MachineStore, Published};
use crate::records::{ClusterRecords, LevelRowError, RecordsError};
use crate::snapshot::{SnapshotError, SnapshotStore};
use crate::storage::meta::MetaError;

/// How to open a replica's storage.
#[derive(Clone)]
pub(crate) struct StorageConfig {
    /// Folder of this replica alone; created if missing.
    pub(crate) dir: PathBuf,
    /// Every append waits for its own fsync (`raft.log.sync_append`).
    pub(crate) sync_append: bool,
    /// Cluster that the folder must belong to, where that is known beforehand.
    pub(crate) cluster_id: Option<String>,
    /// Called when the disk fails; [`Fatal::exit`] in production.
    pub(crate) on_fatal: FatalHook,
    /// What is counted for the replica's metrics.
    pub(crate) counters: Arc<Counters>,
    /// Feature levels that the replica supports.
    pub(crate) levels: Levels,
}

impl StorageConfig {
    /// Production settings for `dir`.
    pub(crate) fn new(dir: impl Into<PathBuf>) -> Self {
        Self {
            dir: dir.into(),
            sync_append: false,
            cluster_id: None,
            on_fatal: Fatal::exit(),
            counters: Arc::default(),
            levels: FEATURE_LEVELS,
        }
    }
}

impl fmt::Debug for StorageConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StorageConfig")
            .field("dir", &self.dir)
            .field("sync_append", &self.sync_append)
            .field("cluster_id", &self.cluster_id)
            .finish_non_exhaustive()
    }
}

/// An open replica's storage.
pub(crate) struct Storage {
    engine: Arc<dyn Engine>,
    log: LogStore,
    machine: Option<MachineStore>,
    published: Published,
    snapshots: Arc<SnapshotStore>,
    sync: SyncThread,
    incarnation: u64,
}

impl Storage {
    /// Opens the folder's database and gives `machine` its rows. Blocks on the disk, possibly for
    /// seconds.
    ///
    /// # Errors
    /// The folder is unusable, belongs to another cluster, or contradicts itself.
    pub(crate) fn open(
        config: &StorageConfig,
        machine: Arc<dyn StateMachine>,
    ) -> Result<Self, OpenError> {
        let folder = |source| OpenError::Folder {
            dir: config.dir.clone(),
            source,
        };
        fs::create_dir_all(&config.dir).map_err(folder)?;
        let engine = RocksEngine::open(&config.dir.join(DATABASE_FOLDER))?;
        Self::open_on(Arc::new(engine), config, machine)
    }

    /// Opens on a given engine; snapshots live in the configured folder.
    pub(crate) fn open_on(
        engine: Arc<dyn Engine>,
        config: &StorageConfig,
        machine: Arc<dyn StateMachine>,
    ) -> Result<Self, OpenError> {
        let counters = &config.counters;
        check::format(&*engine)?;
        check::cluster(&*engine, config.cluster_id.as_deref())?;
        let snapshots = snapshot_dir(&config.dir);
        let snapshots = Arc::new(SnapshotStore::open(
            Arc::clone(&engine),
            snapshots,
            config.levels,
            Arc::clone(counters),
        )?);
        install::resume(&*engine, &snapshots)?;
        snapshots.recover()?;
        check::log(&*engine, snapshots.current().as_ref())?;
        let incarnation = check::count_start(&*engine)?;
        let fatal = Fatal::new(Arc::clone(&config.on_fatal));
        check::level(&*engine, config.levels)?;
        let loaded = load::load(&*engine, &*machine)?;
        let store = MachineStore::new(
            Arc::clone(&engine),
            machine,
            Arc::clone(&snapshots),
            loaded,
            config.levels,
            fatal.clone(),
            Arc::clone(counters),
        );
        let sync = SyncThread::spawn(Arc::clone(&engine), fatal.clone(), Arc::clone(counters))
            .map_err(OpenError::Thread)?;
        let log = LogStore::open(Arc::clone(&engine), sync.queue(), fatal, config.sync_append)?;
        Ok(Self {
            engine,
            log,
            published: store.published(),
            machine: Some(store),
            snapshots,
            sync,
            incarnation,
        })
    }

    /// The log, for openraft.
    pub(crate) fn log_store(&self) -> LogStore {
        self.log.clone()
    }

    /// The state machine, for openraft; there is one, so that it is given out once.
    pub(crate) fn machine_store(&mut self) -> Option<MachineStore> {
        self.machine.take()
    }

    /// Index of the last applied entry whose effects readers see; 0 before the first.
    pub(crate) fn applied(&self) -> watch::Receiver<u64> {
        self.published.applied.subscribe()
    }

    /// The cluster's own records, as of what [`Self::applied`] says or slightly newer.
    pub(crate) fn records(&self) -> Arc<ArcSwap<ClusterRecords>> {
        Arc::clone(&self.published.records)
    }

    /// Replicated time, milliseconds since the Unix epoch.
    pub(crate) fn now_ms(&self) -> Arc<AtomicI64> {
        Arc::clone(&self.published.now_ms)
    }

    /// Snapshot files, to send and to receive.
    pub(crate) fn snapshots(&self) -> Arc<SnapshotStore> {
        Arc::clone(&self.snapshots)
    }

    /// How many times this folder was opened, this time included; durable before anybody sees it.
    pub(crate) fn incarnation(&self) -> u64 {
        self.incarnation
    }

    /// Binds the folder to a cluster for good; durable on return. Blocks on the disk.
    ///
    /// # Errors
    /// It is bound to another one already, or the database failed.
    pub(crate) fn bind_cluster(&self, cluster_id: &str) -> Result<(), OpenError> {
        check::cluster(&*self.engine, Some(cluster_id))?;
        let mut batch = WriteBatch::new();
        batch.put(Table::Meta, meta::CLUSTER_ID, cluster_id.to_owned());
        self.write_synced(batch)
    }

    /// One of the replica's own facts, by the name that it was put under.
    ///
    /// # Errors
    /// The database failed.
    pub(crate) fn fact(&self, name: &str) -> Result<Option<Bytes>, EngineError> {
        self.engine.value(Table::Meta, &meta::fact_key(name))
    }

    /// Stores facts together, durable on return. Blocks on the disk.
    ///
    /// # Errors
    /// The database failed.
    pub(crate) fn put_facts(&self, facts: &[(&str, &[u8])]) -> Result<(), OpenError> {
        let mut batch = WriteBatch::new();
        for (name, value) in facts {
            batch.put(Table::Meta, meta::fact_key(name), value.to_vec());
        }
        self.write_synced(batch)
    }

    /// Tells when nobody holds the database any more, so that the folder can be opened again.
    pub(crate) fn holders(&self) -> Weak<dyn Engine> {
        Arc::downgrade(&self.engine)
    }

    /// Makes everything durable and moves it where the next start finds it fast. Call after
    /// openraft has shut down.
    ///
    /// # Errors
    /// The database failed; what was acknowledged is in its write-ahead log all the same.
    pub(crate) async fn close(self) -> Result<(), OpenError> {
        let Self { engine, sync, .. } = self;
        sync.stop().await;
        let closed = blocking::run(move || engine.close()).await;
        closed.map_err(|error| OpenError::Thread(io::Error::other(error)))??;
        Ok(())
    }

    /// Ends the sync thread and nothing else, as a killed process would.
    #[cfg(test)]
    pub(crate) async fn kill(self) {
        self.sync.stop().await;
    }

    fn write_synced(&self, batch: WriteBatch) -> Result<(), OpenError> {
        self.engine.write(batch)?;
        self.engine.sync()?;
        Ok(())
    }
}

/// Makes the database of a new store below `dir`, empty.
///
/// # Errors
/// It cannot be made, or is there in another format.
pub(crate) fn create(dir: &Path) -> Result<RocksEngine, OpenError> {
    let engine = RocksEngine::open(&dir.join(DATABASE_FOLDER))?;
    check::format(&engine)?;
    Ok(engine)
}

/// The database of the store below `dir` as a start would find it, for who only reads it: nothing but an
/// interrupted install is changed.
///
/// # Errors
/// There is none, a process has it open, it is above or below `levels`, or it contradicts itself.
pub(crate) fn open_stopped(
    dir: &Path,
    cluster_id: &str,
    levels: Levels,
) -> Result<Arc<dyn Engine>, OpenError> {
    let database = dir.join(DATABASE_FOLDER);
    fs::metadata(&database).map_err(|source| OpenError::Folder {
        dir: database.clone(),
        source,
    })?;
    let engine: Arc<dyn Engine> = Arc::new(RocksEngine::open(&database)?);
    check::format(&*engine)?;
    check::cluster(&*engine, Some(cluster_id))?;
    let snapshots = SnapshotStore::open(
        Arc::clone(&engine),
        snapshot_dir(dir),
        levels,
        Arc::default(),
    )?;
    install::resume(&*engine, &snapshots)?;
    snapshots.recover()?;
    check::log(&*engine, snapshots.current().as_ref())?;
    check::level(&*engine, levels)?;
    Ok(engine)
}

/// The log's entries behind `after`, in order.
pub(crate) fn log_behind(
    log: &dyn Read,
    after: Option<LogId>,
) -> impl Iterator<Item = Result<Entry, MetaError>> + '_ {
    let first = after.map_or(0, |id| id.index().saturating_add(1));
    let range = KeyRange {
        lower: codec::log_key(first).to_vec(),
        upper: None,
    };
    let entry = |row: Result<KeyValue, EngineError>| -> Result<Entry, MetaError> {
        let (key, row) = row?;
        Ok(codec::decode_row(codec::log_index(&key)?, &row)?)
    };
    log.rows(Table::RaftLog, range).map(entry)
}

/// Where the snapshots of the store below `dir` are.
pub(crate) fn snapshot_dir(dir: &Path) -> PathBuf {
    dir.join(SNAPSHOT_FOLDER)
}

/// Why a replica's storage cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OpenError {
    /// The folder cannot be created.
    #[error("data folder {} cannot be used", dir.display())]
    Folder {
        /// The folder.
        dir: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The database cannot be opened or read; another process may have it open.
    #[error("database of the data folder")]
    Engine(#[from] EngineError),
    /// Written by a version with another layout.
    #[error(
        "data folder has format {found}, this version reads format {}",
        check::FORMAT
    )]
    Format {
        /// Format of the folder.
        found: u32,
    },
    /// The folder is another cluster's.
    #[error("data folder belongs to cluster {found}, not to cluster {expected}")]
    WrongCluster {
        /// Cluster of the folder.
        found: String,
        /// Cluster asked for.
        expected: String,
    },
    /// A row is damaged.
    #[error("damaged row in the data folder")]
    Codec(#[from] CodecError),
    /// The log lacks entries that nothing else covers.
    #[error("log has entry {found} where entry {expected} must be: the data folder is damaged")]
    LogGap {
        /// Index that is missing.
        expected: u64,
        /// Index found instead.
        found: u64,
    },
    /// The log ends before what was committed or applied.
    #[error("log ends at {last} but entry {known} was {what}: the data folder is damaged")]
    LogShort {
        /// Last index of the log.
        last: u64,
        /// Index that must exist.
        known: u64,
        /// How it is known.
        what: &'static str,
    },
    /// An install cannot be finished.
    #[error("interrupted snapshot install cannot be finished")]
    Install(#[from] InstallError),
    /// The snapshot folder is unusable.
    #[error("snapshot folder")]
    Snapshots(#[from] SnapshotError),
    /// The applied state cannot be loaded.
    #[error("applied state cannot be loaded")]
    Load(#[from] LoadError),
    /// The program cannot be a replica of this cluster.
    #[error(transparent)]
    Level(#[from] LevelError),
    /// The cluster's feature level cannot be read.
    #[error("feature level of the cluster")]
    LevelRow(#[from] LevelRowError),
    /// A thread cannot be started or joined.
    #[error("storage thread")]
    Thread(#[source] io::Error),
}

impl OpenError {
    /// Whether files are damaged, as every further start would find them.
    pub(crate) fn is_damage(&self) -> bool {
        let mut cause: Option<&(dyn Error + 'static)> = Some(self);
        while let Some(error) = cause {
            let log = error.downcast_ref::<Self>();
            let row = error.downcast_ref::<CodecError>();
            let record = error.downcast_ref::<RecordsError>();
            if matches!(log, Some(Self::LogGap { .. } | Self::LogShort { .. }))
                // What is unknown is a newer version's.
                || row.is_some_and(|row| !matches!(row, CodecError::UnknownPayload { .. }))
                || matches!(record, Some(RecordsError::Unreadable { .. }))
                || error.is::<DedupError>()
                || engine::is_damage(error)
            {
                return true;
            }
            cause = error.source();
        }
        false
    }
}

pub(crate) const DATABASE_FOLDER: &str = "db";
pub(crate) const SNAPSHOT_FOLDER: &str = "snap";
