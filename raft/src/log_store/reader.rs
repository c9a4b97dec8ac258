//! Reading the log: from memory when the newest entries suffice, else from the engine.

use std::fmt::Debug;
use std::io;
use std::ops::{Bound, RangeBounds};
use std::sync::Arc;

use futures::Stream;
use futures::stream::{self, BoxStream, StreamExt};
use openraft::alias::LeaderIdOf;
use openraft::errors::LeaderChanged;
use openraft::storage::{LeaderBoundedStreamError, LeaderBoundedStreamResult, RaftLogReader};
use parking_lot::Mutex;

use super::Tail;
use crate::blocking;
use crate::codec::{self, Entry, Vote};
use crate::engine::{Engine, KeyRange, Table};
use crate::type_config::TypeConfig;

/// A handle for reading; cheap to clone, sees every append at once.
#[derive(Clone)]
pub(crate) struct LogReader {
    engine: Arc<dyn Engine>,
    tail: Arc<Mutex<Tail>>,
    vote: Arc<Mutex<Option<Vote>>>,
}

impl LogReader {
    pub(crate) fn new(
        engine: Arc<dyn Engine>,
        tail: Arc<Mutex<Tail>>,
        vote: Arc<Mutex<Option<Vote>>>,
    ) -> Self {
        Self { engine, tail, vote }
    }

    pub(super) fn engine(&self) -> &Arc<dyn Engine> {
        &self.engine
    }

    pub(super) fn tail(&self) -> &Mutex<Tail> {
        &self.tail
    }

    pub(super) fn vote(&self) -> &Mutex<Option<Vote>> {
        &self.vote
    }

    /// The entries from `start` to `end` (excluded, or the newest), as many as fit into
    /// `bytes_max`, at least one if any exists.
    async fn read(&self, start: u64, end: Option<u64>, bytes_max: usize) -> io::Result<Vec<Entry>> {
        if end.is_some_and(|end| start >= end) {
            return Ok(Vec::new());
        }
        if let Some(entries) = self.tail.lock().cache.range(start, end, bytes_max) {
            return Ok(entries);
        }
        let engine = Arc::clone(&self.engine);
        let read = move || read_rows(&*engine, start, end, bytes_max);
        blocking::run(read).await.map_err(io::Error::other)?
    }

    /// Like [`Self::read`], but a purged or missing start is no result.
    async fn read_from(&self, start: u64, end: u64) -> io::Result<Vec<Entry>> {
        let entries = self.read(start, Some(end), READ_BYTES_MAX).await?;
        match entries.first().map(|entry| entry.log_id.index()) {
            Some(first) if first == start => Ok(entries),
            Some(_) | None if start >= end => Ok(Vec::new()),
            // Purged meanwhile: openraft takes nothing as a heartbeat and sends a snapshot next.
            Some(_) | None if self.is_purged(start) => Ok(Vec::new()),
            Some(_) | None => Err(hole(start)),
        }
    }

    fn is_purged(&self, index: u64) -> bool {
        self.tail
            .lock()
            .last_purged
            .is_some_and(|purged| index <= purged.index())
    }
}

impl RaftLogReader<TypeConfig> for LogReader {
    async fn try_get_log_entries<RB>(&mut self, range: RB) -> io::Result<Vec<Entry>>
    where
        RB: RangeBounds<u64> + Clone + Debug + Send,
    {
        let (start, end) = bounds(&range);
        self.read(start, end, usize::MAX).await
    }

    async fn read_vote(&mut self) -> io::Result<Option<Vote>> {
        Ok(*self.vote.lock())
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> io::Result<Vec<Entry>> {
        self.read_from(start, end).await
    }

    async fn entries_stream<RB>(
        &mut self,
        range: RB,
    ) -> impl Stream<Item = io::Result<Entry>> + Send
    where
        RB: RangeBounds<u64> + Clone + Debug + Send,
    {
        let (start, end) = bounds(&range);
        chunks(self.clone(), start, end).flat_map(|chunk| match chunk {
            Ok(entries) => stream::iter(entries).map(Ok).left_stream(),
            Err(error) => stream::iter([Err(error)]).right_stream(),
        })
    }

    async fn leader_bounded_stream<RB>(
        &mut self,
        leader: LeaderIdOf<TypeConfig>,
        range: RB,
    ) -> impl Stream<Item = LeaderBoundedStreamResult<TypeConfig>> + Send
    where
        RB: RangeBounds<u64> + Clone + Debug + Send,
    {
        let (start, end) = bounds(&range);
        let vote = Arc::clone(&self.vote);
        let changed = move || {
            let vote = *vote.lock();
            let same = vote.is_some_and(|vote| vote.leader_id == leader && vote.committed);
            if same {
                None
            } else {
                Some(LeaderChanged::new(leader, vote))
            }
        };
        if let Some(error) = changed() {
            return stream::iter([Err(LeaderBoundedStreamError::from(error))]).boxed();
        }
        leader_entries(chunks(self.clone(), start, end), changed)
    }
}

/// The chunks' entries until the vote leaves the leader.
///
/// The vote is compared after each read: one that is still the leader's then was so all along,
/// because votes never return, and a truncation comes only after a vote for another leader.
fn leader_entries(
    chunks: BoxStream<'static, io::Result<Vec<Entry>>>,
    changed: impl Fn() -> Option<LeaderChanged<TypeConfig>> + Send + 'static,
) -> BoxStream<'static, LeaderBoundedStreamResult<TypeConfig>> {
    let items = chunks.map(move |chunk| match (chunk, changed()) {
        (_, Some(error)) => vec![Err(error.into())],
        (Err(error), None) => vec![Err(error.into())],
        (Ok(entries), None) => entries.into_iter().map(Ok).collect(),
    });
    let mut failed = false;
    items
        .flat_map(stream::iter)
        .take_while(move |item| {
            let take = !failed;
            failed = failed || item.is_err();
            std::future::ready(take)
        })
        .boxed()
}

/// The entries of a range in chunks of bounded size; ends with the range, the log or an error.
fn chunks(
    reader: LogReader,
    start: u64,
    end: Option<u64>,
) -> BoxStream<'static, io::Result<Vec<Entry>>> {
    stream::unfold(Some(start), move |next| {
        let reader = reader.clone();
        async move {
            let start = next?;
            match reader.read(start, end, READ_BYTES_MAX).await {
                Ok(entries) => {
                    let last = entries.last()?.log_id.index();
                    Some((Ok(entries), last.checked_add(1)))
                }
                Err(error) => Some((Err(error), None)),
            }
        }
    })
    .boxed()
}

fn read_rows(
    engine: &dyn Engine,
    start: u64,
    end: Option<u64>,
    bytes_max: usize,
) -> io::Result<Vec<Entry>> {
    let range = end.map_or_else(|| range_from(start), |end| range(start, end));
    let mut entries: Vec<Entry> = Vec::new();
    let mut total = 0_usize;
    for row in engine.rows(Table::RaftLog, range) {
        let (key, row) = row?;
        let index = codec::log_index(&key)?;
        let previous = entries.last().map(|entry| entry.log_id.index());
        if previous.is_some_and(|previous| previous.checked_add(1) != Some(index)) {
            return Err(hole(index));
        }
        total = total.saturating_add(row.len());
        if total > bytes_max && !entries.is_empty() {
            break;
        }
        entries.push(codec::decode_row(index, &row)?);
    }
    Ok(entries)
}

fn hole(index: u64) -> io::Error {
    let message = format!("the log has no entry before or at index {index} where it must have one");
    io::Error::new(io::ErrorKind::InvalidData, message)
}

/// The rows of indices from `start` to `end`, excluded.
pub(super) fn range(start: u64, end: u64) -> KeyRange {
    KeyRange {
        lower: start.to_be_bytes().to_vec(),
        upper: Some(end.to_be_bytes().to_vec()),
    }
}

/// The rows of indices from `start` on.
pub(super) fn range_from(start: u64) -> KeyRange {
    KeyRange {
        lower: start.to_be_bytes().to_vec(),
        upper: None,
    }
}

fn bounds(range: &impl RangeBounds<u64>) -> (u64, Option<u64>) {
    let start = match range.start_bound() {
        Bound::Included(start) => *start,
        Bound::Excluded(start) => start.saturating_add(1),
        Bound::Unbounded => 0,
    };
    let end = match range.end_bound() {
        Bound::Included(end) => end.checked_add(1),
        Bound::Excluded(end) => Some(*end),
        Bound::Unbounded => None,
    };
    (start, end)
}

/// Entries read at once: what one append request may carry.
const READ_BYTES_MAX: usize = 1 << 20;
