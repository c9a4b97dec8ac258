//! How many logins may begin: each is a replicated write that a stranger can cause. Those over SSH
//! have a limiter of their own, so that strangers keep no node from asking.

use std::num::NonZeroU32;

use governor::clock::{Clock, DefaultClock};
use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};

use crate::control::limits::{
    LOGINS_BURST, LOGINS_PER_SECOND, SSH_ASKS_BURST, SSH_ASKS_PER_SECOND,
};

/// Counts the logins of all clients of this replica, or what one session asks about them.
#[derive(Debug)]
pub(in crate::control) struct LoginLimiter {
    limiter: DefaultDirectRateLimiter,
}

impl LoginLimiter {
    pub(in crate::control) fn new() -> Self {
        const RATE: NonZeroU32 = NonZeroU32::new(LOGINS_PER_SECOND).expect("the rate is not zero");
        const BURST: NonZeroU32 = NonZeroU32::new(LOGINS_BURST).expect("the burst is not zero");
        Self::with(RATE, BURST)
    }

    /// Counts what one session asks about SSH logins.
    pub(in crate::control) fn of_session() -> Self {
        const RATE: NonZeroU32 = NonZeroU32::new(SSH_ASKS_PER_SECOND).expect("it is not zero");
        const BURST: NonZeroU32 = NonZeroU32::new(SSH_ASKS_BURST).expect("it is not zero");
        Self::with(RATE, BURST)
    }

    fn with(rate: NonZeroU32, burst: NonZeroU32) -> Self {
        Self {
            limiter: RateLimiter::direct(Quota::per_second(rate).allow_burst(burst)),
        }
    }

    /// Takes one login; else the seconds after which one is free.
    pub(in crate::control) fn check(&self) -> Result<(), u32> {
        self.limiter.check().map_err(|not_until| {
            let wait = not_until.wait_time_from(DefaultClock::default().now());
            u32::try_from(wait.as_secs().saturating_add(1)).unwrap_or(u32::MAX)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn beyond_the_burst_a_login_is_told_when_to_come_back() {
        let limiter = LoginLimiter::new();
        let mut passed = 0;
        let refused = loop {
            match limiter.check() {
                Ok(()) if passed < 2 * LOGINS_BURST => passed += 1,
                Ok(()) => panic!("{passed} logins at once and no end"),
                Err(seconds) => break seconds,
            }
        };
        assert_eq!(refused, 1);
        // Some are free again while a slow machine takes the first ones.
        assert!(
            (LOGINS_BURST..2 * LOGINS_BURST).contains(&passed),
            "{passed}"
        );
    }
}
