//! Lets a burst through and then one at a time.

use std::time::Duration;

use tokio::time::Instant;

/// Holds up to `burst` tokens; one comes back per `interval`.
#[derive(Debug)]
pub(super) struct TokenBucket {
    burst: u32,
    interval: Duration,
    /// When the bucket would be full; later means fewer tokens.
    full_at: Instant,
}

impl TokenBucket {
    /// A full bucket.
    pub(super) fn new(burst: u32, interval: Duration, now: Instant) -> Self {
        Self {
            burst,
            interval,
            full_at: now,
        }
    }

    /// Takes a token, if there is one.
    pub(super) fn try_take(&mut self, now: Instant) -> bool {
        let full_at = self.full_at.max(now) + self.interval;
        let allowed = full_at <= now + self.interval * self.burst;
        if allowed {
            self.full_at = full_at;
        }
        allowed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_passes_and_then_one_per_interval() {
        let start = Instant::now();
        let mut bucket = TokenBucket::new(3, Duration::from_secs(1), start);
        let mut passed = |ms| bucket.try_take(start + Duration::from_millis(ms));
        assert_eq!(
            [passed(0), passed(0), passed(0), passed(0)],
            [true, true, true, false]
        );
        assert_eq!(
            [passed(999), passed(1000), passed(1001)],
            [false, true, false]
        );
        assert_eq!(
            [passed(9000), passed(9000), passed(9000), passed(9000)],
            [true, true, true, false]
        );
    }
}
