//! Writing and reading on any replica.

use std::sync::Arc;

use futures::future::join_all;
use parking_lot::Mutex;

use super::harness::{TestCluster, add, voters};
use crate::{ProposeError, ReadError};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_replica_takes_writes_and_reads_them_back_at_once() {
    let cluster = TestCluster::three().await;
    for (round, replica) in cluster.replicas.iter().enumerate() {
        let proposed = replica.add("k", 10).await;
        let sum = 10 * (i64::try_from(round).unwrap() + 1);
        assert_eq!(proposed.outcome, sum.to_string());
        assert_eq!(replica.sums.get("k"), sum, "read your writes");
        for reader in &cluster.replicas {
            let index = reader.replica().read_index().await.unwrap();
            assert!(index >= proposed.index);
            assert_eq!(reader.sums.get("k"), sum, "linearizable elsewhere");
        }
    }
    let forwarded = cluster
        .replicas
        .iter()
        .map(|r| r.replica().metrics().forwards_sent)
        .max();
    assert!(forwarded > Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_leader_continues_the_trace_of_a_change_that_is_forwarded_to_it() {
    static CONTINUED: Mutex<Vec<String>> = Mutex::new(Vec::new());
    let cluster = TestCluster::three_with(|config| {
        config.continue_trace = |_, parent| CONTINUED.lock().push(parent.to_owned());
    })
    .await;
    for replica in &cluster.replicas {
        let proposed = replica.replica().propose_traced(add("k", 1), 1, "its span");
        proposed.await.unwrap();
    }
    assert!(CONTINUED.lock().iter().any(|parent| parent == "its span"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_writes_all_apply_once_and_reads_share_rounds() {
    let cluster = Arc::new(TestCluster::three().await);
    let writes = (0..300).map(|i| {
        let cluster = Arc::clone(&cluster);
        tokio::spawn(async move { cluster.replicas[i % 3].add("k", 1).await.outcome })
    });
    let mut outcomes: Vec<i64> = Vec::new();
    for outcome in join_all(writes).await {
        outcomes.push(
            std::str::from_utf8(&outcome.unwrap())
                .unwrap()
                .parse()
                .unwrap(),
        );
    }
    outcomes.sort_unstable();
    assert_eq!(outcomes, (1..=300).collect::<Vec<_>>());
    let reader = cluster.replicas[1].replica();
    let before = reader.metrics().read_rounds;
    let reads = join_all((0..200).map(|_| reader.read_index())).await;
    assert!(reads.iter().all(Result::is_ok));
    let rounds = reader.metrics().read_rounds - before;
    assert!(rounds < 50, "{rounds} rounds for 200 reads");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_applies_twice_while_leadership_moves_round() {
    let cluster = Arc::new(TestCluster::three().await);
    let writers = (0..3).map(|i| {
        let cluster = Arc::clone(&cluster);
        tokio::spawn(async move {
            let replica = &cluster.replicas[i];
            let mut certain = 0;
            let mut doubtful = 0;
            for _ in 0..60 {
                match replica.replica().propose(add("k", 1)).await {
                    Ok(_) => certain += 1,
                    Err(error) if error.is_outcome_unknown() => doubtful += 1,
                    Err(error) => assert!(error.is_retryable(), "{error}"),
                }
            }
            (certain, doubtful)
        })
    });
    let writers: Vec<_> = writers.collect();
    for round in 0..6 {
        cluster.lead(round % 3).await;
    }
    let mut certain = 0;
    let mut doubtful = 0;
    for writer in writers {
        let (yes, maybe) = writer.await.unwrap();
        certain += yes;
        doubtful += maybe;
    }
    cluster.replicas[0].replica().read_index().await.unwrap();
    let sum = cluster.replicas[0].sums.get("k");
    assert!(
        (certain..=certain + doubtful).contains(&sum),
        "{certain} + {doubtful} vs {sum}"
    );
    assert!(certain > 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_single_replica_restarts_with_everything_and_refuses_what_is_too_large() {
    let mut cluster = TestCluster::single_with(|config| config.timing_multiplier = 3).await;
    let only = &mut cluster.replicas[0];
    only.add("k", 5).await;
    let large = bytes::Bytes::from(vec![b'x'; 2 << 20]);
    let refused = only.replica().propose(large).await;
    assert!(matches!(refused, Err(ProposeError::TooLarge { .. })));
    assert_eq!(only.replica().metrics().proposals_too_large, 1);
    let first_start = only.replica().incarnation();
    only.stop().await;
    only.start().await;
    only.until("leadership", crate::Status::is_leader).await;
    assert_eq!(only.replica().incarnation(), first_start + 1);
    assert_eq!(only.sums.get("k"), 5);
    let stopped = only.replica().clone();
    only.kill().await;
    assert_eq!(
        stopped.propose(add("k", 1)).await,
        Err(ProposeError::Stopped)
    );
    assert_eq!(stopped.read_index().await, Err(ReadError::Stopped));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_majority_nothing_is_acknowledged() {
    let mut cluster = TestCluster::three().await;
    assert_eq!(voters(&cluster.replicas[0].replica().status().borrow()), 3);
    let [survivor, others @ ..] = cluster.replicas.as_mut_slice() else {
        unreachable!("three replicas")
    };
    survivor.stop().await;
    survivor.config.request_timeout = std::time::Duration::from_secs(4);
    survivor.start().await;
    survivor.until("a leader", |now| now.leader.is_some()).await;
    for other in others {
        other.kill().await;
    }
    let written = survivor.replica().propose(add("k", 1)).await.unwrap_err();
    assert!(
        written.is_outcome_unknown() || written.is_retryable(),
        "{written}"
    );
    let read = survivor.replica().read_index().await.unwrap_err();
    assert!(matches!(read, ReadError::Unavailable { .. }), "{read}");
    let cut_off = survivor
        .until("being cut off", |now| {
            now.is_cut_off(std::time::Instant::now())
                && !now.quorum(std::time::Instant::now()).is_healthy()
        })
        .await;
    assert!(
        cut_off
            .time_without_leader(std::time::Instant::now())
            .as_millis()
            > 1000
    );
    assert_eq!(survivor.sums.get("k"), 0);
}
