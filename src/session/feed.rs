//! One task per replica turns what the cluster applies into deltas that all streams share.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{broadcast, watch};
use tokio::task::{JoinSet, spawn_blocking};
use tokio::time::{Instant, sleep_until, timeout_at};

use super::GATHER_WINDOW;
use super::service::Service;
use super::shared::SharedDelta;
use crate::cluster::{Applied, Cluster, What};
use crate::netmap::{Basis, Delta};
use crate::state::Change;
use crate::tasks::joined;
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
    Delta(u64, Arc<SharedDelta>),
    /// Anything may have changed up to this log index: send a fresh full map.
    Reset(u64),
}

/// Where streams subscribe.
pub(super) struct Feed {
    items: broadcast::Sender<Item>,
    basis: watch::Receiver<Arc<Basis>>,
    service: watch::Receiver<Service>,
}

impl Feed {
    pub(super) fn spawn(
        cluster: &Cluster,
        clock: fn() -> Timestamp,
        tasks: &mut JoinSet<()>,
    ) -> Self {
        let items = broadcast::channel(DELTAS_KEPT).0;
        // Before the state is read: nothing that changes it later is missed.
        let changes = cluster.subscribe();
        let (index, state) = cluster.changed();
        let first = Arc::new(Basis::of(index, state));
        report_fault(&first);
        let (published, basis) = watch::channel(Arc::clone(&first));
        let gatherer = Gatherer {
            gathered: Gathered::default(),
            told: index,
            basis: first,
            published,
            items: items.clone(),
            clock,
        };
        tasks.spawn(gatherer.run(changes));
        let (judged, service) = watch::channel(Service::Normal);
        tasks.spawn(judge(cluster.clone(), judged));
        Self {
            items,
            basis,
            service,
        }
    }

    /// Follows what is sent from here on.
    pub(super) fn subscribe(&self) -> broadcast::Receiver<Item> {
        self.items.subscribe()
    }

    /// The newest basis.
    pub(super) fn basis(&self) -> Arc<Basis> {
        Arc::clone(&self.basis.borrow())
    }

    /// Waits for a basis of this log index or a later one; `None` when none comes any more.
    pub(super) async fn basis_at(&self, index: u64) -> Option<Arc<Basis>> {
        let mut basis = self.basis.clone();
        let basis = basis.wait_for(|basis| basis.index >= index).await;
        basis.ok().map(|basis| Arc::clone(&basis))
    }

    /// Follows how well this replica can serve.
    pub(super) fn service(&self) -> watch::Receiver<Service> {
        self.service.clone()
    }
}

/// Gathers changes, and publishes what they come to.
struct Gatherer {
    gathered: Gathered,
    /// Log index that the item before told.
    told: u64,
    basis: Arc<Basis>,
    published: watch::Sender<Arc<Basis>>,
    items: broadcast::Sender<Item>,
    clock: fn() -> Timestamp,
}

/// Changes on their way into one item.
#[derive(Default)]
struct Gathered {
    change: Change,
    newest: Option<Arc<Applied>>,
    /// Anything may have changed.
    reset: bool,
}

impl Gatherer {
    async fn run(mut self, mut changes: broadcast::Receiver<Arc<Applied>>) {
        let mut quiet_until = Instant::now();
        loop {
            if !self.take(changes.recv().await) {
                return;
            }
            while let Ok(next) = timeout_at(quiet_until, changes.recv()).await {
                if !self.take(next) {
                    return;
                }
            }
            let Some(published) = self.publish().await else {
                return;
            };
            if published {
                quiet_until = Instant::now() + GATHER_WINDOW;
            }
        }
    }

    /// Adds what came; false when nothing more will come.
    fn take(&mut self, received: Result<Arc<Applied>, RecvError>) -> bool {
        match received {
            // The basis began after it was sent.
            Ok(applied) if applied.index <= self.basis.index => true,
            Ok(applied) => {
                match &applied.what {
                    What::Change(change) => self.gathered.change.merge(change.clone()),
                    What::Reset => self.gathered.reset = true,
                }
                self.gathered.newest = Some(applied);
                true
            }
            // The newest of those that were missed is kept, so it comes next.
            Err(RecvError::Lagged(_)) => {
                self.gathered.reset = true;
                true
            }
            Err(RecvError::Closed) => false,
        }
    }

    /// Publishes the basis that what was gathered leads to, and tells streams of it if it concerns
    /// any; `None` when the replica stops.
    async fn publish(&mut self) -> Option<bool> {
        let Some(newest) = self.gathered.newest.take() else {
            return Some(false);
        };
        let change = std::mem::take(&mut self.gathered.change);
        // Settings reach into every message, and change once in a blue moon.
        let reset = std::mem::take(&mut self.gathered.reset) || change.settings;
        let before = Arc::clone(&self.basis);
        let now = (self.clock)();
        // Off the reactor: a policy of many rules takes its time, and heartbeats must not wait.
        let lead = move || lead(before, &newest, change, reset, now);
        let delta = joined(spawn_blocking(lead).await)?;
        self.basis = Arc::clone(delta.basis());
        report_fault(&self.basis);
        self.published.send_replace(Arc::clone(&self.basis));
        let concerns = reset || delta.concerns_clients();
        if concerns {
            let since = std::mem::replace(&mut self.told, self.basis.index);
            let item = match reset {
                true => Item::Reset(self.told),
                false => Item::Delta(since, Arc::new(delta)),
            };
            // Nobody streams: fine.
            let _ = self.items.send(item);
        }
        Some(concerns)
    }
}

/// From one basis to the next.
fn lead(
    before: Arc<Basis>,
    newest: &Applied,
    change: Change,
    reset: bool,
    now: Timestamp,
) -> SharedDelta {
    let state = Arc::clone(&newest.state);
    let (after, change) = match reset {
        true => (Basis::of(newest.index, state), change),
        false => before.follow(newest.index, state, change),
    };
    SharedDelta::new(Delta::new(before, Arc::new(after), change, now))
}

/// The text in force may be from a later version, or from before a check was added.
fn report_fault(basis: &Basis) {
    if let Some(errors) = basis.engine.fault() {
        tracing::error!(%errors, "the policy in force is not one for this version: nobody may reach anybody");
    }
}

async fn judge(cluster: Cluster, service: watch::Sender<Service>) {
    loop {
        let lacks_leader = cluster.lacks_leader();
        let judged = Service::of(&cluster.status(), lacks_leader, cluster.is_drained());
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
