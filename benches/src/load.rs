//! What `hs-load` does: registrations as fast as they are acknowledged, idle map streams, and the
//! disk's own limit to compare with.

mod disk;
mod register;
mod streams;

pub use disk::{SyncRate, sync_rate};
pub use register::{RegisterRate, Registrations};
pub use streams::Streams;

use std::time::Duration;

/// Milliseconds with two digits behind the point, for tables.
pub fn millis(duration: Duration) -> String {
    format!("{:.2} ms", duration.as_secs_f64() * 1000.0)
}

/// The smallest of the sorted values that `share` (0 to 1) of them do not exceed; zero when there are none.
pub fn quantile(sorted: &[Duration], share: f64) -> Duration {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "an index of a list that fits into memory"
    )]
    let rank = (sorted.len() as f64 * share).ceil() as usize;
    sorted
        .get(rank.saturating_sub(1))
        .copied()
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_taken_from_the_sorted_values() {
        let values: Vec<Duration> = (1..=100).map(Duration::from_millis).collect();
        assert_eq!(quantile(&values, 0.5), Duration::from_millis(50));
        assert_eq!(quantile(&values, 0.99), Duration::from_millis(99));
        assert_eq!(quantile(&values, 1.0), Duration::from_millis(100));
        assert_eq!(quantile(&values[..30], 0.99), Duration::from_millis(30));
        assert_eq!(quantile(&[], 0.5), Duration::ZERO);
    }
}
