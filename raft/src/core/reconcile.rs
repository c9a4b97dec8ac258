//! What a leader does without being asked: finish membership changes, promote learners that have
//! caught up, record the new cluster, step back when its clock is off.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hydrascale_proto::raft::v1::{Admin, InitCluster, admin};
use openraft::RaftMetrics;
use openraft::async_runtime::Instant as _;
use tokio::time::{MissedTickBehavior, interval, timeout};

use super::clock::CLOCK_OFF_MS;
use super::due::{Due, Seen, due};
use super::level::Ready;
use super::{Core, Managed};
use crate::blocking;
use crate::levels;
use crate::timing::now;
use crate::type_config::TypeConfig;
use crate::{Fatal, UnsealError};

/// A learner this close to the leader's log follows in step.
const CAUGHT_UP_ENTRIES: u64 = 100;

/// Between attempts to leave the leadership to somebody with more disk: all may be full.
const FULL_DISK_REST: Duration = Duration::from_secs(30);

/// Looks at what there is to do until the replica stops.
pub(crate) async fn reconcile(core: Arc<Core>) {
    let mut ticks = interval(core.timing.reconcile());
    let mut handed_over: Option<Instant> = None;
    let mut clock_attempts = 0;
    let mut known_term = None;
    let mut ready = Ready::default();
    let mut keeps_bootstrap = true;
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        if keeps_bootstrap && core.is_recorded() {
            core.forget_bootstrap().await;
            keeps_bootstrap = false;
        }
        if core.leader() != Some(core.id()) {
            ready = Ready::default();
            continue;
        }
        let rested =
            handed_over.is_none_or(|at| now().saturating_duration_since(at) > FULL_DISK_REST);
        if core.disk.is_low() && rested {
            handed_over = Some(now());
            core.step_back_from_full_disk().await;
            continue;
        }
        let term = core.metrics().current_term;
        if known_term != Some(term) {
            if core.know_the_records(core.timing.probe()).await.is_err() {
                continue;
            }
            known_term = Some(term);
        }
        // One step per tick, each on what the one before has left.
        let step = core.step(&mut clock_attempts, &mut ready);
        if timeout(core.config.request_timeout, step).await.is_err() {
            tracing::warn!("a change of the cluster did not finish in time, it is tried again");
        }
    }
}

impl Core {
    async fn step_back_from_full_disk(&self) {
        match self.move_leadership(None, &[]).await {
            Ok(leader) => tracing::warn!(raft.leader = leader, "full disk, leadership handed over"),
            Err(managed) => tracing::warn!(?managed, "full disk, but nobody takes over"),
        }
    }

    /// `clock_attempts`: how often nobody took over from a leader whose clock is off. `ready`: since
    /// when the feature level could be raised.
    async fn step(&self, clock_attempts: &mut usize, ready: &mut Ready) {
        if !self.change_members().await {
            self.record_cluster().await;
            self.raise_when_ready(ready).await;
            self.check_clock(clock_attempts).await;
        }
    }

    /// Makes the first of the changes that are due and can be made now. One that must wait, such as
    /// a removal that would cost the quorum, holds up no other: that one may be what it waits for.
    async fn change_members(&self) -> bool {
        let _turn = self.membership.lock().await;
        let stored = self.effective_membership();
        if stored.membership().get_joint_config().len() > 1 {
            // Nothing else can be changed before.
            made(self.finish_joint(&stored).await);
            return true;
        }
        if self.is_unwanted() && made(self.move_leadership(None, &[]).await.map(drop)) {
            return true;
        }
        for due in due(&self.records.load_full(), &self.seen()) {
            let change = async {
                match due {
                    Due::Swap { old, with } => self.swap(old, with).await,
                    Due::Drop(removed) => self.drop_member(removed).await,
                    Due::Demote(voter) => self.demote(voter).await,
                    Due::Promote(learner) => self.promote(&stored, learner).await,
                }
            };
            // Who has handed leadership over has nothing more to do here.
            if made(change.await) || self.leader() != Some(self.id()) {
                return true;
            }
        }
        false
    }

    /// Whether it was recorded that this leader shall not vote, or not belong here at all.
    fn is_unwanted(&self) -> bool {
        self.records.load().is_ending(self.id())
    }

    fn seen(&self) -> Seen {
        let stored = self.effective_membership();
        Seen {
            own: self.id(),
            members: stored.membership().nodes().map(|(id, _)| *id).collect(),
            voters: stored.voter_ids().collect(),
            heard: self.heard(),
            caught_up: self.caught_up_learners(),
        }
    }

    fn caught_up_learners(&self) -> BTreeSet<u64> {
        let metrics = self.metrics();
        let replication = metrics.replication.unwrap_or_default();
        let heartbeat = metrics.heartbeat.unwrap_or_default();
        let last = metrics.last_log_index.unwrap_or(0);
        let follows = |id: &u64| {
            let matched = replication.get(id).copied().flatten();
            let heard = heartbeat.get(id).copied().flatten();
            let behind = matched.map(|log| last.saturating_sub(log.index()));
            behind.is_some_and(|behind| behind <= CAUGHT_UP_ENTRIES)
                && heard.is_some_and(|at| at.elapsed() < self.timing.election())
        };
        let membership = metrics.membership_config.membership();
        membership.learner_ids().filter(follows).collect()
    }

    /// Whether the log holds this cluster's identity and authority. A restored state may hold those of
    /// the cluster before.
    fn is_recorded(&self) -> bool {
        let records = self.records.load();
        let recorded = records.cluster();
        recorded.is_some_and(|cluster| cluster.cluster_id == self.identity.cluster_id)
    }

    /// The first leader of a new cluster writes its identity and authority into the log.
    async fn record_cluster(&self) {
        if self.records.load().cluster().is_some() {
            return;
        }
        let folder = self.folder.clone();
        let identity = self.identity.clone();
        let read = blocking::run(move || folder.bootstrap(&identity)).await;
        let init = match read {
            Ok(Ok(Some(init))) => self.sealed(InitCluster {
                level: levels::to_state(self.config.levels.max),
                ..init
            }),
            Ok(Ok(None)) | Err(_) => return,
            Ok(Err(error)) => {
                tracing::error!(
                    error = crate::fatal::chain(&error),
                    "cluster cannot be recorded"
                );
                return;
            }
        };
        let init = match init {
            Ok(init) => init,
            Err(error) => return self.fatal.report(Fatal::Sealed(error)),
        };
        let op = Some(admin::Op::Init(init));
        if let Err(denied) = self.propose_admin(Admin { op }).await {
            tracing::warn!(?denied, "cluster is not recorded yet");
        }
    }

    fn sealed(&self, init: InitCluster) -> Result<InitCluster, UnsealError> {
        let ca_private_key = self.seal_authority_key(&init.ca_private_key)?.into();
        Ok(InitCluster {
            ca_private_key,
            ..init
        })
    }

    /// Removes the local copy of the authority's key once the cluster holds it.
    async fn forget_bootstrap(&self) {
        let folder = self.folder.clone();
        let removed = blocking::run(move || folder.forget_bootstrap()).await;
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
        match self.move_leadership(Some(successor), &[]).await {
            Ok(_) => *attempts = 0,
            Err(managed) => tracing::warn!(?managed, "leadership was not taken over"),
        }
    }

    /// Who was removed and is gone for certain: what is not committed may yet be undone, and one that
    /// still belongs must be heard.
    pub(super) fn barred_now(&self, metrics: &RaftMetrics<TypeConfig>) -> BTreeSet<u64> {
        let effective = metrics.membership_config.membership();
        let committed = metrics.committed_membership_config.membership();
        let belongs = |id: &u64| {
            effective
                .get_node(id)
                .or_else(|| committed.get_node(id))
                .is_some()
        };
        let records = self.records.load();
        records.removed().filter(|id| !belongs(id)).collect()
    }
}

/// Whether a change was made.
fn made(change: Result<(), Managed>) -> bool {
    if let Err(managed) = &change {
        tracing::debug!(?managed, "membership change put off");
    }
    change.is_ok()
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
