//! The cluster takes changes again soon after every fault, and beside a bridge while it is there.

use std::time::Duration;

use super::{Verdict, nanos};
use crate::{
    history::{History, Op, Spell},
    nemesis::Nemesis,
    outcome::Outcome,
};

/// Without an acknowledged change for longer, the cluster hangs: a fault that takes the majority
/// lasts six seconds, starting again and an election with timers stretched by three take a few more.
/// Those who reach a majority beside a bridge have another leader within it, too.
pub const GAP_MAX: Duration = Duration::from_secs(20);

/// Judges the longest time without an acknowledged change, and every bridge.
pub fn check(history: &History) -> Verdict {
    let changes = acknowledged(history).len();
    let mut bridges = history.faults.iter();
    if let Some(stuck) = bridges.find(|one| is_stuck(history, one)) {
        return Verdict::Violated(format!(
            "no change that was asked for beside a bridge was acknowledged for {GAP_MAX:?}: {}",
            stuck.what
        ));
    }
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
    longest(moments).map(Duration::from_nanos)
}

/// Whether this is a bridge beside which changes were asked for in vain. One that the old leader
/// acknowledges without a majority is for the other checkers.
fn is_stuck(history: &History, fault: &Spell) -> bool {
    let (true, Some(until)) = (fault.nemesis == Nemesis::Bridge.name(), fault.until) else {
        return false;
    };
    let mut asked = false;
    let mut moments = vec![fault.from, until];
    for one in history.operations.iter().filter(|one| is_change(&one.op)) {
        if one.call < fault.from || one.call > until {
            // What was asked for before may have been decided before.
            continue;
        }
        asked = true;
        let end = one.end.filter(|_| one.outcome == Outcome::Ok);
        moments.extend(end.filter(|end| *end <= until));
    }
    asked && longest(moments).is_some_and(|gap| gap > nanos(GAP_MAX))
}

/// The longest time between two of these moments that follow each other.
fn longest(mut moments: Vec<u64>) -> Option<u64> {
    moments.sort_unstable();
    let pairs = moments.iter().zip(moments.iter().skip(1));
    pairs.map(|(one, next)| next - one).max()
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

    #[test]
    fn a_bridge_beside_which_no_change_is_acknowledged_is_found() {
        let bridged = |acknowledged: &[u64]| {
            // Asked for before the bridge, answered beside it.
            let before = Operation {
                call: 9_000_000_000,
                ..write(11)
            };
            let mut operations = vec![before];
            operations.extend((12..45).map(|second| failed(write(second))));
            operations.extend(acknowledged.iter().map(|second| write(*second)));
            let bridge = Spell {
                nemesis: "bridge".to_owned(),
                what: "nothing passes".to_owned(),
                from: 10_000_000_000,
                until: Some(45_000_000_000),
            };
            let mut history = history(operations);
            history.faults.push(bridge);
            (is_stuck(&history, &history.faults[0]), check(&history))
        };
        assert_eq!(bridged(&[20, 38]), (false, Verdict::Holds(3)));
        let (stuck, verdict) = bridged(&[31]);
        assert!(stuck && verdict.to_string().contains("beside a bridge"));
    }
}
