//! Certificates and their authority rotate under proposals: none fails, and nobody stands for election.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::task::JoinHandle;

use super::harness::{TestCluster, add};
use crate::{JoinError, Replica, ReplicaConfig, ReplicaId, Status};

/// Proposals through every replica, one after the other, until it is told to stop.
struct Load {
    stop: Arc<AtomicBool>,
    tasks: Vec<JoinHandle<u64>>,
}

impl Load {
    fn start(cluster: &TestCluster) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let replicas = cluster.running().map(|replica| replica.replica().clone());
        let tasks = replicas.map(|replica| tokio::spawn(propose(replica, Arc::clone(&stop))));
        Self {
            tasks: tasks.collect(),
            stop,
        }
    }

    /// How many proposals were made; none of them failed.
    async fn finish(self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        let mut made = 0;
        for task in self.tasks {
            made += task.await.unwrap();
        }
        made
    }
}

async fn propose(replica: Replica, stop: Arc<AtomicBool>) -> u64 {
    let mut made = 0;
    while !stop.load(Ordering::Relaxed) {
        replica.propose(add("load", 1)).await.unwrap();
        made += 1;
    }
    made
}

/// A busy machine must not cause the election that these tests look for.
fn patient(config: &mut ReplicaConfig) {
    config.timing_multiplier = 5;
}

fn renewals(status: &Status) -> Vec<(u64, u64)> {
    let members = status.members.iter();
    members
        .filter_map(|member| Some((member.id.0, member.certificate.as_ref()?.renewed_at)))
        .collect()
}

fn renewed(status: &Status) -> bool {
    status.members.iter().all(|member| {
        let held = member.certificate.as_ref();
        member.renewal_asked_at > 0
            && held.is_some_and(|held| held.renewed_at >= member.renewal_asked_at)
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn certificates_are_renewed_on_request_under_load() {
    let mut cluster = TestCluster::three_with(patient).await;
    let term = cluster.replicas[0].replica().status().borrow().term;
    let load = Load::start(&cluster);
    let asked = cluster.replicas[2].replica();
    // One, then all.
    asked.renew_certificates(&[ReplicaId(1)]).await.unwrap();
    let one = |now: &Status| renewals(now).iter().any(|(id, at)| *id == 1 && *at > 0);
    let now = cluster.replicas[1].until("one renewal", one).await;
    assert_eq!(renewals(&now).iter().filter(|(_, at)| *at > 0).count(), 1);
    asked.renew_certificates(&[]).await.unwrap();
    cluster.until_all("all renewals", renewed).await;
    let unknown = asked.renew_certificates(&[ReplicaId(99)]).await;
    assert!(unknown.unwrap_err().to_string().contains("no member"));
    assert!(load.finish().await > 0);
    let now = cluster.replicas[0].replica().status().borrow().term;
    assert_eq!(now, term, "nobody stood for election");
    // What was renewed serves the next start.
    cluster.replicas[0].kill().await;
    cluster.replicas[0].start().await;
    cluster
        .until_all("a leader", |now| now.leader.is_some())
        .await;
    cluster.replicas[0].add("k", 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_authority_is_replaced_under_load_and_old_tokens_say_why_they_do_not_work() {
    let mut cluster = TestCluster::three_with(patient).await;
    let token = cluster.token().await;
    let authority = |status: &Status| status.authority.clone().unwrap().sha256;
    let status = cluster.replicas[0]
        .until("an authority", |now| now.authority.is_some())
        .await;
    let (term, before) = (status.term, authority(&status));
    let load = Load::start(&cluster);
    let asked = cluster.replicas[1].replica();
    // Asked for twice, it is done once.
    for _ in 0..2 {
        asked.rotate_authority(&before).await.unwrap();
    }
    let done = |now: &Status| {
        let state = now.authority.as_ref().unwrap();
        state.sha256 != before && !state.next_is_trusted && !state.old_is_trusted
    };
    cluster.until_all("a new authority", done).await;
    let one = |now: &Status| {
        let held = now.members.iter().map(|member| member.certificate.as_ref());
        held.into_iter()
            .all(|held| held.is_some_and(|held| held.trusted_sha256.len() == 1))
    };
    cluster.until_all("one trusted authority", one).await;
    assert!(load.finish().await > 0);
    // Who asks once more for what is done changes nothing.
    asked.rotate_authority(&before).await.unwrap();
    let now = cluster.replicas[1].replica().status().borrow().clone();
    assert!(done(&now), "{:?}", now.authority);
    assert_eq!(now.term, term, "nobody stood for election");

    let joiner = cluster.joiner("d");
    let refused = Replica::join_cluster(&joiner.config, &token).await;
    let Err(JoinError::Unavailable { reason }) = refused else {
        panic!("{refused:?}");
    };
    assert!(reason.contains("cluster rotate-ca"), "{reason}");
    cluster.join(joiner).await;
    // All certificates are of the new authority: every replica starts again.
    for at in 0..3 {
        cluster.replicas[at].kill().await;
        cluster.replicas[at].start().await;
        cluster
            .until_all("a leader", |now| now.leader.is_some())
            .await;
        cluster.replicas[at].add("k", 1).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replacement_waits_for_who_is_away_and_is_finished_by_whoever_leads() {
    let mut cluster = TestCluster::three().await;
    let at = (cluster.leader().await + 1) % 3;
    let away = cluster.replicas[at].id();
    cluster.replicas[at].kill().await;
    let leader = cluster.leader().await;
    let before = cluster.replicas[leader].replica().status().borrow().clone();
    let before = before.authority.unwrap().sha256;
    cluster.replicas[leader]
        .replica()
        .rotate_authority(&before)
        .await
        .unwrap();
    let waits = |now: &Status| {
        let state = now.authority.as_ref();
        state.is_some_and(|state| state.next_is_trusted && state.waits_for == [away])
    };
    cluster.until_all("waiting for who is away", waits).await;
    cluster.replicas[at].start().await;
    cluster
        .until_all("a leader", |now| now.leader.is_some())
        .await;
    let _ = cluster.replicas[at]
        .replica()
        .transfer_leadership(None, &[])
        .await;
    let done = |now: &Status| {
        let state = now.authority.as_ref();
        state.is_some_and(|state| state.sha256 != before && !state.old_is_trusted)
    };
    cluster.until_all("a new authority", done).await;
}
