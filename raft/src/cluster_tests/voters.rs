//! Who votes: promotion, demotion, replacement, and what would cost the quorum.

use std::collections::{BTreeMap, BTreeSet};

use hydrascale_proto::raft::v1::{Admin, RemoveReplica, SetVoting, admin};
use openraft::{EntryPayload, Membership};
use tokio::time::timeout;

use super::harness::{PATIENCE, TestCluster, TestReplica, patiently, voters};
use crate::{AdminError, Fatal, Replica, ReplicaId, StartError, Status};

fn is_learner(status: &Status, id: ReplicaId) -> bool {
    let member = status.member(id);
    member.is_some_and(|member| !member.voter && member.non_voting) && !status.joint
}

fn is_voter(status: &Status, id: ReplicaId) -> bool {
    status.member(id).is_some_and(|member| member.voter) && !status.joint
}

fn reason(done: Result<(), AdminError>) -> String {
    match done {
        Err(AdminError::Refused { reason }) => reason,
        other => panic!("not refused: {other:?}"),
    }
}

impl TestCluster {
    /// Takes the running replica with this id out of the test's hands.
    fn take(&mut self, id: ReplicaId) -> TestReplica {
        let at = self.running().position(|replica| replica.id() == id);
        self.replicas.remove(at.unwrap())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_demoted_voter_follows_without_a_vote_until_it_is_promoted() {
    let cluster = TestCluster::three().await;
    // The leader as well: another one takes over first.
    let leader = cluster.leader().await;
    let id = cluster.replicas[leader].id();
    let asked = cluster.replicas[(leader + 1) % 3].replica();
    for _ in 0..2 {
        let demoted = patiently(async || asked.set_voting(id, false, None).await);
        demoted.await.unwrap();
    }
    cluster
        .until_all("two voters", |now| voters(now) == 2 && is_learner(now, id))
        .await;
    let refused = asked.transfer_leadership(Some(id), &[]).await;
    assert_eq!(
        refused,
        Err(AdminError::Refused {
            reason: format!("replica {id} does not vote: only a voter can lead")
        })
    );
    let sum = cluster.replicas[leader].add("k", 3).await;
    assert_eq!(sum.outcome, "3", "it still serves");
    for _ in 0..2 {
        asked.set_voting(id, true, None).await.unwrap();
    }
    cluster
        .until_all("three voters", |now| voters(now) == 3 && !now.joint)
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_joiner_that_wants_no_vote_serves_as_a_learner() {
    let mut cluster = TestCluster::single().await;
    let mut joiner = cluster.joiner("b");
    joiner.config.non_voting = true;
    let token = cluster.token().await;
    let id = Replica::join_cluster(&joiner.config, &token).await.unwrap();
    joiner.start().await;
    joiner.until("a place", |now| is_learner(now, id)).await;
    assert_eq!(joiner.add("k", 2).await.outcome, "2");
    cluster.replicas.push(joiner);
    cluster
        .until_all("a learner", |now| is_learner(now, id))
        .await;
    let stays = cluster.replicas[0]
        .replica()
        .remove_member(ReplicaId(1), None);
    let stays = reason(stays.await);
    assert!(stays.contains("the last voter"), "{stays}");
    let asked = cluster.replicas[1].replica();
    asked.set_voting(id, true, None).await.unwrap();
    cluster.until_all("a vote", |now| is_voter(now, id)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_replica_takes_the_place_of_a_dead_one_and_its_name() {
    let mut cluster = TestCluster::three().await;
    let leader = cluster.leader().await;
    let dead = cluster.replicas[(leader + 1) % 3].id();
    let mut gone = cluster.take(dead);
    gone.kill().await;
    let asked = cluster.replicas[0].replica();
    let token = asked.create_join_token(PATIENCE, Some(dead)).await.unwrap();
    let mut joiner = cluster.joiner(&gone.config.name);
    let id = Replica::join_cluster(&joiner.config, &token).await.unwrap();
    joiner.start().await;
    joiner.until("a vote", |now| is_voter(now, id)).await;
    cluster.replicas.push(joiner);
    cluster
        .until_all("three voters", |now| {
            voters(now) == 3 && !now.joint && now.members.len() == 3
        })
        .await;
    let tokens = cluster.replicas[0].replica().join_tokens().await.unwrap();
    let spent = tokens.iter().find(|known| known.id == token.id()).unwrap();
    assert_eq!((spent.used_by, spent.replaces), (Some(id), Some(dead)));
    let late = cluster.replicas[0].replica();
    let late = late.create_join_token(PATIENCE, Some(dead)).await;
    assert!(matches!(late, Err(AdminError::Refused { .. })), "{late:?}");

    // Back from the dead, it hears what has become of it, and knows it from then on.
    gone.start().await;
    let told = timeout(PATIENCE, gone.replica().fatal()).await.unwrap();
    assert_eq!(told, Fatal::Removed);
    assert!(
        told.to_string().contains("delete its data folder"),
        "{told}"
    );
    gone.kill().await;
    let refused = gone.try_start().await.unwrap_err();
    assert!(matches!(refused, StartError::Removed { .. }), "{refused}");
    assert!(
        refused.to_string().contains("delete the folder"),
        "{refused}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_learner_takes_the_place_of_the_leader() {
    let mut cluster = TestCluster::three().await;
    let mut joiner = cluster.joiner("d");
    joiner.config.non_voting = true;
    let token = cluster.token().await;
    let with = joiner.join(&token).await;
    joiner.start().await;
    joiner.until("a place", |now| is_learner(now, with)).await;
    cluster.replicas.push(joiner);
    let leader = cluster.leader().await;
    let old = cluster.replicas[leader].id();
    let asked = cluster.replicas[3].replica();
    for _ in 0..2 {
        let replaced = patiently(async || asked.replace_member(old, with, None).await);
        replaced.await.unwrap();
    }
    let told = timeout(PATIENCE, cluster.replicas[leader].replica().fatal()).await;
    assert_eq!(told.unwrap(), Fatal::Removed);
    cluster.take(old).kill().await;
    cluster
        .until_all("the swap", |now| {
            voters(now) == 3 && is_voter(now, with) && now.removed == [old]
        })
        .await;
    let asked = cluster.replicas[0].replica();
    assert_eq!(asked.replace_member(old, with, None).await, Ok(()), "again");
    let first = cluster.replicas[0].id();
    let refused = reason(asked.replace_member(first, with, None).await);
    assert!(refused.contains("votes already"), "{refused}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_decided_on_another_membership_is_refused() {
    let mut cluster = TestCluster::three().await;
    let leader = cluster.leader().await;
    let status = |cluster: &TestCluster, at: usize| {
        let status = cluster.replicas[at].replica().status();
        let now = status.borrow();
        now.membership_index
    };
    let seen = status(&cluster, leader);
    let joiner = cluster.joiner("d");
    let id = cluster.join(joiner).await.id();
    let asked = cluster.replicas[leader].replica();
    let refused = reason(asked.remove_member(id, Some(seen)).await);
    assert!(refused.contains("the membership has changed"), "{refused}");
    let refused = reason(asked.set_voting(id, false, Some(seen)).await);
    assert!(refused.contains("the membership has changed"), "{refused}");
    let now = cluster.replicas[leader]
        .until("four voters", |now| voters(now) == 4 && !now.joint)
        .await;
    let seen_now = Some(now.membership_index);
    let done = patiently(async || asked.set_voting(id, false, seen_now).await);
    assert_eq!(done.await, Ok(()));
    // Done already, whatever it was decided on.
    assert_eq!(asked.set_voting(id, false, Some(seen)).await, Ok(()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_would_cost_the_quorum_is_refused_and_the_dead_may_go() {
    let mut cluster = TestCluster::three().await;
    let leader = cluster.leader().await;
    let (dead, alive) = (
        cluster.replicas[(leader + 1) % 3].id(),
        cluster.replicas[(leader + 2) % 3].id(),
    );
    cluster.take(dead).kill().await;
    let leader = cluster.leader().await;
    // At once: nothing has noticed the silence yet.
    let asked = cluster.replicas[leader].replica();
    for refused in [
        asked.remove_member(alive, None).await,
        asked.set_voting(alive, false, None).await,
    ] {
        let refused = reason(refused);
        assert!(refused.contains("2 voters of which 1 answer"), "{refused}");
        assert!(
            refused.contains(&format!("replica {dead} back")),
            "{refused}"
        );
    }
    let removed = patiently(async || asked.remove_member(dead, None).await);
    removed.await.unwrap();
    cluster
        .until_all("two voters", |now| voters(now) == 2 && !now.joint)
        .await;
    cluster.replicas[0].add("k", 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_joint_configuration_is_finished_by_the_next_leader_when_the_first_one_dies() {
    let mut cluster = TestCluster::three().await;
    let leader = cluster.lasting_leader().await;
    let id = cluster.replicas[leader].id();
    cluster.replicas[leader].add("k", 1).await;
    let first = cluster.replicas[leader].replica().clone();
    let core = first.core();
    // It will not finish what it begins here.
    let _turn = core.membership.lock().await;
    let stored = core.effective_membership();
    let all: BTreeSet<u64> = stored.voter_ids().collect();
    let kept: BTreeSet<u64> = all.iter().copied().filter(|voter| *voter != id.0).collect();
    let members: BTreeMap<_, _> = stored
        .membership()
        .nodes()
        .map(|(id, member)| (*id, member.clone()))
        .collect();
    let joint = Membership::new(vec![all, kept], members).unwrap();
    core.raft
        .append_membership(joint, EntryPayload::Blank, [])
        .await
        .unwrap();
    cluster.running().for_each(|replica| replica.elect(true));
    cluster.take(id).kill().await;
    cluster
        .until_all("the end of the change", |now| {
            voters(now) == 2 && !now.joint && now.leader.is_some_and(|leader| leader != id)
        })
        .await;
    cluster.replicas[0].add("k", 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_recorded_removal_waits_while_it_would_cost_the_quorum_and_is_made_then() {
    let mut cluster = TestCluster::three().await;
    let leader = cluster.lasting_leader().await;
    let (led, removed) = (
        cluster.replicas[leader].id(),
        cluster.replicas[(leader + 1) % 3].id(),
    );
    let first = cluster.replicas[leader].replica().clone();
    let core = first.core();
    // Dies between the record and the change.
    let turn = core.membership.lock().await;
    let op = admin::Op::RemoveReplica(RemoveReplica {
        replica_id: removed.0,
    });
    core.propose_admin(Admin { op: Some(op) }).await.unwrap();
    cluster.running().for_each(|replica| replica.elect(true));
    let mut dead = cluster.take(led);
    dead.kill().await;
    drop(turn);
    let leader = cluster.leader().await;
    cluster.replicas[leader].add("k", 1).await;
    assert_eq!(
        voters(&cluster.replicas[leader].replica().status().borrow()),
        3
    );
    // It is no refusal that it must wait, and shows.
    let asked = cluster.replicas[leader].replica();
    assert_eq!(asked.remove_member(removed, None).await, Ok(()));
    cluster
        .until_all("a pending removal", |now| {
            now.member(removed).is_some_and(|member| member.leaving)
        })
        .await;
    let late = reason(asked.set_voting(removed, true, None).await);
    assert!(late.contains("removed for good"), "{late}");
    // What it waits for is not held up: another voter.
    let joiner = cluster.joiner("d");
    cluster.join(joiner).await;
    let gone = cluster
        .replicas
        .iter()
        .find(|replica| replica.id() == removed);
    let told = timeout(PATIENCE, gone.unwrap().replica().fatal()).await;
    assert_eq!(told.unwrap(), Fatal::Removed);
    cluster.take(removed).kill().await;
    cluster
        .until_all("three voters", |now| {
            voters(now) == 3 && !now.joint && now.removed == [removed]
        })
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_finds_itself_demoted_hands_over() {
    let cluster = TestCluster::three().await;
    let leader = &cluster.replicas[cluster.leader().await];
    let id = leader.id();
    // As if it had won an election between the record and the change.
    let op = admin::Op::SetVoting(SetVoting {
        replica_id: id.0,
        voting: false,
    });
    let core = leader.replica().core();
    core.propose_admin(Admin { op: Some(op) }).await.unwrap();
    cluster
        .until_all("the demotion", |now| {
            voters(now) == 2 && is_learner(now, id)
        })
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_recorded_removals_one_of_a_dead_voter_do_not_lock_the_cluster_out() {
    let mut cluster = TestCluster::three().await;
    let leader = cluster.leader().await;
    let (led, mut others) = (cluster.replicas[leader].id(), Vec::new());
    others.extend(
        cluster
            .running()
            .map(TestReplica::id)
            .filter(|id| *id != led),
    );
    others.sort();
    let (alive, dead) = (others[0], others[1]);
    let first = cluster.replicas[leader].replica().clone();
    let core = first.core();
    // Interrupted between the records and the changes.
    let turn = core.membership.lock().await;
    cluster.take(dead).kill().await;
    for id in [alive, dead] {
        let op = admin::Op::RemoveReplica(RemoveReplica { replica_id: id.0 });
        core.propose_admin(Admin { op: Some(op) }).await.unwrap();
    }
    drop(turn);
    let told = cluster.running().find(|replica| replica.id() == alive);
    let told = timeout(PATIENCE, told.unwrap().replica().fatal()).await;
    assert_eq!(told.unwrap(), Fatal::Removed);
    cluster.take(alive).kill().await;
    cluster
        .until_all("one voter", |now| voters(now) == 1 && !now.joint)
        .await;
    cluster.replicas[0].add("k", 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_recorded_demotion_may_be_asked_for_again_while_it_waits() {
    let mut cluster = TestCluster::three().await;
    let leader = cluster.lasting_leader().await;
    let led = cluster.replicas[leader].id();
    let (demoted, dead) = (
        cluster.replicas[(leader + 1) % 3].id(),
        cluster.replicas[(leader + 2) % 3].id(),
    );
    let first = cluster.replicas[leader].replica().clone();
    let core = first.core();
    let turn = core.membership.lock().await;
    cluster.take(dead).kill().await;
    let op = admin::Op::SetVoting(SetVoting {
        replica_id: demoted.0,
        voting: false,
    });
    core.propose_admin(Admin { op: Some(op) }).await.unwrap();
    drop(turn);
    assert_eq!(first.set_voting(demoted, false, Some(1)).await, Ok(()));
    let still = |now: &Status| {
        let member = now.member(demoted);
        member.is_some_and(|member| member.voter && member.non_voting)
    };
    cluster.until_all("a pending demotion", still).await;
    let leads = |now: &Status| now.leader == Some(led);
    cluster.until_all("the same leader", leads).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_place_of_a_joiner_that_never_came_is_free_once_it_is_removed() {
    let mut cluster = TestCluster::single().await;
    let own = cluster.replicas[0].id();
    let asked = cluster.replicas[0].replica().clone();
    let token = asked.create_join_token(PATIENCE, Some(own)).await.unwrap();
    let mut lost = cluster.joiner("b");
    let id = Replica::join_cluster(&lost.config, &token).await.unwrap();
    let command = format!("`cluster remove {id}`");
    let taken = asked.create_join_token(PATIENCE, Some(own)).await;
    let taken = reason(taken.map(drop));
    assert!(taken.contains(&command), "{taken}");
    let spent = reason(asked.revoke_join_token(token.id()).await);
    assert!(spent.contains(&command), "{spent}");
    for _ in 0..2 {
        assert_eq!(asked.remove_member(id, None).await, Ok(()));
    }
    asked.create_join_token(PATIENCE, Some(own)).await.unwrap();
    lost.start().await;
    let told = timeout(PATIENCE, lost.replica().fatal()).await;
    assert_eq!(told.unwrap(), Fatal::Removed);
    cluster.replicas.push(lost);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leadership_is_not_left_to_one_that_is_to_lose_its_vote() {
    let cluster = TestCluster::three().await;
    let leader = cluster.lasting_leader().await;
    let (demoted, other) = (
        cluster.replicas[(leader + 1) % 3].id(),
        cluster.replicas[(leader + 2) % 3].id(),
    );
    let own = cluster.replicas[leader].id();
    let core = cluster.replicas[leader].replica().core();
    let _turn = core.membership.lock().await;
    let op = admin::Op::SetVoting(SetVoting {
        replica_id: demoted.0,
        voting: false,
    });
    core.propose_admin(Admin { op: Some(op) }).await.unwrap();
    let moving = async {
        loop {
            let moved = core.move_leadership(None, &[]).await;
            // One that came to nothing here may succeed later.
            let led = cluster.replicas[leader].replica().status().borrow().leader;
            match (moved, led) {
                (Ok(to), _) => break ReplicaId(to),
                (Err(_), Some(to)) if to != own => break to,
                (Err(_), _) => tokio::task::yield_now().await,
            }
        }
    };
    let to = timeout(PATIENCE, moving).await.expect("a transfer");
    assert_eq!(to, other);
}
