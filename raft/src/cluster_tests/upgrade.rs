//! Replicas of two versions in one cluster: a replica whose highest feature level is 1 does and sends
//! what the version before did.

use std::time::{Duration, Instant};

use hydrascale_proto::raft::v1::{Admin, RaiseLevel, admin};
use tokio::time::timeout;

use super::harness::{PATIENCE, TestCluster, add, refused};
use crate::{
    AdminError, Fatal, LevelError, Levels, ProposeError, Replica, ReplicaConfig, StartError, Status,
};

/// The version before.
const OLD: Levels = Levels { min: 1, max: 1 };
/// This version.
const NEW: Levels = Levels { min: 1, max: 2 };

/// Three replicas of the version before; the new one is raised to at once when all have it.
async fn old_cluster(configure: impl Fn(&mut ReplicaConfig)) -> TestCluster {
    let cluster = TestCluster::three_with(|config| {
        config.levels = OLD;
        config.upgrade_after = Duration::ZERO;
        configure(config);
    })
    .await;
    cluster
        .until_all("level 1", |now| now.level == Some(1))
        .await;
    cluster
}

/// Stops one replica and starts it again with `levels`, while another goes on proposing.
async fn restart(cluster: &mut TestCluster, at: usize, levels: Levels) {
    let (before, rest) = cluster.replicas.split_at_mut(at);
    let (restarted, after) = rest.split_first_mut().unwrap();
    let other = before.first().or_else(|| after.first()).unwrap();
    let id = restarted.id();
    let restarting = async {
        restarted.stop().await;
        restarted.config.levels = levels;
        restarted.start().await;
    };
    let proposing = async {
        for _ in 0..20 {
            other.add("k", 1).await;
        }
    };
    tokio::join!(restarting, proposing);
    // Each hears it of each: whoever leads then decides by it.
    cluster
        .until_all("the new range", |now| {
            now.members.iter().all(|member| member.levels.is_some())
                && now.member(id).and_then(|member| member.levels) == Some(levels)
        })
        .await;
}

/// Lets each replica lead once and all propose.
async fn lead_in_turn(cluster: &TestCluster) {
    for at in 0..cluster.replicas.len() {
        cluster.lead(at).await;
        for proposer in &cluster.replicas {
            proposer.add("k", 1).await;
        }
    }
}

/// Asks one replica for the raise, again when the machine was too slow for a probe.
async fn finalize(cluster: &TestCluster, at: usize) -> Result<u32, String> {
    let asking = async {
        loop {
            match cluster.replicas[at].replica().raise_level().await {
                Ok(level) => return Ok(level),
                Err(error) if error.to_string().contains("does not answer") => {}
                Err(error) => return Err(error.to_string()),
            }
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, asking).await.unwrap()
}

fn too_old(started: Result<&Replica, StartError>) -> String {
    match started {
        Err(StartError::Level(error @ LevelError::TooOld { .. })) => error.to_string(),
        other => panic!("not refused: {other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replicas_upgraded_one_by_one_go_on_and_then_the_level_rises_by_itself() {
    let mut cluster = old_cluster(|_| {}).await;
    for at in 0..2 {
        restart(&mut cluster, at, NEW).await;
        lead_in_turn(&cluster).await;
        assert_eq!(
            cluster.replicas[at].replica().status().borrow().level,
            Some(1)
        );
    }
    restart(&mut cluster, 2, NEW).await;
    cluster
        .until_all("level 2", |now| now.level == Some(2))
        .await;
    lead_in_turn(&cluster).await;
    let last = cluster.replicas[0].add("k", 0).await;
    assert_eq!(last.outcome, (3 * 20 + 3 * 9).to_string());
    cluster.applied(last.index).await;
    for replica in &cluster.replicas {
        assert_eq!(replica.sums.get("k"), 3 * 20 + 3 * 9);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_step_back_is_possible_until_the_level_is_raised_by_command() {
    // One that wants to be asked is enough.
    let mut cluster = old_cluster(|config| config.auto_upgrade = config.name != "b").await;
    for at in 0..3 {
        restart(&mut cluster, at, NEW).await;
    }
    let back = &mut cluster.replicas[2];
    back.stop().await;
    back.config.levels = OLD;
    back.start().await;
    // What others heard of it last was of the new version.
    let reason = finalize(&cluster, 0).await.unwrap_err();
    assert!(
        reason.contains("(c) supports no feature level above 1"),
        "{reason}"
    );
    lead_in_turn(&cluster).await;
    restart(&mut cluster, 2, NEW).await;
    assert_eq!(finalize(&cluster, 2).await, Ok(2));
    assert_eq!(finalize(&cluster, 1).await, Ok(2), "asked again");
    cluster
        .until_all("level 2", |now| now.level == Some(2))
        .await;

    let back = &mut cluster.replicas[0];
    back.stop().await;
    back.config.levels = OLD;
    let reason = too_old(back.try_start().await);
    assert!(
        reason.contains("feature level 2") && reason.contains("start it with"),
        "{reason}"
    );
    back.config.levels = NEW;
    back.start().await;
    lead_in_turn(&cluster).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_above_the_level_is_in_no_log_before_the_level_is_raised() {
    let mut cluster = old_cluster(|config| config.auto_upgrade = false).await;
    for at in 0..2 {
        restart(&mut cluster, at, NEW).await;
    }
    let newer = || add("new", 1);
    for replica in &cluster.replicas {
        let proposed = replica.replica().propose_traced(newer(), 2, "").await;
        let expected = ProposeError::Level {
            needed: 2,
            active: 1,
        };
        assert_eq!(proposed, Err(expected));
    }
    restart(&mut cluster, 2, NEW).await;
    assert_eq!(finalize(&cluster, 0).await, Ok(2));
    let mut last = 0;
    for replica in &cluster.replicas {
        // Who has not applied the raise yet refuses, as before.
        replica.until("level 2", |now| now.level == Some(2)).await;
        let proposed = replica.replica().propose_traced(newer(), 2, "").await;
        last = proposed.unwrap().index;
    }
    cluster.applied(last).await;
    for replica in &cluster.replicas {
        assert_eq!(replica.sums.get("new"), 3);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_that_goes_back_in_the_moment_of_the_raise_ends_and_says_why() {
    let mut cluster = old_cluster(|config| config.auto_upgrade = false).await;
    for at in 0..3 {
        restart(&mut cluster, at, NEW).await;
    }
    cluster.replicas[2].kill().await;
    // As decided on its last answer, a moment before.
    let op = admin::Op::RaiseLevel(RaiseLevel { to: 2 });
    let core = cluster.replicas[0].replica().core();
    core.propose_admin(Admin { op: Some(op) }).await.unwrap();
    let back = &mut cluster.replicas[2];
    back.config.levels = OLD;
    back.start().await;
    let fatal = timeout(PATIENCE, back.replica().fatal()).await.unwrap();
    assert!(fatal.to_string().contains("has feature level 2"), "{fatal}");
    back.kill().await;
    back.config.levels = NEW;
    back.start().await;
    back.until("level 2", |now| now.level == Some(2)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_silent_replica_holds_the_level_and_is_named() {
    let mut cluster = old_cluster(|config| config.auto_upgrade = false).await;
    for at in 0..3 {
        restart(&mut cluster, at, NEW).await;
    }
    cluster.replicas[2].kill().await;
    let silent = |now: &Status| now.quorum(Instant::now()).reachable == 2;
    cluster.until_all("one to be silent", silent).await;
    let raised = cluster.replicas[0].replica().raise_level().await;
    let Err(AdminError::Refused { reason }) = raised else {
        panic!("raised past a silent replica: {raised:?}");
    };
    assert!(reason.contains("(c) does not answer"), "{reason}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn joiners_of_either_version_fit_a_lower_level_and_old_ones_are_refused_above_it() {
    let mut cluster = TestCluster::single_with(|config| {
        config.levels = OLD;
        config.auto_upgrade = false;
    })
    .await;
    let joiner = cluster.joiner("b");
    assert_eq!(joiner.config.levels, NEW);
    cluster.join(joiner).await;
    let mut joiner = cluster.joiner("c");
    joiner.config.levels = OLD;
    cluster.join(joiner).await;
    for at in [0, 2] {
        restart(&mut cluster, at, NEW).await;
    }
    // Admitted by its token, but no member yet: it has no say in the raise.
    let mut late = cluster.joiner("d");
    late.config.levels = OLD;
    let token = cluster.token().await;
    Replica::join_cluster(&late.config, &token).await.unwrap();
    assert_eq!(finalize(&cluster, 0).await, Ok(2));
    late.start().await;
    let fatal = timeout(PATIENCE, late.replica().fatal()).await.unwrap();
    assert!(matches!(fatal, Fatal::Level(_)), "{fatal}");

    let mut joiner = cluster.joiner("e");
    joiner.config.levels = OLD;
    let token = cluster.token().await;
    let reason = refused(Replica::join_cluster(&joiner.config, &token).await);
    assert!(reason.contains("feature level 2"), "{reason}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_cluster_begins_at_the_highest_level_of_its_first_replica() {
    let cluster = TestCluster::single().await;
    cluster
        .until_all("level 2", |now| now.level == Some(2))
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn certificates_and_their_authority_are_replaced_above_the_first_level_only() {
    let mut cluster = TestCluster::single_with(|config| {
        config.levels = OLD;
        config.auto_upgrade = false;
    })
    .await;
    let single = &mut cluster.replicas[0];
    // A cluster that has not recorded itself yet begins at what its first replica then supports.
    let known = |now: &Status| now.level == Some(1) && now.authority.is_some();
    single.until("level 1", known).await;
    single.stop().await;
    single.config.levels = NEW;
    single.start().await;
    single.until("level 1", known).await;
    let replica = single.replica();
    let authority = replica.status().borrow().authority.clone().unwrap().sha256;
    let refused = [
        replica.renew_certificates(&[]).await,
        replica.rotate_authority(&authority).await,
    ];
    for refused in refused {
        let reason = refused.unwrap_err().to_string();
        assert!(reason.contains("needs feature level 2"), "{reason}");
    }
    assert_eq!(finalize(&cluster, 0).await, Ok(2));
    let replica = cluster.replicas[0].replica();
    replica.renew_certificates(&[]).await.unwrap();
    replica.rotate_authority(&authority).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn snapshots_go_from_either_version_to_the_other() {
    let mut cluster = old_cluster(|config| {
        config.auto_upgrade = false;
        config.snapshot_every = 20;
        config.log_kept = 0;
    })
    .await;
    restart(&mut cluster, 0, NEW).await;
    // The new one sends to an old one, then the old one to the new one.
    for (from, to) in [(0, 1), (1, 0)] {
        cluster.lead(from).await;
        cluster.replicas[to].kill().await;
        let sender = &cluster.replicas[from];
        let missed = sender.add("k", 1).await.index;
        let last = cluster.purge(missed).await;
        let behind = &mut cluster.replicas[to];
        behind.start().await;
        behind.replica().wait_applied(last, PATIENCE).await.unwrap();
        assert!(behind.replica().metrics().snapshots_installed > 0);
        assert_eq!(behind.sums.all(), cluster.replicas[from].sums.all());
    }
}
