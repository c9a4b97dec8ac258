//! The replicated state machine on the storage engine: openraft's view of
//! [`crate::StateMachine`], the cluster's records and the table of answered commands.
//!
//! Entries apply in chunks. Each chunk's effects, the answers that it gave and its position in the
//! log are one batch, so that a crash leaves all of it or nothing, and what is lost is replayed
//! from the log. Readers and proposers hear of a chunk only after its batch was written.

mod apply;
pub(crate) mod dedup;
pub(crate) mod install;
pub(crate) mod load;
#[cfg(test)]
mod tests;

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use arc_swap::ArcSwap;
use futures::{FutureExt, Stream, StreamExt};
use openraft::alias::SnapshotOf;
use openraft::storage::{EntryResponder, RaftStateMachine};
use prost::Message;
use tokio::sync::watch;

use self::apply::Chunk;
use self::load::Loaded;
use crate::StateMachine;
use crate::blocking;
use crate::codec::{LogId, SnapshotMeta, StoredMembership};
use crate::counters::Counters;
use crate::engine::{Engine, Read, Table};
use crate::fatal::{Fatal, chain};
use crate::levels::Levels;
use crate::log_store::stopped;
use crate::records::ClusterRecords;
use crate::snapshot::{SnapshotBuilder, SnapshotFile, SnapshotStore};
use crate::storage::{self, meta};
use crate::type_config::TypeConfig;

/// openraft's state machine; one task owns it and applies the log through it.
pub(crate) struct MachineStore {
    engine: Arc<dyn Engine>,
    machine: Arc<dyn StateMachine>,
    snapshots: Arc<SnapshotStore>,
    loaded: Loaded,
    levels: Levels,
    published: Published,
    fatal: Fatal,
    counters: Arc<Counters>,
}

/// What readers elsewhere see of the applied state; changes only after the batch was written.
#[derive(Clone)]
pub(crate) struct Published {
    /// Index of the last applied entry, 0 before the first.
    pub(crate) applied: Arc<watch::Sender<u64>>,
    /// The cluster's own records.
    pub(crate) records: Arc<ArcSwap<ClusterRecords>>,
    /// Replicated time, milliseconds since the Unix epoch.
    pub(crate) now_ms: Arc<AtomicI64>,
}

impl Published {
    /// Shows a whole state, at start or after an install.
    fn reset(&self, loaded: &Loaded) {
        self.records.store(Arc::new(loaded.records.clone()));
        self.now_ms.store(loaded.position.now_ms, Ordering::Relaxed);
        self.applied.send_replace(loaded.position.index());
    }
}

impl MachineStore {
    /// Takes over a state that [`load::load`] found in `engine`.
    pub(crate) fn new(
        engine: Arc<dyn Engine>,
        machine: Arc<dyn StateMachine>,
        snapshots: Arc<SnapshotStore>,
        loaded: Loaded,
        levels: Levels,
        fatal: Fatal,
        counters: Arc<Counters>,
    ) -> Self {
        let (applied, _) = watch::channel(loaded.position.index());
        let records = ArcSwap::from_pointee(loaded.records.clone());
        let published = Published {
            applied: Arc::new(applied),
            records: Arc::new(records),
            now_ms: Arc::new(AtomicI64::new(loaded.position.now_ms)),
        };
        Self {
            engine,
            machine,
            snapshots,
            loaded,
            levels,
            published,
            fatal,
            counters,
        }
    }

    /// What readers may hold on to.
    pub(crate) fn published(&self) -> Published {
        self.published.clone()
    }

    /// Applies what `log` holds behind the present position, to its end, committed or not.
    ///
    /// # Errors
    /// An entry cannot be read or applied, or the engine failed.
    pub(crate) fn replay(&mut self, log: &dyn Read) -> io::Result<()> {
        let mut chunk = Chunk::default();
        for entry in storage::log_behind(log, self.loaded.position.applied) {
            self.apply_entry(&mut chunk, entry?)
                .map_err(io::Error::other)?;
            if chunk.is_full() {
                self.commit(std::mem::take(&mut chunk))?;
            }
        }
        self.commit(chunk)
    }

    /// Writes a chunk and tells everybody who waits for it.
    fn commit(&mut self, chunk: Chunk) -> io::Result<()> {
        if chunk.is_empty() {
            return Ok(());
        }
        if self.fatal.has_failed() {
            return Err(stopped());
        }
        let Chunk {
            mut batch,
            answers,
            records_changed,
            ..
        } = chunk;
        self.loaded.dedup.flush(&mut batch);
        let position = self.loaded.position.to_proto().encode_to_vec();
        batch.put(Table::StateMeta, meta::POSITION, position);
        self.engine
            .write(batch)
            .inspect_err(|error| self.fatal.report("apply", error))?;
        let applied = self.loaded.position.index();
        self.machine.publish(applied);
        if records_changed {
            self.published
                .records
                .store(Arc::new(self.loaded.records.clone()));
        }
        let now_ms = self.loaded.position.now_ms;
        self.published.now_ms.store(now_ms, Ordering::Relaxed);
        self.published.applied.send_replace(applied);
        for (responder, response) in answers {
            responder.send(response);
        }
        Ok(())
    }
}

impl RaftStateMachine<TypeConfig> for MachineStore {
    type SnapshotData = SnapshotFile;
    type SnapshotBuilder = SnapshotBuilder;

    async fn applied_state(&mut self) -> io::Result<(Option<LogId>, StoredMembership)> {
        let position = &self.loaded.position;
        Ok((position.applied, position.membership.clone()))
    }

    async fn apply<Strm>(&mut self, mut entries: Strm) -> io::Result<()>
    where
        Strm: Stream<Item = io::Result<EntryResponder<TypeConfig>>> + Unpin + Send,
    {
        let mut chunk = Chunk::default();
        loop {
            // Wait for more only with nothing in hand: a chunk is never older than one read.
            let next = if chunk.is_empty() {
                entries.next().await
            } else if let Some(next) = entries.next().now_or_never() {
                next
            } else {
                self.commit(std::mem::take(&mut chunk))?;
                continue;
            };
            let Some(item) = next else { break };
            let (entry, responder) = item?;
            let index = entry.log_id.index();
            let response = self.apply_entry(&mut chunk, entry).map_err(|error| {
                tracing::error!(raft.index = index, error = %chain(&error), "apply halted");
                io::Error::other(error)
            })?;
            if let Some(responder) = responder {
                chunk.answers.push((responder, response));
            }
            if chunk.is_full() {
                self.commit(std::mem::take(&mut chunk))?;
            }
        }
        self.commit(chunk)
    }

    async fn try_create_snapshot_builder(&mut self, force: bool) -> Option<SnapshotBuilder> {
        self.snapshots.start_build(force).await
    }

    async fn get_snapshot_builder(&mut self) -> SnapshotBuilder {
        let builder = self.snapshots.start_build(true).await;
        builder.expect("a forced build is never refused")
    }

    async fn install_snapshot(
        &mut self,
        _meta: &SnapshotMeta,
        snapshot: SnapshotFile,
    ) -> io::Result<()> {
        let engine = Arc::clone(&self.engine);
        let machine = Arc::clone(&self.machine);
        let snapshots = Arc::clone(&self.snapshots);
        let fatal = self.fatal.clone();
        let install = move || {
            install::install(&*engine, &snapshots, &snapshot, &fatal)?;
            load::load(&*engine, &*machine).map_err(io::Error::other)
        };
        self.loaded = blocking::run(install).await.map_err(io::Error::other)??;
        // Counted before anybody can see the state.
        self.counters.snapshots_installed.add_one();
        self.published.reset(&self.loaded);
        Ok(())
    }

    async fn get_current_snapshot(
        &mut self,
    ) -> io::Result<Option<SnapshotOf<TypeConfig, SnapshotFile>>> {
        Ok(self.snapshots.current().map(SnapshotFile::into_raft))
    }
}
