//! A backup of a running cluster, and the cluster that begins with it.

use futures::StreamExt;

use super::harness::{PATIENCE, Sums, TestCluster, voters};
use crate::{Replica, ReplicaId, Status, restore};

async fn backup(replica: &Replica) -> Vec<u8> {
    replica.read_index().await.unwrap();
    let mut stream = replica.backup().unwrap();
    let mut bytes = Vec::new();
    while let Some(chunk) = stream.next().await {
        bytes.extend_from_slice(&chunk.unwrap());
    }
    bytes
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restored_cluster_has_what_was_acknowledged_and_grows_again() {
    let mut old = TestCluster::three().await;
    for value in 1..=50 {
        old.replicas[value % 3].add("k", 1).await;
    }
    let follower = (old.leader().await + 1) % 3;
    let file = backup(old.replicas[follower].replica()).await;
    let old_ids: Vec<ReplicaId> = old.running().map(|replica| replica.id()).collect();
    // All machines are gone.
    for replica in &mut old.replicas {
        replica.kill().await;
    }

    let mut new = old.joiner("new");
    let restored = restore(&new.config, file.as_slice(), &Sums::default()).unwrap();
    assert!(old_ids.iter().all(|old| *old < restored.replica));
    new.start().await;
    new.until("leadership", Status::is_leader).await;
    assert_eq!(new.id(), restored.replica);
    assert_eq!(new.replica().cluster_id(), restored.cluster_id);
    assert_eq!(new.sums.get("k"), 50);
    new.add("k", 1).await;
    new.until("the old ones as removed", |now| {
        old_ids.iter().all(|id| now.removed.contains(id))
    })
    .await;

    let mut cluster = TestCluster {
        overrides: old.overrides.clone(),
        replicas: vec![new],
    };
    for name in ["newer", "newest"] {
        let joiner = cluster.joiner(name);
        cluster.join(joiner).await;
    }
    cluster
        .until_all("three voters", |now| voters(now) == 3)
        .await;
    let index = cluster.replicas[2].add("k", 1).await.index;
    cluster.applied(index).await;
    for replica in &cluster.replicas {
        assert_eq!(replica.sums.get("k"), 52);
    }
    // It survives a restart, and the loss of its first replica.
    cluster.replicas[0].stop().await;
    cluster.leader().await;
    cluster.replicas[1].add("k", 1).await;
    cluster.replicas[0].start().await;
    let index = cluster.replicas[0].add("k", 1).await.index;
    cluster.replicas[0]
        .replica()
        .wait_applied(index, PATIENCE)
        .await
        .unwrap();
    assert_eq!(cluster.replicas[0].sums.get("k"), 54);
}
