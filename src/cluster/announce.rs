//! Makes a starting replica known: creates the tailnet when there is none, then records the
//! replica's incarnation and relay, and again whenever the cluster has come to think it dead.

use std::time::Duration;

use hydrascale_proto::state::v1::{self as pb, command::Op};
use tokio::sync::broadcast::error::RecvError;
use tokio::task::JoinSet;

use super::{Cluster, ProposeError, Role};
use crate::types::ReplicaId;

/// Pause between attempts while the cluster has no leader.
const RETRY_AFTER: Duration = Duration::from_millis(200);

/// What a replica says of itself.
#[derive(Clone, Debug)]
pub struct Announcement {
    /// Creates the tailnet, should there be none yet.
    pub init: pb::InitTailnet,
    /// Name, version, feature levels and relay of this replica.
    pub up: pb::ReplicaUp,
}

/// Starts the task that keeps this replica's record true. It ends with the cluster handle's machine.
pub fn spawn_announcer(cluster: Cluster, announcement: Announcement, tasks: &mut JoinSet<()>) {
    tasks.spawn(async move {
        let mut changes = cluster.subscribe();
        loop {
            if !is_known(&cluster, &announcement.up) {
                announce(&cluster, &announcement).await;
            }
            match changes.recv().await {
                Ok(_) | Err(RecvError::Lagged(_)) => {}
                Err(RecvError::Closed) => return,
            }
        }
    });
}

/// Whether the newest state has this incarnation as alive.
fn is_known(cluster: &Cluster, up: &pb::ReplicaUp) -> bool {
    cluster
        .state()
        .replica(ReplicaId(up.replica_id))
        .is_some_and(|replica| {
            replica.incarnation == up.incarnation && replica.down_since.is_none()
        })
}

async fn announce(cluster: &Cluster, announcement: &Announcement) {
    while !is_known(cluster, &announcement.up) {
        if let Err(error) = attempt(cluster, announcement).await {
            tracing::debug!(%error, "replica not announced yet");
            tokio::time::sleep(RETRY_AFTER).await;
        }
    }
    tracing::info!(
        incarnation = announcement.up.incarnation,
        "replica announced"
    );
}

async fn attempt(cluster: &Cluster, announcement: &Announcement) -> Result<(), ProposeError> {
    if cluster.state().settings().is_none() {
        // Only the leader creates the tailnet, so that a joiner that has not caught up does not try.
        if cluster.status().role != Role::Leader {
            return Err(ProposeError::Unavailable {
                reason: "there is no tailnet yet".to_owned(),
            });
        }
        match cluster
            .propose(Op::InitTailnet(announcement.init.clone()))
            .await
        {
            Ok(_) => tracing::info!("tailnet created"),
            // Somebody else was first; that tailnet is as good.
            Err(ProposeError::Refused(_)) => {}
            Err(error) => return Err(error),
        }
    }
    cluster
        .propose(Op::ReplicaUp(announcement.up.clone()))
        .await
        .map(drop)
}
