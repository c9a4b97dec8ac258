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
use crate::netmap::Delta;
use crate::state::Change;
use crate::types::Timestamp;

/// Deltas that a slow stream may lag behind before it gets a fresh full map instead: each takes at
/// least a gathering window to come.
const DELTAS_KEPT: usize = 256;
/// How often the replica's own health is judged.
const JUDGE_EVERY: Duration = Duration::from_millis(500);

/// What streams are told to do.
#[derive(Clone, Debug)]
pub(super) enum Item {
    /// Tell the client what changed.
    Delta(Arc<Delta>),
    /// Anything may have changed: send a fresh full map.
    Reset,
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
        tasks.spawn(gather(cluster.subscribe(), items.clone(), clock));
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
    mut changes: broadcast::Receiver<Arc<Applied>>,
    items: broadcast::Sender<Item>,
    clock: fn() -> Timestamp,
) {
    let mut quiet_until = Instant::now();
    loop {
        let mut gathered = Gathered::default();
        if !gathered.take(changes.recv().await) {
            return;
        }
        while let Ok(next) = timeout_at(quiet_until, changes.recv()).await {
            if !gathered.take(next) {
                return;
            }
        }
        if let Some(item) = gathered.into_item(clock()) {
            // Nobody streams: fine.
            let _ = items.send(item);
            quiet_until = Instant::now() + GATHER_WINDOW;
        }
    }
}

/// Changes on their way into one item.
#[derive(Default)]
struct Gathered {
    change: Change,
    newest: Option<Arc<Applied>>,
    reset: bool,
}

impl Gathered {
    /// Adds what came; false when nothing more will come.
    fn take(&mut self, received: Result<Arc<Applied>, RecvError>) -> bool {
        match received {
            Ok(applied) => {
                match &applied.what {
                    What::Change(change) => self.change.merge(change.clone()),
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

    fn into_item(self, now: Timestamp) -> Option<Item> {
        if self.reset {
            return Some(Item::Reset);
        }
        let newest = self.newest?;
        let told = !self.change.nodes.is_empty()
            || !self.change.users.is_empty()
            || self.change.derp_map
            || self.change.settings;
        told.then(|| {
            let state = Arc::clone(&newest.state);
            Item::Delta(Arc::new(Delta::new(newest.index, self.change, state, now)))
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
