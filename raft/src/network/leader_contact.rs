//! When a leader was last heard of.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::timing::now;

/// The last accepted message of a leader, cheap to renew with each.
#[derive(Debug)]
pub(crate) struct LeaderContact {
    start: Instant,
    after_ms: AtomicU64,
}

impl LeaderContact {
    /// Counts from now, as if a leader had just been heard of.
    pub(crate) fn new() -> Self {
        Self {
            start: now(),
            after_ms: AtomicU64::new(0),
        }
    }

    /// A leader was heard of.
    pub(crate) fn renew(&self) {
        self.renew_at(now());
    }

    /// A leader was heard of at that time.
    pub(crate) fn renew_at(&self, at: Instant) {
        let after =
            u64::try_from(at.saturating_duration_since(self.start).as_millis()).unwrap_or(u64::MAX);
        self.after_ms.fetch_max(after, Ordering::Relaxed);
    }

    /// When that was.
    pub(crate) fn last(&self) -> Instant {
        let after = Duration::from_millis(self.after_ms.load(Ordering::Relaxed));
        self.start.checked_add(after).unwrap_or(self.start)
    }
}
