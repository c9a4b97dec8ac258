//! Asking the other replicas who and how they are: reachability, clocks, addresses. And snapshots
//! in time for a log that grows slowly.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::future::join_all;
use hydrascale_proto::raft::v1::{IdentifyReply, IdentifyRequest};
use openraft::async_runtime::watch::WatchReceiver;
use parking_lot::Mutex;
use tokio::time::{MissedTickBehavior, interval};

use super::{CertificateState, Core};
use crate::timing::now;
use crate::{Fatal, KeyId, Levels};

/// A log that grows slowly still gets a snapshot this often, so that restarts stay short.
const SNAPSHOT_INTERVAL: Duration = Duration::from_secs(15 * 60);

/// The last answers of the other replicas.
#[derive(Debug, Default)]
pub(crate) struct Probes(Mutex<BTreeMap<u64, ProbeAnswer>>);

/// An answer to a probe.
#[derive(Clone, Debug)]
pub(crate) struct ProbeAnswer {
    /// When it came.
    pub(crate) at: Instant,
    /// The replica's start counter.
    pub(crate) incarnation: u64,
    /// How far its wall clock is ahead of ours, milliseconds.
    pub(crate) clock_ahead_ms: i64,
    /// How far it had applied the log.
    pub(crate) applied_index: u64,
    /// The keys in its file.
    pub(crate) sealing_keys: Arc<[KeyId]>,
    /// Its certificate, and whom it trusts.
    pub(crate) certificate: Arc<CertificateState>,
    /// The feature levels that it supports.
    pub(crate) levels: Levels,
    /// It wants to be asked before the cluster's level is raised.
    pub(crate) holds_level: bool,
}

impl Probes {
    /// The last answer of a replica.
    pub(crate) fn last(&self, replica: u64) -> Option<ProbeAnswer> {
        self.0.lock().get(&replica).cloned()
    }

    /// How far a replica's clock is ahead, if it answered `within` that time.
    pub(crate) fn clock_ahead_ms(&self, replica: u64, within: Duration) -> Option<i64> {
        self.last(replica)
            .filter(|last| now().saturating_duration_since(last.at) < within)
            .map(|last| last.clock_ahead_ms)
    }

    fn note(&self, replica: u64, answer: ProbeAnswer) {
        self.0.lock().insert(replica, answer);
    }

    fn retain(&self, known: impl Fn(u64) -> bool) {
        self.0.lock().retain(|replica, _| known(*replica));
    }
}

/// Probes all members until the replica stops.
pub(crate) async fn probe(core: Arc<Core>) {
    let mut ticks = interval(core.timing.probe());
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut snapshot_due = now() + SNAPSHOT_INTERVAL;
    loop {
        ticks.tick().await;
        let others = core.others();
        core.probes.retain(|replica| others.contains(&replica));
        core.probe_all(&others, core.timing.probe()).await;
        if now() >= snapshot_due {
            snapshot_due = now() + SNAPSHOT_INTERVAL;
            core.snapshot_if_grown().await;
        }
    }
}

impl Core {
    /// The other members; before the membership is known, who was known when joining.
    pub(super) fn others(&self) -> Vec<u64> {
        let stored = self.effective_membership();
        let mut others: Vec<u64> = stored.membership().nodes().map(|(id, _)| *id).collect();
        if others.is_empty() {
            others = self
                .identity
                .peers
                .iter()
                .map(|peer| peer.replica_id)
                .collect();
        }
        others.retain(|id| *id != self.id());
        others
    }

    /// Asks replicas how they are; each has `patience` to answer.
    pub(super) async fn probe_all(&self, replicas: &[u64], patience: Duration) {
        join_all(replicas.iter().map(|id| self.probe_one(*id, patience))).await;
    }

    async fn probe_one(&self, replica: u64, patience: Duration) {
        let asked = self.config.clock.now_ms();
        let request = IdentifyRequest::default();
        match self.lanes.identify(replica, patience, request).await {
            Ok(reply) => {
                let answered = self.config.clock.now_ms();
                self.probes.note(replica, answer(&reply, asked, answered));
                self.check_cluster_level(reply.level);
            }
            Err(error) => tracing::debug!(replica.id = replica, %error, "replica does not answer"),
        }
    }

    /// A replica that was away while the cluster was raised gets nothing that it understands any more;
    /// it would try for ever.
    fn check_cluster_level(&self, level: u32) {
        // One that is behind may say a level that is over.
        if level > self.config.levels.max
            && let Err(error) = self.config.levels.check(level)
        {
            self.fatal.report(Fatal::Level(error));
        }
    }

    async fn snapshot_if_grown(&self) {
        let grown = {
            let metrics = self.raft.data_metrics();
            let metrics = metrics.borrow_watched();
            metrics.last_applied > metrics.snapshot
        };
        if grown && let Err(fatal) = self.raft.trigger().snapshot().await {
            tracing::debug!(error = %fatal, "no snapshot is taken");
        }
    }
}

/// The other clock is read somewhere between asking and answering: the middle errs least.
fn answer(reply: &IdentifyReply, asked_ms: i64, answered_ms: i64) -> ProbeAnswer {
    let middle = asked_ms.saturating_add(answered_ms.saturating_sub(asked_ms) / 2);
    ProbeAnswer {
        at: now(),
        incarnation: reply.incarnation,
        clock_ahead_ms: reply.clock_ms.saturating_sub(middle),
        applied_index: reply.applied_index,
        sealing_keys: reply
            .sealing_key_ids
            .iter()
            .filter_map(|id| KeyId::from_bytes(id))
            .collect(),
        certificate: Arc::new(certificate(reply)),
        levels: levels_of(reply),
        holds_level: reply.holds_level,
    }
}

fn certificate(reply: &IdentifyReply) -> CertificateState {
    let told = reply.certificate.clone().unwrap_or_default();
    CertificateState {
        expires_ms: told.expires_ms,
        issuer_sha256: told.issuer_sha256.to_vec(),
        trusted_sha256: told.trusted_sha256.iter().map(|one| one.to_vec()).collect(),
        renewed_at: told.renewed_at,
    }
}

/// The feature levels that a replica says it supports.
pub(super) fn levels_of(reply: &IdentifyReply) -> Levels {
    Levels {
        min: reply.level_min,
        max: reply.level_max,
    }
}
