//! How many bytes of whole netmaps wait for their clients to take them.
//!
//! A frame is held until its client has taken all of it. At first it counts among the fresh ones,
//! which turn over within seconds; one whose client is slow moves to a part of its own, so that slow
//! clients never keep fast ones waiting. When that part is full, the client is cut off.

use std::time::Duration;

use tokio::sync::{Semaphore, SemaphorePermit};

use super::metrics::{Bound, MapMetrics};

/// Bytes of fresh frames: a netmap of 10,000 peers takes 2 MB compressed, 8 MB otherwise.
const FRESH_BYTES_MAX: u32 = 128 * 1024 * 1024;
/// Bytes of frames whose clients are slow: a hundred of the largest tailnet on thin lines.
pub(super) const SLOW_BYTES_MAX: u32 = 256 * 1024 * 1024;
/// Bytes per second that a slow client must take on average: what the thinnest mobile line gives. A
/// client below that never catches up with a large tailnet and holds its netmap for nothing.
const RATE_MIN: u64 = 4 * 1024;
/// Time that a slow client has besides: a line may be dead for as long without being thin.
const RATE_SLACK: Duration = Duration::from_secs(60);

/// The room for whole netmaps on their way.
pub(super) struct Held {
    fresh: Semaphore,
    slow: Semaphore,
    metrics: MapMetrics,
}

/// Room for a frame that has just been made.
pub(super) struct Fresh<'a> {
    len: u32,
    _room: Option<SemaphorePermit<'a>>,
}

/// Room for a frame whose client is slow.
pub(super) struct Slow<'a> {
    len: u32,
    _room: SemaphorePermit<'a>,
}

impl Held {
    pub(super) fn new(metrics: MapMetrics) -> Self {
        Self {
            fresh: Semaphore::new(FRESH_BYTES_MAX as usize),
            slow: Semaphore::new(SLOW_BYTES_MAX as usize),
            metrics,
        }
    }

    /// Waits for room for a frame of so many bytes.
    pub(super) async fn fresh(&self, len: usize) -> Fresh<'_> {
        // One that is larger than all of the room takes all of it.
        let len = u32::try_from(len).map_or(FRESH_BYTES_MAX, |len| len.min(FRESH_BYTES_MAX));
        let room = match self.fresh.try_acquire_many(len) {
            Ok(room) => Some(room),
            Err(_) => {
                self.metrics.bound_hit(Bound::FreshBytes);
                self.fresh.acquire_many(len).await.ok()
            }
        };
        Fresh { len, _room: room }
    }

    /// Moves a frame to those of slow clients; `None` when these take all their room.
    pub(super) fn slow(&self, fresh: Fresh<'_>) -> Option<Slow<'_>> {
        let len = fresh.len;
        match self.slow.try_acquire_many(len) {
            Ok(room) => Some(Slow { len, _room: room }),
            Err(_) => {
                self.metrics.bound_hit(Bound::SlowBytes);
                None
            }
        }
    }
}

impl Slow<'_> {
    #[cfg(test)]
    pub(super) const fn len(&self) -> usize {
        self.len as usize
    }

    /// How much longer the client may take.
    pub(super) fn time(&self) -> Duration {
        RATE_SLACK + Duration::from_secs(u64::from(self.len) / RATE_MIN)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn frames_of_slow_clients_take_a_bounded_number_of_bytes_and_no_room_of_fresh_ones() {
        let metrics = MapMetrics::default();
        let held = Held::new(metrics.clone());
        let first = held.fresh(usize::MAX).await;
        assert_eq!(held.fresh.available_permits(), 0);
        let first = held.slow(first).unwrap();
        let second = held.slow(held.fresh(FRESH_BYTES_MAX as usize).await);
        assert_eq!(held.slow.available_permits(), 0);
        assert!(held.slow(held.fresh(1).await).is_none());
        assert_eq!(metrics.bound_hits(Bound::SlowBytes), 1);
        assert_eq!(held.fresh.available_permits(), FRESH_BYTES_MAX as usize);
        drop(first);
        assert!(held.slow(held.fresh(1).await).is_some());
        drop(second);
    }

    #[tokio::test]
    async fn a_frame_waits_for_room_and_gets_it_when_another_is_taken() {
        let metrics = MapMetrics::default();
        let held = Held::new(metrics.clone());
        let first = held.fresh(FRESH_BYTES_MAX as usize).await;
        let (second, ()) = tokio::join!(held.fresh(1), async move { drop(first) });
        assert_eq!((second.len, metrics.bound_hits(Bound::FreshBytes)), (1, 1));
    }
}
