//! Who is said to be online: whoever holds a map stream for some time after the last fault, and
//! nobody who has not held one for long.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use super::{Verdict, listing::lists, nanos};
use crate::history::{History, Op, Operation};

/// After the last fault everybody is known to be there or gone within this: 25 s after a dead
/// replica, 10 s after a closed stream, and some for the machine.
pub const SETTLED: Duration = Duration::from_secs(36);
/// During faults the last holder may be forgotten this much later: the longest time without a change
/// that is allowed, twice, on top.
const FORGOTTEN: Duration = Duration::from_secs(76);
/// A stream is known to be held this long after its first message.
const KNOWN: Duration = Duration::from_secs(10);

/// Judges every list.
pub fn check(history: &History) -> Verdict {
    let opened: BTreeMap<u64, u64> = history
        .sightings
        .iter()
        .rev()
        .map(|seen| (seen.id, seen.at))
        .collect();
    let mut holds: BTreeMap<&str, Vec<&Operation>> = BTreeMap::new();
    for one in &history.operations {
        if let Op::Hold { node_key } = &one.op {
            holds.entry(node_key).or_default().push(one);
        }
    }
    let ahead = furthest_ahead(history);
    let mut looked = 0;
    for (list, nodes) in lists(history) {
        let end = list.end.unwrap_or(u64::MAX);
        let is_settled = list.call > history.healed_at.saturating_add(nanos(SETTLED));
        let online: BTreeSet<&str> = nodes
            .iter()
            .filter(|node| node.online)
            .map(|node| &*node.node_key)
            .collect();
        for (key, holds) in &holds {
            let is_online = online.contains(key);
            let grace = if is_settled { SETTLED } else { FORGOTTEN } + ahead;
            let since = list.call.saturating_sub(nanos(grace));
            let may =
                |one: &&&Operation| one.call <= end && one.end.is_none_or(|over| over >= since);
            if is_online && !holds.iter().any(|one| may(&one)) {
                return Verdict::Violated(format!(
                    "operation {} lists {key} as online, and nobody has held it for {grace:?}",
                    list.id
                ));
            }
            let known = list.call.saturating_sub(nanos(KNOWN));
            let must = |one: &Operation| {
                one.end.is_none_or(|over| over > end)
                    && opened.get(&one.id).is_some_and(|at| *at < known)
            };
            if is_settled && !is_online && holds.iter().any(|one| must(one)) {
                return Verdict::Violated(format!(
                    "operation {} lists {key} as offline, and its stream is held",
                    list.id
                ));
            }
            looked += usize::from(is_settled);
        }
    }
    Verdict::from_looks(Ok(looked))
}

/// How far a clock was set ahead. What a leader with such a clock stamped stays: the time by which nodes
/// are forgotten stands still until the others' clocks have come as far.
fn furthest_ahead(history: &History) -> Duration {
    let ahead = history.faults.iter().filter_map(|fault| {
        let (_, clock) = fault.what.split_once("clock of ")?;
        let (_, offset) = clock.split_once(": +")?;
        let (millis, _) = offset.split_once(" ms")?;
        millis.parse().ok()
    });
    Duration::from_millis(ahead.max().unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::super::testing::{done, history};
    use super::*;
    use crate::history::{Answer, Listed, Sighting, Spell};

    const SECOND: u64 = 1_000_000_000;

    /// A run whose last fault was healed after 100 s, with one holder from and to these seconds,
    /// listed at this second.
    fn judged(held: (u64, Option<u64>), listed_at: u64, online: bool) -> Verdict {
        judged_with(&[], held, listed_at, online)
    }

    fn judged_with(
        faults: &[Spell],
        held: (u64, Option<u64>),
        listed_at: u64,
        online: bool,
    ) -> Verdict {
        let key = "nodekey:1".to_owned();
        let node = Listed {
            id: "1".to_owned(),
            node_key: key.clone(),
            addresses: Vec::new(),
            auth_key: None,
            routes: Vec::new(),
            granted: Vec::new(),
            online,
        };
        let (from, to) = held;
        let times = (from * SECOND, to.unwrap_or_default() * SECOND);
        let mut hold = done(1, Op::Hold { node_key: key }, times, Answer::Nothing);
        hold.end = to.map(|to| to * SECOND);
        let at = listed_at * SECOND;
        let nodes = vec![node];
        let list = done(2, Op::List, (at, at + 1), Answer::Nodes { nodes });
        let mut history = history(vec![hold, list]);
        history.faults = faults.to_vec();
        history.healed_at = 100 * SECOND;
        history.sightings.push(Sighting {
            at: from * SECOND + 1,
            id: 1,
            value: 0,
        });
        check(&history)
    }

    #[test]
    fn who_holds_a_stream_after_the_faults_is_online() {
        assert_eq!(judged((110, None), 150, true), Verdict::Holds(1));
        assert!(matches!(
            judged((110, None), 150, false),
            Verdict::Violated(_)
        ));
        // Not long enough, or left at the same moment.
        assert_eq!(judged((145, None), 150, false), Verdict::Holds(1));
        assert_eq!(judged((110, Some(150)), 150, false), Verdict::Holds(1));
        // Among faults it may seem to be gone.
        assert_eq!(judged((10, None), 90, false), Verdict::NothingSeen);
    }

    #[test]
    fn who_has_left_long_ago_is_offline() {
        assert_eq!(judged((10, Some(50)), 150, false), Verdict::Holds(1));
        assert!(matches!(
            judged((10, Some(50)), 150, true),
            Verdict::Violated(_)
        ));
        // Within the grace.
        assert_eq!(judged((10, Some(130)), 150, true), Verdict::Holds(1));
        // Among faults the grace is longer, but has an end.
        assert_eq!(judged((1, Some(5)), 80, true), Verdict::NothingSeen);
        assert!(matches!(
            judged((1, Some(5)), 90, true),
            Verdict::Violated(_)
        ));
    }

    #[test]
    fn who_has_left_is_forgotten_later_where_a_clock_was_ahead() {
        let clock = |what: &str| {
            [Spell {
                nemesis: "clock".to_owned(),
                what: what.to_owned(),
                from: 0,
                until: None,
            }]
        };
        let ahead = clock("clock of 0: +86679 ms, at 102 %");
        assert_eq!(
            judged_with(&ahead, (10, Some(50)), 150, true),
            Verdict::Holds(1)
        );
        assert!(matches!(
            judged_with(&ahead, (10, Some(50)), 180, true),
            Verdict::Violated(_)
        ));
        let behind = clock("clock of 0: -86679 ms, at 102 %");
        assert!(matches!(
            judged_with(&behind, (10, Some(50)), 150, true),
            Verdict::Violated(_)
        ));
    }
}
