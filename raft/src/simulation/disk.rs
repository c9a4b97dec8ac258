//! A replica's disk: it tells of votes, and its power may fail in the middle of an install.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use bytes::Bytes;

use super::{chance, random, violation, voted};
use crate::engine::sim::SimEngine;
use crate::engine::synced::SyncedMark;
use crate::engine::{
    Engine, EngineError, KeyRange, KeyValue, Read, Rows, Table, Write, WriteBatch,
};
use crate::storage::meta;

/// See the module. One start of a replica writes through it.
pub(super) struct Disk {
    id: u64,
    disk: Arc<SimEngine>,
    /// Writes and syncs until the power fails.
    left: AtomicU64,
    /// Whether it may fail.
    is_armed: AtomicBool,
    synced: SyncedMark,
}

impl Disk {
    /// The disk as a start of the replica finds it; the mark of what was synced is in its `folder`.
    pub(super) fn open(id: u64, disk: Arc<SimEngine>, folder: &Path) -> Self {
        let synced = SyncedMark::open(folder).expect("a mark of what was synced");
        if let Err(error) = synced.check(disk.written()) {
            violation(format!("synced: replica {id}: {}", crate::chain(&error)));
        }
        Self {
            id,
            disk,
            left: AtomicU64::new(u64::MAX),
            is_armed: AtomicBool::new(false),
            synced,
        }
    }

    /// From now on the power may fail: a start must come to its end.
    pub(super) fn arm(&self) {
        self.is_armed.store(true, Ordering::Relaxed);
    }

    pub(super) fn is_powerless(&self) -> bool {
        self.left.load(Ordering::Relaxed) == 0
    }

    fn step(&self, step: &'static str) -> Result<(), EngineError> {
        match self.left.load(Ordering::Relaxed) {
            0 => Err(EngineError::new(step, io::Error::other("no power"))),
            u64::MAX => Ok(()),
            left => {
                self.left.store(left - 1, Ordering::Relaxed);
                Ok(())
            }
        }
    }

    fn look(&self, write: &Write) {
        match write {
            Write::Put(Table::Meta, key, _) if key.as_ref() == meta::VOTE => voted(self.id),
            // Only an install clears the state.
            Write::DeleteRange(Table::State, ..)
                if self.is_armed.load(Ordering::Relaxed) && chance(30) =>
            {
                self.left.store(random(1..8), Ordering::Relaxed);
            }
            Write::Put(..) | Write::Delete(..) | Write::DeleteRange(..) => {}
        }
    }
}

impl Read for Disk {
    fn value(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        self.disk.value(table, key)
    }

    fn rows(&self, table: Table, range: KeyRange) -> Rows<'_> {
        self.disk.rows(table, range)
    }

    fn last(&self, table: Table, range: KeyRange) -> Result<Option<KeyValue>, EngineError> {
        self.disk.last(table, range)
    }
}

impl Engine for Disk {
    fn write(&self, batch: WriteBatch) -> Result<(), EngineError> {
        self.step("write")?;
        let writes = batch.clone().into_writes();
        writes.iter().for_each(|write| self.look(write));
        self.disk.write(batch)
    }

    fn sync(&self) -> Result<(), EngineError> {
        self.step("sync")?;
        let written = self.disk.written();
        self.disk.sync()?;
        self.synced.note(written)
    }

    fn view(&self) -> Box<dyn Read + '_> {
        self.disk.view()
    }

    fn close(&self) -> Result<(), EngineError> {
        self.sync()
    }
}
