use std::sync::Arc;

use futures::stream::{self, StreamExt};
use hydrascale_proto::raft::v1::{
    Admin, InitCluster, Proposal, RaiseLevel, admin, proposal as body,
};
use openraft::EntryPayload;
use openraft::storage::{RaftSnapshotBuilder, RaftStateMachine};
use proptest::collection::vec;
use proptest::prelude::*;
use tempfile::TempDir;

use super::apply::Chunk;
use crate::Levels;
use crate::codec::Entry;
use crate::engine::fault::FaultEngine;
use crate::engine::sim::SimEngine;
use crate::engine::{Engine, KeyRange, KeyValue, Table};
use crate::storage::{OpenError, Storage, StorageConfig};
use crate::testing::{
    Counter, Kind, Opened, blank, count, log_id, membership, open, open_with, proposal,
};
use crate::type_config::{Command, Response};

const CLIENT: &[u8] = b"0123456789abcdef";

#[tokio::test]
async fn a_repeated_command_applies_once_and_answers_the_same() {
    let (_dir, mut opened) = sim();
    let answers = answers(
        &mut opened,
        vec![
            proposal(1, 0, CLIENT, 1, 1, b"a"),
            proposal(2, 0, CLIENT, 2, 1, b"a"),
            proposal(3, 0, CLIENT, 1, 1, b"a"),
            proposal(4, 0, CLIENT, 3, 2, b"a"),
            proposal(5, 0, CLIENT, 1, 1, b"a"),
            proposal(6, 0, CLIENT, 2, 1, b"a"),
            proposal(7, 0, b"other client....", 1, 1, b"a"),
            proposal(8, 0, b"", 1, 1, b"a"),
            proposal(9, 0, b"", 1, 1, b"a"),
            blank(1, 10),
        ],
    );
    let counted = |count: u64| Response::Outcome(count.to_le_bytes().to_vec().into());
    let expected = [
        counted(1),
        counted(2),
        counted(1),
        counted(3),
        Response::Stale,
        counted(2),
        counted(4),
        counted(5),
        counted(6),
        Response::Empty,
    ];
    assert_eq!(answers, expected);
    assert_eq!(opened.counter.count("a"), 6);
}

#[tokio::test]
async fn a_repeated_command_is_recognised_after_a_restart_and_after_an_install() {
    for kind in Kind::BOTH {
        let dir = TempDir::new().unwrap();
        let engine = kind.open(dir.path());
        let mut opened = open(Arc::clone(&engine), dir.path());
        answers(&mut opened, vec![proposal(1, 0, CLIENT, 1, 1, b"a")]);
        drop(opened);
        let mut opened = open(engine, dir.path());
        let again = answers(&mut opened, vec![proposal(2, 0, CLIENT, 1, 1, b"a")]);
        assert_eq!(
            again,
            [Response::Outcome(1_u64.to_le_bytes().to_vec().into())]
        );

        let mut builder = opened
            .machine
            .try_create_snapshot_builder(true)
            .await
            .unwrap();
        let snapshot = builder.build_snapshot().await.unwrap();
        let (_other_dir, mut other) = sim();
        other
            .machine
            .install_snapshot(&snapshot.meta, snapshot.snapshot)
            .await
            .unwrap();
        let again = answers(&mut other, vec![proposal(3, 0, CLIENT, 1, 1, b"a")]);
        assert_eq!(
            again,
            [Response::Outcome(1_u64.to_le_bytes().to_vec().into())]
        );
        assert_eq!(other.counter.count("a"), 1);
    }
}

#[tokio::test]
async fn readers_see_a_chunk_only_after_it_was_written() {
    let dir = TempDir::new().unwrap();
    let engine = Arc::new(FaultEngine::new(Arc::new(SimEngine::default())));
    let mut opened = open(engine.clone(), dir.path());
    opened
        .apply(vec![count(1, "a"), count(2, "a")])
        .await
        .unwrap();
    let applied = opened.storage.applied();
    assert_eq!(*applied.borrow(), 2);
    let mut chunk = Chunk::default();
    opened
        .machine
        .apply_entry(&mut chunk, count(3, "a"))
        .unwrap();
    assert_eq!((opened.counter.count("a"), *applied.borrow()), (2, 2));
    opened.machine.commit(chunk).unwrap();
    assert_eq!((opened.counter.count("a"), *applied.borrow()), (3, 3));
    assert_eq!(opened.counter.seen().applied, 3);
}

#[tokio::test]
async fn a_slow_stream_is_written_when_it_pauses_and_a_long_one_in_bounded_batches() {
    let dir = TempDir::new().unwrap();
    let engine = Arc::new(FaultEngine::new(Arc::new(SimEngine::default())));
    let mut opened = open(engine.clone(), dir.path());
    engine.die_after(u64::MAX);
    let mut pauses = 0;
    let slow = stream::iter((1..=10).map(|index| Ok((count(index, "a"), None)))).then(|item| {
        pauses += 1;
        let pause = pauses == 6;
        async move {
            if pause {
                tokio::task::yield_now().await;
            }
            item
        }
    });
    opened.machine.apply(Box::pin(slow)).await.unwrap();
    assert_eq!(engine.steps(), 2);
    engine.die_after(u64::MAX);
    opened
        .apply((11..=1300).map(|index| count(index, "a")).collect())
        .await
        .unwrap();
    let log_rows = 1;
    assert_eq!(engine.steps(), log_rows + 3);
    assert_eq!(opened.counter.count("a"), 1300);
}

#[tokio::test]
async fn an_unknown_command_and_a_refusing_machine_halt_the_replica() {
    let dir = TempDir::new().unwrap();
    let engine = Arc::new(SimEngine::default());
    let mut opened = open(engine.clone(), dir.path());
    let unknown = |body| {
        let proposal = Proposal {
            body,
            ..Proposal::default()
        };
        Entry {
            log_id: log_id(1, 2),
            payload: EntryPayload::Normal(Command(proposal)),
        }
    };
    let newer_admin = unknown(Some(body::Body::Admin(Admin { op: None })));
    for bad in [unknown(None), newer_admin, count(2, "!halt")] {
        assert!(opened.apply(vec![count(1, "a"), bad]).await.is_err());
        assert_eq!(opened.counter.count("a"), 0);
        // The next start applies the entry before it again, and again stops at the bad one.
        opened = open(engine.clone(), dir.path());
    }
}

#[tokio::test]
async fn admin_changes_reach_the_records_their_rows_and_the_next_start() {
    let (_dir, mut opened) = sim();
    let records = opened.storage.records();
    assert!(records.load().cluster().is_none());
    let init = InitCluster {
        cluster_id: "c1".to_owned(),
        ..InitCluster::default()
    };
    let body = Some(body::Body::Admin(Admin {
        op: Some(admin::Op::Init(init)),
    }));
    let proposal = Proposal {
        body,
        ..Proposal::default()
    };
    let entry = Entry {
        log_id: log_id(1, 1),
        payload: EntryPayload::Normal(Command(proposal)),
    };
    opened.apply(vec![entry]).await.unwrap();
    let cluster = records.load().cluster().cloned().unwrap();
    assert_eq!(cluster.cluster_id, "c1");
    let engine = Arc::clone(&opened.engine);
    drop(opened);
    let dir = TempDir::new().unwrap();
    let opened = open(engine, dir.path());
    assert_eq!(opened.storage.records().load().cluster(), Some(&cluster));
}

#[tokio::test]
async fn what_is_above_the_supported_levels_halts_and_a_later_start_with_them_is_refused() {
    let raise = Admin {
        op: Some(admin::Op::RaiseLevel(RaiseLevel { to: 2 })),
    };
    let entry = |index, level, body| Entry {
        log_id: log_id(1, index),
        payload: EntryPayload::Normal(Command(Proposal {
            level,
            body: Some(body),
            ..Proposal::default()
        })),
    };
    let raised = entry(2, 0, body::Body::Admin(raise));
    let newer = entry(3, 3, body::Body::Command("k".into()));
    let init = InitCluster {
        cluster_id: "c1".to_owned(),
        ..InitCluster::default()
    };
    let init = Admin {
        op: Some(admin::Op::Init(init)),
    };
    let init = entry(1, 0, body::Body::Admin(init));
    let old = Levels { min: 1, max: 1 };
    let dir = TempDir::new().unwrap();
    let engine: Arc<dyn Engine> = Arc::new(SimEngine::default());
    let mut opened = open_with(Arc::clone(&engine), dir.path(), |config| {
        config.levels = old;
    });
    opened.apply(vec![init]).await.unwrap();
    let halted = opened.apply(vec![raised.clone()]).await.unwrap_err();
    assert!(
        halted.to_string().contains("has feature level 2"),
        "{halted}"
    );
    drop(opened);

    let mut opened = open(Arc::clone(&engine), dir.path());
    opened.apply(vec![raised]).await.unwrap();
    assert_eq!(opened.storage.records().load().level(), 2);
    let halted = opened.apply(vec![newer]).await.unwrap_err();
    assert!(
        halted.to_string().contains("has feature level 3"),
        "{halted}"
    );
    drop(opened);
    let config = StorageConfig {
        levels: old,
        ..StorageConfig::new(dir.path())
    };
    let refused = Storage::open_on(engine, &config, Arc::new(Counter::default()));
    assert!(matches!(refused, Err(OpenError::Level(_))));
}

#[tokio::test]
async fn a_membership_is_part_of_the_applied_state() {
    let (_dir, mut opened) = sim();
    opened
        .apply(vec![membership(1, &[1, 2, 3]), blank(1, 2)])
        .await
        .unwrap();
    let (applied, members) = opened.machine.applied_state().await.unwrap();
    assert_eq!(applied, Some(log_id(1, 2)));
    assert_eq!(members.log_id(), &Some(log_id(1, 1)));
    assert_eq!(members.membership().voter_ids().count(), 3);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn replicated_time_never_goes_back_and_never_trails_the_stamp(
        stamps in vec((any::<i32>(), any::<bool>()), 1..60),
    ) {
        let dir = TempDir::new().unwrap();
        let engine = Arc::new(SimEngine::default());
        let mut opened = open(engine.clone(), dir.path());
        let mut last = 0;
        for (index, (stamp, restart)) in (1..).zip(stamps) {
            let stamp = i64::from(stamp);
            answers(&mut opened, vec![proposal(index, stamp, b"", 0, 0, b"a")]);
            let now = *opened.counter.seen().times.last().unwrap();
            prop_assert_eq!(now, last.max(stamp));
            last = now;
            if restart {
                opened = open(engine.clone(), dir.path());
            }
        }
    }

    /// Replicas cut the same log into different chunks, restart and lose unsynced batches at
    /// different places; after replaying to the same index they hold the same rows.
    #[test]
    fn rows_do_not_depend_on_chunks_restarts_or_crashes(
        commands in vec((0_u8..3, 0_u64..12, 0_u64..4, 0_i64..40_000_000, 0_u8..4), 1..60),
        cuts in vec((1_usize..9, any::<bool>(), 0_usize..3), 1..30),
    ) {
        let entries: Vec<Entry> = (1..).zip(&commands).map(|(index, (client, seq, back, ms, key))| {
            proposal(index, *ms, &[*client; 16], *seq, seq.saturating_sub(*back), &[*key])
        }).collect();
        let (_dir, mut straight) = sim();
        answers(&mut straight, entries.clone());

        let dir = TempDir::new().unwrap();
        let mut engine = Arc::new(SimEngine::default());
        let mut opened = open(engine.clone(), dir.path());
        for ((length, crash, lost), may_crash) in
            cuts.iter().cycle().zip([false, true].into_iter().cycle())
        {
            let applied = opened.machine.loaded.position.index() as usize;
            let Some(rest) = entries.get(applied..).filter(|rest| !rest.is_empty()) else { break };
            answers(&mut opened, rest.iter().take(*length).cloned().collect());
            // Two rounds write four batches and a crash takes at most two: there is progress.
            if *crash && may_crash {
                engine = Arc::new(engine.crash(engine.unsynced().saturating_sub(*lost)));
                opened = open(engine.clone(), dir.path());
            }
        }
        for table in Table::REPLICATED {
            prop_assert_eq!(rows(&*engine, table), rows(&*straight.engine, table));
        }
    }
}

/// Applies entries as one chunk; their answers.
fn answers(opened: &mut Opened, entries: Vec<Entry>) -> Vec<Response> {
    opened.log_rows(&entries);
    let mut chunk = Chunk::default();
    let answers = entries
        .into_iter()
        .map(|entry| opened.machine.apply_entry(&mut chunk, entry).unwrap())
        .collect();
    opened.machine.commit(chunk).unwrap();
    answers
}

fn rows(engine: &dyn Engine, table: Table) -> Vec<KeyValue> {
    engine
        .rows(table, KeyRange::all())
        .map(Result::unwrap)
        .collect()
}

fn sim() -> (TempDir, Opened) {
    let dir = TempDir::new().unwrap();
    let opened = open(Arc::new(SimEngine::default()), dir.path());
    (dir, opened)
}
