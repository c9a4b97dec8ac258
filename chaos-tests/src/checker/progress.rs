//! The cluster takes changes again soon after every fault.

use std::time::Duration;

use super::Verdict;
use crate::{
    history::{History, Op},
    outcome::Outcome,
};

/// Without an acknowledged change for longer, the cluster hangs: a fault that takes the majority
/// lasts six seconds, starting again and an election with timers stretched by three take a few more.
const GAP_MAX: Duration = Duration::from_secs(20);

/// Judges the longest time without an acknowledged change.
pub fn check(history: &History) -> Verdict {
    let changes = acknowledged(history).len();
    match longest_gap(history) {
        Some(gap) if gap > GAP_MAX => {
            Verdict::Violated(format!("no change was acknowledged for {gap:.1?}"))
        }
        Some(_) | None => Verdict::from_looks(Ok(changes)),
    }
}

/// The longest time in which changes were asked for and none was acknowledged.
pub fn longest_gap(history: &History) -> Option<Duration> {
    let changes = history.operations.iter().filter(|one| is_change(&one.op));
    let first = changes.clone().map(|one| one.call).min()?;
    let last = changes.map(|one| one.end.unwrap_or(one.call)).max()?;
    let mut moments = acknowledged(history);
    moments.extend([first, last]);
    moments.sort_unstable();
    let pairs = moments.iter().zip(moments.iter().skip(1));
    pairs
        .map(|(one, next)| next - one)
        .max()
        .map(Duration::from_nanos)
}

/// When changes were acknowledged.
fn acknowledged(history: &History) -> Vec<u64> {
    let done = history.operations.iter();
    let done = done.filter(|one| is_change(&one.op) && one.outcome == Outcome::Ok);
    done.filter_map(|one| one.end).collect()
}

const fn is_change(op: &Op) -> bool {
    match op {
        Op::Write { .. }
        | Op::Swap { .. }
        | Op::Register { .. }
        | Op::Approve { .. }
        | Op::Delete { .. } => true,
        Op::Read { .. } | Op::Versions { .. } | Op::List | Op::Hold { .. } | Op::Watch { .. } => {
            false
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{done, failed, history};
    use super::*;
    use crate::history::{Answer, Operation};

    fn write(second: u64) -> Operation {
        let at = second * 1_000_000_000;
        let op = Op::Write {
            key: "k".to_owned(),
            value: at,
        };
        done(at, op, (at, at), Answer::Nothing)
    }

    #[test]
    fn a_cluster_that_takes_no_change_for_long_is_found() {
        let fine = history(vec![write(0), failed(write(10)), write(18), write(30)]);
        assert_eq!(check(&fine), Verdict::Holds(3));
        assert_eq!(longest_gap(&fine), Some(Duration::from_secs(18)));
        let stuck = history(vec![write(0), failed(write(10)), failed(write(21))]);
        assert!(matches!(check(&stuck), Verdict::Violated(_)));
        assert_eq!(check(&history(Vec::new())), Verdict::NothingSeen);
    }
}
