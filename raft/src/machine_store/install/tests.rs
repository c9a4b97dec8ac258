use std::fs;
use std::sync::Arc;

use openraft::storage::{RaftSnapshotBuilder, RaftStateMachine};
use tempfile::TempDir;

use super::InstallError;
use crate::engine::fault::FaultEngine;
use crate::engine::sim::SimEngine;
use crate::engine::{Engine, KeyRange, KeyValue, Table, WriteBatch};
use crate::snapshot::SnapshotFile;
use crate::storage::{OpenError, Storage, StorageConfig, meta};
use crate::testing::{Counter, Kind, Opened, count, membership, open, proposal};

const CLIENT: &[u8] = b"0123456789abcdef";

/// Every row of every table that an install replaces.
type State = Vec<Vec<KeyValue>>;

#[tokio::test]
async fn a_crash_at_any_step_leaves_the_old_or_the_new_state_whole() {
    for kind in Kind::BOTH {
        let snapshot = Snapshot::build().await;
        let mut outcomes = (0, 0);
        for step in 0.. {
            let (whole, done) = crash_at(kind, &snapshot, step).await;
            match whole {
                Whole::Old => outcomes.0 += 1,
                Whole::New => outcomes.1 += 1,
            }
            if done {
                break;
            }
        }
        // Without the marker the old one, from then on the new one.
        assert!(outcomes.0 == 1 && outcomes.1 >= 5, "{kind:?}: {outcomes:?}");
    }
}

#[tokio::test]
async fn a_power_loss_after_any_step_leaves_the_old_or_the_new_state_whole() {
    let snapshot = Snapshot::build().await;
    for step in 0..100 {
        let dir = TempDir::new().unwrap();
        let sim = Arc::new(SimEngine::default());
        let faults = Arc::new(FaultEngine::new(sim.clone()));
        let (mut opened, old) = with_old_state(faults.clone(), &dir).await;
        sim.sync().unwrap();
        faults.die_after(step);
        let installed = snapshot.install(&mut opened).await;
        drop(opened);
        for kept in 0..=sim.unsynced() {
            let engine = Arc::new(sim.crash(kept));
            let copy = copy_snapshots(&dir);
            let opened = open(engine.clone(), copy.path());
            let found = state(&*engine);
            assert!(
                found == old || found == snapshot.state,
                "step {step}, kept {kept}"
            );
            assert_eq!(is_new(&opened), found == snapshot.state);
        }
        if installed {
            return;
        }
    }
    panic!("the install never ends");
}

#[tokio::test]
async fn a_crash_while_the_install_is_redone_is_redone_again() {
    let snapshot = Snapshot::build().await;
    let dir = TempDir::new().unwrap();
    let sim = Arc::new(SimEngine::default());
    let faults = Arc::new(FaultEngine::new(sim.clone()));
    let (mut opened, _) = with_old_state(faults.clone(), &dir).await;
    faults.die_after(4);
    assert!(!snapshot.install(&mut opened).await);
    drop(opened);
    let mut restarts = 0;
    for step in 0.. {
        faults.die_after(step);
        let config = StorageConfig::new(dir.path());
        let counter = Arc::new(Counter::default());
        restarts += 1;
        if Storage::open_on(faults.clone(), &config, counter).is_ok() {
            break;
        }
    }
    assert!(restarts > 3, "{restarts}");
    assert_eq!(state(&*sim), snapshot.state);
}

#[tokio::test]
async fn a_damaged_file_leaves_the_old_state_and_names_the_file() {
    let snapshot = Snapshot::build().await;
    let dir = TempDir::new().unwrap();
    let engine = Arc::new(SimEngine::default());
    let (mut opened, old) = with_old_state(engine.clone(), &dir).await;
    let mut bytes = fs::read(snapshot.file.path()).unwrap();
    bytes[60] ^= 1;
    fs::write(snapshot.file.path(), bytes).unwrap();
    assert!(!snapshot.install(&mut opened).await);
    assert_eq!(state(&*engine), old);
    assert_eq!(opened.counter.count("old"), 2);
    assert_eq!(*opened.fatal.lock(), [""; 0]);
}

#[tokio::test]
async fn an_interrupted_install_whose_file_is_gone_is_refused_at_start() {
    let dir = TempDir::new().unwrap();
    let engine = Arc::new(SimEngine::default());
    drop(with_old_state(engine.clone(), &dir).await);
    let mut batch = WriteBatch::new();
    batch.put(
        Table::Meta,
        meta::INSTALLING,
        "00000000000000000099-1-1.snap",
    );
    engine.write(batch).unwrap();
    let config = StorageConfig::new(dir.path());
    let refused = Storage::open_on(engine, &config, Arc::new(Counter::default())).map(drop);
    let Err(OpenError::Install(InstallError::Snapshot { name, .. })) = refused else {
        panic!("opened a torn state");
    };
    assert_eq!(name, "00000000000000000099-1-1.snap");
}

enum Whole {
    Old,
    New,
}

/// Dies at a step of an install and starts again; whether the install had ended before.
async fn crash_at(kind: Kind, snapshot: &Snapshot, step: u64) -> (Whole, bool) {
    let dir = TempDir::new().unwrap();
    let engine = kind.open(dir.path());
    let faults = Arc::new(FaultEngine::new(Arc::clone(&engine)));
    let (mut opened, old) = with_old_state(faults.clone(), &dir).await;
    faults.die_after(step);
    let done = snapshot.install(&mut opened).await;
    assert_eq!(
        *opened.fatal.lock(),
        if done {
            vec![]
        } else {
            vec!["install a snapshot"]
        }
    );
    opened.storage.kill().await;
    drop((opened.engine, opened.machine, opened.log, faults));
    let engine = match kind {
        Kind::Sim => engine,
        Kind::Rocks => {
            drop(engine);
            kind.open(dir.path())
        }
    };
    let opened = open(Arc::clone(&engine), dir.path());
    let found = state(&*engine);
    if found == old {
        assert!(!is_new(&opened) && !done);
        return (Whole::Old, done);
    }
    assert_eq!(found, snapshot.state, "torn state at step {step}");
    assert!(is_new(&opened));
    (Whole::New, done)
}

/// A snapshot of another replica.
struct Snapshot {
    _dir: TempDir,
    file: SnapshotFile,
    state: State,
}

impl Snapshot {
    async fn build() -> Self {
        let dir = TempDir::new().unwrap();
        let engine = Arc::new(SimEngine::default());
        let mut opened = open(engine.clone(), dir.path());
        let mut entries = vec![membership(1, &[1, 2, 3])];
        entries.extend((2..40).map(|index| proposal(index, 5, CLIENT, index, 1, b"new")));
        entries.push(count(40, "other"));
        opened.apply(entries).await.unwrap();
        let mut builder = opened
            .machine
            .try_create_snapshot_builder(true)
            .await
            .unwrap();
        let file = builder.build_snapshot().await.unwrap().snapshot;
        Self {
            _dir: dir,
            file,
            state: state(&*engine),
        }
    }

    async fn install(&self, opened: &mut Opened) -> bool {
        opened
            .machine
            .install_snapshot(self.file.meta(), self.file.clone())
            .await
            .is_ok()
    }
}

/// Opening deletes files: each start gets its own copy.
fn copy_snapshots(dir: &TempDir) -> TempDir {
    let copy = TempDir::new().unwrap();
    fs::create_dir(copy.path().join("snap")).unwrap();
    for entry in fs::read_dir(dir.path().join("snap")).unwrap() {
        let entry = entry.unwrap();
        fs::copy(
            entry.path(),
            copy.path().join("snap").join(entry.file_name()),
        )
        .unwrap();
    }
    copy
}

async fn with_old_state(engine: Arc<dyn Engine>, dir: &TempDir) -> (Opened, State) {
    let mut opened = open(Arc::clone(&engine), dir.path());
    let entries = vec![
        membership(1, &[9]),
        proposal(2, 1, CLIENT, 900, 1, b"old"),
        count(3, "old"),
    ];
    opened.apply(entries).await.unwrap();
    engine.sync().unwrap();
    let state = state(&*engine);
    (opened, state)
}

/// Whether the machine in memory holds the snapshot's state; it must hold either whole.
fn is_new(opened: &Opened) -> bool {
    let counts = [opened.counter.count("old"), opened.counter.count("new")];
    let applied = *opened.storage.applied().borrow();
    match (counts, applied) {
        ([2, 0], 3) => false,
        ([0, 38], 40) => true,
        other => panic!("torn state in memory: {other:?}"),
    }
}

fn state(engine: &dyn Engine) -> State {
    let rows = |table| {
        engine
            .rows(table, KeyRange::all())
            .map(Result::unwrap)
            .collect()
    };
    Table::REPLICATED.into_iter().map(rows).collect()
}
