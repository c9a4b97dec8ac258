//! Power loss on RocksDB: the folder is copied while the database runs, the copy's write-ahead log
//! is cut somewhere behind its last completed sync, and a replica starts on what is left.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use openraft::storage::{RaftLogReader, RaftLogStorage, RaftStateMachine};
use parking_lot::Mutex;
use proptest::collection::vec;
use proptest::prelude::*;
use tempfile::TempDir;
use tokio::sync::oneshot;

use crate::codec::{Entry, Vote};
use crate::engine::fault::{FaultEngine, SyncPhase};
use crate::engine::rocks::RocksEngine;
use crate::testing::{Opened, count, log_id, open, signal, vote};

/// What openraft asks of a replica.
#[derive(Clone, Debug)]
enum Step {
    /// Appends this many entries.
    Append(u64),
    /// A new leader replaces up to this many entries that are not applied.
    Overwrite(u64),
    /// Votes for the next term.
    Vote,
    /// Applies everything appended.
    Apply,
    /// Waits until everything is answered.
    Settle,
}

/// What was asked, and what the replica promised.
#[derive(Default)]
struct History {
    term: u64,
    log: Vec<Entry>,
    applied: u64,
    /// The log after each write.
    logs: Vec<Vec<Entry>>,
    /// The write that must have survived, by its place in `logs`.
    promised: usize,
    vote: Option<Vote>,
    open: Vec<(usize, oneshot::Receiver<std::io::Result<()>>)>,
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn every_acknowledged_append_and_vote_survives(
        steps in vec(step(), 1..25),
        cut in 0.0..=1.0_f64,
        garbage in vec(any::<u8>(), 0..100),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(lose_power(steps, cut, &garbage));
    }
}

async fn lose_power(steps: Vec<Step>, cut: f64, garbage: &[u8]) {
    let dir = TempDir::new().unwrap();
    let database = dir.path().join("db");
    let durable = Arc::new(Mutex::new(Durable::default()));
    let rocks = Arc::new(RocksEngine::open(&database).unwrap());
    let observer = observe(database.clone(), Arc::clone(&durable));
    let engine = Arc::new(FaultEngine::observed(rocks, observer));
    let mut opened = open(engine, dir.path());
    let mut history = History {
        logs: vec![Vec::new()],
        ..History::default()
    };
    for step in steps {
        history.take(&mut opened, step).await;
        history.collect();
    }
    let durable = durable.lock().clone();
    let copy = TempDir::new().unwrap();
    let database_copy = copy.path().join("db");
    copy_folder(&database, &database_copy);
    fs::write(database_copy.join(MARK), &durable.mark).unwrap();
    cut_wal(&database_copy, durable.log_bytes, cut, garbage);
    check(copy.path(), &history).await;
}

impl History {
    async fn take(&mut self, opened: &mut Opened, step: Step) {
        match step {
            Step::Append(entries) => self.append(opened, entries).await,
            Step::Overwrite(entries) => self.overwrite(opened, entries).await,
            Step::Vote => self.vote(opened).await,
            Step::Apply => {
                let entries = self.log.iter().filter(|e| e.log_id.index() > self.applied);
                let entries: Vec<Entry> = entries.cloned().collect();
                self.applied = self.log.len() as u64;
                let items = entries.into_iter().map(|entry| Ok((entry, None)));
                opened
                    .machine
                    .apply(futures::stream::iter(items))
                    .await
                    .unwrap();
            }
            Step::Settle => {
                for (write, answer) in std::mem::take(&mut self.open) {
                    answer.await.unwrap().unwrap();
                    self.promised = write;
                }
            }
        }
    }

    async fn append(&mut self, opened: &mut Opened, entries: u64) {
        let first = self.log.len() as u64 + 1;
        let entries: Vec<Entry> = (first..first + entries)
            .map(|index| Entry {
                log_id: log_id(self.term, index),
                ..count(index, "k")
            })
            .collect();
        self.log.extend(entries.iter().cloned());
        self.logs.push(self.log.clone());
        let (done, answer) = signal();
        opened.log.append(entries, done).await.unwrap();
        self.open.push((self.logs.len() - 1, answer));
    }

    async fn overwrite(&mut self, opened: &mut Opened, entries: u64) {
        self.vote(opened).await;
        let keep = (self.log.len() as u64)
            .saturating_sub(entries)
            .max(self.applied);
        self.log.truncate(keep as usize);
        self.logs.push(self.log.clone());
        let last = self.log.last().map(|entry| entry.log_id);
        opened.log.truncate_after(last).await.unwrap();
        self.append(opened, entries).await;
    }

    async fn vote(&mut self, opened: &mut Opened) {
        self.term += 1;
        let vote = vote(self.term, false);
        opened.log.save_vote(&vote).await.unwrap();
        self.vote = Some(vote);
        // Everything before it was synced with it.
        self.promised = self.logs.len() - 1;
    }

    /// Notes which appends were answered by now.
    fn collect(&mut self) {
        let promised = &mut self.promised;
        self.open
            .retain_mut(|(write, answer)| match answer.try_recv() {
                Ok(answer) => {
                    answer.unwrap();
                    *promised = (*promised).max(*write);
                    false
                }
                Err(_) => true,
            });
    }
}

async fn check(dir: &Path, history: &History) {
    let engine = Arc::new(RocksEngine::open(&dir.join("db")).unwrap());
    let mut opened = open(engine, dir);
    let mut reader = opened.log.get_log_reader().await;
    assert_eq!(reader.read_vote().await.unwrap(), history.vote);
    let found = reader.try_get_log_entries(..).await.unwrap();
    let survivors = history.logs.get(history.promised..).unwrap();
    assert!(
        survivors.contains(&found),
        "promised write {} of {}, found {} entries",
        history.promised,
        history.logs.len(),
        found.len()
    );
    let applied = *opened.storage.applied().borrow();
    assert!(applied <= found.len() as u64);
    assert_eq!(opened.counter.count("k"), applied);
}

/// What the last completed sync left.
#[derive(Clone, Default)]
struct Durable {
    /// The length of the write-ahead log that it covered for certain.
    log_bytes: u64,
    /// The mark that was written after it.
    mark: Vec<u8>,
}

/// The mark of what was synced, beside the write-ahead log.
const MARK: &str = "SYNCED";

fn observe(
    database: PathBuf,
    durable: Arc<Mutex<Durable>>,
) -> Box<dyn Fn(SyncPhase) + Send + Sync> {
    let started = Mutex::new(0);
    Box::new(move |phase| match phase {
        SyncPhase::Starts => *started.lock() = fs::metadata(wal(&database)).unwrap().len(),
        SyncPhase::Done => {
            *durable.lock() = Durable {
                log_bytes: *started.lock(),
                mark: fs::read(database.join(MARK)).unwrap(),
            };
        }
    })
}

#[tokio::test]
async fn a_log_that_lost_what_was_synced_is_refused_and_stays_so() {
    let dir = TempDir::new().unwrap();
    let database = dir.path().join("db");
    let mut opened = open(Arc::new(RocksEngine::open(&database).unwrap()), dir.path());
    let mut history = History {
        logs: vec![Vec::new()],
        ..History::default()
    };
    history.append(&mut opened, 5).await;
    history.take(&mut opened, Step::Settle).await;
    let length = fs::metadata(wal(&database)).unwrap().len();
    for damage in [Rot::Cut, Rot::Flip] {
        let copy = TempDir::new().unwrap();
        let copied = copy.path().join("db");
        copy_folder(&database, &copied);
        damage.befall(&wal(&copied), length - 40);
        for _ in 0..2 {
            let refused = RocksEngine::open(&copied)
                .err()
                .map(|error| crate::chain(&error));
            let refused = refused.unwrap();
            assert!(refused.contains("replace this replica"), "{refused}");
        }
    }
}

/// What no power loss does.
#[derive(Clone, Copy)]
enum Rot {
    Cut,
    Flip,
}

impl Rot {
    fn befall(self, path: &Path, place: u64) {
        let mut bytes = fs::read(path).unwrap();
        let place = usize::try_from(place).unwrap();
        match self {
            Self::Cut => bytes.truncate(place),
            Self::Flip => bytes[place] ^= 1,
        }
        fs::write(path, bytes).unwrap();
    }
}

/// The only write-ahead log: these tests write too little for a second one.
fn wal(database: &Path) -> PathBuf {
    let files = fs::read_dir(database)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let logs: Vec<PathBuf> = files
        .filter(|path| path.extension().is_some_and(|ext| ext == "log"))
        .collect();
    let [log] = logs.as_slice() else {
        panic!("{logs:?}")
    };
    log.clone()
}

/// Cuts the log at some point between what is durable and its end, and leaves garbage there.
fn cut_wal(database: &Path, durable: u64, cut: f64, garbage: &[u8]) {
    let path = wal(database);
    let length = fs::metadata(&path).unwrap().len();
    assert!(length >= durable);
    let kept = durable + ((length - durable) as f64 * cut) as u64;
    let mut file = OpenOptions::new().append(true).open(path).unwrap();
    file.set_len(kept).unwrap();
    if kept < length {
        file.write_all(garbage).unwrap();
    }
}

fn copy_folder(from: &Path, to: &Path) {
    fs::create_dir(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        if entry.file_name() != "LOCK" {
            fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
        }
    }
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (1_u64..8).prop_map(Step::Append),
        2 => (1_u64..12).prop_map(Step::Overwrite),
        1 => Just(Step::Vote),
        2 => Just(Step::Apply),
        1 => Just(Step::Settle),
    ]
}
