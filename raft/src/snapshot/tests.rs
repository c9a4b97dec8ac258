use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use openraft::storage::{RaftSnapshotBuilder, RaftStateMachine};
use proptest::collection::{btree_map, vec};
use proptest::prelude::*;
use tempfile::TempDir;

use super::format::{RECORD_BYTES_MAX, TABLES};
use super::{SnapshotError, SnapshotFile, SnapshotHeader, SnapshotReader, SnapshotWriter};
use crate::Levels;
use crate::engine::Table;
use crate::engine::sim::SimEngine;
use crate::machine_store::load::Position;
use crate::testing::{Kind, Opened, count, log_id, membership, open, open_with};

type Content = BTreeMap<Table, BTreeMap<Bytes, Bytes>>;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn what_is_written_is_read_back(content in content(), header in header()) {
        let file = write(&header, &content);
        let (found, rows) = read(&file).unwrap();
        prop_assert_eq!(found, header);
        prop_assert_eq!(rows, content);
    }

    #[test]
    fn any_changed_byte_is_refused(content in content(), at in any::<usize>(), by in 1_u8..) {
        let mut file = write(&SnapshotHeader::default(), &content);
        let at = at % file.len();
        file[at] = file[at].wrapping_add(by);
        prop_assert!(read(&file).is_err());
    }

    #[test]
    fn any_shorter_or_longer_file_is_refused(content in content(), at in any::<usize>()) {
        let mut file = write(&SnapshotHeader::default(), &content);
        let cut = at % file.len();
        prop_assert!(matches!(read(&file[..cut]), Err(SnapshotError::Length)));
        file.push(0);
        prop_assert!(matches!(read(&file), Err(SnapshotError::Length)));
    }

    #[test]
    fn any_bytes_give_a_typed_error(
        bytes in vec(any::<u8>(), 0..300),
        start in 0_usize..40,
        content in content(),
    ) {
        prop_assert!(read(&bytes).is_err());
        let mut file = write(&SnapshotHeader::default(), &content);
        file.truncate(start);
        file.extend_from_slice(&bytes);
        prop_assert!(read(&file).is_err());
    }
}

#[test]
fn large_tables_are_cut_into_blocks() {
    let rows = (0_u32..3000).map(|key| (key.to_be_bytes().to_vec().into(), noise(key, 1200)));
    let content: Content = [(Table::State, rows.collect())].into();
    let file = write(&SnapshotHeader::default(), &content);
    let mut reader = SnapshotReader::new(file.as_slice()).unwrap();
    let mut blocks = 0;
    while reader.next_block().unwrap().is_some() {
        blocks += 1;
    }
    assert_eq!(blocks, 4);
    assert_eq!(read(&file).unwrap().1, content);
}

#[test]
fn rows_out_of_order_and_oversized_rows_are_refused() {
    let with = |rows: &[(Table, &[u8])]| {
        let mut writer = SnapshotWriter::new(Vec::new(), &SnapshotHeader::default()).unwrap();
        for (table, key) in rows {
            writer.row(*table, key, b"value").unwrap();
        }
        read(&writer.finish().unwrap())
    };
    assert!(with(&[(Table::State, b"a"), (Table::Dedup, b"a")]).is_ok());
    let refused = |rows| matches!(with(rows), Err(SnapshotError::Order));
    assert!(refused(&[(Table::State, b"b"), (Table::State, b"a")]));
    assert!(refused(&[(Table::State, b"a"), (Table::State, b"a")]));
    assert!(refused(&[(Table::Dedup, b"a"), (Table::State, b"b")]));
    let mut writer = SnapshotWriter::new(Vec::new(), &SnapshotHeader::default()).unwrap();
    let value = vec![0; RECORD_BYTES_MAX + 1];
    let refused = writer.row(Table::State, b"", &value);
    assert!(matches!(
        refused,
        Err(SnapshotError::Oversized { part: "record", .. })
    ));
    writer.row(Table::State, b"", &value[1..]).unwrap();
    assert!(read(&writer.finish().unwrap()).is_ok());
}

#[test]
fn another_version_and_lying_lengths_are_refused() {
    let mut file = write(&SnapshotHeader::default(), &Content::new());
    file[8] = 2;
    assert!(matches!(read(&file), Err(SnapshotError::Version(2))));
    file[8] = 1;
    file[15] = 0xff;
    let oversized = SnapshotReader::new(file.as_slice()).map(drop);
    assert!(matches!(
        oversized,
        Err(SnapshotError::Oversized { part: "header", .. })
    ));
}

#[tokio::test]
async fn a_snapshot_holds_the_moment_its_builder_was_made() {
    for kind in Kind::BOTH {
        let dir = TempDir::new().unwrap();
        let mut opened = open(kind.open(dir.path()), dir.path());
        opened.storage.bind_cluster("c1").unwrap();
        opened
            .apply(vec![membership(1, &[1, 2]), count(2, "a")])
            .await
            .unwrap();
        let mut builder = opened
            .machine
            .try_create_snapshot_builder(true)
            .await
            .unwrap();
        opened
            .apply(vec![count(3, "a"), membership(4, &[1])])
            .await
            .unwrap();
        let built = builder.build_snapshot().await.unwrap();
        assert_eq!(built.meta.last_log_id, Some(log_id(1, 2)));
        assert_eq!(built.meta.last_membership.log_id(), &Some(log_id(1, 1)));
        let file = fs::read(built.snapshot.path()).unwrap();
        let (header, rows) = read(&file).unwrap();
        assert_eq!(header.cluster_id, "c1");
        assert_eq!(header.meta(), built.meta);
        let counts = &rows[&Table::State];
        assert_eq!(counts[b"a".as_slice()].as_ref(), 1_u64.to_le_bytes());
        assert!(builder.build_snapshot().await.is_err());
    }
}

#[tokio::test]
async fn two_snapshots_are_kept_and_the_newest_is_current_after_a_restart() {
    let dir = TempDir::new().unwrap();
    let engine = Arc::new(SimEngine::default());
    let mut opened = open(engine.clone(), dir.path());
    for index in 1..=4 {
        opened.apply(vec![count(index, "a")]).await.unwrap();
        build(&mut opened).await;
    }
    let kept = [
        "00000000000000000003-1-1.snap",
        "00000000000000000004-1-1.snap",
    ];
    assert_eq!(files(dir.path()), kept);
    drop(opened);
    let mut opened = open(engine.clone(), dir.path());
    let current = opened
        .machine
        .get_current_snapshot()
        .await
        .unwrap()
        .unwrap();
    assert_eq!(current.meta.last_log_id, Some(log_id(1, 4)));
    assert_eq!(files(dir.path()), kept);
    drop(opened);
    // A damaged one is no snapshot; the state itself is in the database.
    let path = dir.path().join("snap").join(kept[1]);
    let mut bytes = fs::read(&path).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&path, bytes).unwrap();
    let mut opened = open(engine, dir.path());
    assert!(
        opened
            .machine
            .get_current_snapshot()
            .await
            .unwrap()
            .is_none()
    );
    assert_eq!(opened.counter.count("a"), 4);
}

#[tokio::test]
async fn a_build_that_can_wait_is_refused_while_another_runs() {
    let dir = TempDir::new().unwrap();
    let mut opened = open(Arc::new(SimEngine::default()), dir.path());
    opened
        .storage
        .snapshots()
        .building
        .store(true, std::sync::atomic::Ordering::SeqCst);
    assert!(
        opened
            .machine
            .try_create_snapshot_builder(false)
            .await
            .is_none()
    );
    assert!(
        opened
            .machine
            .try_create_snapshot_builder(true)
            .await
            .is_some()
    );
}

#[tokio::test]
async fn a_received_file_is_checked_before_it_gets_its_name() {
    let sender_dir = TempDir::new().unwrap();
    let mut sender = open(Arc::new(SimEngine::default()), sender_dir.path());
    sender.storage.bind_cluster("c1").unwrap();
    sender
        .apply((1..=50).map(|index| count(index, "a")).collect())
        .await
        .unwrap();
    let sent = build(&mut sender).await;
    let bytes = fs::read(sent.path()).unwrap();

    let dir = TempDir::new().unwrap();
    let mut opened = open(Arc::new(SimEngine::default()), dir.path());
    assert!(matches!(
        receive(&opened, &bytes[..bytes.len() - 1]),
        Err(SnapshotError::Length)
    ));
    let mut damaged = bytes.clone();
    damaged[40] ^= 1;
    assert!(receive(&opened, &damaged).is_err());
    assert_eq!(files(dir.path()), [""; 0]);
    let old_dir = TempDir::new().unwrap();
    let old = open_with(Arc::new(SimEngine::default()), old_dir.path(), |config| {
        config.levels = Levels { min: 2, max: 2 };
    });
    let refused = receive(&old, &bytes);
    assert!(
        matches!(refused, Err(SnapshotError::Level(_))),
        "{refused:?}"
    );

    let received = receive(&opened, &bytes).unwrap();
    assert_eq!(received.meta(), sent.meta());
    assert!(
        opened
            .machine
            .get_current_snapshot()
            .await
            .unwrap()
            .is_none()
    );
    opened
        .machine
        .install_snapshot(&received.meta().clone(), received)
        .await
        .unwrap();
    assert_eq!(opened.counter.count("a"), 50);
    assert_eq!(*opened.storage.applied().borrow(), 50);
    let current = opened
        .machine
        .get_current_snapshot()
        .await
        .unwrap()
        .unwrap();
    assert_eq!(&current.meta, sent.meta());

    let other_dir = TempDir::new().unwrap();
    let other = open(Arc::new(SimEngine::default()), other_dir.path());
    other.storage.bind_cluster("c2").unwrap();
    assert!(matches!(
        receive(&other, &bytes),
        Err(SnapshotError::WrongCluster { .. })
    ));
    assert_eq!(files(other_dir.path()), [""; 0]);
}

#[tokio::test]
async fn a_dropped_receiver_leaves_no_file() {
    let dir = TempDir::new().unwrap();
    let opened = open(Arc::new(SimEngine::default()), dir.path());
    let mut receiver = opened.storage.snapshots().receive().unwrap();
    receiver.write(b"HYDR").unwrap();
    assert_eq!((files(dir.path()).len(), receiver.bytes()), (1, 4));
    drop(receiver);
    assert_eq!(files(dir.path()), [""; 0]);
}

async fn build(opened: &mut Opened) -> SnapshotFile {
    let mut builder = opened
        .machine
        .try_create_snapshot_builder(true)
        .await
        .unwrap();
    builder.build_snapshot().await.unwrap().snapshot
}

fn receive(opened: &Opened, bytes: &[u8]) -> Result<SnapshotFile, SnapshotError> {
    let mut receiver = opened.storage.snapshots().receive()?;
    for chunk in bytes.chunks(37) {
        receiver.write(chunk)?;
    }
    receiver.finish()
}

fn write(header: &SnapshotHeader, content: &Content) -> Vec<u8> {
    let mut writer = SnapshotWriter::new(Vec::new(), header).unwrap();
    for (table, rows) in content {
        for (key, value) in rows {
            writer.row(*table, key, value).unwrap();
        }
    }
    writer.finish().unwrap()
}

fn read(file: &[u8]) -> Result<(SnapshotHeader, Content), SnapshotError> {
    let mut reader = SnapshotReader::new(file)?;
    let mut content = Content::new();
    while let Some((table, rows)) = reader.next_block()? {
        content.entry(table).or_default().extend(rows);
    }
    Ok((reader.header().clone(), content))
}

fn files(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir.join("snap")).unwrap();
    let mut names: Vec<String> = entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

fn noise(seed: u32, length: usize) -> Bytes {
    let hash = blake3::hash(&seed.to_le_bytes());
    hash.as_bytes()
        .iter()
        .copied()
        .cycle()
        .take(length)
        .collect::<Vec<u8>>()
        .into()
}

fn content() -> impl Strategy<Value = Content> {
    let bytes = |max| vec(any::<u8>(), 0..max).prop_map(Bytes::from);
    let rows = btree_map(bytes(12), bytes(60), 1..12);
    btree_map(proptest::sample::select(TABLES.to_vec()), rows, 0..4)
}

fn header() -> impl Strategy<Value = SnapshotHeader> {
    let numbers = (any::<i64>(), any::<i64>());
    ("[a-f0-9-]{0,36}", numbers, any::<Option<(u64, u64)>>()).prop_map(
        |(cluster_id, (now_ms, taken_at_ms), applied)| SnapshotHeader {
            level: 2,
            cluster_id,
            position: Position {
                applied: applied.map(|(term, index)| log_id(term, index)),
                now_ms,
                ..Position::default()
            },
            taken_at_ms,
        },
    )
}
