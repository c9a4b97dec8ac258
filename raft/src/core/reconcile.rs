//! What a leader does without being asked: finish membership changes, promote learners that have
//! caught up, record the new cluster, step back when its clock is off.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hydrascale_proto::raft::v1::{Admin, admin};
use openraft::async_runtime::Instant as _;
use tokio::time::{MissedTickBehavior, interval, timeout};

use super::Core;
use super::clock::CLOCK_OFF_MS;
use crate::type_config::TypeConfig;

/// A learner this close to the leader's log follows in step.
const CAUGHT_UP_ENTRIES: u64 = 100;

/// Between attempts to leave the leadership to somebody with more disk: all may be full.
const FULL_DISK_REST: Duration = Duration::from_secs(30);

/// Looks at what there is to do until the replica stops.
pub(crate) async fn reconcile(core: Arc<Core>) {
    let mut ticks = interval(core.timing.reconcile());
    let mut handed_over: Option<Instant> = None;
    let mut clock_attempts = 0;
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        if core.leader() != Some(core.id()) {
            continue;
        }
        let rested = handed_over.is_none_or(|at| at.elapsed() > FULL_DISK_REST);
        if core.disk.is_low() && rested {
            handed_over = Some(Instant::now());
            core.step_back_from_full_disk().await;
            continue;
        }
        // One step per tick, each on what the one before has left.
        let step = core.step(&mut clock_attempts);
        if timeout(core.config.request_timeout, step).await.is_err() {
            tracing::warn!("a change of the cluster did not finish in time, it is tried again");
        }
    }
}

impl Core {
    async fn step_back_from_full_disk(&self) {
        match self.move_leadership(None).await {
            Ok(leader) => tracing::warn!(raft.leader = leader, "full disk, leadership handed over"),
            Err(managed) => tracing::warn!(?managed, "full disk, but nobody takes over"),
        }
    }

    /// `clock_attempts`: how often nobody took over from a leader whose clock is off.
    async fn step(&self, clock_attempts: &mut usize) {
        let stored = self.effective_membership();
        let membership = stored.membership();
        let next = if membership.get_joint_config().len() > 1 {
            self.finish_joint(&stored).await
        } else if let Some(removed) = self.removed_member() {
            self.drop_member(removed).await
        } else if let Some(learner) = self.caught_up_learner() {
            self.promote(&stored, learner).await
        } else {
            self.record_cluster().await;
            self.check_clock(clock_attempts).await;
            Ok(())
        };
        if let Err(managed) = next {
            tracing::debug!(?managed, "membership change put off");
        }
    }

    fn removed_member(&self) -> Option<u64> {
        let records = self.records.load();
        let stored = self.effective_membership();
        stored
            .membership()
            .nodes()
            .map(|(id, _)| *id)
            .find(|id| *id != self.id() && records.is_removed(*id))
    }

    fn caught_up_learner(&self) -> Option<u64> {
        let metrics = self.metrics();
        let replication = metrics.replication?;
        let heartbeat = metrics.heartbeat?;
        let last = metrics.last_log_index.unwrap_or(0);
        metrics
            .membership_config
            .membership()
            .learner_ids()
            .find(|id| {
                let matched = replication
                    .get(id)
                    .copied()
                    .flatten()
                    .map(|log| log.index());
                let heard = heartbeat.get(id).copied().flatten();
                matched.is_some_and(|matched| last.saturating_sub(matched) <= CAUGHT_UP_ENTRIES)
                    && heard.is_some_and(|at| at.elapsed() < self.timing.election())
            })
    }

    /// The first leader of a new cluster writes its identity and authority into the log; then the
    /// key file that `init` made goes.
    async fn record_cluster(&self) {
        if self.records.load().cluster().is_some() {
            return;
        }
        let folder = self.folder.clone();
        let identity = self.identity.clone();
        let read = tokio::task::spawn_blocking(move || folder.bootstrap(&identity)).await;
        let init = match read {
            Ok(Ok(Some(init))) => init,
            Ok(Ok(None)) | Err(_) => return,
            Ok(Err(error)) => {
                tracing::error!(
                    error = crate::fatal::chain(&error),
                    "cluster cannot be recorded"
                );
                return;
            }
        };
        match self
            .propose_admin(Admin {
                op: Some(admin::Op::Init(init)),
            })
            .await
        {
            Ok(_) => self.forget_bootstrap().await,
            Err(denied) => tracing::warn!(?denied, "cluster is not recorded yet"),
        }
    }

    /// Removes the local copy of the authority's key once the cluster holds it.
    pub(crate) async fn forget_bootstrap(&self) {
        let folder = self.folder.clone();
        let removed = tokio::task::spawn_blocking(move || folder.forget_bootstrap()).await;
        if let Ok(Err(error)) = removed {
            tracing::warn!(%error, "the authority's key file cannot be removed");
        }
    }

    async fn check_clock(&self, attempts: &mut usize) {
        let Some(successor) = nth_successor(&self.better_clocks(CLOCK_OFF_MS), *attempts) else {
            *attempts = 0;
            return;
        };
        tracing::warn!(
            replica.id = successor,
            "own clock is off, leadership is handed over"
        );
        self.counters.clock_handovers.add_one();
        // Counted beforehand: an attempt may be given up in the middle.
        *attempts = attempts.wrapping_add(1);
        match self.move_leadership(Some(successor)).await {
            Ok(_) => *attempts = 0,
            Err(managed) => tracing::warn!(?managed, "leadership was not taken over"),
        }
    }

    /// What this replica's membership says about who was removed and gone.
    pub(super) fn barred_now(
        &self,
        membership: &openraft::alias::StoredMembershipOf<TypeConfig>,
    ) -> BTreeSet<u64> {
        let members: BTreeSet<u64> = membership.membership().nodes().map(|(id, _)| *id).collect();
        let records = self.records.load();
        records
            .removed()
            .filter(|id| !members.contains(id))
            .collect()
    }
}

/// Who is asked to lead after so many attempts that came to nothing: each in turn.
fn nth_successor(successors: &[u64], attempts: usize) -> Option<u64> {
    let turn = attempts.checked_rem(successors.len())?;
    successors.get(turn).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn when_a_replica_does_not_take_over_the_next_is_asked() {
        let asked = |attempts| nth_successor(&[3, 2], attempts);
        assert_eq!([asked(0), asked(1), asked(2)], [Some(3), Some(2), Some(3)]);
        assert_eq!(nth_successor(&[], 1), None);
    }
}
