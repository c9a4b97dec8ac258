//! How many interactive logins may begin from one place, so that a stranger leaves others some of
//! those that may begin at all.

use std::num::NonZeroU32;

use governor::clock::{Clock, DefaultClock};
use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter};

use crate::control::limits::{LOGIN_SOURCES_MAX, SOURCE_LOGINS_BURST, SOURCE_LOGINS_PER_SECOND};
use crate::control::metrics::{ControlMetrics, Limit};
use crate::control::source::Source;

/// Counts the logins of each source.
#[derive(Debug)]
pub(in crate::control) struct SourceLimiter {
    limiter: DefaultKeyedRateLimiter<Source>,
    metrics: ControlMetrics,
}

impl SourceLimiter {
    pub(in crate::control) fn new(metrics: ControlMetrics) -> Self {
        const RATE: NonZeroU32 =
            NonZeroU32::new(SOURCE_LOGINS_PER_SECOND).expect("the rate is not zero");
        const BURST: NonZeroU32 =
            NonZeroU32::new(SOURCE_LOGINS_BURST).expect("the burst is not zero");
        Self {
            limiter: RateLimiter::keyed(Quota::per_second(RATE).allow_burst(BURST)),
            metrics,
        }
    }

    /// Takes one login, if the source is known; else the seconds after which one is free.
    pub(in crate::control) fn check(&self, source: Option<Source>) -> Result<(), u32> {
        let Some(source) = source.filter(|_| self.has_room()) else {
            return Ok(());
        };
        self.limiter.check_key(&source).map_err(|not_until| {
            self.metrics.limit_hit(Limit::SourceLogins);
            let wait = not_until.wait_time_from(DefaultClock::default().now());
            u32::try_from(wait.as_secs().saturating_add(1)).unwrap_or(u32::MAX)
        })
    }

    /// Whether sources can be counted. Where they cannot, the limit for all is left.
    fn has_room(&self) -> bool {
        if self.limiter.len() < LOGIN_SOURCES_MAX {
            return true;
        }
        self.limiter.retain_recent();
        let has_room = self.limiter.len() < LOGIN_SOURCES_MAX;
        if !has_room {
            self.metrics.limit_hit(Limit::LoginSources);
        }
        has_room
    }
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderMap;

    use super::*;

    fn source(number: u32) -> Option<Source> {
        let address = std::net::Ipv4Addr::from_bits(0xc000_0000 + number);
        Source::of(address.into(), &HeaderMap::new(), &[])
    }

    #[test]
    fn a_source_that_begins_many_logins_leaves_others_theirs() {
        let limiter = SourceLimiter::new(ControlMetrics::default());
        // Some are free again while a slow machine takes the first ones.
        let refused = (0..2 * SOURCE_LOGINS_BURST).find_map(|_| limiter.check(source(1)).err());
        assert_eq!(refused, Some(1));
        assert_eq!(limiter.metrics.limit_hits(Limit::SourceLogins), 1);
        assert_eq!(limiter.check(source(2)), Ok(()));
        assert_eq!(limiter.check(None), Ok(()));
    }

    #[test]
    fn the_sources_that_are_remembered_are_bounded() {
        let limiter = SourceLimiter::new(ControlMetrics::default());
        for number in 0..u32::try_from(LOGIN_SOURCES_MAX).unwrap() * 2 {
            assert_eq!(limiter.check(source(number)), Ok(()));
        }
        assert!(limiter.limiter.len() <= LOGIN_SOURCES_MAX);
    }
}
