use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;

use openraft::StorageError;
use openraft::storage::{RaftLogReader, RaftLogStorage, RaftSnapshotBuilder, RaftStateMachine};
use openraft::testing::log::{StoreBuilder, Suite};
use prost::Message;
use tempfile::TempDir;

use super::{OpenError, Storage, StorageConfig, check, meta};
use crate::codec;
use crate::engine::sim::SimEngine;
use crate::engine::{Engine, EngineError, KeyRange, Read, Table, WriteBatch};
use crate::log_store::LogStore;
use crate::machine_store::MachineStore;
use crate::machine_store::load::LoadError;
use crate::testing::{Counter, Kind, blank, count, log_id, membership, open, signal, vote};
use crate::type_config::TypeConfig;

struct Builder(Kind);

impl StoreBuilder<TypeConfig, LogStore, MachineStore, (Storage, TempDir)> for Builder {
    async fn build(
        &self,
    ) -> Result<((Storage, TempDir), LogStore, MachineStore), StorageError<TypeConfig>> {
        let dir = TempDir::new().unwrap();
        let opened = open(self.0.open(dir.path()), dir.path());
        Ok(((opened.storage, dir), opened.log, opened.machine))
    }
}

// The suite sleeps for stores that purge in the background.
#[tokio::test(start_paused = true)]
async fn openrafts_suite_passes_on_rocksdb() {
    Suite::test_all(Builder(Kind::Rocks)).await.unwrap();
}

// The suite sleeps for stores that purge in the background.
#[tokio::test(start_paused = true)]
async fn openrafts_suite_passes_in_memory() {
    Suite::test_all(Builder(Kind::Sim)).await.unwrap();
}

#[test]
fn a_damaged_start_counter_does_not_begin_anew() {
    let engine = SimEngine::default();
    assert_eq!(check::count_start(&engine).unwrap(), 1);
    for damaged in [&b"short"[..], b"longer than it is"] {
        let mut batch = WriteBatch::new();
        batch.put(Table::Meta, meta::INCARNATION, damaged);
        engine.write(batch).unwrap();
        let refused = check::count_start(&engine);
        assert!(matches!(refused, Err(OpenError::Codec(_))), "{refused:?}");
    }
}

#[test]
fn damage_is_told_from_what_the_next_start_may_find_otherwise() {
    let row = || codec::CodecError::ShortRow(1);
    let gap = OpenError::LogGap {
        expected: 4,
        found: 7,
    };
    let position = OpenError::from(LoadError::Position(row()));
    for damage in [OpenError::from(row()), gap, position] {
        assert!(damage.is_damage(), "{damage}");
    }
    let newer = OpenError::from(codec::CodecError::UnknownPayload { index: 4 });
    let locked = EngineError::new("open the database", io::Error::other("held by a process"));
    for other in [newer, OpenError::from(locked)] {
        assert!(!other.is_damage(), "{other}");
    }
}

#[tokio::test]
async fn everything_is_there_after_a_clean_close_and_reopen() {
    let dir = TempDir::new().unwrap();
    let config = StorageConfig::new(dir.path());
    let mut storage = Storage::open(&config, Arc::new(Counter::default())).unwrap();
    let (mut log, mut machine) = (storage.log_store(), storage.machine_store().unwrap());
    assert_eq!(storage.incarnation(), 1);
    log.save_vote(&vote(3, true)).await.unwrap();
    let entries = vec![
        membership(1, &[1, 2]),
        count(2, "a"),
        count(3, "a"),
        count(4, "b"),
    ];
    let (done, synced) = signal();
    log.append(entries.clone(), done).await.unwrap();
    synced.await.unwrap().unwrap();
    log.save_committed(Some(log_id(1, 4))).await.unwrap();
    let items = entries.clone().into_iter().map(|entry| Ok((entry, None)));
    machine.apply(futures::stream::iter(items)).await.unwrap();
    storage
        .put_facts(&[("identity", b"r1"), ("name", b"first")])
        .unwrap();
    storage.bind_cluster("c1").unwrap();
    drop((log, machine));
    storage.close().await.unwrap();

    let counter = Arc::new(Counter::default());
    let mut storage = Storage::open(&config, counter.clone()).unwrap();
    let (mut log, mut machine) = (storage.log_store(), storage.machine_store().unwrap());
    assert_eq!(storage.incarnation(), 2);
    assert_eq!(
        storage.fact("identity").unwrap().as_deref(),
        Some(b"r1".as_slice())
    );
    assert_eq!(storage.fact("other").unwrap(), None);
    assert_eq!(storage.snapshots().cluster_id().unwrap(), "c1");
    assert!(matches!(
        storage.bind_cluster("c2"),
        Err(OpenError::WrongCluster { .. })
    ));
    assert_eq!(counter.count("a"), 2);
    assert_eq!(*storage.applied().borrow(), 4);
    assert_eq!(log.read_committed().await.unwrap(), Some(log_id(1, 4)));
    assert_eq!(
        log.get_log_state().await.unwrap().last_log_id,
        Some(log_id(1, 4))
    );
    let mut reader = log.get_log_reader().await;
    assert_eq!(reader.read_vote().await.unwrap(), Some(vote(3, true)));
    assert_eq!(reader.try_get_log_entries(..).await.unwrap(), entries);
    let (applied, members) = machine.applied_state().await.unwrap();
    assert_eq!(applied, Some(log_id(1, 4)));
    assert_eq!(members.membership().nodes().count(), 2);
    assert!(storage.machine_store().is_none());
}

#[test]
fn a_folder_of_another_cluster_or_format_is_refused() {
    let dir = TempDir::new().unwrap();
    let engine = Arc::new(SimEngine::default());
    let opened = open(engine.clone(), dir.path());
    opened.storage.bind_cluster("c1").unwrap();
    drop(opened);
    let mut config = StorageConfig::new(dir.path());
    config.cluster_id = Some("c2".to_owned());
    let error = try_open(engine.clone(), &config).unwrap_err();
    assert_eq!(
        error.to_string(),
        "data folder belongs to cluster c1, not to cluster c2"
    );
    put(&*engine, meta::FORMAT, 7_u32.to_le_bytes().to_vec());
    config.cluster_id = None;
    let error = try_open(engine.clone(), &config).unwrap_err();
    assert_eq!(
        error.to_string(),
        "data folder has format 7, this version reads format 1"
    );
    put(&*engine, meta::FORMAT, vec![1]);
    assert!(matches!(
        try_open(engine, &config),
        Err(OpenError::Format { found: 0 })
    ));
    let unmarked = Arc::new(SimEngine::default());
    put(&*unmarked, meta::VOTE, Vec::new());
    assert!(matches!(
        try_open(unmarked, &config),
        Err(OpenError::Format { found: 0 })
    ));
}

#[test]
fn a_second_process_cannot_open_the_same_folder() {
    let dir = TempDir::new().unwrap();
    let config = StorageConfig::new(dir.path());
    let _first = Storage::open(&config, Arc::new(Counter::default())).unwrap();
    let second = Storage::open(&config, Arc::new(Counter::default()));
    assert!(matches!(second, Err(OpenError::Engine(_))));
}

#[tokio::test]
async fn a_log_with_a_hole_or_a_lost_tail_is_refused() {
    let (engine, dir) = with_log(1..=9).await;
    delete_row(&*engine, 5);
    let config = StorageConfig::new(dir.path());
    let error = try_open(engine, &config).unwrap_err();
    assert!(
        matches!(
            error,
            OpenError::LogGap {
                expected: 5,
                found: 6
            }
        ),
        "{error}"
    );

    let (engine, dir) = with_log(1..=9).await;
    put(
        &*engine,
        meta::COMMITTED,
        codec::log_id_to_proto(&log_id(1, 9)).encode_to_vec(),
    );
    delete_row(&*engine, 9);
    let error = try_open(engine, &StorageConfig::new(dir.path())).unwrap_err();
    assert!(matches!(
        error,
        OpenError::LogShort {
            last: 8,
            known: 9,
            what: "committed"
        }
    ));

    let (engine, dir) = with_log(1..=9).await;
    let row = engine
        .value(Table::RaftLog, &codec::log_key(4))
        .unwrap()
        .unwrap();
    let mut row = row.to_vec();
    row[0] ^= 1;
    let mut batch = WriteBatch::new();
    batch.put(Table::RaftLog, codec::log_key(4), row);
    engine.write(batch).unwrap();
    let error = try_open(engine, &StorageConfig::new(dir.path())).unwrap_err();
    assert!(matches!(error, OpenError::Codec(_)));
}

#[tokio::test]
async fn rows_that_an_interrupted_purge_left_are_cleaned_up() {
    let (engine, dir) = with_log(1..=9).await;
    put(
        &*engine,
        meta::LAST_PURGED,
        codec::log_id_to_proto(&log_id(1, 6)).encode_to_vec(),
    );
    let mut opened = open(engine.clone(), dir.path());
    let state = opened.log.get_log_state().await.unwrap();
    assert_eq!(state.last_purged_log_id, Some(log_id(1, 6)));
    assert_eq!(state.last_log_id, Some(log_id(1, 9)));
    let rows = engine.rows(Table::RaftLog, KeyRange::all()).count();
    assert_eq!(rows, 3);
}

#[tokio::test]
async fn a_hole_before_an_installed_snapshots_end_is_purged() {
    // openraft may append behind a snapshot's end before it purges what the snapshot covers.
    let source_dir = TempDir::new().unwrap();
    let mut source = open(Arc::new(SimEngine::default()), source_dir.path());
    source
        .apply((1..=20).map(|index| count(index, "k")).collect())
        .await
        .unwrap();
    let mut builder = source
        .machine
        .try_create_snapshot_builder(true)
        .await
        .unwrap();
    let snapshot = builder.build_snapshot().await.unwrap();

    let (engine, dir) = with_log(1..=9).await;
    let mut opened = open(engine.clone(), dir.path());
    opened
        .machine
        .install_snapshot(&snapshot.meta, snapshot.snapshot)
        .await
        .unwrap();
    opened
        .append(vec![blank(1, 21), blank(1, 22)])
        .await
        .unwrap();
    drop(opened);
    let mut opened = open(engine, dir.path());
    let state = opened.log.get_log_state().await.unwrap();
    assert_eq!(state.last_purged_log_id, Some(log_id(1, 20)));
    assert_eq!(state.last_log_id, Some(log_id(1, 22)));
    assert_eq!(opened.counter.count("k"), 20);
}

#[test]
fn leftovers_of_interrupted_work_are_deleted_from_the_snapshot_folder() {
    let dir = TempDir::new().unwrap();
    let snapshots = dir.path().join("snap");
    fs::create_dir_all(&snapshots).unwrap();
    for name in ["tmp-1-1", "recv-1-2", "00000000000000000009-1-1.snap"] {
        fs::write(snapshots.join(name), b"half").unwrap();
    }
    let _opened = open(Arc::new(SimEngine::default()), dir.path());
    assert_eq!(files(&snapshots), Vec::<String>::new());
}

async fn with_log(indices: std::ops::RangeInclusive<u64>) -> (Arc<SimEngine>, TempDir) {
    let dir = TempDir::new().unwrap();
    let engine = Arc::new(SimEngine::default());
    let mut opened = open(engine.clone(), dir.path());
    opened
        .append(indices.map(|index| blank(1, index)).collect())
        .await
        .unwrap();
    (engine, dir)
}

fn try_open(engine: Arc<SimEngine>, config: &StorageConfig) -> Result<(), OpenError> {
    Storage::open_on(engine, config, Arc::new(Counter::default())).map(drop)
}

fn put(engine: &dyn Engine, key: &'static [u8], value: Vec<u8>) {
    let mut batch = WriteBatch::new();
    batch.put(Table::Meta, key, value);
    engine.write(batch).unwrap();
}

fn delete_row(engine: &dyn Engine, index: u64) {
    let mut batch = WriteBatch::new();
    batch.delete(Table::RaftLog, codec::log_key(index));
    engine.write(batch).unwrap();
}

fn files(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).unwrap();
    entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect()
}
