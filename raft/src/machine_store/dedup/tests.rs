use std::collections::BTreeMap;

use bytes::Bytes;
use proptest::collection::vec;
use proptest::prelude::*;

use super::{CLIENTS_MAX, ClientId, Dedup, DedupError, UNUSED_MS, Verdict, WINDOW, client_id};
use crate::engine::sim::SimEngine;
use crate::engine::{Engine, KeyRange, Read, Table, WriteBatch};

/// One command as the log brings it.
#[derive(Clone, Debug)]
struct Step {
    client: u8,
    seq: u64,
    lowest: u64,
    later_ms: i64,
}

/// The rule of exactly once, said as simply as possible.
#[derive(Default)]
struct Model {
    executed: BTreeMap<(u8, u64), u64>,
    lowest: BTreeMap<u8, u64>,
    used: BTreeMap<u8, i64>,
    now_ms: i64,
}

impl Model {
    /// What must happen, `execution` being the number that a new execution gets.
    fn decide(&mut self, step: &Step, execution: u64) -> Verdict {
        self.now_ms += step.later_ms;
        let (now, used) = (self.now_ms, &self.used);
        let unused = |client: &u8| used.get(client).is_some_and(|used| now - used > UNUSED_MS);
        let forgotten = |client: &u8| *client != step.client && unused(client);
        self.executed.retain(|(client, _), _| !forgotten(client));
        self.lowest.retain(|client, _| !forgotten(client));
        self.used.insert(step.client, now);
        let lowest = self.lowest.entry(step.client).or_default();
        *lowest = (*lowest)
            .max(step.lowest)
            .max((step.seq + 1).saturating_sub(WINDOW));
        if step.seq < *lowest {
            return Verdict::Stale;
        }
        if let Some(seen) = self.executed.get(&(step.client, step.seq)) {
            return Verdict::Stored(outcome(*seen));
        }
        self.executed.insert((step.client, step.seq), execution);
        Verdict::Execute
    }
}

proptest! {
    #[test]
    fn decisions_equal_the_model_and_rows_rebuild_the_table(steps in vec(step(), 1..200)) {
        let mut model = Model::default();
        let mut dedup = Dedup::default();
        let engine = SimEngine::default();
        let mut batch = WriteBatch::new();
        for (execution, step) in (1..).zip(&steps) {
            let expected = model.decide(step, execution);
            let client = id(step.client);
            dedup.expire(model.now_ms, Some(client), &mut batch);
            let verdict = dedup.admit(model.now_ms, client, step.seq, step.lowest, &mut batch);
            prop_assert_eq!(&verdict, &expected, "step {}: {:?}", execution, step);
            if verdict == Verdict::Execute {
                dedup.record(client, step.seq, outcome(execution), &mut batch);
            }
            // Batches end at different places on different replicas.
            if execution % 7 == 0 {
                dedup.flush(&mut batch);
                engine.write(std::mem::take(&mut batch)).unwrap();
                prop_assert_eq!(&load(&engine), &dedup);
            }
        }
        dedup.flush(&mut batch);
        engine.write(batch).unwrap();
        prop_assert_eq!(load(&engine), dedup);
    }

    #[test]
    fn any_rows_load_or_give_a_typed_error(
        rows in vec((vec(any::<u8>(), 0..30), vec(any::<u8>(), 0..20)), 0..10),
    ) {
        let mut dedup = Dedup::default();
        for (key, value) in rows {
            let _ = dedup.load_row((key.into(), value.into()));
        }
    }
}

#[test]
fn a_proposer_with_too_many_commands_in_flight_loses_the_oldest_answers_only() {
    let mut dedup = Dedup::default();
    let mut batch = WriteBatch::new();
    let mut admit = |dedup: &mut Dedup, seq| dedup.admit(0, id(1), seq, 1, &mut batch);
    for seq in 1..=WINDOW {
        assert_eq!(admit(&mut dedup, seq), Verdict::Execute);
        dedup.record(id(1), seq, outcome(seq), &mut WriteBatch::new());
    }
    assert_eq!(admit(&mut dedup, 1), Verdict::Stored(outcome(1)));
    assert_eq!(admit(&mut dedup, WINDOW + 1), Verdict::Execute);
    assert_eq!(admit(&mut dedup, 1), Verdict::Stale);
    assert_eq!(admit(&mut dedup, 2), Verdict::Stored(outcome(2)));
}

#[test]
fn the_proposer_unused_for_longest_makes_room_for_a_new_one() {
    let mut dedup = Dedup::default();
    let mut batch = WriteBatch::new();
    let client = |number: usize| (number as u128).to_be_bytes();
    for number in 0..=CLIENTS_MAX {
        let evicted = dedup.make_room(client(number), &mut batch);
        assert_eq!(evicted, number == CLIENTS_MAX);
        dedup.admit(number as i64, client(number), 1, 1, &mut batch);
        dedup.record(client(number), 1, outcome(9), &mut batch);
    }
    let mut admit = |number| dedup.admit(5000, client(number), 1, 1, &mut batch);
    assert_eq!(admit(CLIENTS_MAX), Verdict::Stored(outcome(9)));
    assert_eq!(admit(1), Verdict::Stored(outcome(9)));
    assert_eq!(admit(0), Verdict::Execute);
}

#[test]
fn rows_that_do_not_belong_are_refused() {
    let mut dedup = Dedup::default();
    let short = (Bytes::from_static(b"short"), Bytes::new());
    assert!(matches!(dedup.load_row(short), Err(DedupError::Key(5))));
    let orphan = (
        [id(1).as_slice(), &7_u64.to_be_bytes()].concat().into(),
        Bytes::new(),
    );
    assert!(matches!(dedup.load_row(orphan), Err(DedupError::Orphan(7))));
    let damaged = (id(1).to_vec().into(), Bytes::from_static(b"\xff"));
    assert!(matches!(
        dedup.load_row(damaged),
        Err(DedupError::Client(_))
    ));
}

#[test]
fn only_sixteen_bytes_name_a_proposer() {
    assert_eq!(client_id(b""), None);
    assert_eq!(client_id(&[1; 15]), None);
    assert_eq!(client_id(&[1; 16]), Some([1; 16]));
}

fn step() -> impl Strategy<Value = Step> {
    let later = prop_oneof![8 => 0_i64..1000, 1 => Just(UNUSED_MS), 1 => Just(UNUSED_MS / 2)];
    let seq = prop_oneof![9 => 0_u64..20, 1 => 0..3 * WINDOW];
    (0_u8..4, seq, 0_u64..8, later).prop_map(|(client, seq, back, later_ms)| Step {
        client,
        seq,
        lowest: seq.saturating_sub(back),
        later_ms,
    })
}

fn id(client: u8) -> ClientId {
    [client; 16]
}

fn outcome(execution: u64) -> Bytes {
    Bytes::copy_from_slice(&execution.to_le_bytes())
}

fn load(engine: &SimEngine) -> Dedup {
    let mut dedup = Dedup::default();
    for row in engine.rows(Table::Dedup, KeyRange::all()) {
        dedup.load_row(row.unwrap()).unwrap();
    }
    dedup
}

#[test]
fn a_leap_of_time_forgets_nobody() {
    let mut dedup = Dedup::default();
    let mut batch = WriteBatch::new();
    let client = [7; 16];
    assert_eq!(
        dedup.admit(1_000, client, 1, 1, &mut batch),
        Verdict::Execute
    );
    dedup.record(client, 1, Bytes::from_static(b"done"), &mut batch);
    let leap = 2 * UNUSED_MS;
    dedup.leap(leap);
    dedup.expire(1_000 + leap, None, &mut batch);
    assert_eq!(
        dedup.admit(1_000 + leap, client, 1, 1, &mut batch),
        Verdict::Stored(Bytes::from_static(b"done"))
    );
}

#[test]
fn a_proposer_is_not_forgotten_by_its_own_command() {
    let mut dedup = Dedup::default();
    let mut batch = WriteBatch::new();
    let (own, other) = ([7; 16], [8; 16]);
    for client in [own, other] {
        dedup.admit(0, client, 1, 1, &mut batch);
        dedup.record(client, 1, Bytes::from_static(b"done"), &mut batch);
    }
    let late = UNUSED_MS + 1;
    dedup.expire(late, Some(own), &mut batch);
    let done = Verdict::Stored(Bytes::from_static(b"done"));
    assert_eq!(dedup.admit(late, own, 1, 1, &mut batch), done);
    assert_eq!(dedup.admit(late, other, 1, 1, &mut batch), Verdict::Execute);
}
