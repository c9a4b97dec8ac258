//! Joins this replica's relay with those of the other replicas, over the connections that replicas
//! have anyway: authenticated, and there without a leader.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hydrascale_raft::{Hold, Replica, Status, Unloading};
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{sleep, timeout};

use crate::derp::{Arrivals, RelayHandle};
use crate::types::ReplicaId;

/// Between a stream's end and the next attempt at least, whatever the other side does.
const PAUSE: Duration = Duration::from_millis(50);
/// From then on until the next attempt, unless the other side knocks; a connection that fails takes
/// its own time.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// Streams to the relay of every other replica, and takes what theirs stream.
pub(super) fn spawn(replica: &Replica, relay: RelayHandle, tasks: &mut JoinSet<()>) {
    let (door, knocks) = Door::new(relay.clone());
    // One relay per process.
    let _ = replica.set_hold(Arc::new(door));
    tasks.spawn(keep_links(replica.clone(), relay, knocks));
}

async fn keep_links(replica: Replica, relay: RelayHandle, knocks: Arc<Knocks>) {
    let mut status = replica.status();
    let mut links = Links::default();
    loop {
        let others = others(&status.borrow_and_update());
        links.follow(&others, |to| {
            keep_link(replica.clone(), relay.clone(), to, knocks.of(to))
        });
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

async fn keep_link(replica: Replica, relay: RelayHandle, to: ReplicaId, knock: Arc<Notify>) {
    loop {
        let target = hydrascale_raft::ReplicaId(to.0);
        if let Err(error) = replica.carry(target, relay.link(to)).await {
            tracing::debug!(%error, "no link to another relay");
        }
        rest(&knock).await;
    }
}

/// Waits for the next attempt.
async fn rest(knock: &Notify) {
    sleep(PAUSE).await;
    // Both ends of the wait lead to an attempt.
    let _ = timeout(RETRY_AFTER, knock.notified()).await;
}

/// Tells who waits to stream to a replica that it streams here, so it is there: a replica that comes
/// back has packets to pass on at once, and knows nobody before the others have streamed to it. A
/// knock is kept until somebody waits: it costs one attempt too many at most.
#[derive(Default)]
struct Knocks(Mutex<BTreeMap<ReplicaId, Arc<Notify>>>);

impl Knocks {
    /// The one of a replica; there is one for each that ever streamed here or was to be streamed to.
    fn of(&self, from: ReplicaId) -> Arc<Notify> {
        self.0.lock().entry(from).or_default().clone()
    }
}

/// Where the streams of other relays come in.
struct Door {
    relay: RelayHandle,
    knocks: Arc<Knocks>,
}

impl Door {
    /// With the knocks at it.
    fn new(relay: RelayHandle) -> (Self, Arc<Knocks>) {
        let knocks = Arc::<Knocks>::default();
        let door = Self {
            relay,
            knocks: knocks.clone(),
        };
        (door, knocks)
    }
}

impl Hold for Door {
    fn open(&self, from: hydrascale_raft::ReplicaId) -> Box<dyn Unloading> {
        let from = ReplicaId(from.0);
        self.knocks.of(from).notify_one();
        Box::new(Visitor(self.relay.arrivals(from)))
    }
}

struct Visitor(Arrivals);

impl Unloading for Visitor {
    fn take(&mut self, message: Bytes) {
        self.0.take(message);
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::*;
    use crate::derp::Verdict;
    use crate::derp::testing::TestRelay;

    #[tokio::test(start_paused = true)]
    async fn a_relay_that_is_back_does_not_wait_a_second_to_hear_of_clients() {
        let relay = TestRelay::start(|_| Verdict::Allow);
        let (door, knocks) = Door::new(relay.handle.clone());
        let streams_here = |from: ReplicaId| drop(door.open(hydrascale_raft::ReplicaId(from.0)));
        let [early, late, other] = [2, 3, 4].map(ReplicaId);

        streams_here(early);
        assert_eq!(rested(&knocks, early).await, PAUSE);

        let knock = async {
            sleep(PAUSE * 3).await;
            streams_here(late);
        };
        let (took, ()) = tokio::join!(rested(&knocks, late), knock);
        assert_eq!(took, PAUSE * 3);

        streams_here(early);
        assert_eq!(rested(&knocks, other).await, PAUSE + RETRY_AFTER);
    }

    async fn rested(knocks: &Knocks, to: ReplicaId) -> Duration {
        let begin = Instant::now();
        rest(&knocks.of(to)).await;
        begin.elapsed()
    }
}
