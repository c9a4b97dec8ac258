//! An engine whose disk fails or whose process dies when a test says so.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use bytes::Bytes;

use super::{Engine, EngineError, KeyRange, KeyValue, Read, Rows, Table, WriteBatch};

/// Passes everything on to another engine until a fault is due.
pub(crate) struct FaultEngine {
    inner: Arc<dyn Engine>,
    fail_writes: AtomicBool,
    fail_syncs: AtomicBool,
    steps: AtomicU64,
    steps_max: AtomicU64,
    on_sync: Box<dyn Fn(SyncPhase) + Send + Sync>,
}

/// What an observer is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SyncPhase {
    /// A sync starts.
    Starts,
    /// It succeeded; nobody was told yet.
    Done,
}

impl FaultEngine {
    /// No fault yet.
    pub(crate) fn new(inner: Arc<dyn Engine>) -> Self {
        Self::observed(inner, Box::new(|_| ()))
    }

    /// No fault yet; `on_sync` is called around every sync.
    pub(crate) fn observed(
        inner: Arc<dyn Engine>,
        on_sync: Box<dyn Fn(SyncPhase) + Send + Sync>,
    ) -> Self {
        Self {
            inner,
            fail_writes: AtomicBool::new(false),
            fail_syncs: AtomicBool::new(false),
            steps: AtomicU64::new(0),
            steps_max: AtomicU64::new(u64::MAX),
            on_sync,
        }
    }

    /// Every write fails from now on.
    pub(crate) fn fail_writes(&self) {
        self.fail_writes.store(true, Ordering::SeqCst);
    }

    /// Every sync fails from now on, until told otherwise.
    pub(crate) fn fail_syncs(&self, fail: bool) {
        self.fail_syncs.store(fail, Ordering::SeqCst);
    }

    /// The process dies after `steps` more writes and syncs: none later has any effect.
    pub(crate) fn die_after(&self, steps: u64) {
        self.steps.store(0, Ordering::SeqCst);
        self.steps_max.store(steps, Ordering::SeqCst);
    }

    /// Writes and syncs since the last [`Self::die_after`], those without effect included.
    pub(crate) fn steps(&self) -> u64 {
        self.steps.load(Ordering::SeqCst)
    }

    fn step(&self, step: &'static str, fail: &AtomicBool) -> Result<(), EngineError> {
        let done = self.steps.fetch_add(1, Ordering::SeqCst);
        if done >= self.steps_max.load(Ordering::SeqCst) || fail.load(Ordering::SeqCst) {
            return Err(EngineError::new(step, io::Error::other("injected fault")));
        }
        Ok(())
    }
}

impl Read for FaultEngine {
    fn value(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        self.inner.value(table, key)
    }

    fn rows(&self, table: Table, range: KeyRange) -> Rows<'_> {
        self.inner.rows(table, range)
    }

    fn last(&self, table: Table, range: KeyRange) -> Result<Option<KeyValue>, EngineError> {
        self.inner.last(table, range)
    }
}

impl Engine for FaultEngine {
    fn write(&self, batch: WriteBatch) -> Result<(), EngineError> {
        self.step("write", &self.fail_writes)?;
        self.inner.write(batch)
    }

    fn sync(&self) -> Result<(), EngineError> {
        (self.on_sync)(SyncPhase::Starts);
        self.step("sync", &self.fail_syncs)?;
        self.inner.sync()?;
        (self.on_sync)(SyncPhase::Done);
        Ok(())
    }

    fn view(&self) -> Box<dyn Read + '_> {
        self.inner.view()
    }

    fn close(&self) -> Result<(), EngineError> {
        self.inner.close()
    }
}
