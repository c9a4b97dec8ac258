//! The Raft log and vote on the storage engine.
//!
//! A write is an unsynced batch made inline, readable at once; [`sync::SyncThread`] makes it
//! durable together with whatever else is waiting and only then completes its callback. Votes go
//! through the same thread, so that no vote overtakes an append. Any error on this path ends the
//! process (see [`crate::fatal`]); nothing is retried.

pub(crate) mod cache;
mod reader;
pub(crate) mod sync;
#[cfg(test)]
mod tests;

use std::io;
use std::sync::Arc;

use openraft::LogState;
use openraft::storage::{IOFlushed, RaftLogStorage};
use parking_lot::Mutex;
use prost::Message;

use self::cache::EntryCache;
pub(crate) use self::reader::LogReader;
use self::sync::{SyncQueue, Waiter};
use crate::codec::{self, Entry, LogId, Vote};
use crate::engine::{Engine, EngineError, Table, WriteBatch};
use crate::fatal::Fatal;
use crate::planted::{Bug, is_planted};
use crate::storage::{OpenError, meta};
use crate::type_config::TypeConfig;

/// The log's owner; openraft's core holds the only handle that writes.
#[derive(Clone)]
pub(crate) struct LogStore {
    reader: LogReader,
    queue: SyncQueue,
    fatal: Fatal,
    sync_append: bool,
}

/// Bounds and newest entries of the log, as written (not as synced).
pub(crate) struct Tail {
    pub(crate) last_purged: Option<LogId>,
    pub(crate) last: Option<LogId>,
    pub(crate) cache: EntryCache,
}

impl LogStore {
    /// Takes over the log found in `engine`. `sync_append` makes every append wait for its fsync.
    pub(crate) fn open(
        engine: Arc<dyn Engine>,
        queue: SyncQueue,
        fatal: Fatal,
        sync_append: bool,
    ) -> Result<Self, OpenError> {
        let last_purged = meta::log_id(&*engine, meta::LAST_PURGED)?;
        let range = reader::range_from(last_purged.map_or(0, |id| id.index().saturating_add(1)));
        let last = match engine.last(Table::RaftLog, range)? {
            Some((key, row)) => Some(codec::decode_row(codec::log_index(&key)?, &row)?.log_id),
            None => last_purged,
        };
        let vote = meta::vote(&*engine)?;
        let tail = Tail {
            last_purged,
            last,
            cache: EntryCache::new(CACHE_BYTES),
        };
        let reader = LogReader::new(
            engine,
            Arc::new(Mutex::new(tail)),
            Arc::new(Mutex::new(vote)),
        );
        Ok(Self {
            reader,
            queue,
            fatal,
            sync_append,
        })
    }

    /// Writes a batch; an error ends the process.
    fn write(&self, step: &'static str, batch: WriteBatch) -> io::Result<()> {
        if self.fatal.has_failed() {
            return Err(stopped());
        }
        self.reader
            .engine()
            .write(batch)
            .map_err(|error| self.fail(step, error))
    }

    fn fail(&self, step: &'static str, error: EngineError) -> io::Error {
        self.fatal.report(step, &error);
        error.into()
    }

    fn write_entries<I>(&self, entries: I) -> io::Result<()>
    where
        I: IntoIterator<Item = Entry>,
    {
        let mut batch = WriteBatch::new();
        let mut cached = Vec::new();
        for entry in entries {
            let row = codec::encode_row(&entry);
            cached.push((
                codec::compact(&entry),
                row.len().saturating_add(ENTRY_BYTES),
            ));
            batch.put(Table::RaftLog, codec::log_key(entry.log_id.index()), row);
        }
        self.write("append to the log", batch)?;
        let mut tail = self.reader.tail().lock();
        for (entry, bytes) in cached {
            tail.last = Some(entry.log_id);
            tail.cache.push(entry, bytes);
        }
        Ok(())
    }

    fn write_purge(&self, upto: LogId) -> io::Result<()> {
        let first = {
            let mut tail = self.reader.tail().lock();
            let first = tail
                .last_purged
                .map_or(0, |id| id.index().saturating_add(1));
            tail.last_purged = Some(upto);
            if tail.last.is_none_or(|last| last.index() <= upto.index()) {
                tail.last = Some(upto);
            }
            tail.cache.purge(upto.index());
            first
        };
        let mut batch = WriteBatch::new();
        batch.put(
            Table::Meta,
            meta::LAST_PURGED,
            codec::log_id_to_proto(&upto).encode_to_vec(),
        );
        self.write("record the purge", batch)?;
        self.delete_rows(first, upto.index())
    }

    /// Deletes the rows that exist between two indices, both included, in bounded steps.
    ///
    /// Point deletions: a range tombstone makes every later iterator over the log slower.
    fn delete_rows(&self, first: u64, last: u64) -> io::Result<()> {
        let engine = self.reader.engine();
        let mut batch = WriteBatch::new();
        let mut rows = 0_usize;
        for row in engine.rows(Table::RaftLog, reader::range(first, last.saturating_add(1))) {
            let (key, _) = row.map_err(|error| self.fail("read the log", error))?;
            batch.delete(Table::RaftLog, key);
            rows = rows.saturating_add(1);
            if rows == PURGE_STEP {
                rows = 0;
                self.write("purge the log", std::mem::take(&mut batch))?;
            }
        }
        if batch.is_empty() {
            Ok(())
        } else {
            self.write("purge the log", batch)
        }
    }
}

impl RaftLogStorage<TypeConfig> for LogStore {
    type LogReader = LogReader;

    async fn get_log_state(&mut self) -> io::Result<LogState<TypeConfig>> {
        let tail = self.reader.tail().lock();
        Ok(LogState {
            last_purged_log_id: tail.last_purged,
            last_log_id: tail.last,
        })
    }

    async fn get_log_reader(&mut self) -> LogReader {
        self.reader.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> io::Result<()> {
        let mut batch = WriteBatch::new();
        batch.put(
            Table::Meta,
            meta::VOTE,
            codec::vote_to_proto(vote).encode_to_vec(),
        );
        self.write("save the vote", batch)?;
        // Shown before it is durable: a reader that compares votes stops early, never late.
        *self.reader.vote().lock() = Some(*vote);
        if is_planted(Bug::VoteNotSynced) {
            return Ok(());
        }
        self.queue.wait_synced().await
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> io::Result<()> {
        let Some(committed) = committed else {
            return Ok(());
        };
        let mut batch = WriteBatch::new();
        let value = codec::log_id_to_proto(&committed).encode_to_vec();
        batch.put(Table::Meta, meta::COMMITTED, value);
        self.write("save the committed index", batch)
    }

    async fn read_committed(&mut self) -> io::Result<Option<LogId>> {
        Ok(meta::log_id(&**self.reader.engine(), meta::COMMITTED)?)
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<TypeConfig>) -> io::Result<()>
    where
        I: IntoIterator<Item = Entry> + Send,
        I::IntoIter: Send,
    {
        if let Err(error) = self.write_entries(entries) {
            callback.io_completed(Err(io::Error::new(error.kind(), error.to_string())));
            return Err(error);
        }
        if is_planted(Bug::AckBeforeStoring) {
            callback.io_completed(Ok(()));
            return Ok(());
        }
        self.queue.send(Waiter::Append(callback)).await?;
        if self.sync_append {
            self.queue.wait_synced().await
        } else {
            Ok(())
        }
    }

    async fn truncate_after(&mut self, last_log_id: Option<LogId>) -> io::Result<()> {
        let (first, last) = {
            let mut tail = self.reader.tail().lock();
            let keep = last_log_id.or(tail.last_purged);
            let first = keep.map_or(0, |id| id.index().saturating_add(1));
            let Some(last) = tail.last.map(|id| id.index()).filter(|last| *last >= first) else {
                return Ok(());
            };
            tail.last = keep;
            tail.cache.truncate(first);
            (first, last)
        };
        // One batch, so that no crash can leave a hole; the next synced write makes it durable.
        let mut batch = WriteBatch::new();
        for index in first..=last {
            batch.delete(Table::RaftLog, codec::log_key(index));
        }
        self.write("truncate the log", batch)
    }

    async fn purge(&mut self, log_id: LogId) -> io::Result<()> {
        self.write_purge(log_id)
    }
}

/// What every operation answers once the disk failed.
pub(crate) fn stopped() -> io::Error {
    io::Error::other("the disk failed earlier, the replica stops")
}

/// What a cached entry takes besides its command.
const ENTRY_BYTES: usize = size_of::<Entry>();
/// Newest entries kept in memory: replication to followers that keep up never reads the disk.
const CACHE_BYTES: usize = 4 << 20;
/// Rows deleted per batch while purging: bounds the memory of one batch.
const PURGE_STEP: usize = 4096;
