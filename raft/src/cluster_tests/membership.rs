//! Growing, shrinking, moving leadership.

use std::collections::{BTreeMap, BTreeSet};

use openraft::{EntryPayload, Membership};
use tokio::time::timeout;

use super::harness::{PATIENCE, TestCluster, patiently, voters};
use crate::{AdminError, Fatal, ReplicaId, Status};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_joiner_is_numbered_by_the_log_promoted_and_visible_everywhere() {
    let mut cluster = TestCluster::single().await;
    assert_eq!(cluster.replicas[0].id(), ReplicaId(1));
    cluster.replicas[0].add("k", 7).await;
    let joiner = cluster.joiner("b");
    let joined = cluster.join(joiner).await;
    assert!(joined.id().0 > 1);
    assert_eq!(joined.add("k", 1).await.outcome, "8");
    let id = joined.id();
    let seen = cluster.replicas[0]
        .until("the joiner", |now| now.member(id).is_some())
        .await;
    let member = seen.member(id).unwrap();
    assert_eq!(
        (member.name.as_str(), member.addr.as_str()),
        ("b", "b.test:1")
    );
    cluster
        .until_all("mutual answers", |now| {
            now.quorum(std::time::Instant::now()).reachable == 2
        })
        .await;
    let leader = cluster.leader().await;
    let status = cluster.replicas[leader]
        .until("contact", |now| {
            now.members.iter().any(|m| m.last_contact.is_some())
        })
        .await;
    assert_eq!(voters(&status), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_removed_replica_hears_of_it_and_the_others_go_on() {
    let mut cluster = TestCluster::three().await;
    let leader = cluster.leader().await;
    let follower = (leader + 1) % 3;
    // The leader itself: another one takes over and removes it.
    let removed = cluster.replicas[leader].id();
    let asked = cluster.replicas[follower].replica();
    let gone = patiently(async || asked.remove_member(removed, None).await);
    gone.await.unwrap();
    let fatal = timeout(PATIENCE, cluster.replicas[leader].replica().fatal()).await;
    assert_eq!(fatal.unwrap(), Fatal::Removed);
    cluster.replicas[leader].kill().await;
    cluster.replicas.remove(leader);
    cluster
        .until_all("two voters", |now| voters(now) == 2 && !now.joint)
        .await;
    cluster.replicas[0].add("k", 1).await;
    let again = cluster.replicas[0]
        .replica()
        .remove_member(removed, None)
        .await;
    assert_eq!(again, Ok(()));
    let unknown = cluster.replicas[0]
        .replica()
        .remove_member(ReplicaId(999_999), None)
        .await;
    assert!(
        matches!(unknown, Err(AdminError::Refused { .. })),
        "{unknown:?}"
    );
    // Down to one, which then is the last.
    let leader = cluster.leader().await;
    let last = cluster.replicas[leader].id();
    let other = cluster.replicas[1 - leader].id();
    let asked = cluster.replicas[leader].replica();
    let gone = patiently(async || asked.remove_member(other, None).await);
    gone.await.unwrap();
    let refused = cluster.replicas[leader]
        .replica()
        .remove_member(last, None)
        .await;
    assert!(
        matches!(refused, Err(AdminError::Refused { .. })),
        "{refused:?}"
    );
    cluster.replicas[leader].add("k", 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leadership_moves_on_request_from_any_replica() {
    let cluster = TestCluster::three().await;
    // Nobody else takes over when a transfer takes long.
    cluster.lasting_leader().await;
    for round in 0..3 {
        let to = cluster.replicas[round].id();
        let asked = cluster.replicas[(round + 1) % 3].replica();
        let moved = patiently(async || asked.transfer_leadership(Some(to), &[]).await);
        assert_eq!(moved.await, Ok(to));
        cluster.replicas[round]
            .until("leadership", Status::is_leader)
            .await;
    }
    let anywhere = cluster.replicas[0]
        .replica()
        .transfer_leadership(None, &[])
        .await
        .unwrap();
    assert_ne!(anywhere, cluster.replicas[2].id());
    let nobody = cluster.replicas[0]
        .replica()
        .transfer_leadership(Some(ReplicaId(77)), &[])
        .await;
    assert!(
        matches!(nobody, Err(AdminError::Refused { .. })),
        "{nobody:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_membership_change_left_half_way_is_finished_by_whoever_leads() {
    let cluster = TestCluster::three().await;
    let leader = &cluster.replicas[cluster.lasting_leader().await];
    // Commits the last change of the set-up with it.
    leader.add("k", 1).await;
    let stored = leader.replica().core().effective_membership();
    let all: BTreeSet<u64> = stored.voter_ids().collect();
    let kept: BTreeSet<u64> = all.iter().copied().take(2).collect();
    let members: BTreeMap<_, _> = stored
        .membership()
        .nodes()
        .map(|(id, member)| (*id, member.clone()))
        .collect();
    let joint = Membership::new(vec![all, kept], members).unwrap();
    let raft = &leader.replica().core().raft;
    raft.append_membership(joint, EntryPayload::Blank, [])
        .await
        .unwrap();
    // What the joint configuration was on its way to, and the one left out is promoted again.
    leader
        .until("three voters again", |now| !now.joint && voters(now) == 3)
        .await;
    let finished = leader.replica().core().effective_membership();
    assert!(finished.log_id() > stored.log_id());
    leader.add("k", 1).await;
}
