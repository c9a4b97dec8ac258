use proptest::prelude::*;

use super::super::testing::{done, failed, history, unknown};
use super::*;

fn key(number: u8) -> String {
    format!("k{number}")
}

/// What becomes of an operation of the simulated store.
#[derive(Clone, Copy, Debug)]
enum Fate {
    Answered,
    Refused,
    LostAndDone,
    LostAndNotDone,
}

/// A client's next operation: on which register, what, and how long each part takes.
#[derive(Clone, Copy, Debug)]
struct Plan {
    key: u8,
    kind: u8,
    pause: u64,
    before: u64,
    after: u64,
    fate: Fate,
}

fn any_plan() -> impl Strategy<Value = Plan> {
    let fate = prop_oneof![
        8 => Just(Fate::Answered),
        1 => Just(Fate::Refused),
        1 => Just(Fate::LostAndDone),
        1 => Just(Fate::LostAndNotDone),
    ];
    (0u8..3, 0u8..3, 0u64..9, 0u64..30, 0u64..30, fate).prop_map(
        |(key, kind, pause, before, after, fate)| Plan {
            key,
            kind,
            pause,
            before,
            after,
            fate,
        },
    )
}

fn any_plans() -> impl Strategy<Value = Vec<Vec<Plan>>> {
    prop::collection::vec(prop::collection::vec(any_plan(), 1..40), 1..6)
}

/// Runs the plans of some clients on registers that are linearizable.
fn simulate(clients: &[Vec<Plan>]) -> Vec<Operation> {
    // The moment at which an operation happens, and the operation.
    let mut moments = Vec::new();
    for (client, plans) in clients.iter().enumerate() {
        let mut now = 0;
        for plan in plans {
            let call = now + plan.pause;
            let moment = call + plan.before;
            now = moment + plan.after;
            moments.push((moment, client, call, now, *plan));
        }
    }
    moments.sort_by_key(|(moment, client, call, _, _)| (*moment, *client, *call));
    let mut registers = [0u64; 3];
    let mut operations = Vec::new();
    for (number, (_, client, call, end, plan)) in moments.into_iter().enumerate() {
        let value = u64::try_from(number).unwrap() + 1;
        let operation = happen(&mut registers, plan, value, (call, end));
        operations.push(Operation {
            process: u32::try_from(client).unwrap(),
            ..operation
        });
    }
    operations.sort_by_key(|one| one.call);
    operations
}

fn happen(registers: &mut [u64; 3], plan: Plan, value: u64, times: (u64, u64)) -> Operation {
    let register = &mut registers[usize::from(plan.key)];
    let before = *register;
    let happens = matches!(plan.fate, Fate::Answered | Fate::LostAndDone);
    // Every other swap is of a value that is not there.
    let from = if value.is_multiple_of(2) {
        before
    } else {
        value + 1_000_000
    };
    let fits = from == before;
    let key = key(plan.key);
    let (op, answer) = match plan.kind {
        0 => (Op::Read { key }, Answer::Value { value: before }),
        1 => (Op::Write { key, value }, Answer::Nothing),
        _ => (
            Op::Swap {
                key,
                from,
                to: value,
            },
            Answer::Nothing,
        ),
    };
    if happens && (plan.kind == 1 || (plan.kind == 2 && fits)) {
        *register = value;
    }
    let operation = done(value, op, times, answer);
    match plan.fate {
        Fate::Answered if plan.kind == 2 && !fits => Operation {
            answer: Answer::Mismatch,
            ..failed(operation)
        },
        Fate::Answered => operation,
        Fate::Refused => Operation {
            answer: Answer::Nothing,
            ..failed(operation)
        },
        Fate::LostAndDone | Fate::LostAndNotDone => unknown(operation),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..Default::default() })]

    #[test]
    fn a_linearizable_store_passes(plans in any_plans()) {
        let operations = simulate(&plans);
        let verdict = check(&history(operations));
        prop_assert!(matches!(verdict, Verdict::Holds(_) | Verdict::NothingSeen), "{}", verdict);
    }

    #[test]
    fn a_read_of_what_nobody_wrote_is_found(plans in any_plans(), which in any::<prop::sample::Index>()) {
        let mut operations = simulate(&plans);
        let mut reads: Vec<&mut Operation> = operations
            .iter_mut()
            .filter(|one| matches!((&one.op, one.outcome), (Op::Read { .. }, Outcome::Ok)))
            .collect();
        prop_assume!(!reads.is_empty());
        let place = which.index(reads.len());
        reads[place].answer = Answer::Value { value: 7_000_000 };
        let verdict = check(&history(operations));
        prop_assert!(matches!(verdict, Verdict::Violated(_)), "{}", verdict);
    }

    /// Of one client alone, every read of another value than the last one is wrong.
    #[test]
    fn a_lost_update_is_found(plans in prop::collection::vec(any_plan(), 1..40)) {
        let plans: Vec<Plan> = plans.into_iter().map(|plan| Plan { fate: Fate::Answered, ..plan }).collect();
        let mut operations = simulate(&[plans]);
        let end = operations.last().unwrap().end.unwrap();
        let write = |value| Op::Write { key: key(0), value };
        operations.push(done(8_000_000, write(8_000_000), (end + 1, end + 2), Answer::Nothing));
        operations.push(done(8_000_001, write(8_000_001), (end + 3, end + 4), Answer::Nothing));
        let read = Answer::Value { value: 8_000_000 };
        operations.push(done(8_000_002, Op::Read { key: key(0) }, (end + 5, end + 6), read));
        let verdict = check(&history(operations));
        prop_assert!(matches!(verdict, Verdict::Violated(_)), "{}", verdict);
    }

    /// What is known before the search changes how long it takes, not what it finds.
    #[test]
    fn settling_changes_no_verdict(plans in any_plans(), which in any::<prop::sample::Index>(), value in 0u64..60) {
        let mut operations = simulate(&plans);
        let place = which.index(operations.len());
        if let Answer::Value { value: read } = &mut operations[place].answer {
            *read = value;
        }
        let of_key = operations.iter().filter_map(interval_of).filter(|(key, _)| *key == "k0");
        let plain: Vec<Interval<Step>> = of_key.map(|(_, interval)| interval).collect();
        let (settled, _) = order(plain.iter().cloned().enumerate().collect(), 20_000);
        let verdict = |found| match found {
            Search::Linearizable => Some(true),
            Search::Impossible { .. } => Some(false),
            Search::GaveUp { .. } => None,
        };
        let plain = verdict(linear::search(&Register, &plain, 20_000));
        let settled = verdict(settled);
        prop_assert!(settled.is_none() || plain.is_none() || plain == settled);
    }
}

#[test]
fn the_operation_without_a_place_is_named() {
    let read = |value| Answer::Value { value };
    let operations = vec![
        done(
            1,
            Op::Write {
                key: key(0),
                value: 5,
            },
            (0, 1),
            Answer::Nothing,
        ),
        done(2, Op::Read { key: key(0) }, (2, 3), read(0)),
        done(3, Op::Read { key: key(1) }, (2, 3), read(0)),
    ];
    let Verdict::Violated(what) = check(&history(operations)) else {
        panic!("a stale read passed");
    };
    assert!(
        what.contains("k0") && what.contains("operation 2"),
        "{what}"
    );
}

#[test]
fn many_unknown_writes_take_no_long_search() {
    let mut operations = Vec::new();
    for number in 0..600u64 {
        let at = number * 10;
        let write = |value| Op::Write { key: key(0), value };
        let id = 3 * number + 1;
        operations.push(done(id, write(id), (at, at + 1), Answer::Nothing));
        operations.push(unknown(done(
            id + 1,
            write(id + 1),
            (at, at + 1),
            Answer::Nothing,
        )));
        let read = Answer::Value { value: id };
        operations.push(done(
            id + 2,
            Op::Read { key: key(0) },
            (at + 2, at + 3),
            read,
        ));
    }
    assert_eq!(
        check_within(&history(operations), 5_000),
        Verdict::Holds(1800)
    );
}
