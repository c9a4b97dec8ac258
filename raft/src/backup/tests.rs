use std::sync::Arc;

use bytes::Bytes;
use futures::StreamExt;
use hydrascale_proto::raft::v1::LevelRow;
use proptest::prelude::*;
use prost::Message;
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

use super::{BackupError, BackupStream, RestoreError, TABLES, read_backup, restore, write};
use crate::engine::sim::SimEngine;
use crate::engine::{Table, WriteBatch};
use crate::records::level_of;
use crate::snapshot::SnapshotStore;
use crate::storage::{self, meta};
use crate::testing::{Counter, Opened, count, membership, open};
use crate::{
    FEATURE_LEVELS, InitError, JoinError, JoinToken, Levels, MachineError, Replica, ReplicaConfig,
    Row,
};

/// A store with some rows and two members, and its backup.
async fn backed_up(dir: &TempDir) -> (Opened, Vec<u8>) {
    let mut opened = open(Arc::new(SimEngine::default()), dir.path());
    opened.storage.bind_cluster("old").unwrap();
    let mut entries = vec![membership(1, &[1, 2])];
    entries.extend((2..40).map(|index| count(index, &format!("key {index}"))));
    opened.apply(entries).await.unwrap();
    let backup = write(&*opened.engine.view(), Vec::new(), 1234).unwrap();
    (opened, backup)
}

fn rows_of(backup: &[u8]) -> Result<Vec<Row>, BackupError> {
    let mut rows = Vec::new();
    read_backup(backup, |row| {
        rows.push(row);
        Ok(())
    })?;
    Ok(rows)
}

fn config(dir: &TempDir) -> ReplicaConfig {
    ReplicaConfig::new(dir.path().join("data"), "new", "new.test:1")
}

#[tokio::test]
async fn a_backup_says_what_it_is_and_holds_every_row_of_the_application() {
    let dir = TempDir::new().unwrap();
    let (opened, backup) = backed_up(&dir).await;
    let info = read_backup(backup.as_slice(), |_| Ok(())).unwrap();
    assert_eq!(info.cluster_id, "old");
    assert_eq!((info.index, info.term, info.format), (39, 1, 1));
    assert_eq!(info.taken_at_ms, Some(1234));
    assert_eq!(info.replicas.len(), 2);
    assert!(info.created_by.starts_with("hydrascale-raft "));
    let rows = opened.engine.rows(Table::State, Default::default());
    let expected: Vec<Row> = rows
        .map(|row| row.map(|(key, value)| Row { key, value }).unwrap())
        .collect();
    assert_eq!(rows_of(&backup).unwrap(), expected);
}

#[tokio::test]
async fn keys_of_the_old_cluster_are_not_in_its_backup() {
    let dir = TempDir::new().unwrap();
    let (opened, _) = backed_up(&dir).await;
    let mut batch = WriteBatch::new();
    batch.put(Table::Cluster, "cluster", "the authority's key");
    batch.put(Table::Cluster, "join-token/x", "a token");
    batch.put(Table::Cluster, "removed/12345678", "");
    opened.engine.write(batch).unwrap();
    let backup = write(&*opened.engine.view(), Vec::new(), 0).unwrap();
    let mut reader = crate::snapshot::SnapshotReader::new(backup.as_slice()).unwrap();
    let mut keys = Vec::new();
    while let Some((table, rows)) = reader.next_block().unwrap() {
        assert!(TABLES.contains(&table));
        let of_cluster = rows.into_iter().filter(|_| table == Table::Cluster);
        keys.extend(of_cluster.map(|(key, _)| key));
    }
    assert_eq!(keys, [Bytes::from_static(b"removed/12345678")]);
}

#[tokio::test]
async fn any_changed_missing_or_added_byte_of_a_backup_is_refused() {
    let dir = TempDir::new().unwrap();
    let (_opened, backup) = backed_up(&dir).await;
    for at in 0..backup.len() {
        assert!(rows_of(&backup[..at]).is_err(), "cut at {at}");
        for bit in 0..8 {
            let mut changed = backup.clone();
            changed[at] ^= 1 << bit;
            assert!(rows_of(&changed).is_err(), "bit {bit} of byte {at}");
        }
    }
    let mut longer = backup;
    longer.push(0);
    assert!(rows_of(&longer).is_err());
}

proptest! {
    #[test]
    fn any_bytes_are_no_backup(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        prop_assert!(rows_of(&bytes).is_err());
    }
}

#[tokio::test]
async fn what_is_wrong_with_a_file_is_said() {
    let dir = TempDir::new().unwrap();
    let (_opened, backup) = backed_up(&dir).await;
    let reason = |bytes: &[u8]| rows_of(bytes).unwrap_err().to_string();
    assert!(reason(&backup[..backup.len() / 2]).contains("cut short"));
    assert!(reason(b"PK\x03\x04 something else").contains("does not begin like a backup"));
    let mut newer = backup.clone();
    newer[8] = 9;
    assert!(reason(&newer).contains("format 9 and this version reads format 1"));
    let refused = read_backup(backup.as_slice(), |_| {
        Err(MachineError {
            message: "no".to_owned(),
            source: None,
        })
    });
    assert!(matches!(refused, Err(BackupError::Row(_))));
}

#[tokio::test]
async fn a_bad_backup_leaves_the_folder_empty_and_a_good_one_fills_it_once() {
    let dir = TempDir::new().unwrap();
    let (_opened, backup) = backed_up(&dir).await;
    let new = TempDir::new().unwrap();
    let config = config(&new);
    let mut bad = backup.clone();
    let last = bad.len() - 1;
    bad[last] ^= 1;
    let machine = Counter::default();
    let refused = restore(&config, bad.as_slice(), &machine);
    assert!(
        matches!(refused, Err(RestoreError::Backup(_))),
        "{refused:?}"
    );
    let left: Vec<_> = std::fs::read_dir(&config.data_dir).unwrap().collect();
    assert!(left.is_empty(), "{left:?}");

    let restored = restore(&config, backup.as_slice(), &machine).unwrap();
    assert_eq!(restored.replica.0, 40, "the index after the last");
    assert_ne!(restored.cluster_id, "old");
    let again = restore(&config, backup.as_slice(), &machine);
    assert!(
        matches!(again, Err(RestoreError::Folder(InitError::InUse { replica, .. })) if replica.0 == 40)
    );
}

#[tokio::test]
async fn a_backup_has_its_feature_level_and_is_refused_where_that_is_not_supported() {
    let dir = TempDir::new().unwrap();
    let (opened, first) = backed_up(&dir).await;
    let at = |level| {
        let row = LevelRow {
            level,
            raised_at_ms: 1,
        };
        let mut batch = WriteBatch::new();
        batch.put(Table::Cluster, "level", row.encode_to_vec());
        opened.engine.write(batch).unwrap();
        write(&*opened.engine.view(), Vec::new(), 0).unwrap()
    };
    let (second, above) = (at(2), at(FEATURE_LEVELS.max + 1));
    let level = |backup: &[u8]| read_backup(backup, |_| Ok(())).map(|info| info.level);
    assert_eq!(level(&first).unwrap(), 1);
    assert_eq!(level(&second).unwrap(), 2);
    assert!(matches!(level(&above), Err(BackupError::Level { .. })));

    let restored = |backup: &[u8], levels: Levels| {
        let new = TempDir::new().unwrap();
        let mut config = config(&new);
        config.levels = levels;
        let restored = restore(&config, backup, &Counter::default());
        let left = std::fs::read_dir(&config.data_dir).unwrap().count();
        assert!(restored.is_ok() || left == 0, "{left} files are left");
        let cluster = restored?.cluster_id;
        let engine = storage::open_stopped(&config.data_dir, &cluster, FEATURE_LEVELS).unwrap();
        Ok::<u32, RestoreError>(level_of(&*engine).unwrap())
    };
    let only = |level| Levels {
        min: level,
        max: level,
    };
    assert_eq!(restored(&first, FEATURE_LEVELS).unwrap(), 1);
    assert_eq!(restored(&second, FEATURE_LEVELS).unwrap(), 2);
    for (backup, levels) in [(&second, only(1)), (&first, only(2)), (&above, only(2))] {
        let error = restored(backup, levels).unwrap_err().to_string();
        assert!(error.contains("use the version that wrote it"), "{error}");
        assert!(error.contains(&format!("supports {levels}")), "{error}");
    }
}

#[tokio::test]
async fn what_a_broken_off_restore_leaves_is_removed_by_the_next() {
    let dir = TempDir::new().unwrap();
    let (_opened, backup) = backed_up(&dir).await;
    let new = TempDir::new().unwrap();
    let config = config(&new);
    let leftovers = ["db", "snap", "tls"].map(|name| config.data_dir.join(name));
    for folder in &leftovers {
        std::fs::create_dir_all(folder).unwrap();
        std::fs::write(folder.join("half"), "x").unwrap();
    }
    let machine = Counter::default();
    let refused = restore(&config, backup.as_slice(), &machine);
    assert!(
        matches!(
            refused,
            Err(RestoreError::Folder(InitError::NotEmpty { .. }))
        ),
        "without the mark they are somebody's: {refused:?}"
    );
    std::fs::write(config.data_dir.join("filling"), "").unwrap();
    restore(&config, backup.as_slice(), &machine).unwrap();
    assert!(leftovers.iter().all(|folder| !folder.join("half").exists()));
}

#[tokio::test]
async fn a_broken_off_restore_is_not_taken_for_an_empty_folder() {
    let new = TempDir::new().unwrap();
    let config = config(&new);
    let store = config.data_dir.join("db");
    std::fs::create_dir_all(&store).unwrap();
    std::fs::write(config.data_dir.join("filling"), "").unwrap();
    let init = Replica::init_cluster(&config).unwrap_err();
    assert!(matches!(init, InitError::HalfRestored { .. }), "{init}");
    // What `serve` asks before it begins or joins a cluster.
    let serve = Replica::is_initialised(&config.data_dir).unwrap_err();
    assert!(serve.to_string().contains("run `backup restore` again"));
    let token = JoinToken {
        cluster_id: "c".to_owned(),
        token_id: "t".to_owned(),
        secret: [1; 32],
        ca_sha256: [1; 32],
        addrs: Vec::new(),
    };
    let join = Replica::join_cluster(&config, &token).await.unwrap_err();
    assert!(
        matches!(join, JoinError::Local(InitError::HalfRestored { .. })),
        "{join}"
    );
    assert!(store.exists());
}

#[tokio::test]
async fn no_backup_is_made_of_a_torn_state() {
    let dir = TempDir::new().unwrap();
    let (opened, _) = backed_up(&dir).await;
    let mut batch = WriteBatch::new();
    batch.put(Table::Meta, meta::INSTALLING, "x.snap");
    opened.engine.write(batch).unwrap();
    let store = opened.storage.snapshots();
    let error = streamed(store).await.unwrap_err().to_string();
    assert!(error.contains("being replaced by a snapshot"), "{error}");
}

#[tokio::test]
async fn a_streamed_backup_is_whole_or_an_error_and_few_run_at_once() {
    let dir = TempDir::new().unwrap();
    let (opened, backup) = backed_up(&dir).await;
    let store = opened.storage.snapshots();
    let bytes = streamed(Arc::clone(&store)).await.unwrap();
    assert_eq!(rows_of(&bytes).unwrap(), rows_of(&backup).unwrap());

    let begin = || BackupStream::prepare(Arc::clone(&store), 0, CancellationToken::new());
    let (mut one, work) = begin().unwrap();
    let two = begin().unwrap();
    let refused = begin().map(drop).unwrap_err().to_string();
    assert!(refused.contains("try again later"), "{refused}");
    drop((work, two));
    let broken_off = one.next().await.unwrap().unwrap_err().to_string();
    assert!(broken_off.contains("broken off"), "{broken_off}");
    assert!(one.next().await.is_none());
    drop(begin().unwrap());

    let stopping = CancellationToken::new();
    stopping.cancel();
    let (mut stopped, work) = BackupStream::prepare(store, 0, stopping).unwrap();
    tokio::task::spawn_blocking(work).await.unwrap();
    let error = stopped.next().await.unwrap().unwrap_err().to_string();
    assert!(error.contains("the replica stops"), "{error}");
}

async fn streamed(store: Arc<SnapshotStore>) -> Result<Vec<u8>, BackupError> {
    let (mut stream, work) = BackupStream::prepare(store, 5, CancellationToken::new())?;
    let work = tokio::task::spawn_blocking(work);
    let mut bytes = Vec::new();
    while let Some(chunk) = stream.next().await {
        bytes.extend_from_slice(&chunk?);
    }
    work.await.unwrap();
    Ok(bytes)
}
