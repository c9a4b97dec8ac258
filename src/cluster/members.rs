//! The leader's clerk for members: strikes removed replicas off the state, and hands leadership over
//! while the leader is drained.

use std::time::Duration;

use hydrascale_proto::state::v1::{self as pb, command::Op};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior};

use super::{Cluster, ProposeError, Role};
use crate::types::ReplicaId;

/// How often the leader looks.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// Between attempts to hand leadership over: nobody else may be fit to lead.
const HAND_OVER_EVERY: Duration = Duration::from_secs(5);

/// Starts the clerk; it acts only while this replica leads.
pub fn spawn_member_clerk(cluster: Cluster, tasks: &mut JoinSet<()>) {
    tasks.spawn(async move {
        let mut hand_over_at = Instant::now();
        let mut ticks = tokio::time::interval(LOOK_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let status = cluster.status();
            if status.role != Role::Leader {
                continue;
            }
            for id in &status.removed {
                strike(&cluster, ReplicaId(*id)).await;
            }
            if cluster.is_drained() && Instant::now() >= hand_over_at {
                hand_over_at = Instant::now() + HAND_OVER_EVERY;
                report(
                    "handover",
                    cluster.transfer_leadership(None).await.map(drop),
                );
            }
        }
    });
}

/// Ends the sessions of a replica that has left the membership, and takes its relay off the map.
async fn strike(cluster: &Cluster, id: ReplicaId) {
    if cluster.state().replica(id).is_none() {
        return;
    }
    let op = Op::RemoveReplica(pb::RemoveReplica { replica_id: id.0 });
    report("removal", cluster.propose(op).await.map(drop));
}

fn report(what: &'static str, result: Result<(), ProposeError>) {
    if let Err(error) = result {
        tracing::debug!(%error, what, "leader's clerk will try again");
    }
}

#[cfg(test)]
mod tests {
    use super::super::MemberChange;
    use super::*;
    use crate::cluster::{LocalControl, plain_tailnet};
    use crate::types::Timestamp;

    async fn two() -> (Cluster, LocalControl, JoinSet<()>) {
        let (cluster, control) = Cluster::local(plain_tailnet(), Timestamp::default())
            .await
            .unwrap();
        control.join(ReplicaId(2)).await.unwrap();
        let mut tasks = JoinSet::new();
        spawn_member_clerk(cluster.clone(), &mut tasks);
        (cluster, control, tasks)
    }

    #[tokio::test(start_paused = true)]
    async fn a_removed_replica_is_struck_off_the_state() {
        let (cluster, _control, _tasks) = two().await;
        let two = ReplicaId(2);
        tokio::time::sleep(LOOK_EVERY * 2).await;
        assert!(cluster.state().replica(two).is_some());
        cluster
            .change_member(MemberChange::Remove(two), None)
            .await
            .unwrap();
        tokio::time::sleep(LOOK_EVERY * 2).await;
        assert!(cluster.state().replica(two).is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn a_drained_leader_hands_over_and_the_last_host_is_not_drained() {
        let (cluster, _control, _tasks) = two().await;
        let (one, two) = (ReplicaId(1), ReplicaId(2));
        cluster.set_drained(one, true).await.unwrap();
        assert!(cluster.is_drained());
        tokio::time::sleep(LOOK_EVERY * 2).await;
        assert_eq!(cluster.status().leader, Some(2));
        let last = cluster.set_drained(two, true).await.unwrap_err();
        assert!(last.to_string().contains("nobody would take"), "{last}");
        let back = cluster.transfer_leadership(Some(one)).await.unwrap_err();
        assert!(back.to_string().contains("is drained"), "{back}");
        cluster.set_drained(one, true).await.unwrap();
        cluster.set_drained(one, false).await.unwrap();
        assert!(!cluster.is_drained());
        assert_eq!(cluster.transfer_leadership(Some(one)).await.unwrap(), one);
    }
}
