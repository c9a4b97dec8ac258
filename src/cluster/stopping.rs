//! A replica that is about to stop: nodes leave its relay while that still works.

use std::time::Duration;

use hydrascale_proto::state::v1::{self as pb, command::Op};
use tokio::sync::broadcast::error::RecvError;
use tokio::time::timeout;

use super::Cluster;
use crate::state::State;
use crate::types::{RegionId, ReplicaId};

impl Cluster {
    /// Says that this replica is about to stop, which makes its relay a bad home, and waits until no
    /// node that is online calls it home: `patience` at most, and not at all when there is no other
    /// replica to go to.
    pub async fn send_homes_away(&self, patience: Duration) {
        let me = self.replica_id();
        if self.has_host_besides(me) {
            // Who is left after that has nowhere to go, or does not listen.
            let _ = timeout(patience, self.say_and_wait(me)).await;
        }
    }

    /// Nodes that are online and call this replica's relay home.
    pub fn homes_here(&self) -> usize {
        let state = self.state();
        let me = state.replica(self.replica_id());
        let region = me.and_then(|me| me.region_id);
        region.map_or(0, |region| homes(&state, region))
    }

    async fn say_and_wait(&self, me: ReplicaId) {
        let mut changes = self.subscribe();
        let op = Op::ReplicaStopping(pb::ReplicaStopping {
            replica_id: me.0,
            incarnation: self.incarnation(),
        });
        if let Err(error) = self.propose(op).await {
            tracing::debug!(%error, "nobody was told that this replica stops");
            return;
        }
        while self.homes_here() > 0 && self.has_host_besides(me) {
            match changes.recv().await {
                Ok(_) | Err(RecvError::Lagged(_)) => {}
                Err(RecvError::Closed) => return,
            }
        }
    }

    /// Whether this replica has said that it is about to stop.
    pub fn is_stopping(&self) -> bool {
        let state = self.state();
        let me = state.replica(self.replica_id());
        me.is_some_and(|me| me.stopping && me.incarnation == self.incarnation())
    }
}

/// Nodes that are online and call the relay of this region home.
pub(super) fn homes(state: &State, region: RegionId) -> usize {
    let nodes = state.nodes_by_home(region);
    nodes.filter(|node| state.is_online(node.id)).count()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::plain_tailnet;
    use crate::types::Timestamp;

    fn up(replica_id: u64) -> Op {
        Op::ReplicaUp(pb::ReplicaUp {
            replica_id,
            incarnation: 1,
            level_min: 1,
            level_max: 1,
            ..pb::ReplicaUp::default()
        })
    }

    #[tokio::test(start_paused = true)]
    async fn a_replica_says_that_it_stops_only_where_there_is_another_one_to_go_to() {
        let (cluster, _log) = Cluster::local(plain_tailnet(), Timestamp::default())
            .await
            .unwrap();
        cluster.propose(up(cluster.replica_id().0)).await.unwrap();
        cluster.send_homes_away(Duration::from_secs(8)).await;
        assert!(!cluster.is_stopping());
        cluster.propose(up(2)).await.unwrap();
        cluster.send_homes_away(Duration::from_secs(8)).await;
        assert!(cluster.is_stopping());
    }
}
