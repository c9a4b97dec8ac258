//! The newest log entries in memory, bounded by bytes.

use std::collections::VecDeque;

use crate::codec::Entry;

/// A gapless run of entries ending with the log's newest.
pub(crate) struct EntryCache {
    entries: VecDeque<(Entry, usize)>,
    bytes: usize,
    bytes_max: usize,
}

impl EntryCache {
    /// Keeps at most `bytes_max` bytes of encoded entries.
    pub(crate) fn new(bytes_max: usize) -> Self {
        Self {
            entries: VecDeque::new(),
            bytes: 0,
            bytes_max,
        }
    }

    /// Adds the log's new last entry of `bytes` encoded bytes; the oldest ones make room.
    pub(crate) fn push(&mut self, entry: Entry, bytes: usize) {
        let index = entry.log_id.index();
        if self
            .last_index()
            .is_some_and(|last| last.checked_add(1) != Some(index))
        {
            self.entries.clear();
            self.bytes = 0;
        }
        self.entries.push_back((entry, bytes));
        self.bytes = self.bytes.saturating_add(bytes);
        while self.bytes > self.bytes_max {
            self.pop_front();
        }
    }

    /// Drops the entries from `first` on.
    pub(crate) fn truncate(&mut self, first: u64) {
        while self.last_index().is_some_and(|last| last >= first) {
            if let Some((_, bytes)) = self.entries.pop_back() {
                self.bytes = self.bytes.saturating_sub(bytes);
            }
        }
    }

    /// Drops the entries up to `last`, included.
    pub(crate) fn purge(&mut self, last: u64) {
        while self.first_index().is_some_and(|first| first <= last) {
            self.pop_front();
        }
    }

    /// The entries from `start` to `end` (excluded, or the newest), at most `bytes_max` of them
    /// but at least one; `None` when `start` is older than what is kept.
    pub(crate) fn range(
        &self,
        start: u64,
        end: Option<u64>,
        bytes_max: usize,
    ) -> Option<Vec<Entry>> {
        let skip = usize::try_from(start.checked_sub(self.first_index()?)?).ok()?;
        let mut found = Vec::new();
        let mut total = 0_usize;
        for (entry, bytes) in self.entries.iter().skip(skip) {
            if end.is_some_and(|end| entry.log_id.index() >= end) {
                break;
            }
            total = total.saturating_add(*bytes);
            if total > bytes_max && !found.is_empty() {
                break;
            }
            found.push(entry.clone());
        }
        Some(found)
    }

    fn first_index(&self) -> Option<u64> {
        self.entries.front().map(|(entry, _)| entry.log_id.index())
    }

    fn last_index(&self) -> Option<u64> {
        self.entries.back().map(|(entry, _)| entry.log_id.index())
    }

    fn pop_front(&mut self) {
        if let Some((_, bytes)) = self.entries.pop_front() {
            self.bytes = self.bytes.saturating_sub(bytes);
        }
    }
}
