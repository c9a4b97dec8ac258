use futures::FutureExt;
use futures::future::BoxFuture;
use parking_lot::Mutex;

use super::super::{Administration, Cluster, ClusterStatus, Machine, ReadError};
use super::*;
use crate::types::ReplicaId;

/// A log that records what it is given and answers when it is let.
struct Gated {
    gate: Semaphore,
    seen: Mutex<Vec<Bytes>>,
    without_leader: Mutex<Option<Duration>>,
}

impl Gated {
    fn new(open: usize) -> Arc<Self> {
        Arc::new(Self {
            gate: Semaphore::new(open),
            seen: Mutex::default(),
            without_leader: Mutex::default(),
        })
    }

    /// Operations of each entry.
    fn entries(&self) -> Vec<usize> {
        let seen = self.seen.lock();
        let commands = seen.iter().map(|bytes| pb::Command::decode(&bytes[..]));
        commands
            .map(|command| match command.unwrap().op {
                Some(Op::Batch(batch)) => batch.commands.len(),
                _ => 1,
            })
            .collect()
    }
}

impl Consensus for Gated {
    fn propose(&self, command: Bytes, _level: u32) -> BoxFuture<'_, Result<Bytes, ProposeError>> {
        self.seen.lock().push(command.clone());
        async move {
            self.gate.acquire().await.unwrap().forget();
            let done = || pb::Outcome {
                result: Some(outcome::Result::Done(pb::Done::default())),
            };
            let outcome = match pb::Command::decode(command).unwrap().op {
                Some(Op::Batch(batch)) => pb::Outcome {
                    result: Some(outcome::Result::Batch(pb::BatchOutcome {
                        outcomes: batch.commands.iter().map(|_| done()).collect(),
                    })),
                },
                _ => done(),
            };
            Ok(Bytes::from(outcome.encode_to_vec()))
        }
        .boxed()
    }

    fn read_index(&self) -> BoxFuture<'_, Result<u64, ReadError>> {
        async { Ok(0) }.boxed()
    }

    fn status(&self) -> ClusterStatus {
        ClusterStatus::default()
    }

    fn lacks_leader(&self) -> Option<Duration> {
        *self.without_leader.lock()
    }
}

impl Administration for Gated {}

fn cluster(log: &Arc<Gated>) -> Cluster {
    let consensus = Arc::clone(log) as Arc<dyn Consensus>;
    Cluster::new(consensus, Arc::new(Machine::new()), ReplicaId(1), 1)
}

/// An operation of about so many bytes.
fn report(bytes: usize) -> Op {
    Op::UpdateNode(pb::UpdateNode {
        node_id: 1,
        hostinfo_json: vec![b' '; bytes].into(),
        ..Default::default()
    })
}

fn tick() -> Op {
    Op::Tick(pb::Tick {})
}

/// Fills all slots, each with one entry.
async fn occupy(cluster: &Cluster, log: &Gated, tasks: &mut JoinSet<()>) {
    for taken in 1..=IN_FLIGHT_MAX {
        let cluster = cluster.clone();
        tasks.spawn(async move {
            let _ = cluster.propose(tick()).await;
        });
        while log.seen.lock().len() < taken {
            tokio::task::yield_now().await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_cluster_whose_gathering_task_panics_is_noticed_and_one_that_has_caught_up_is_not() {
    let log = Gated::new(1);
    let cluster = cluster(&log);
    let alive = tokio::time::timeout(Duration::from_secs(60), cluster.ended()).await;
    assert!(alive.is_err() && cluster.has_caught_up());
    log.gate.close();
    let proposed = cluster.propose(tick()).await;
    assert!(proposed.is_err());
    assert!(cluster.ended().await.contains("of the cluster failed"));
}

#[tokio::test(start_paused = true)]
async fn without_a_leader_a_change_is_refused_at_once() {
    let log = Gated::new(0);
    let cluster = cluster(&log);
    *log.without_leader.lock() = Some(Duration::from_millis(3_500));
    let start = Instant::now();
    let error = cluster.propose(tick()).await.unwrap_err();
    assert!(error.is_retryable());
    assert!(error.to_string().contains("no leader for 3.5 s"), "{error}");
    assert_eq!(
        (start.elapsed(), log.seen.lock().len()),
        (Duration::ZERO, 0)
    );
}

#[tokio::test(start_paused = true)]
async fn a_change_whose_turn_does_not_come_is_refused_and_never_made() {
    let log = Gated::new(0);
    let cluster = cluster(&log);
    let mut tasks = JoinSet::new();
    occupy(&cluster, &log, &mut tasks).await;
    let start = Instant::now();
    let (one, two) = tokio::join!(cluster.propose(tick()), cluster.propose(tick()));
    for error in [one.unwrap_err(), two.unwrap_err()] {
        assert!(error.is_retryable(), "{error}");
    }
    assert_eq!(start.elapsed().as_secs(), QUEUE_WAIT_MAX.as_secs());
    assert_eq!(cluster.metrics().bound_hits(Bound::QueueWait), 2);
    log.gate.add_permits(100);
    cluster.propose(tick()).await.unwrap();
    assert_eq!(log.entries(), [1; IN_FLIGHT_MAX + 1]);
}

#[tokio::test(start_paused = true)]
async fn what_nobody_waits_for_any_more_is_not_made_later() {
    let log = Gated::new(0);
    let cluster = cluster(&log);
    let mut tasks = JoinSet::new();
    occupy(&cluster, &log, &mut tasks).await;
    for _ in 0..3 {
        let patience = Duration::from_millis(10);
        let given_up = tokio::time::timeout(patience, cluster.propose(report(1))).await;
        assert!(given_up.is_err());
    }
    log.gate.add_permits(100);
    cluster.propose(tick()).await.unwrap();
    assert_eq!(log.entries(), [1; IN_FLIGHT_MAX + 1]);
}

#[tokio::test]
async fn a_batch_never_outgrows_its_bytes() {
    let log = Gated::new(0);
    let cluster = cluster(&log);
    let mut tasks = JoinSet::new();
    occupy(&cluster, &log, &mut tasks).await;
    let ops = [1_000, 100_000, 100_000, 900_000, 1_000].map(report);
    let all = futures::future::join_all(ops.map(|op| cluster.propose(op)));
    let open = async { log.gate.add_permits(100) };
    let (results, ()) = tokio::join!(all, open);
    assert!(results.iter().all(Result::is_ok));
    assert_eq!(log.entries()[IN_FLIGHT_MAX..], [2, 1, 1, 1]);
    assert!(
        log.seen
            .lock()
            .iter()
            .all(|entry| entry.len() <= COMMAND_BYTES_MAX)
    );
}

#[tokio::test]
async fn a_change_that_no_entry_can_hold_is_invalid_and_fails_no_other() {
    let log = Gated::new(100);
    let cluster = cluster(&log);
    let (large, small) = tokio::join!(
        cluster.propose(report(COMMAND_BYTES_MAX)),
        cluster.propose(tick())
    );
    let Err(ProposeError::Refused(refusal)) = large else {
        panic!("{large:?}");
    };
    assert_eq!(refusal.code(), pb::RefusalCode::Invalid);
    assert_eq!(cluster.metrics().bound_hits(Bound::CommandBytes), 1);
    small.unwrap();
}

#[tokio::test]
async fn a_report_that_no_entry_can_hold_is_not_proposed_for_ever() {
    let log = Gated::new(100);
    let cluster = cluster(&log);
    let Op::UpdateNode(large) = report(COMMAND_BYTES_MAX) else {
        unreachable!();
    };
    cluster.update_node(large);
    while cluster.metrics().bound_hits(Bound::CommandBytes) == 0 {
        tokio::task::yield_now().await;
    }
    cluster.update_node(pb::UpdateNode {
        node_id: 2,
        ..Default::default()
    });
    while log.seen.lock().is_empty() {
        tokio::task::yield_now().await;
    }
    assert_eq!(cluster.metrics().soft_retries(), 0);
    assert_eq!(cluster.metrics().bound_hits(Bound::CommandBytes), 1);
}

#[tokio::test]
async fn a_full_queue_is_told_and_counted() {
    let log = Gated::new(0);
    let cluster = cluster(&log);
    let mut tasks = JoinSet::new();
    occupy(&cluster, &log, &mut tasks).await;
    let many = (0..=QUEUE_DEPTH).map(|_| cluster.propose(tick()));
    let results: Vec<_> = many.map(FutureExt::now_or_never).collect();
    let Some(Err(error)) = results.last().unwrap() else {
        panic!("{:?}", results.last());
    };
    assert!(error.to_string().contains("4096 changes"), "{error}");
    assert_eq!(cluster.metrics().bound_hits(Bound::Queue), 1);
}

#[tokio::test(start_paused = true)]
async fn a_change_of_another_feature_level_shares_no_entry() {
    let log = Gated::new(0);
    let cluster = cluster(&log);
    let mut tasks = JoinSet::new();
    occupy(&cluster, &log, &mut tasks).await;
    let newer = || Op::ResealNoiseKey(pb::ResealNoiseKey::default());
    for op in [tick(), tick(), newer(), newer(), tick()] {
        let cluster = cluster.clone();
        tasks.spawn(async move {
            let _ = cluster.propose(op).await;
        });
        tokio::task::yield_now().await;
    }
    log.gate.add_permits(100);
    while tasks.join_next().await.is_some() {}
    assert_eq!(log.entries()[IN_FLIGHT_MAX..], [2, 2, 1]);
}
