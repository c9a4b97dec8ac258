//! Writes a history while it happens.

use std::{
    fs::File,
    io::{self, BufWriter, Write},
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::Instant,
};

use anyhow::{Context as _, Result};

use super::{Answer, Event, Op, OpId, Run};
use crate::outcome::Outcome;

/// Appends events to a history. Clones write to the same one.
///
/// Times are taken under the lock that orders the lines, so that lines are ordered by time.
#[derive(Clone)]
pub struct Recorder {
    inner: Arc<Mutex<Inner>>,
    begin: Instant,
}

struct Inner {
    out: Box<dyn Write + Send>,
    next: OpId,
    /// The first failure to write: the run is worth nothing then.
    failure: Option<io::Error>,
}

impl Recorder {
    /// Begins a history in a new file.
    ///
    /// # Errors
    /// When there is such a file already, or it cannot be written.
    pub fn create(path: &Path, run: &Run) -> Result<Self> {
        let file = File::options().write(true).create_new(true).open(path);
        let file = file.with_context(|| format!("begin the history {}", path.display()))?;
        Ok(Self::to(Box::new(BufWriter::new(file)), run))
    }

    /// Begins a history in `out`.
    pub fn to(out: Box<dyn Write + Send>, run: &Run) -> Self {
        let inner = Inner {
            out,
            next: 0,
            failure: None,
        };
        let recorder = Self {
            inner: Arc::new(Mutex::new(inner)),
            begin: Instant::now(),
        };
        recorder.record(|_, _| Event::Run(run.clone()));
        recorder
    }

    /// Notes that `process` is about to ask for `op`.
    pub fn invoke(&self, process: u32, op: Op) -> OpId {
        self.record(|at, id| Event::Invoke {
            at,
            id,
            process,
            op,
        })
    }

    /// Notes how an operation ended.
    pub fn complete(&self, id: OpId, outcome: Outcome, answer: Answer) {
        self.record(|at, _| Event::Complete {
            at,
            id,
            outcome,
            answer,
        });
    }

    /// Notes what an open map stream showed.
    pub fn sight(&self, id: OpId, value: u64) {
        self.record(|at, _| Event::Sighting { at, id, value });
    }

    /// Notes which peers an open map stream shows from now on, and which no more.
    pub fn peers(&self, id: OpId, came: Vec<String>, left: Vec<String>) {
        self.record(|at, _| Event::Peers { at, id, came, left });
    }

    /// Notes that a fault is about to be installed, or was healed.
    pub fn fault(&self, nemesis: &str, what: String, heals: bool) {
        self.record(|at, _| Event::Fault {
            at,
            nemesis: nemesis.to_owned(),
            what,
            heals,
        });
    }

    /// Notes a leader that was not known before.
    pub fn leader(&self, replica: usize, term: u64) {
        self.record(|at, _| Event::Leader { at, replica, term });
    }

    /// Notes that a replica has installed more snapshots.
    pub fn installed(&self, replica: usize, count: u64) {
        self.record(|at, _| Event::Installed { at, replica, count });
    }

    /// Notes in what the replicas differ, if they do.
    pub fn compared(&self, difference: Option<String>) {
        self.record(|at, _| Event::Compared { at, difference });
    }

    /// Ends the history.
    ///
    /// # Errors
    /// When any of its lines could not be written.
    pub fn finish(&self) -> Result<()> {
        self.record(|at, _| Event::End { at });
        let mut inner = self.lock();
        if let Some(failure) = inner.failure.take() {
            return Err(failure).context("write the history");
        }
        inner.out.flush().context("write the history")
    }

    /// Writes one event, which is told its time and a number that no other has.
    fn record(&self, event: impl FnOnce(u64, OpId) -> Event) -> OpId {
        let mut inner = self.lock();
        let at = u64::try_from(self.begin.elapsed().as_nanos()).unwrap_or(u64::MAX);
        let id = inner.next;
        inner.next += 1;
        if let Err(error) = write_line(&mut inner.out, &event(at, id)) {
            inner.failure.get_or_insert(error);
        }
        id
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn write_line(out: &mut impl Write, event: &Event) -> io::Result<()> {
    serde_json::to_writer(&mut *out, event)?;
    out.write_all(b"\n")
}
