//! Replicas that die, come back, and fall behind.

use std::time::{Duration, Instant};

use tokio::time::timeout;

use super::harness::{PATIENCE, TestCluster, add, clock_ahead};
use crate::{MemberStatus, ReplicaConfig, Status};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_leader_is_replaced_and_catches_up_when_it_is_back() {
    let mut cluster = TestCluster::three().await;
    cluster.replicas[0].add("k", 1).await;
    let old = cluster.leader().await;
    cluster.replicas[old].kill().await;
    let survivor = (old + 1) % 3;
    cluster.replicas[survivor].add("k", 1).await;
    let new = cluster.leader().await;
    assert_ne!(new, old);
    let last = cluster.replicas[survivor].add("k", 1).await;
    cluster.replicas[old].start().await;
    cluster.applied(last.index).await;
    assert_eq!(cluster.replicas[old].sums.get("k"), 3);
    let back = cluster.replicas[old].replica();
    assert_eq!(back.propose(add("k", 1)).await.unwrap().outcome, "4");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_whose_process_is_gone_is_not_waited_for() {
    // With slow timers, nobody loses leadership by a slow machine meanwhile.
    let mut cluster = TestCluster::three_with(|config| config.timing_multiplier = 10).await;
    let leader = cluster.leader().await;
    for replica in cluster.running() {
        replica.elect(false);
    }
    cluster.replicas[leader].kill().await;
    let next = cluster.leader().await;
    assert_ne!(next, leader);
    assert!(cluster.replicas[next].replica().metrics().successions > 0);
    cluster.replicas[next].add("k", 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_led_does_not_lack_a_leader_for_as_long_as_it_led() {
    let cluster = TestCluster::three().await;
    let leader = &cluster.replicas[cluster.lasting_leader().await];
    let begin = Instant::now();
    // The contact is kept in whole milliseconds.
    let later = begin + Duration::from_millis(1);
    let answered = |now: &Status| now.is_leader() && now.last_leader_contact > later;
    leader.until("answers of a quorum", answered).await;
    let contact = leader.replica().core().contact.last();
    assert!(contact > begin, "it would count from before it led");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leadership_stays_when_it_is_to_go_to_a_replica_that_is_gone() {
    let mut cluster = TestCluster::three().await;
    let leader = cluster.lasting_leader().await;
    let gone = (leader + 1) % 3;
    let id = cluster.replicas[gone].id();
    cluster.replicas[gone].kill().await;
    let leading = &cluster.replicas[leader];
    let refused = leading.replica().transfer_leadership(Some(id), &[]).await;
    let refused = refused.unwrap_err().to_string();
    assert!(refused.contains("does not answer the leader"), "{refused}");
    assert!(leading.replica().status().borrow().is_leader());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_too_far_behind_catches_up_from_a_snapshot() {
    let mut cluster = TestCluster::three_with(|config| {
        config.snapshot_every = 40;
        config.log_kept = 5;
    })
    .await;
    let leader = cluster.leader().await;
    let away = (leader + 1) % 3;
    cluster.replicas[away].kill().await;
    let sender = &cluster.replicas[leader];
    let missed = sender.add("k0", 1).await.index;
    for i in 0..200 {
        sender.add(&format!("k{}", i % 10), 1).await;
    }
    let last = cluster.purge(missed).await;
    cluster.replicas[away].start().await;
    cluster.applied(last).await;
    let expected = cluster.replicas[leader].sums.all();
    assert_eq!(cluster.replicas[away].sums.all(), expected);
    let metrics = cluster.replicas[away].replica().metrics();
    assert!(metrics.snapshots_installed > 0);
    let after = cluster.replicas[away].add("k0", 1).await;
    cluster.applied(after.index).await;
    // The installed state is durable: it is there after another start.
    cluster.replicas[away].kill().await;
    cluster.replicas[away].start().await;
    cluster.applied(after.index).await;
    assert_eq!(
        cluster.replicas[away].sums.all(),
        cluster.replicas[leader].sums.all()
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_stops_hands_over_first() {
    // Nobody stands for election on its own within 5 s.
    let mut cluster = TestCluster::three_with(|config| config.timing_multiplier = 10).await;
    let leader = cluster.leader().await;
    let other = (leader + 1) % 3;
    let before = cluster.replicas[other].replica().status().borrow().term;
    cluster.replicas[leader].stop().await;
    let started = Instant::now();
    cluster.replicas[other].add("k", 1).await;
    let gap = started.elapsed();
    assert!(gap < Duration::from_secs(5), "a gap of {gap:?}");
    let now = cluster.replicas[other]
        .until("the next term", |now| now.term > before)
        .await;
    assert!(now.quorum(Instant::now()).voters == 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_whose_clock_is_off_steps_back() {
    let mut cluster = TestCluster::three().await;
    let leader = cluster.leader().await;
    let id = cluster.replicas[leader].id();
    cluster.replicas[leader].stop().await;
    cluster.replicas[leader].config.clock = clock_ahead(10_000);
    cluster.replicas[leader].start().await;
    let shifted = &cluster.replicas[leader];
    shifted.until("a leader", |now| now.leader.is_some()).await;
    // Whoever leads now may hand over to it; it must not keep the leadership.
    let handed = timeout(PATIENCE, async {
        while shifted.replica().metrics().clock_handovers == 0 {
            let _ = shifted.replica().transfer_leadership(Some(id), &[]).await;
            tokio::task::yield_now().await;
        }
    });
    handed.await.expect("a handover because of the clock");
    shifted
        .until("another leader", |now| {
            now.leader.is_some_and(|leader| leader != id)
        })
        .await;
    let ahead = cluster.replicas[(leader + 1) % 3]
        .until("the other clock", |now: &Status| {
            now.member(id)
                .and_then(|member| member.clock_ahead_ms)
                .is_some_and(|ms| ms > 5000)
        })
        .await;
    assert!(ahead.member(id).is_some());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_clock_that_is_far_ahead_does_not_get_into_the_replicated_time() {
    const HOUR_MS: u64 = 60 * 60 * 1000;
    let mut cluster = TestCluster::three().await;
    let leader = cluster.leader().await;
    let id = cluster.replicas[leader].id();
    cluster.replicas[leader].stop().await;
    cluster.replicas[leader].config.clock = clock_ahead(HOUR_MS);
    cluster.replicas[leader].start().await;
    let shifted = &cluster.replicas[leader];
    shifted
        .until("the other clocks", |now| {
            let off = |member: &MemberStatus| member.clock_ahead_ms.is_some();
            now.leader.is_some() && now.members.iter().filter(|member| off(member)).count() == 2
        })
        .await;
    // It may be made leader; it stamps nothing then.
    let _ = shifted.replica().transfer_leadership(Some(id), &[]).await;
    shifted.add("k", 1).await;
    let ahead_ms = shifted.sums.now_ms() - clock_ahead(0).now_ms();
    assert!(ahead_ms < 60_000, "{ahead_ms}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_clock_against_one_does_not_make_the_replicated_time_leap() {
    const DAY_MS: u64 = 24 * 60 * 60 * 1000;
    let mut cluster = TestCluster::three().await;
    let leader = cluster.leader().await;
    let id = cluster.replicas[leader].id();
    // What it proposes below will be refused; it gives up soon.
    let other = (leader + 1) % 3;
    cluster.replicas[other].stop().await;
    cluster.replicas[other].config.request_timeout = Duration::from_secs(5);
    cluster.replicas[other].start().await;
    // A command gives the replicated time something to leap from.
    let first = cluster.replicas[leader].add("k", 1).await;
    cluster.replicas[leader].stop().await;
    cluster.replicas[leader].config.clock = clock_ahead(DAY_MS);
    cluster.replicas[leader].start().await;
    cluster.applied(first.index).await;
    // With the third, there would be a majority against the clock that is ahead.
    let (third, third_id) = ((leader + 2) % 3, cluster.replicas[(leader + 2) % 3].id());
    cluster.replicas[third].kill().await;
    let shifted = &cluster.replicas[leader];
    shifted
        .until("silence of the third", |now| {
            let heard = now.member(third_id);
            heard.is_some_and(|third| !third.answered(now.reachable_within, Instant::now()))
                && now.leader.is_some_and(|leader| leader != third_id)
        })
        .await;
    // An election may put the other one in between again, and its clock is right.
    let refused = timeout(PATIENCE, async {
        loop {
            let _ = shifted.replica().transfer_leadership(Some(id), &[]).await;
            if !shifted.replica().status().borrow().is_leader() {
                tokio::task::yield_now().await;
                continue;
            }
            match cluster.replicas[other].replica().propose(add("k", 1)).await {
                Ok(_) => {}
                Err(refused) if refused.to_string().contains("no majority of clocks") => {
                    break refused;
                }
                Err(error) => println!("not the refusal that is waited for: {error}"),
            }
        }
    });
    let refused = refused.await.unwrap();
    assert!(!refused.is_outcome_unknown());
    let ahead_ms = cluster.replicas[other].sums.now_ms() - clock_ahead(0).now_ms();
    assert!(ahead_ms < 60_000, "{ahead_ms}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_spins_once_consensus_has_ended() {
    let configure = |config: &mut ReplicaConfig| config.request_timeout = Duration::from_secs(2);
    let cluster = TestCluster::single_with(configure).await;
    let replica = cluster.replicas[0].replica();
    let before = replica.metrics();
    // The machine halts on what it cannot read, and consensus ends with it.
    assert!(replica.propose("nonsense".into()).await.is_err());
    assert!(replica.read_index().await.is_err());
    let after = replica.metrics();
    let retries = after.proposal_retries - before.proposal_retries;
    assert!((1..100).contains(&retries), "{retries}");
    let rounds = after.read_rounds - before.read_rounds;
    assert!((1..100).contains(&rounds), "{rounds}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_whose_disk_is_nearly_full_takes_nothing_and_steps_back() {
    let cluster = TestCluster::three().await;
    let leader = cluster.leader().await;
    let id = cluster.replicas[leader].id();
    let disk = &cluster.replicas[leader].replica().core().disk;
    disk.note(true);
    cluster.replicas[leader].add("k", 1).await;
    cluster.replicas[(leader + 1) % 3]
        .until("another leader", |now| {
            // Whoever watches the real disk finds room on it every few seconds.
            disk.note(true);
            now.leader.is_some_and(|leader| leader != id)
        })
        .await;
}
