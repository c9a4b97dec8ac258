//! Registers are linearizable: every read, write and swap looks as if it had happened at one moment
//! between its invocation and its answer.
//!
//! Registers do not know of each other, so each is judged alone. Because no value is written twice,
//! much is known about operations of unknown outcome before the search: who saw their value gives
//! them an end, and those whose value nobody saw or asked for are looked at only when there is no order
//! without them.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    Verdict,
    linear::{self, Interval, Model, Search},
};
use crate::{
    history::{Answer, History, Op, Operation},
    outcome::Outcome,
};

/// States remembered per register.
const STATES_MAX: usize = 400_000;
/// Memory for them: each holds a bit per operation.
const STATE_BYTES_MAX: usize = 256 * 1024 * 1024;

/// What was done to one register, with what it returned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// It had this value.
    Read(u64),
    /// It got this value.
    Write(u64),
    /// It had the one value and got the other.
    Swap(u64, u64),
    /// It had another value than this one.
    Mismatch(u64),
}

impl Step {
    const fn writes(self) -> Option<u64> {
        match self {
            Self::Write(value) | Self::Swap(_, value) => Some(value),
            Self::Read(_) | Self::Mismatch(_) => None,
        }
    }

    /// The value that was there before.
    const fn sees(self) -> Option<u64> {
        match self {
            Self::Read(value) | Self::Swap(value, _) => Some(value),
            Self::Write(_) | Self::Mismatch(_) => None,
        }
    }
}

/// A register that begins with 0.
#[derive(Clone, Copy, Debug)]
pub struct Register;

impl Model for Register {
    type State = u64;
    type Step = Step;

    fn initial(&self) -> u64 {
        0
    }

    fn apply(&self, state: &u64, step: &Step) -> Option<u64> {
        let (fits, after) = match *step {
            Step::Read(value) => (*state == value, *state),
            Step::Write(value) => (true, value),
            Step::Swap(from, to) => (*state == from, to),
            Step::Mismatch(from) => (*state != from, *state),
        };
        fits.then_some(after)
    }
}

/// Judges every register of a history.
pub fn check(history: &History) -> Verdict {
    check_within(history, STATES_MAX)
}

fn check_within(history: &History, states_max: usize) -> Verdict {
    let mut registers: BTreeMap<&str, Vec<(&Operation, Interval<Step>)>> = BTreeMap::new();
    for operation in &history.operations {
        if let Some((key, interval)) = interval_of(operation) {
            registers
                .entry(key)
                .or_default()
                .push((operation, interval));
        }
    }
    let verdicts = registers
        .iter()
        .map(|(key, done)| check_one(key, done, states_max));
    Verdict::of_all(verdicts)
}

fn check_one(key: &str, done: &[(&Operation, Interval<Step>)], states_max: usize) -> Verdict {
    let intervals = done.iter().map(|(_, interval)| interval.clone());
    let (found, origins) = order(intervals.enumerate().collect(), states_max);
    match found {
        Search::Linearizable => Verdict::Holds(done.len()),
        Search::GaveUp { states } => {
            Verdict::GaveUp(format!("register {key}: no answer after {states} states"))
        }
        Search::Impossible { placed, stuck } => {
            let stuck = origins.get(stuck).and_then(|origin| done.get(*origin));
            let stuck = stuck.map_or_else(String::new, |(operation, interval)| {
                let Operation { id, process, .. } = operation;
                format!("{:?} of process {process} (operation {id})", interval.step)
            });
            Verdict::Violated(format!(
                "register {key}: {stuck} has no place; {placed} of {} operations can be ordered",
                origins.len()
            ))
        }
    }
}

/// Looks for an order, and says which intervals are in it.
fn order(mut intervals: Vec<(usize, Interval<Step>)>, states_max: usize) -> (Search, Vec<usize>) {
    let look = |intervals: &[(usize, Interval<Step>)]| {
        let (origins, steps): (Vec<usize>, Vec<Interval<Step>>) = intervals.iter().cloned().unzip();
        let states_max = states_max.min(STATE_BYTES_MAX / (steps.len() / 8 + 64));
        (linear::search(&Register, &steps, states_max), origins)
    };
    let unseen = settle(&mut intervals);
    // What may never have happened need not be in the order.
    let found = look(&intervals);
    if found.0 == Search::Linearizable || unseen.is_empty() {
        return found;
    }
    intervals.extend(unseen);
    look(&intervals)
}

/// The part of an operation that counts, if any does.
fn interval_of(operation: &Operation) -> Option<(&str, Interval<Step>)> {
    let (key, step) = match (&operation.op, operation.outcome, &operation.answer) {
        (Op::Read { key }, Outcome::Ok, Answer::Value { value }) => (key, Step::Read(*value)),
        (Op::Write { key, value }, Outcome::Ok | Outcome::Unknown, _) => (key, Step::Write(*value)),
        (Op::Swap { key, from, to }, Outcome::Ok | Outcome::Unknown, _) => {
            (key, Step::Swap(*from, *to))
        }
        (Op::Swap { key, from, .. }, Outcome::Failed, Answer::Mismatch) => {
            (key, Step::Mismatch(*from))
        }
        (_, _, _) => return None,
    };
    let (call, end) = (operation.call, operation.end);
    Some((key, Interval { step, call, end }))
}

/// Gives operations without an end the one that follows from who saw their value, and takes out those
/// whose value nobody saw. These can matter to a mismatch alone, and are given back if there is one.
fn settle(intervals: &mut Vec<(usize, Interval<Step>)>) -> Vec<(usize, Interval<Step>)> {
    let mut written = BTreeSet::from([0]);
    let mut values = intervals.iter().filter_map(|(_, one)| one.step.writes());
    if !values.all(|value| written.insert(value)) {
        return Vec::new();
    }
    while tighten(intervals) {}
    let wanted: BTreeSet<u64> = intervals
        .iter()
        .filter_map(|(_, one)| one.step.sees())
        .collect();
    let is_seen = |one: &Interval<Step>| {
        one.end.is_some()
            || one
                .step
                .writes()
                .is_some_and(|value| wanted.contains(&value))
    };
    let (seen, unseen) = std::mem::take(intervals)
        .into_iter()
        .partition(|(_, one)| is_seen(one));
    *intervals = seen;
    let is_mismatch = |one: &Interval<Step>| matches!(one.step, Step::Mismatch(_));
    match intervals.iter().any(|(_, one)| is_mismatch(one)) {
        true => unseen,
        false => Vec::new(),
    }
}

/// What was seen had happened by the end of the first operation that saw it. Says whether that was
/// news about any operation.
fn tighten(intervals: &mut [(usize, Interval<Step>)]) -> bool {
    let mut first_seen: BTreeMap<u64, u64> = BTreeMap::new();
    for (_, one) in intervals.iter() {
        if let (Some(value), Some(end)) = (one.step.sees(), one.end) {
            let first = first_seen.entry(value).or_insert(end);
            *first = end.min(*first);
        }
    }
    let mut news = false;
    for (_, one) in intervals.iter_mut().filter(|(_, one)| one.end.is_none()) {
        let seen = one.step.writes().and_then(|value| first_seen.get(&value));
        // Seen before it was asked for: the search shall find that out.
        if let Some(end) = seen.filter(|end| **end >= one.call) {
            one.end = Some(*end);
            news = true;
        }
    }
    news
}

#[cfg(test)]
mod tests;
