//! Who leads, as each replica says of itself.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use futures::future::join_all;
use tokio::{task::JoinSet, time::sleep};

use crate::{history::Recorder, http, workload::Target};

/// Between two questions to a replica.
const ASK_EVERY: Duration = Duration::from_millis(200);
const ANSWER_LIMIT: Duration = Duration::from_secs(1);

/// Terms with those who said that they led them.
type Known = Arc<Mutex<BTreeSet<(u64, usize)>>>;

/// A fault that aims at the leader waits so long for one.
const LEADER_LIMIT: Duration = Duration::from_secs(5);

/// Asks every replica, until dropped.
pub(super) struct Leaders {
    targets: Vec<Target>,
    known: Known,
    _tasks: JoinSet<()>,
}

impl Leaders {
    pub(super) fn watch(targets: &[Target], recorder: &Recorder) -> Self {
        let known = Known::default();
        let mut tasks = JoinSet::new();
        for (replica, target) in targets.iter().enumerate() {
            let (known, recorder) = (Arc::clone(&known), recorder.clone());
            let target = target.clone();
            tasks.spawn(async move {
                loop {
                    if let Some((term, id)) = leads(&target).await {
                        let mut known = known.lock().unwrap_or_else(PoisonError::into_inner);
                        if known.insert((term, replica)) {
                            recorder.leader(id, term);
                        }
                    }
                    sleep(ASK_EVERY).await;
                }
            });
        }
        Self {
            targets: targets.to_vec(),
            known,
            _tasks: tasks,
        }
    }

    /// Who leads now; the last one that is known, when nobody does for long.
    pub(super) async fn current(&self) -> usize {
        let begin = Instant::now();
        while begin.elapsed() < LEADER_LIMIT {
            let answers = join_all(self.targets.iter().map(leads)).await;
            let leading = answers.iter().enumerate();
            let newest = leading.filter_map(|(replica, led)| Some((led.as_ref()?.0, replica)));
            if let Some((_, replica)) = newest.max() {
                return replica;
            }
            sleep(ASK_EVERY).await;
        }
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.last().map_or(0, |(_, replica)| *replica)
    }
}

/// The term that a replica says it leads, and the id under which it does.
async fn leads(target: &Target) -> Option<(u64, usize)> {
    let asked = http::get_local(&target.socket, "/api/v1/cluster/status", ANSWER_LIMIT).await;
    let status: serde_json::Value = serde_json::from_str(&asked.ok()?.body).ok()?;
    let leads = status["role"] == "leader";
    let id = usize::try_from(status["replicaId"].as_u64()?).ok()?;
    Some((status["term"].as_u64()?, id)).filter(|_| leads)
}
