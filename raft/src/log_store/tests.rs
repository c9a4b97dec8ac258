use std::io;
use std::sync::Arc;

use futures::StreamExt;
use openraft::storage::{RaftLogReader, RaftLogStorage};
use parking_lot::{Condvar, Mutex};
use tempfile::TempDir;

use super::PURGE_STEP;
use super::cache::EntryCache;
use crate::codec::{self, Entry};
use crate::engine::fault::FaultEngine;
use crate::engine::sim::SimEngine;
use crate::engine::{KeyRange, Table, WriteBatch};
use crate::testing::{Kind, blank, count, log_id, open, open_with, proposal, signal, vote};

#[test]
fn the_cache_keeps_the_newest_entries_within_its_bytes() {
    let mut cache = EntryCache::new(100);
    for index in 5..15 {
        cache.push(blank(1, index), 20);
    }
    assert_eq!(cache.range(9, None, usize::MAX), None);
    assert_eq!(
        indices(&cache.range(10, None, usize::MAX).unwrap()),
        [10, 11, 12, 13, 14]
    );
    assert_eq!(
        indices(&cache.range(11, Some(13), usize::MAX).unwrap()),
        [11, 12]
    );
    assert_eq!(indices(&cache.range(10, None, 50).unwrap()), [10, 11]);
    assert_eq!(indices(&cache.range(10, None, 1).unwrap()), [10]);
    assert_eq!(indices(&cache.range(15, None, 50).unwrap()), [0; 0]);
    cache.truncate(13);
    assert_eq!(
        indices(&cache.range(10, None, usize::MAX).unwrap()),
        [10, 11, 12]
    );
    cache.purge(10);
    assert_eq!(cache.range(10, None, usize::MAX), None);
    cache.push(blank(1, 20), 20);
    assert_eq!(cache.range(12, None, usize::MAX), None);
    assert_eq!(indices(&cache.range(20, None, usize::MAX).unwrap()), [20]);
}

#[tokio::test]
async fn reads_give_the_same_from_memory_and_from_disk() {
    for kind in Kind::BOTH {
        let dir = TempDir::new().unwrap();
        let mut opened = open(kind.open(dir.path()), dir.path());
        let entries: Vec<Entry> = (1..=40).map(|index| count(index, "k")).collect();
        opened.append(entries.clone()).await.unwrap();
        let mut reader = opened.log.get_log_reader().await;
        let from_memory = reader.try_get_log_entries(3..30).await.unwrap();
        opened.log.reader.tail().lock().cache = EntryCache::new(0);
        assert_eq!(
            reader.try_get_log_entries(3..30).await.unwrap(),
            from_memory
        );
        assert_eq!(from_memory, entries[2..29]);
        assert_eq!(reader.try_get_log_entries(..).await.unwrap(), entries);
        assert_eq!(
            reader.try_get_log_entries(39..=99).await.unwrap(),
            entries[38..]
        );
    }
}

#[tokio::test]
async fn a_limited_read_is_bounded_by_bytes_and_never_empty() {
    let (_dir, mut opened) = sim();
    let big = vec![b'x'; 400 << 10];
    let entries = (1..=8)
        .map(|index| proposal(index, 0, b"", 0, 0, &big))
        .collect();
    opened.append(entries).await.unwrap();
    let mut reader = opened.log.get_log_reader().await;
    for cached in [true, false] {
        if !cached {
            opened.log.reader.tail().lock().cache = EntryCache::new(0);
        }
        let read = reader.limited_get_log_entries(1, 9).await.unwrap();
        assert_eq!(indices(&read), [1, 2]);
        let streamed: Vec<_> = reader.entries_stream(2..8).await.collect().await;
        let streamed: Vec<Entry> = streamed.into_iter().map(Result::unwrap).collect();
        assert_eq!(indices(&streamed), [2, 3, 4, 5, 6, 7]);
    }
    let huge = vec![b'x'; 3 << 20];
    opened
        .append(vec![proposal(9, 0, b"", 0, 0, &huge)])
        .await
        .unwrap();
    assert_eq!(
        indices(&reader.limited_get_log_entries(9, 10).await.unwrap()),
        [9]
    );
}

#[tokio::test]
async fn a_purged_start_reads_as_nothing_and_a_hole_as_an_error() {
    let (_dir, mut opened) = sim();
    opened
        .append((1..=10).map(|index| blank(1, index)).collect())
        .await
        .unwrap();
    opened.log.purge(log_id(1, 4)).await.unwrap();
    let mut reader = opened.log.get_log_reader().await;
    assert_eq!(reader.limited_get_log_entries(3, 6).await.unwrap(), []);
    assert_eq!(
        indices(&reader.try_get_log_entries(0..7).await.unwrap()),
        [5, 6]
    );
    opened.log.reader.tail().lock().cache = EntryCache::new(0);
    let mut batch = WriteBatch::new();
    batch.delete(Table::RaftLog, codec::log_key(7));
    opened.log.reader.engine().write(batch).unwrap();
    let error = reader.try_get_log_entries(5..10).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    assert!(reader.limited_get_log_entries(7, 9).await.is_err());
}

#[tokio::test]
async fn a_damaged_row_is_an_error_not_an_entry() {
    let (_dir, mut opened) = sim();
    opened
        .append((1..=3).map(|index| blank(1, index)).collect())
        .await
        .unwrap();
    opened.log.reader.tail().lock().cache = EntryCache::new(0);
    let engine = opened.log.reader.engine();
    let mut row = engine
        .value(Table::RaftLog, &codec::log_key(2))
        .unwrap()
        .unwrap()
        .to_vec();
    row[1] ^= 0x10;
    let mut batch = WriteBatch::new();
    batch.put(Table::RaftLog, codec::log_key(2), row);
    engine.write(batch).unwrap();
    let mut reader = opened.log.get_log_reader().await;
    let error = reader.try_get_log_entries(1..4).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::InvalidData);
}

#[tokio::test]
async fn a_purge_deletes_every_row_and_survives_reopening() {
    for kind in Kind::BOTH {
        let dir = TempDir::new().unwrap();
        let engine = kind.open(dir.path());
        let last = PURGE_STEP as u64 * 2 + 10;
        let mut opened = open(Arc::clone(&engine), dir.path());
        opened
            .append((0..=last).map(|index| blank(1, index)).collect())
            .await
            .unwrap();
        opened.log.purge(log_id(1, last - 2)).await.unwrap();
        let rows = engine.rows(Table::RaftLog, KeyRange::all()).count();
        assert_eq!(rows, 2);
        drop(opened);
        let mut opened = open(engine, dir.path());
        let state = opened.log.get_log_state().await.unwrap();
        assert_eq!(state.last_purged_log_id, Some(log_id(1, last - 2)));
        assert_eq!(state.last_log_id, Some(log_id(1, last)));
    }
}

#[tokio::test]
async fn a_leaders_stream_ends_when_the_vote_changes_between_chunks() {
    let (_dir, mut opened) = sim();
    let big = vec![b'x'; 600 << 10];
    let entries = (1..=4)
        .map(|index| proposal(index, 0, b"", 0, 0, &big))
        .collect();
    opened.append(entries).await.unwrap();
    opened.log.save_vote(&vote(1, true)).await.unwrap();
    let mut reader = opened.log.get_log_reader().await;
    let leader = vote(1, true).leader_id;
    let mut entries = Box::pin(reader.leader_bounded_stream(leader, 1..5).await);
    assert_eq!(entries.next().await.unwrap().unwrap().log_id, log_id(1, 1));
    opened.log.save_vote(&vote(2, false)).await.unwrap();
    let rest: Vec<_> = entries.collect().await;
    assert_eq!(rest.len(), 1);
    assert!(rest[0].is_err());
}

#[tokio::test]
async fn one_sync_answers_everybody_who_waits_in_order() {
    let gate = Arc::new(Gate::default());
    let inner = Arc::new(SimEngine::default());
    let hold = Arc::clone(&gate);
    let engine = Arc::new(FaultEngine::observed(inner, Box::new(move |_| hold.pass())));
    let dir = TempDir::new().unwrap();
    let mut opened = open(engine.clone(), dir.path());
    engine.die_after(u64::MAX);
    gate.close();
    let mut answers = Vec::new();
    for index in 1..=50 {
        let (done, answer) = signal();
        opened.log.append([blank(1, index)], done).await.unwrap();
        answers.push(answer);
    }
    let mut reader = opened.log.get_log_reader().await;
    assert_eq!(reader.try_get_log_entries(1..100).await.unwrap().len(), 50);
    assert!(answers.iter_mut().all(|answer| answer.try_recv().is_err()));
    gate.open();
    let last = answers.pop().unwrap();
    last.await.unwrap().unwrap();
    // Answers come in order: once the last has one, so have all before it.
    assert!(
        answers
            .iter_mut()
            .all(|answer| matches!(answer.try_recv(), Ok(Ok(()))))
    );
    let syncs = engine.steps() - 50;
    assert!(syncs <= 3, "{syncs} syncs for 50 appends");
}

#[tokio::test]
async fn sync_append_returns_only_when_durable() {
    let engine = Arc::new(SimEngine::default());
    let dir = TempDir::new().unwrap();
    let mut opened = open_with(engine.clone(), dir.path(), |config| {
        config.sync_append = true
    });
    let (done, _answer) = signal();
    opened.log.append([blank(1, 1)], done).await.unwrap();
    assert_eq!(engine.unsynced(), 0);
}

#[tokio::test]
async fn a_failed_sync_calls_the_abort_hook_once_and_acknowledges_nothing_ever_after() {
    let inner = Arc::new(SimEngine::default());
    let engine = Arc::new(FaultEngine::new(inner.clone()));
    let dir = TempDir::new().unwrap();
    let mut opened = open(engine.clone(), dir.path());
    opened.append(vec![blank(1, 1)]).await.unwrap();
    engine.fail_syncs(true);
    assert!(opened.append(vec![blank(1, 2)]).await.is_err());
    // A disk that claims to work again is not believed.
    engine.fail_syncs(false);
    assert!(opened.append(vec![blank(1, 3)]).await.is_err());
    assert!(opened.log.save_vote(&vote(2, false)).await.is_err());
    assert!(opened.apply(vec![count(1, "k")]).await.is_err());
    assert_eq!(*opened.fatal.lock(), ["sync the log"]);
    assert_eq!(opened.counter.count("k"), 0);
}

#[tokio::test]
async fn a_failed_write_calls_the_abort_hook_and_fails_its_callback() {
    let engine = Arc::new(FaultEngine::new(Arc::new(SimEngine::default())));
    let dir = TempDir::new().unwrap();
    let mut opened = open(engine.clone(), dir.path());
    engine.fail_writes();
    let (done, answer) = signal();
    assert!(opened.log.append([blank(1, 1)], done).await.is_err());
    assert!(answer.await.unwrap().is_err());
    assert_eq!(*opened.fatal.lock(), ["append to the log"]);
}

#[tokio::test]
async fn a_failed_apply_write_calls_the_abort_hook_and_shows_nothing() {
    let engine = Arc::new(FaultEngine::new(Arc::new(SimEngine::default())));
    let dir = TempDir::new().unwrap();
    let mut opened = open(engine.clone(), dir.path());
    engine.fail_writes();
    assert!(opened.apply(vec![count(1, "k")]).await.is_err());
    assert_eq!(opened.counter.count("k"), 0);
    assert_eq!(*opened.storage.applied().borrow(), 0);
    assert_eq!(*opened.fatal.lock(), ["apply"]);
}

fn sim() -> (TempDir, crate::testing::Opened) {
    let dir = TempDir::new().unwrap();
    let opened = open(Arc::new(SimEngine::default()), dir.path());
    (dir, opened)
}

fn indices(entries: &[Entry]) -> Vec<u64> {
    entries.iter().map(|entry| entry.log_id.index()).collect()
}

/// Holds syncs back while closed.
#[derive(Default)]
struct Gate {
    closed: Mutex<bool>,
    opened: Condvar,
}

impl Gate {
    fn close(&self) {
        *self.closed.lock() = true;
    }

    fn open(&self) {
        *self.closed.lock() = false;
        self.opened.notify_all();
    }

    fn pass(&self) {
        let mut closed = self.closed.lock();
        self.opened.wait_while(&mut closed, |closed| *closed);
    }
}
