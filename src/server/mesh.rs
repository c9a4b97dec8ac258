//! Joins this replica's relay with those of the other replicas, over the connections that replicas
//! have anyway: authenticated, and there without a leader.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hydrascale_raft::{Hold, Replica, Status, Unloading};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::sleep;

use crate::derp::{Arrivals, RelayHandle};
use crate::types::ReplicaId;

/// Between a stream's end and the next attempt; a connection that fails takes its own time.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// Streams to the relay of every other replica, and takes what theirs stream.
pub(super) fn spawn(replica: &Replica, relay: RelayHandle, tasks: &mut JoinSet<()>) {
    // One relay per process.
    let _ = replica.set_hold(Arc::new(Door(relay.clone())));
    tasks.spawn(keep_links(replica.clone(), relay));
}

async fn keep_links(replica: Replica, relay: RelayHandle) {
    let mut status = replica.status();
    let mut links = Links::default();
    loop {
        let others = others(&status.borrow_and_update());
        links.follow(&others, |to| keep_link(replica.clone(), relay.clone(), to));
        if status.changed().await.is_err() {
            // The replica has stopped, and this task ends with it.
            return std::future::pending().await;
        }
    }
}

fn others(status: &Status) -> BTreeSet<ReplicaId> {
    let members = status.members.iter().map(|member| ReplicaId(member.id.0));
    members.filter(|id| id.0 != status.replica_id.0).collect()
}

/// One task per other member.
#[derive(Default)]
struct Links {
    running: BTreeMap<ReplicaId, AbortHandle>,
    tasks: JoinSet<()>,
}

impl Links {
    fn follow<F>(&mut self, others: &BTreeSet<ReplicaId>, start: impl Fn(ReplicaId) -> F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        self.running.retain(|id, task| {
            let stays = others.contains(id);
            if !stays {
                task.abort();
            }
            stays
        });
        while self.tasks.try_join_next().is_some() {}
        for id in others {
            let tasks = &mut self.tasks;
            self.running
                .entry(*id)
                .or_insert_with(|| tasks.spawn(start(*id)));
        }
    }
}

async fn keep_link(replica: Replica, relay: RelayHandle, to: ReplicaId) {
    loop {
        let target = hydrascale_raft::ReplicaId(to.0);
        if let Err(error) = replica.carry(target, relay.link(to)).await {
            tracing::debug!(%error, "no link to another relay");
        }
        sleep(RETRY_AFTER).await;
    }
}

/// Where the streams of other relays come in.
struct Door(RelayHandle);

impl Hold for Door {
    fn open(&self, from: hydrascale_raft::ReplicaId) -> Box<dyn Unloading> {
        Box::new(Visitor(self.0.arrivals(ReplicaId(from.0))))
    }
}

struct Visitor(Arrivals);

impl Unloading for Visitor {
    fn take(&mut self, message: Bytes) {
        self.0.take(message);
    }
}
