//! One task per replica turns what the cluster applies into deltas that all streams share.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{broadcast, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout_at};

use super::GATHER_WINDOW;
use super::service::Service;
use crate::cluster::{Applied, Cluster, What};
use crate::netmap::{Delta, RouteTable};
use crate::state::Change;
use crate::types::Timestamp;

/// Deltas that a slow stream may lag behind before it gets a fresh full map instead: each takes at
/// least a gathering window to come.
pub(super) const DELTAS_KEPT: usize = 256;
/// How often the replica's own health is judged.
const JUDGE_EVERY: Duration = Duration::from_millis(500);

/// What streams are told to do.
#[derive(Clone, Debug)]
pub(super) enum Item {
    /// Tell the client what changed since this log index, which the item before this one told.
    Delta(u64, Arc<Delta>),
    /// Anything may have changed up to this log index: send a fresh full map.
    Reset(u64),
}

/// Where streams subscribe.
pub(super) struct Feed {
    items: broadcast::Sender<Item>,
    service: watch::Receiver<Service>,
}

impl Feed {
    pub(super) fn spawn(
        cluster: &Cluster,
        clock: fn() -> Timestamp,
        tasks: &mut JoinSet<()>,
    ) -> Self {
        let items = broadcast::channel(DELTAS_KEPT).0;
        tasks.spawn(gather(
            cluster.clone(),
            cluster.subscribe(),
            items.clone(),
            clock,
        ));
        let (judged, service) = watch::channel(Service::Normal);
        tasks.spawn(judge(cluster.clone(), judged));
        Self { items, service }
    }

    /// Follows what is sent from here on.
    pub(super) fn subscribe(&self) -> broadcast::Receiver<Item> {
        self.items.subscribe()
    }

    /// Follows how well this replica can serve.
    pub(super) fn service(&self) -> watch::Receiver<Service> {
        self.service.clone()
    }
}

async fn gather(
    cluster: Cluster,
    mut changes: broadcast::Receiver<Arc<Applied>>,
    items: broadcast::Sender<Item>,
    clock: fn() -> Timestamp,
) {
    let mut gathered = Gathered::new(&cluster);
    let mut quiet_until = Instant::now();
    loop {
        if !gathered.take(changes.recv().await) {
            return;
        }
        while let Ok(next) = timeout_at(quiet_until, changes.recv()).await {
            if !gathered.take(next) {
                return;
            }
        }
        if let Some(item) = gathered.take_item(&cluster, clock()) {
            // Nobody streams: fine.
            let _ = items.send(item);
            quiet_until = Instant::now() + GATHER_WINDOW;
        }
    }
}

/// Changes on their way into one item.
struct Gathered {
    change: Change,
    newest: Option<Arc<Applied>>,
    reset: bool,
    /// Log index that the item before told.
    told: u64,
    /// Who carries which route after all that was gathered.
    routes: RouteTable,
}

impl Gathered {
    fn new(cluster: &Cluster) -> Self {
        Self {
            // The index is read first: the state may be newer than it says, never older.
            told: cluster.applied_index(),
            change: Change::default(),
            newest: None,
            reset: false,
            routes: RouteTable::of(&cluster.state()),
        }
    }

    /// Adds what came; false when nothing more will come.
    fn take(&mut self, received: Result<Arc<Applied>, RecvError>) -> bool {
        match received {
            Ok(applied) => {
                match &applied.what {
                    What::Change(change) => {
                        let mut change = change.clone();
                        self.routes.follow(&applied.state, &mut change);
                        self.change.merge(change);
                    }
                    What::Reset => self.reset = true,
                }
                self.newest = Some(applied);
                true
            }
            Err(RecvError::Lagged(_)) => {
                self.reset = true;
                true
            }
            Err(RecvError::Closed) => false,
        }
    }

    /// What streams are told of all that came; `None` when nothing of it concerns them.
    fn take_item(&mut self, cluster: &Cluster, now: Timestamp) -> Option<Item> {
        let change = std::mem::take(&mut self.change);
        let newest = self.newest.take();
        // Settings reach into every message, and change once in a blue moon.
        if std::mem::take(&mut self.reset) || change.settings {
            self.routes = RouteTable::of(&cluster.state());
            self.told = newest.map_or_else(|| cluster.applied_index(), |newest| newest.index);
            return Some(Item::Reset(self.told));
        }
        let newest = newest?;
        let concerns_clients =
            !change.nodes.is_empty() || !change.users.is_empty() || change.derp_map;
        concerns_clients.then(|| {
            let state = Arc::clone(&newest.state);
            let delta = Delta::new(newest.index, change, state, self.routes.clone(), now);
            let since = std::mem::replace(&mut self.told, newest.index);
            Item::Delta(since, Arc::new(delta))
        })
    }
}

async fn judge(cluster: Cluster, service: watch::Sender<Service>) {
    loop {
        let judged = Service::of(&cluster.status());
        service.send_if_modified(|current| {
            let changed = *current != judged;
            if changed {
                tracing::warn!(from = ?*current, to = ?judged, "service to clients changed");
                *current = judged;
            }
            changed
        });
        sleep_until(Instant::now() + JUDGE_EVERY).await;
    }
}
