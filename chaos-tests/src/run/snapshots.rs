//! Which replicas have installed snapshots, by their metrics.

use std::{net::SocketAddr, time::Duration};

use tokio::{task::JoinSet, time::sleep};

use crate::{
    cluster::{Cluster, Replica, sum_of},
    history::Recorder,
    http,
};

const METRIC: &str = "hydrascale_raft_snapshots_installed_total";
/// Between two questions to a replica. What a replica counts is gone when it is killed.
const ASK_EVERY: Duration = Duration::from_millis(400);
const ANSWER_LIMIT: Duration = Duration::from_secs(1);

/// Asks every replica, until finished.
pub(super) struct Snapshots {
    tasks: JoinSet<()>,
}

impl Snapshots {
    pub(super) fn watch(cluster: &Cluster, recorder: &Recorder) -> Self {
        let mut tasks = JoinSet::new();
        let addresses = cluster.replicas().iter().map(Replica::metrics_address);
        for (replica, address) in addresses.enumerate() {
            let recorder = recorder.clone();
            tasks.spawn(async move {
                let mut last = 0;
                loop {
                    if let Some(count) = installed(address).await {
                        // After a start it counts from zero.
                        let more = count.checked_sub(last).unwrap_or(count);
                        if more > 0 {
                            recorder.installed(replica, more);
                        }
                        last = count;
                    }
                    sleep(ASK_EVERY).await;
                }
            });
        }
        Self { tasks }
    }

    /// Asks once more and ends.
    pub(super) async fn finish(mut self) {
        sleep(ASK_EVERY + ANSWER_LIMIT).await;
        self.tasks.shutdown().await;
    }
}

async fn installed(address: SocketAddr) -> Option<u64> {
    let asked = http::get(address, "/metrics", ANSWER_LIMIT).await;
    let count = sum_of(&asked.ok()?.body, METRIC);
    format!("{count:.0}").parse().ok()
}
