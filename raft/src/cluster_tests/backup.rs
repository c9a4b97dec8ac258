//! A backup of a running cluster, and the cluster that begins with it.

use std::fs;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use tokio::net::TcpListener;

use super::harness::{PATIENCE, Sums, TestCluster, voters};
use crate::{
    Heard, ReadError, RecoverError, Recovered, Replica, ReplicaConfig, ReplicaId, StateMachine,
    Status, examine, is_broken_off, recover, restore,
};

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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_that_is_read_more_slowly_than_it_is_written_is_whole() {
    let cluster = TestCluster::single().await;
    // More than may wait between writer and reader, and nothing that gets smaller.
    for _ in 0..120 {
        let random: String = (0..2000)
            .map(|_| uuid::Uuid::new_v4().simple().to_string())
            .collect();
        cluster.replicas[0].add(&random, 1).await;
    }
    let replica = cluster.replicas[0].replica();
    replica.read_index().await.unwrap();
    let mut stream = replica.backup().unwrap();
    let mut chunks = 0;
    while let Some(chunk) = stream.next().await {
        chunk.unwrap();
        chunks += 1;
        // The writer is ahead by as much as it may be.
        for _ in 0..10_000 {
            tokio::task::yield_now().await;
        }
    }
    assert!(chunks > 5, "{chunks}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_of_three_goes_on_alone_with_all_that_is_in_its_log() {
    let mut old = TestCluster::three().await;
    for _ in 0..20 {
        let index = old.replicas[0].add("k", 1).await.index;
        old.applied(index).await;
    }
    let config = old.replicas[1].config.clone();
    old.replicas[1].kill().await;
    let loss = examine(&config).await.unwrap();
    assert_eq!(loss.others.len(), 2);
    assert!(
        loss.others
            .iter()
            .all(|other| other.heard == Heard::Itself && other.voter)
    );
    for index in [0, 2] {
        old.replicas[index].kill().await;
    }
    let loss = examine(&config).await.unwrap();
    assert!(loss.others.iter().all(|other| !other.heard.is_company()));
    assert!(loss.last_index >= loss.applied_index && loss.leader.is_some());

    let recovered = go_on_alone(&config).unwrap();
    assert_ne!(recovered.cluster_id, loss.cluster_id);
    assert!(recovered.replica.0 > loss.last_index);
    assert!(recovered.kept.join("identity.json").exists());
    assert!(!config.data_dir.join("recovering").exists());
    let alone = old.replicas[1].start().await;
    assert_eq!(alone.id(), recovered.replica);
    old.replicas[1].until("leadership", Status::is_leader).await;
    old.replicas[1].add("k", 1).await;
    assert_eq!(old.replicas[1].sums.get("k"), 21);
    // Another member of the old cluster is a stranger.
    old.replicas[2].config.request_timeout = Duration::from_secs(2);
    let stranger = old.replicas[2].start().await;
    let read = stranger.read_index().await.unwrap_err();
    assert!(matches!(read, ReadError::Unavailable { .. }), "{read}");
    assert_eq!(voters(&old.replicas[1].replica().status().borrow()), 1);
    old.replicas[1].kill().await;
    let again = examine(&config).await.unwrap_err();
    assert!(matches!(again, RecoverError::Alone { .. }), "{again}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_takes_connections_at_a_members_address_is_not_given_up() {
    let mut old = TestCluster::three().await;
    let config = old.replicas[0].config.clone();
    for replica in &mut old.replicas {
        replica.kill().await;
    }
    // The kernel takes connections for a process that stands still; a stranger breaks them off.
    let frozen = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let stranger = TcpListener::bind("127.0.0.1:0").await.unwrap();
    for (index, listener) in [(1, &frozen), (2, &stranger)] {
        let addr = listener.local_addr().unwrap().to_string();
        let member = old.replicas[index].config.advertise_addr.clone();
        old.overrides.set(&member, &addr);
    }
    let refuse = async {
        loop {
            drop(stranger.accept().await);
        }
    };
    let loss = tokio::select! {
        loss = examine(&config) => loss.unwrap(),
        () = refuse => unreachable!("it goes on for ever"),
    };
    let somebody = |heard: &Heard| matches!(heard, Heard::Somebody { .. });
    assert!(
        loss.others.iter().all(|other| somebody(&other.heard)),
        "{loss:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_recovery_that_was_broken_off_is_finished_wherever_it_stopped() {
    // After so many of the files of the old replica had been moved away.
    for moved in 0..=4 {
        let mut old = TestCluster::three().await;
        old.replicas[0].add("k", 7).await;
        let config = old.replicas[0].config.clone();
        for replica in &mut old.replicas {
            replica.kill().await;
        }
        go_on_alone(&config).map(drop).unwrap();
        undo(&config, moved);
        assert_eq!(is_broken_off(&config).unwrap(), moved > 0);
        go_on_alone(&config).unwrap();
        old.replicas[0].start().await;
        old.replicas[0].until("leadership", Status::is_leader).await;
        assert_eq!(old.replicas[0].sums.get("k"), 7, "{moved} moved");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_recovery_whose_note_is_torn_moves_nothing_and_says_what_to_write() {
    let mut old = TestCluster::three().await;
    let config = old.replicas[0].config.clone();
    for replica in &mut old.replicas {
        replica.kill().await;
    }
    let kept = go_on_alone(&config).unwrap().kept;
    let note = config.data_dir.join("recovering/kept-as");
    for torn in ["", "\n", "..", "a/b", "db", "recovering"] {
        undo(&config, 1);
        fs::write(&note, torn).unwrap();
        let refused = go_on_alone(&config).unwrap_err();
        let said = crate::fatal::chain(&refused);
        assert!(said.contains("write the name of a new folder"), "{said}");
        assert!(
            config.data_dir.join("db").exists() && !config.data_dir.join("identity.json").exists()
        );
        fs::write(&note, kept.file_name().unwrap().as_encoded_bytes()).unwrap();
        go_on_alone(&config).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_recovery_that_is_refused_leaves_the_replica_as_it_was() {
    let mut old = TestCluster::three().await;
    old.replicas[0].add("k", 7).await;
    let config = old.replicas[0].config.clone();
    for replica in &mut old.replicas {
        replica.kill().await;
    }
    let sums = Arc::new(Sums::default());
    let machine: Arc<dyn StateMachine> = sums.clone();
    let refused = recover(&config, &machine, || {
        Err(format!("it would begin with {}", sums.get("k")).into())
    });
    let refused = refused.unwrap_err();
    assert!(
        matches!(refused, RecoverError::Refused { .. }),
        "{refused:?}"
    );
    let said = crate::fatal::chain(&refused);
    assert!(said.ends_with("it would begin with 7"), "{said}");
    assert!(!is_broken_off(&config).unwrap());
    assert!(!config.data_dir.join("recovering").exists());
    for replica in &mut old.replicas {
        replica.start().await;
    }
    old.leader().await;
    old.replicas[0].add("k", 1).await;
    assert_eq!(old.replicas[0].sums.get("k"), 8);
}

/// Takes a finished recovery back to where `moved` parts of the old replica were out of the way.
fn undo(config: &ReplicaConfig, moved: usize) {
    let data = &config.data_dir;
    let (making, mut kept) = (data.join("recovering"), data.clone());
    let entries = fs::read_dir(data)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    kept.extend(
        entries
            .filter(|path| path.to_string_lossy().contains("lost-"))
            .take(1),
    );
    fs::create_dir(&making).unwrap();
    fs::write(
        making.join("kept-as"),
        kept.file_name().unwrap().as_encoded_bytes(),
    )
    .unwrap();
    for (at, part) in ["identity.json", "tls", "snap", "db"]
        .into_iter()
        .enumerate()
    {
        fs::rename(data.join(part), making.join(part)).unwrap();
        if at >= moved {
            fs::rename(kept.join(part), data.join(part)).unwrap();
        }
    }
}

fn go_on_alone(config: &ReplicaConfig) -> Result<Recovered, RecoverError> {
    let machine: Arc<dyn StateMachine> = Arc::new(Sums::default());
    recover(config, &machine, || Ok(()))
}
