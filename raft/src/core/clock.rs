//! Whether this replica's clock may stamp commands: a stamp stays in the replicated time for ever.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;

use super::Core;

/// A leader that far from a majority of clocks stamps times that clients would notice.
pub(super) const CLOCK_OFF_MS: i64 = 2000;

/// A leader whose clock is off by more, as a majority sees it, stamps nothing.
pub(super) const CLOCK_WRONG_MS: i64 = 60_000;

/// One stamp moves the replicated time by no more, unless the clocks of a majority have come as far.
const LEAP_MS: i64 = 60 * 60 * 1000;

impl Core {
    /// The time for a command that is appended now.
    ///
    /// # Errors
    /// The clock is not to be trusted, and why.
    pub(super) fn stamp(&self) -> Result<i64, String> {
        let now_ms = self.config.clock.now_ms();
        if let Some(replica) = self.better_clocks(CLOCK_WRONG_MS).first() {
            return Err(format!(
                "the leader's clock is far off, replica {replica} is to lead"
            ));
        }
        let leap_ms = now_ms.saturating_sub(self.replicated_ms.load(Ordering::Relaxed));
        let (ahead, voters) = self.clocks();
        if leap_ms > LEAP_MS && !is_leap_confirmed(&ahead, voters) {
            return Err(format!(
                "the leader's clock is {} s after the last command, and no majority of clocks \
                 confirms it",
                leap_ms / 1000
            ));
        }
        Ok(now_ms)
    }

    /// Who should lead instead of this replica, the best first, because most clocks are more than
    /// `off_ms` away from its own.
    pub(super) fn better_clocks(&self, off_ms: i64) -> Vec<u64> {
        let (ahead, voters) = self.clocks();
        let mut successors = clock_successors(&ahead, voters, off_ms);
        let records = self.records.load();
        successors.retain(|id| !records.is_ending(*id));
        successors
    }

    /// How far the clocks of the other voters heard of lately are ahead, and how many vote.
    fn clocks(&self) -> (Vec<(u64, i64)>, usize) {
        let voters: BTreeSet<u64> = self.effective_membership().voter_ids().collect();
        let within = self.timing.reachable_within();
        let ahead = |id: &u64| Some((*id, self.probes.clock_ahead_ms(*id, within)?));
        let others = voters.iter().filter(|id| **id != self.id());
        (others.filter_map(ahead).collect(), voters.len())
    }
}

/// Whether a majority of the voters, this replica among them, has a clock that is not much behind.
fn is_leap_confirmed(ahead: &[(u64, i64)], voters: usize) -> bool {
    let confirming = ahead.iter().filter(|(_, ahead)| *ahead >= -LEAP_MS).count();
    confirming + 1 > voters / 2
}

/// Who should lead instead when a majority of the voters agrees that this replica's clock is off.
///
/// `ahead` holds, for the other voters heard of lately, how far their clocks are ahead of ours. The
/// clock in the middle of all, ours among them, is the most trustworthy; then those nearest to it.
fn clock_successors(ahead: &[(u64, i64)], voters: usize, off_ms: i64) -> Vec<u64> {
    let quorum = voters / 2 + 1;
    let mut clocks: Vec<i64> = ahead.iter().map(|(_, ahead)| *ahead).collect();
    clocks.push(0);
    clocks.sort_unstable();
    let middle = clocks.get(clocks.len() / 2).copied().unwrap_or(0);
    for sign in [1, -1] {
        let off = |ahead: &&(u64, i64)| ahead.1.saturating_mul(sign) > off_ms;
        let mut agreeing: Vec<_> = ahead.iter().filter(off).collect();
        if agreeing.len() >= quorum {
            agreeing.sort_by_key(|(id, ahead)| (ahead.abs_diff(middle), *id));
            return agreeing.into_iter().map(|(id, _)| *id).collect();
        }
    }
    Vec::new()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_majority_of_clocks_moves_leadership() {
        let none: [u64; 0] = [];
        let successors =
            |ahead: &[(u64, i64)], voters| clock_successors(ahead, voters, CLOCK_OFF_MS);
        assert_eq!(successors(&[(2, 2600), (3, 2500)], 3), [3, 2]);
        assert_eq!(successors(&[(2, -2500), (3, -9000)], 3), [2, 3]);
        assert_eq!(successors(&[(2, 2500), (3, 0)], 3), none);
        assert_eq!(successors(&[(2, 2500), (3, -2500)], 3), none);
        assert_eq!(successors(&[(2, 9000)], 2), none);
        assert_eq!(successors(&[], 1), none);
    }

    #[test]
    fn leadership_never_goes_to_a_clock_that_is_as_far_off_on_the_other_side_of_the_middle() {
        let day_ms = 24 * LEAP_MS;
        for third in [day_ms, 9000] {
            let ahead = [(2, third), (3, 2500)];
            assert_eq!(clock_successors(&ahead, 3, CLOCK_OFF_MS), [3, 2]);
        }
        let ahead = [(2, -day_ms), (3, -3000), (4, -3100), (5, 10)];
        assert_eq!(clock_successors(&ahead, 5, CLOCK_OFF_MS), [3, 4, 2]);
    }

    #[test]
    fn a_leap_of_time_takes_a_majority_of_clocks() {
        const DAY_MS: i64 = 24 * LEAP_MS;
        assert!(is_leap_confirmed(&[], 1));
        assert!(is_leap_confirmed(&[(2, 100)], 2));
        assert!(!is_leap_confirmed(&[(2, -DAY_MS)], 2));
        assert!(is_leap_confirmed(&[(2, -100), (3, -DAY_MS)], 3));
        // The third is not heard of.
        assert!(!is_leap_confirmed(&[(2, -DAY_MS)], 3));
        assert!(!is_leap_confirmed(&[], 3));
    }
}
