//! After the last fault every open map stream comes to show what a watched register holds in the
//! end: [`SHOWN`] after the last acknowledged change, the last fault and its own beginning it shows
//! no older value.
//!
//! A change of which nothing was heard may be the last one, however late; but one that somebody saw
//! before another one was asked for, which was acknowledged, is not.

use std::collections::{BTreeMap, BTreeSet};

use super::{SHOWN, Verdict, nanos};
use crate::{
    history::{Answer, History, Op, OpId, Operation},
    outcome::Outcome,
};

/// Judges every register that was watched; what holds are the streams that were open long enough.
pub fn check(history: &History) -> Verdict {
    let mut shown: BTreeMap<OpId, u64> = BTreeMap::new();
    for seen in &history.sightings {
        shown.insert(seen.id, seen.value);
    }
    let mut registers: BTreeMap<&str, Vec<&Operation>> = BTreeMap::new();
    for one in &history.operations {
        if let (Op::Watch { key }, Outcome::Ok) = (&one.op, one.outcome) {
            registers.entry(key).or_default().push(one);
        }
    }
    let judged = registers.iter().map(|(key, streams)| {
        let looked = check_one(history, key, streams, &shown);
        Verdict::from_looks(looked.map_err(|what| format!("register {key}: {what}")))
    });
    Verdict::of_all(judged)
}

fn check_one(
    history: &History,
    key: &str,
    streams: &[&Operation],
    shown: &BTreeMap<OpId, u64>,
) -> Result<usize, String> {
    let seen = seen(history, key);
    let changes: Vec<Change> = history
        .operations
        .iter()
        .filter_map(|one| Change::of(one, key, &seen))
        .collect();
    let Some(acknowledged) = changes.iter().filter_map(|one| one.acknowledged).max() else {
        return Ok(0);
    };
    let last = last(&changes);
    let mut looked = 0;
    for stream in streams {
        let since = acknowledged.max(history.healed_at).max(stream.call);
        // Without an end the run was interrupted.
        if stream.end.unwrap_or_default() < since.saturating_add(nanos(SHOWN)) {
            continue;
        }
        let id = stream.id;
        match shown.get(&id) {
            Some(value) if last.contains(value) => looked += 1,
            Some(value) => {
                return Err(format!(
                    "stream {id} still shows {value} after {SHOWN:?}, not one of {last:?}"
                ));
            }
            None => return Err(format!("stream {id} shows nothing after {SHOWN:?}")),
        }
    }
    Ok(looked)
}

/// When the values of a register were first seen, by a stream or a read.
fn seen(history: &History, key: &str) -> BTreeMap<u64, u64> {
    let mut watches: BTreeSet<OpId> = BTreeSet::new();
    let mut moments: Vec<(u64, u64)> = Vec::new();
    for one in &history.operations {
        match (&one.op, &one.answer, one.end) {
            (Op::Watch { key: own }, _, _) if own == key => {
                watches.insert(one.id);
            }
            (Op::Read { key: own }, Answer::Value { value }, Some(end)) if own == key => {
                moments.push((*value, end));
            }
            (_, _, _) => {}
        }
    }
    let sightings = history.sightings.iter();
    let sightings = sightings.filter(|one| watches.contains(&one.id));
    moments.extend(sightings.map(|one| (one.value, one.at)));
    let mut first: BTreeMap<u64, u64> = BTreeMap::new();
    for (value, at) in moments {
        let before = first.entry(value).or_insert(at);
        *before = at.min(*before);
    }
    first
}

/// A change of the register that may have happened.
struct Change {
    value: u64,
    call: u64,
    acknowledged: Option<u64>,
    /// When it had happened at the latest, if that is known.
    done: Option<u64>,
}

impl Change {
    fn of(operation: &Operation, key: &str, seen: &BTreeMap<u64, u64>) -> Option<Self> {
        let (own, value) = operation.op.written()?;
        if own != key || operation.outcome == Outcome::Failed {
            return None;
        }
        let acknowledged = operation.end;
        let seen = seen.get(&value).copied();
        Some(Self {
            value,
            call: operation.call,
            acknowledged,
            done: [acknowledged, seen].into_iter().flatten().min(),
        })
    }
}

/// The values that the register may have in the end: none that was there before an acknowledged
/// change was asked for.
fn last(changes: &[Change]) -> BTreeSet<u64> {
    let acknowledged = changes.iter().filter(|one| one.acknowledged.is_some());
    let newest = acknowledged.map(|one| one.call).max().unwrap_or_default();
    let may = changes
        .iter()
        .filter(|one| one.done.is_none_or(|done| done >= newest));
    may.map(|one| one.value).collect()
}

#[cfg(test)]
mod tests {
    use super::super::testing::{done, history, unknown};
    use super::*;
    use crate::history::Sighting;

    const SECOND: u64 = 1_000_000_000;

    /// Open from and to these seconds, with values at some.
    type Stream<'a> = ((u64, u64), &'a [(u64, u64)]);

    fn key() -> String {
        "n".to_owned()
    }

    fn write(second: u64, value: u64) -> Operation {
        let op = Op::Write { key: key(), value };
        let at = second * SECOND;
        done(value, op, (at, at + 1), Answer::Nothing)
    }

    /// A run whose last fault was healed after 50 s.
    fn judged(writes: Vec<Operation>, streams: &[Stream<'_>]) -> Verdict {
        let mut history = history(writes);
        history.healed_at = 50 * SECOND;
        for (id, ((from, to), values)) in (100..).zip(streams) {
            let op = Op::Watch { key: key() };
            let times = (from * SECOND, to * SECOND);
            history
                .operations
                .push(done(id, op, times, Answer::Nothing));
            let seen = values.iter().map(|(second, value)| Sighting {
                at: second * SECOND,
                id,
                value: *value,
            });
            history.sightings.extend(seen);
        }
        check(&history)
    }

    #[test]
    fn streams_that_show_the_last_acknowledged_value_hold() {
        let writes = || vec![write(1, 1), write(55, 2)];
        let both: &[(u64, u64)] = &[(40, 1), (56, 2)];
        assert_eq!(
            judged(writes(), &[((40, 80), both), ((45, 75), both)]),
            Verdict::Holds(2)
        );
        // Neither of these was open for long after it.
        assert_eq!(
            judged(writes(), &[((2, 60), &[(2, 1)]), ((70, 80), &[(71, 2)])]),
            Verdict::NothingSeen
        );
    }

    #[test]
    fn a_stream_that_never_shows_the_last_acknowledged_value_is_found() {
        let writes = || vec![write(1, 1), write(30, 2)];
        let stuck = judged(writes(), &[((29, 66), &[(29, 1)])]);
        assert!(stuck.to_string().contains("still shows 1"), "{stuck}");
        // The last fault is not long ago.
        assert_eq!(
            judged(writes(), &[((29, 64), &[(29, 1)])]),
            Verdict::NothingSeen
        );
        let silent = judged(writes(), &[((29, 66), &[])]);
        assert!(silent.to_string().contains("shows nothing"), "{silent}");
    }

    #[test]
    fn an_unknown_change_may_be_the_last_one_unless_it_was_seen_before() {
        let writes = || vec![unknown(write(1, 1)), write(30, 2)];
        let late = judged(writes(), &[((29, 66), &[(31, 2), (40, 1)])]);
        assert_eq!(late, Verdict::Holds(1));
        let never = judged(writes(), &[((29, 66), &[(31, 2)])]);
        assert_eq!(never, Verdict::Holds(1));
        let stuck = judged(writes(), &[((20, 66), &[(20, 1)])]);
        assert!(stuck.to_string().contains("still shows 1"), "{stuck}");
        // Somebody else saw it, by the API.
        let mut all = writes();
        let read = Op::Read { key: key() };
        let times = (2 * SECOND, 3 * SECOND);
        all.push(done(50, read, times, Answer::Value { value: 1 }));
        let stuck = judged(all, &[((29, 66), &[(31, 1)])]);
        assert!(stuck.to_string().contains("still shows 1"), "{stuck}");
    }
}
