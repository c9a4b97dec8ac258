//! A leader whose process has died is not waited for.
//!
//! Election timeouts are for silence, which may be a slow disk or a busy machine. A machine that
//! refuses connections to the leader's port is no silence: nobody is there. Once a majority of the
//! voters is told so, one of them asks for the leadership as if it had been handed over.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::future::ready;
use futures::stream::FuturesUnordered;
use hydrascale_proto::raft::v1::IdentifyRequest;
use openraft::raft::TransferLeaderRequest;
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::Core;
use crate::timing::{Timing, now};

/// Watches the leader until the replica stops.
pub(crate) async fn watch_leader(core: Arc<Core>) {
    let mut ticks = interval(core.timing.glance());
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut rest = Rest::new(core.timing);
    loop {
        ticks.tick().await;
        let Some(leader) = core.leader().filter(|id| *id != core.id()) else {
            continue;
        };
        if core.silence() < core.silence_before_succession(leader) {
            rest = Rest::new(core.timing);
        } else if rest.is_over() {
            rest.begin();
            if core.is_gone_for_a_majority(leader).await {
                core.succeed(leader).await;
            }
        }
    }
}

/// The time between looks at a leader that stays silent: a process that hangs, or a lost majority, is
/// no reason to ask forty times a second.
struct Rest {
    next: Duration,
    longest: Duration,
    until: Instant,
}

impl Rest {
    fn new(timing: Timing) -> Self {
        Self {
            next: timing.glance().saturating_mul(4),
            longest: timing.glance().saturating_mul(80),
            until: Instant::now(),
        }
    }

    fn is_over(&self) -> bool {
        Instant::now() >= self.until
    }

    fn begin(&mut self) {
        self.until = Instant::now() + self.next;
        self.next = self.next.saturating_mul(2).min(self.longest);
    }
}

impl Core {
    /// Whether this replica, too, misses its leader and finds that nobody listens there. Another one may
    /// be silent for the asker alone, or lead no more.
    pub(crate) async fn misses(&self, suspect: u64) -> bool {
        self.leader() == Some(suspect)
            && self.silence() >= self.timing.silence(0)
            && self.lanes.is_refused(suspect).await
    }

    fn silence(&self) -> Duration {
        now().saturating_duration_since(self.contact.last())
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
        if !fit || self.disk.is_low() || !self.misses(leader).await {
            return false;
        }
        let others = voters
            .iter()
            .filter(|id| **id != leader && **id != self.id());
        let told: FuturesUnordered<_> = others.map(|id| self.sees_gone(*id, leader)).collect();
        let missing = voters.len() / 2;
        // One that hangs is not waited for.
        told.filter(|gone| ready(*gone)).take(missing).count().await == missing
    }

    /// Whether `voter` finds that `suspect` is gone, too.
    async fn sees_gone(&self, voter: u64, suspect: u64) -> bool {
        let request = IdentifyRequest { suspect };
        let reply = self
            .lanes
            .identify(voter, self.timing.probe(), request)
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
