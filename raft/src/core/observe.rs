//! Turning consensus metrics, probes and contacts into the public status.

use std::sync::Arc;
use std::time::{Duration, Instant};

use openraft::alias::StoredMembershipOf;
use openraft::async_runtime::Instant as _;
use openraft::async_runtime::watch::WatchReceiver;
use openraft::{ServerState, TokioInstant};
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval};

use super::Core;
use super::probe::ProbeAnswer;
use crate::identity::Identity;
use crate::timing::now;
use crate::type_config::TypeConfig;
use crate::{Fatal, MemberStatus, ReplicaId, Role, Status};

type Metrics = openraft::RaftMetrics<TypeConfig>;

/// Renews the status until the replica stops; reports when the consensus core has ended.
pub(crate) async fn observe(core: Arc<Core>) {
    let mut server = core.raft.server_metrics();
    let mut ticks = interval(core.timing.reconcile());
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        core.renew_status();
        tokio::select! {
            biased;
            changed = server.changed() => {
                if changed.is_err() {
                    core.consensus_ended();
                    return;
                }
            }
            _ = ticks.tick() => {}
        }
    }
}

impl Core {
    fn consensus_ended(&self) {
        if self.stopping.is_cancelled() {
            return;
        }
        let running = self.metrics().running_state;
        let reason = running.map_or_else(|fatal| fatal.to_string(), |()| "core ended".to_owned());
        self.fatal.report(Fatal::Consensus { reason });
    }

    fn renew_status(&self) {
        let metrics = self.metrics();
        if metrics.running_state.is_err() {
            self.consensus_ended();
        }
        for (id, member) in metrics.membership_config.membership().nodes() {
            self.lanes.list(*id, &member.addr);
        }
        self.barred.store(Arc::new(self.barred_now(&metrics)));
        self.lanes.forget(&self.barred.load());
        let status = self.build_status(&metrics);
        // Who stops leading has not been without a leader for as long as it led.
        self.contact.renew_at(status.last_leader_contact);
        let before = self.status.send_replace(status.clone());
        self.note_change(&before, &status);
    }

    fn note_change(&self, before: &Status, now: &Status) {
        if before.role != now.role || before.leader != now.leader {
            let leader = now.leader.map_or(0, |id| id.0);
            tracing::info!(raft.term = now.term, raft.leader = leader, role = ?now.role, "leadership");
        }
        if now.is_leader() && !before.is_leader() {
            self.counters.leaderships.add_one();
        }
    }

    fn build_status(&self, metrics: &Metrics) -> Status {
        let role = role_of(metrics.state);
        // Read once, and let go before anything else is: who waits to write lets no second reader in.
        let applied = *self.applied.borrow();
        Status {
            cluster_id: self.identity.cluster_id.as_str().into(),
            replica_id: ReplicaId(self.id()),
            incarnation: self.incarnation,
            role,
            leader: metrics.current_leader.map(ReplicaId),
            term: metrics.current_term,
            purged_index: metrics.purged.as_ref().map_or(0, |log| log.index()),
            last_log_index: metrics.last_log_index.unwrap_or(0),
            committed_index: metrics
                .cluster_committed
                .max(metrics.local_committed)
                .map_or(0, |log| log.index()),
            applied_index: applied,
            members: self.member_statuses(metrics, applied),
            membership_index: metrics
                .membership_config
                .log_id()
                .map_or(0, |log| log.index()),
            removed: self.barred.load().iter().copied().map(ReplicaId).collect(),
            joint: metrics
                .membership_config
                .membership()
                .get_joint_config()
                .len()
                > 1,
            last_leader_contact: self.last_leader_contact(metrics),
            reachable_within: self.timing.reachable_within(),
            sealing_key: self.sealing_key(),
            authority: self.authority_status(),
            level: self.level(),
        }
    }

    /// How long nothing has proven that a leader works, as of this call.
    pub(crate) fn time_without_leader(&self) -> Duration {
        let contact = self.last_leader_contact(&self.metrics());
        now().saturating_duration_since(contact)
    }

    /// The same, once it is longer than an election takes.
    pub(crate) fn lacks_leader(&self) -> Option<Duration> {
        let without = self.time_without_leader();
        (without > self.timing.leaderless_after()).then_some(without)
    }

    /// Why nothing that needs a leader is tried: whoever asks is better off with another replica.
    pub(crate) fn no_leader(&self) -> Option<String> {
        let without = self.lacks_leader()?;
        Some(format!(
            "no leader for {:.1} s: too few replicas are there, or this one is cut off from them",
            without.as_secs_f64()
        ))
    }

    fn last_leader_contact(&self, metrics: &Metrics) -> Instant {
        if metrics.state != ServerState::Leader {
            return self.contact.last();
        }
        // A leader that has just been elected has a quorum's votes, if not its answers yet.
        let alone = metrics.membership_config.voter_ids().count() <= 1;
        let acked = metrics.last_quorum_acked.map(|at| std_instant(*at));
        if alone {
            now()
        } else {
            acked.unwrap_or_else(|| self.contact.last())
        }
    }

    fn member_statuses(&self, metrics: &Metrics, applied: u64) -> Vec<MemberStatus> {
        let stored: &StoredMembershipOf<TypeConfig> = &metrics.membership_config;
        let leading = metrics.state == ServerState::Leader;
        let heartbeat = metrics.heartbeat.as_ref().filter(|_| leading);
        let replication = metrics.replication.as_ref().filter(|_| leading);
        let records = self.records.load();
        let is_member = |id: u64| stored.membership().get_node(&id).is_some();
        let members = stored.membership().nodes().map(|(id, member)| {
            let own = *id == self.id();
            let told = match own {
                true => Some(self.own_answer(applied)),
                false => self.probes.last(*id),
            };
            let told = told.as_ref();
            let other = told.filter(|_| !own);
            let contact = heartbeat.and_then(|heartbeat| heartbeat.get(id).copied().flatten());
            let matched =
                replication.and_then(|replication| replication.get(id).copied().flatten());
            MemberStatus {
                id: ReplicaId(*id),
                name: member.name.clone(),
                addr: member.addr.clone(),
                voter: stored.voter_ids().any(|voter| voter == *id),
                non_voting: records.is_non_voting(*id),
                leaving: records.is_removed(*id),
                replaces: records
                    .replaces(*id)
                    .find(|old| is_member(*old))
                    .map(ReplicaId),
                last_contact: contact.filter(|_| !own).map(|at| std_instant(*at)),
                last_answer: other.map(|answer| answer.at),
                clock_ahead_ms: other.map(|answer| answer.clock_ahead_ms),
                matched_index: matched.map(|log| log.index()),
                applied_index: told.map(|answer| answer.applied_index),
                incarnation: told.map(|answer| answer.incarnation),
                certificate: told.map(|answer| Arc::clone(&answer.certificate)),
                renewal_asked_at: records.renewal_of(*id),
                sealing_keys: told.map(|answer| Arc::clone(&answer.sealing_keys)),
                levels: told.map(|answer| answer.levels),
                holds_level: told.is_some_and(|answer| answer.holds_level),
            }
        });
        members.collect()
    }

    /// What this replica would answer to a probe.
    fn own_answer(&self, applied: u64) -> ProbeAnswer {
        ProbeAnswer {
            at: now(),
            incarnation: self.incarnation,
            clock_ahead_ms: 0,
            applied_index: applied,
            sealing_keys: self.sealing_keys(),
            certificate: Arc::new(self.certificate_state()),
            levels: self.config.levels,
            holds_level: !self.config.auto_upgrade,
        }
    }
}

/// The status before consensus has said anything.
pub(crate) fn initial_status(
    identity: &Identity,
    incarnation: u64,
    reachable_within: Duration,
) -> watch::Sender<Status> {
    watch::Sender::new(Status {
        cluster_id: identity.cluster_id.as_str().into(),
        replica_id: ReplicaId(identity.replica_id),
        incarnation,
        role: Role::Follower,
        leader: None,
        term: 0,
        purged_index: 0,
        last_log_index: 0,
        committed_index: 0,
        applied_index: 0,
        members: Vec::new(),
        membership_index: 0,
        joint: false,
        removed: Vec::new(),
        last_leader_contact: now(),
        reachable_within,
        sealing_key: None,
        authority: None,
        level: None,
    })
}

fn std_instant(at: TokioInstant) -> Instant {
    let now = now();
    now.checked_sub(at.elapsed()).unwrap_or(now)
}

fn role_of(state: ServerState) -> Role {
    match state {
        ServerState::Learner => Role::Learner,
        ServerState::Follower | ServerState::Shutdown => Role::Follower,
        ServerState::Candidate => Role::Candidate,
        ServerState::Leader => Role::Leader,
    }
}
