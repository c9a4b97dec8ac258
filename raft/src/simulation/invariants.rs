//! What must hold at every moment, looked at every few milliseconds.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use openraft::ServerState;
use tokio::time::{Duration, sleep};

use super::cluster::{Cluster, Keep};
use super::process::Running;
use super::violation;

/// Looks until it is told to stop.
pub(super) async fn watch(cluster: Arc<Cluster>, seen: Arc<parking_lot::Mutex<Seen>>) {
    loop {
        for one in cluster.all_running() {
            seen.lock().look(&one);
        }
        cluster.check_fatal();
        for id in cluster.powerless() {
            cluster.crash(id, Keep::draw());
            cluster.boot(id).await;
        }
        sleep(Duration::from_millis(5)).await;
    }
}

/// What was seen before.
#[derive(Default)]
pub(super) struct Seen {
    /// Who led in which term. One term may have several, each with a greater id than those whose
    /// votes it took over: openraft orders votes by term and replica.
    leaders: BTreeSet<(u64, u64)>,
    /// Of each start of each replica: committed and applied.
    progress: BTreeMap<(u64, u64), (u64, u64)>,
}

impl Seen {
    /// How often somebody led.
    pub(super) fn leaderships(&self) -> usize {
        self.leaders.len()
    }

    fn look(&mut self, one: &Running) {
        let metrics = one.replica.core().metrics();
        let id = metrics.id;
        if metrics.state == ServerState::Leader {
            self.leaders.insert((metrics.current_term, id));
        }
        let committed = metrics.local_committed.map_or(0, |log| log.index());
        let applied = metrics.last_applied.map_or(0, |log| log.index());
        let start = (id, one.replica.incarnation());
        let (before, applied_before) = self.progress.entry(start).or_default();
        if committed < *before || applied < *applied_before {
            violation(format!(
                "no way back: replica {id} went from committed {before}, applied {applied_before} \
                 to {committed}, {applied}"
            ));
        }
        (*before, *applied_before) = (committed, applied);
    }
}
