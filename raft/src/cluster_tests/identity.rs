//! Tokens, folders and certificates that must be refused, and why.

use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;

use super::harness::{PATIENCE, Sums, TestCluster, refused};
use crate::{AdminError, InitError, JoinError, JoinToken, Replica, StartError};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tokens_admit_once_and_say_why_not() {
    let mut cluster = TestCluster::single().await;
    let token = cluster.token().await;
    let joiner = cluster.joiner("b");
    let id = Replica::join_cluster(&joiner.config, &token).await.unwrap();
    // Used.
    let other = cluster.joiner("c");
    let reason = refused(Replica::join_cluster(&other.config, &token).await);
    assert!(
        reason.contains(&format!("was used by replica {id} already")),
        "{reason}"
    );
    // Unknown, and the right one with a wrong secret.
    let unknown = JoinToken {
        token_id: "nonsense".to_owned(),
        ..token.clone()
    };
    let reason = refused(Replica::join_cluster(&other.config, &unknown).await);
    assert!(reason.contains("unknown"), "{reason}");
    let fresh = cluster.token().await;
    let guessed = JoinToken {
        secret: [0; 32],
        ..fresh.clone()
    };
    let before = cluster.replicas[0].replica().metrics().proposals_applied;
    let reason = refused(Replica::join_cluster(&other.config, &guessed).await);
    assert!(reason.contains("secret"), "{reason}");
    let after = cluster.replicas[0].replica().metrics().proposals_applied;
    assert_eq!(before, after, "guesses leave no entry in the log");
    // Revoked.
    cluster.replicas[0]
        .replica()
        .revoke_join_token(fresh.id())
        .await
        .unwrap();
    let reason = refused(Replica::join_cluster(&other.config, &fresh).await);
    assert!(reason.contains("revoked"), "{reason}");
    // Expired: the clock of the log has passed it.
    let short = cluster.replicas[0]
        .replica()
        .create_join_token(Duration::from_secs(1), None)
        .await
        .unwrap();
    cluster.replicas[0].add("k", 1).await;
    let made_ms = cluster.replicas[0].sums.now_ms();
    while cluster.replicas[0].sums.now_ms() <= made_ms + 1000 {
        cluster.replicas[0].add("k", 1).await;
    }
    let reason = refused(Replica::join_cluster(&other.config, &short).await);
    assert!(reason.contains("expired"), "{reason}");
    let endless = cluster.replicas[0]
        .replica()
        .create_join_token(Duration::MAX, None)
        .await;
    assert!(matches!(endless, Err(AdminError::Refused { .. })));
    // After all of this the folder is still good for a valid token.
    cluster.join(other).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tokens_beyond_the_most_that_are_kept_are_refused_and_counted() {
    let cluster = TestCluster::single().await;
    let replica = cluster.replicas[0].replica();
    let make = || replica.create_join_token(Duration::from_secs(600), None);
    let refused = loop {
        if let Err(refused) = make().await {
            break refused;
        }
    };
    assert!(refused.to_string().contains("256 join tokens exist"));
    assert_eq!(replica.metrics().join_tokens_refused, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_used_folder_never_becomes_somebody_else() {
    let mut cluster = TestCluster::single().await;
    let token = cluster.token().await;
    let own = cluster.replicas[0].config.clone();
    let joined = Replica::join_cluster(&own, &token).await;
    assert!(
        matches!(joined, Err(JoinError::Local(InitError::InUse { .. }))),
        "{joined:?}"
    );
    let again = Replica::init_cluster(&own);
    assert!(matches!(again, Err(InitError::InUse { .. })), "{again:?}");
    // A folder that nobody has initialised.
    let empty = cluster.joiner("b");
    let started = start(&empty.config).await;
    assert!(
        matches!(started, Err(StartError::NoIdentity { .. })),
        "{started:?}"
    );
    // The store of one replica under the identity of another.
    cluster.replicas[0].stop().await;
    let other = TestCluster::single().await;
    let mut other = other.replicas.into_iter().next().unwrap();
    other.stop().await;
    std::fs::remove_dir_all(other.config.data_dir.join("db")).unwrap();
    std::fs::rename(own.data_dir.join("db"), other.config.data_dir.join("db")).unwrap();
    let started = start(&other.config).await;
    assert!(
        matches!(started, Err(StartError::ForeignFolder { .. })),
        "{started:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_whose_store_was_lost_does_not_begin_with_an_empty_one() {
    let mut cluster = TestCluster::single().await;
    cluster.replicas[0].add("k", 1).await;
    cluster.replicas[0].stop().await;
    std::fs::remove_dir_all(cluster.replicas[0].config.data_dir.join("db")).unwrap();
    let refused = cluster.replicas[0].try_start().await.unwrap_err();
    assert!(
        matches!(refused, StartError::ForeignFolder { .. }),
        "{refused:?}"
    );
    assert!(
        refused.to_string().contains("its store is gone"),
        "{refused}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_of_another_cluster_meets_the_wrong_authority() {
    let one = TestCluster::single().await;
    let two = TestCluster::single().await;
    let mut token = one.token().await;
    // The second cluster answers at the address: its authority is not the one in the token.
    let joiner = two.joiner("b");
    let joined = Replica::join_cluster(&joiner.config, &token).await;
    assert!(
        matches!(joined, Err(JoinError::Unavailable { .. })),
        "{joined:?}"
    );
    let failed = async {
        while two.replicas[0].replica().metrics().handshakes_failed == 0 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, failed).await.unwrap();
    // Even with the right authority, the token's cluster must be the one that answers.
    token.cluster_id = two.replicas[0].replica().cluster_id().to_owned();
    let joiner = one.joiner("b");
    let joined = Replica::join_cluster(&joiner.config, &token).await;
    assert!(
        matches!(joined, Err(JoinError::Unavailable { .. })),
        "{joined:?}"
    );
}

async fn start(config: &crate::ReplicaConfig) -> Result<Replica, StartError> {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    Replica::start(config.clone(), listener, Arc::new(Sums::default())).await
}
