use proptest::prelude::*;

use super::super::register::{Register, Step};
use super::*;

const STATES: usize = 100_000;

fn interval(step: Step, call: u64, end: Option<u64>) -> Interval<Step> {
    Interval { step, call, end }
}

fn linearizable(operations: &[Interval<Step>]) -> bool {
    match search(&Register, operations, STATES) {
        Search::Linearizable => true,
        Search::Impossible { .. } => false,
        Search::GaveUp { states } => panic!("gave up after {states}"),
    }
}

/// Tries every order of every choice of operations without an end.
fn brute_force(operations: &[Interval<Step>], taken: &mut Vec<usize>, state: u64) -> bool {
    let is_left = |index: &usize| !taken.contains(index);
    let left: Vec<usize> = (0..operations.len()).filter(is_left).collect();
    if left.iter().all(|index| operations[*index].end.is_none()) {
        return true;
    }
    let ends = left.iter().filter_map(|index| operations[*index].end);
    let first_end = ends.min().unwrap();
    for index in left {
        if operations[index].call > first_end {
            continue;
        }
        if let Some(after) = Register.apply(&state, &operations[index].step) {
            taken.push(index);
            let found = brute_force(operations, taken, after);
            taken.pop();
            if found {
                return true;
            }
        }
    }
    false
}

fn any_step() -> impl Strategy<Value = Step> {
    let value = 0u64..4;
    prop_oneof![
        value.clone().prop_map(Step::Read),
        value.clone().prop_map(Step::Write),
        (value.clone(), value.clone()).prop_map(|(from, to)| Step::Swap(from, to)),
        value.prop_map(Step::Mismatch),
    ]
}

fn any_interval() -> impl Strategy<Value = Interval<Step>> {
    (any_step(), 0u64..12, prop::option::weighted(0.75, 0u64..6))
        .prop_map(|(step, call, took)| interval(step, call, took.map(|took| call + took)))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4000, failure_persistence: None, ..Default::default() })]

    #[test]
    fn the_search_agrees_with_trying_everything(
        operations in prop::collection::vec(any_interval(), 0..8)
    ) {
        let expected = brute_force(&operations, &mut Vec::new(), 0);
        prop_assert_eq!(linearizable(&operations), expected);
    }
}

#[test]
fn a_read_sees_what_was_written_before_it_began() {
    let write = interval(Step::Write(1), 0, Some(1));
    assert!(linearizable(&[
        write.clone(),
        interval(Step::Read(1), 2, Some(3))
    ]));
    let stale = [write, interval(Step::Read(0), 2, Some(3))];
    assert_eq!(
        search(&Register, &stale, STATES),
        Search::Impossible {
            placed: 1,
            stuck: 1
        }
    );
}

#[test]
fn an_operation_without_an_end_happens_late_early_or_never() {
    let open = interval(Step::Write(1), 0, None);
    let read = |value, call| interval(Step::Read(value), call, Some(call + 1));
    assert!(linearizable(&[open.clone(), read(0, 5), read(1, 7)]));
    assert!(linearizable(&[open.clone(), read(0, 5), read(0, 7)]));
    assert!(!linearizable(&[open, read(1, 5), read(0, 7)]));
    // Not before it was asked for.
    let late = interval(Step::Write(1), 9, None);
    assert!(!linearizable(&[late, read(1, 5)]));
}

#[test]
fn a_search_that_is_too_long_says_so() {
    let mut operations: Vec<Interval<Step>> = (0..30)
        .map(|value| interval(Step::Write(value), 0, Some(10)))
        .collect();
    operations.push(interval(Step::Read(99), 11, Some(12)));
    let found = search(&Register, &operations, 1000);
    assert_eq!(found, Search::GaveUp { states: 1000 });
}
