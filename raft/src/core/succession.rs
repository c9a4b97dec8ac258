//! A leader whose process has died is not waited for.
//!
//! Election timeouts are for silence, which may be a slow disk or a busy machine. A machine that
//! refuses connections to the leader's port is no silence: nobody is there. Once a majority of the
//! voters is told so, one of them asks for the leadership as if it had been handed over.

use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use hydrascale_proto::raft::v1::IdentifyRequest;
use openraft::raft::TransferLeaderRequest;
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::Core;
use crate::network::Lane;

/// Watches the leader until the replica stops.
pub(crate) async fn watch_leader(core: Arc<Core>) {
    let mut ticks = interval(core.timing.glance());
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut asked: Option<Instant> = None;
    loop {
        ticks.tick().await;
        // What has not helped is not repeated before an ordinary election had its chance.
        let rests = asked.is_some_and(|at| at.elapsed() < core.timing.election().saturating_mul(2));
        let Some(leader) = core.leader().filter(|id| *id != core.id() && !rests) else {
            continue;
        };
        if core.silence() >= core.silence_before_succession(leader)
            && core.is_gone_for_a_majority(leader).await
        {
            asked = Some(Instant::now());
            core.succeed(leader).await;
        }
    }
}

impl Core {
    /// Whether the machine of another replica answers that nobody listens at its port.
    pub(crate) async fn is_gone(&self, replica: u64) -> bool {
        replica != self.id()
            && self.member(replica).is_some()
            && self.lanes.is_refused(replica).await
    }

    fn silence(&self) -> Duration {
        self.contact.last().elapsed()
    }

    /// The first of the voters that are left goes ahead, and the others give it time: two at once
    /// would share the votes.
    fn silence_before_succession(&self, leader: u64) -> Duration {
        let stored = self.effective_membership();
        let rivals = stored
            .voter_ids()
            .filter(|id| *id != leader && *id < self.id());
        let before_me = u32::try_from(rivals.count()).unwrap_or(u32::MAX);
        self.timing.silence(before_me)
    }

    async fn is_gone_for_a_majority(&self, leader: u64) -> bool {
        let stored = self.effective_membership();
        let voters: Vec<u64> = stored.voter_ids().collect();
        let records = self.records.load_full();
        let fit = voters.contains(&self.id()) && !records.is_ending(self.id());
        if !fit || self.disk.is_low() || !self.is_gone(leader).await {
            return false;
        }
        let others = voters
            .iter()
            .filter(|id| **id != leader && **id != self.id());
        let told = join_all(others.map(|voter| self.sees_gone(*voter, leader))).await;
        let agreeing = 1 + told.into_iter().filter(|gone| *gone).count();
        agreeing > voters.len() / 2
    }

    /// Whether `voter` finds that `suspect` is gone, too.
    async fn sees_gone(&self, voter: u64, suspect: u64) -> bool {
        let reply = self
            .lanes
            .call(
                voter,
                Lane::Control,
                self.timing.probe(),
                IdentifyRequest { suspect },
                |mut client, request| async move { client.identify(request).await },
            )
            .await;
        reply.is_ok_and(|reply| reply.suspect_is_gone)
    }

    async fn succeed(&self, leader: u64) {
        let metrics = self.metrics();
        if metrics.current_leader != Some(leader) {
            return;
        }
        tracing::warn!(
            raft.leader = leader,
            "the leader's process is gone, this replica asks for the leadership"
        );
        self.counters.successions.add_one();
        // No more of the log is asked for than there is: the others judge it when they vote.
        let request = TransferLeaderRequest::new(metrics.vote, self.id(), None);
        match self.raft.handle_transfer_leader(request).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::debug!(%error, "not asked for"),
            Err(fatal) => tracing::debug!(%fatal, "not asked for"),
        }
    }
}
