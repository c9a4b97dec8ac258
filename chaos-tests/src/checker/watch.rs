//! Map streams show the values of a register in one order, whichever replica serves them, never go
//! back, and begin no earlier than what was acknowledged before they were opened, unless the replica
//! said that it was cut off.
//!
//! Every stream may leave values out. What each shows, and what acknowledgements say, are pairs of
//! an earlier and a later value; all is well when the pairs form no circle.

use std::collections::{BTreeMap, BTreeSet};

use super::Verdict;
use crate::{
    history::{Answer, History, Op, Operation},
    outcome::Outcome,
};

type Pairs = BTreeMap<u64, BTreeSet<u64>>;

/// Judges every register that was watched.
pub fn check(history: &History) -> Verdict {
    let mut streams: BTreeMap<&str, Vec<(&Operation, Vec<u64>)>> = BTreeMap::new();
    for one in &history.operations {
        if let Op::Watch { key } = &one.op {
            let mut values: Vec<u64> = history
                .sightings
                .iter()
                .filter(|seen| seen.id == one.id)
                .map(|seen| seen.value)
                .collect();
            // The same value again is no news.
            values.dedup();
            streams.entry(key).or_default().push((one, values));
        }
    }
    let judged = streams.iter().map(|(key, streams)| {
        let looked = check_one(&writes(history, key), streams);
        Verdict::from_looks(looked.map_err(|what| format!("register {key}: {what}")))
    });
    Verdict::of_all(judged)
}

/// Changes of the register that may have happened, with their values.
fn writes<'a>(history: &'a History, key: &str) -> Vec<(u64, &'a Operation)> {
    let may_be = history
        .operations
        .iter()
        .filter(|one| one.outcome != Outcome::Failed);
    let of_key = may_be.filter_map(|one| {
        let (own, value) = one.op.written()?;
        (own == key).then_some((value, one))
    });
    of_key.collect()
}

fn check_one(
    writes: &[(u64, &Operation)],
    streams: &[(&Operation, Vec<u64>)],
) -> Result<usize, String> {
    let written: BTreeSet<u64> = writes.iter().map(|(value, _)| *value).collect();
    let mut pairs = Pairs::new();
    let mut looked = 0;
    for (watch, values) in streams {
        if let Some(value) = values.iter().find(|value| !written.contains(value)) {
            return Err(format!(
                "stream {} shows {value}, and nobody set it",
                watch.id
            ));
        }
        for (one, next) in values.iter().zip(values.iter().skip(1)) {
            pairs.entry(*one).or_default().insert(*next);
        }
        let is_fresh = watch.outcome == Outcome::Ok && watch.answer != Answer::Stale;
        if let (Some(first), true) = (values.first(), is_fresh) {
            add_older(&mut pairs, writes, watch.call, *first);
        }
        looked += values.len();
    }
    for (value, one) in writes {
        add_older(&mut pairs, writes, one.call, *value);
    }
    match circle(&pairs) {
        Some(values) => Err(format!("shown in two orders: {values:?}")),
        None => Ok(looked),
    }
}

/// What was acknowledged before `moment` is older than `value`, which came to be after it.
fn add_older(pairs: &mut Pairs, writes: &[(u64, &Operation)], moment: u64, value: u64) {
    for (older, one) in writes {
        if *older != value && one.end.is_some_and(|end| end < moment) {
            pairs.entry(*older).or_default().insert(value);
        }
    }
}

/// Values of which each comes before the next, and the last before the first.
fn circle(pairs: &Pairs) -> Option<Vec<u64>> {
    let mut finished = BTreeSet::new();
    for start in pairs.keys() {
        // The way from the start, each with what is still to be looked at behind it.
        let mut way: Vec<(u64, Vec<u64>)> = vec![(*start, later(pairs, *start))];
        while let Some((value, rest)) = way.last_mut() {
            let value = *value;
            let Some(next) = rest.pop() else {
                finished.insert(value);
                way.pop();
                continue;
            };
            if let Some(place) = way.iter().position(|(on_way, _)| *on_way == next) {
                return Some(way.iter().skip(place).map(|(value, _)| *value).collect());
            }
            if !finished.contains(&next) {
                way.push((next, later(pairs, next)));
            }
        }
    }
    None
}

fn later(pairs: &Pairs, value: u64) -> Vec<u64> {
    pairs.get(&value).into_iter().flatten().copied().collect()
}

#[cfg(test)]
mod tests {
    use super::super::testing::{done, history, unknown};
    use super::*;
    use crate::history::Sighting;

    fn write(value: u64) -> Operation {
        let op = Op::Write {
            key: "n".to_owned(),
            value,
        };
        done(value, op, (10 * value, 10 * value + 5), Answer::Nothing)
    }

    fn watched(writes: Vec<Operation>, streams: &[(u64, &[u64])]) -> Verdict {
        let mut history = history(writes);
        for (id, (call, values)) in (100..).zip(streams) {
            let op = Op::Watch {
                key: "n".to_owned(),
            };
            history
                .operations
                .push(done(id, op, (*call, 1000), Answer::Nothing));
            let seen = values.iter().map(|value| Sighting {
                at: 1000,
                id,
                value: *value,
            });
            history.sightings.extend(seen);
        }
        check(&history)
    }

    #[test]
    fn streams_may_leave_values_out_and_repeat_the_last() {
        let writes = vec![write(1), write(2), write(3)];
        let verdict = watched(writes, &[(0, &[1, 1, 3]), (0, &[2, 3])]);
        assert_eq!(verdict, Verdict::Holds(4));
    }

    #[test]
    fn a_stream_that_goes_back_is_found() {
        let writes = vec![write(1), write(2)];
        assert!(matches!(
            watched(writes, &[(0, &[2, 1])]),
            Verdict::Violated(_)
        ));
        let writes = vec![unknown(write(1)), unknown(write(2))];
        assert!(matches!(
            watched(writes, &[(0, &[2, 1, 2])]),
            Verdict::Violated(_)
        ));
    }

    #[test]
    fn an_unknown_change_may_come_late_but_for_all_streams_alike() {
        let writes = || vec![unknown(write(1)), write(2)];
        assert_eq!(
            watched(writes(), &[(0, &[2, 1]), (0, &[1])]),
            Verdict::Holds(3)
        );
        let verdict = watched(writes(), &[(0, &[2, 1]), (0, &[1, 2])]);
        assert!(matches!(verdict, Verdict::Violated(_)));
    }

    #[test]
    fn a_replica_that_is_cut_off_may_begin_with_what_it_has_but_not_go_back() {
        let stale = |values: &[u64]| {
            let mut history = history(vec![write(1), write(2), write(3)]);
            let op = Op::Watch {
                key: "n".to_owned(),
            };
            history
                .operations
                .push(done(9, op, (90, 99), Answer::Stale));
            let seen = values.iter().map(|value| Sighting {
                at: 95,
                id: 9,
                value: *value,
            });
            history.sightings.extend(seen);
            check(&history)
        };
        assert_eq!(stale(&[1, 3]), Verdict::Holds(2));
        assert!(matches!(stale(&[1, 3, 2]), Verdict::Violated(_)));
    }

    #[test]
    fn a_stream_begins_with_what_was_acknowledged_before_it() {
        let writes = vec![write(1), write(2)];
        assert!(matches!(
            watched(writes.clone(), &[(90, &[1, 2])]),
            Verdict::Violated(_)
        ));
        assert_eq!(watched(writes, &[(90, &[2])]), Verdict::Holds(1));
        let phantom = watched(vec![write(1)], &[(0, &[1, 7])]);
        assert!(phantom.to_string().contains("nobody set it"));
    }
}
