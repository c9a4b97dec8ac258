//! Every duration of the consensus, from one multiplier.

use std::sync::Arc;
use std::time::{Duration, Instant};

use openraft::{Config, ConfigError, SnapshotPolicy, StepDownPolicy};

use crate::ReplicaConfig;

/// The time on the runtime's clock, which tests may stop.
pub(crate) fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

/// Multipliers accepted: beyond, a failover would take longer than clients wait.
pub(crate) const MULTIPLIERS: std::ops::RangeInclusive<u32> = 1..=10;

/// The durations that depend on how slow the machine is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Timing {
    multiplier: u32,
}

impl Timing {
    /// Timing stretched by `multiplier`, clamped to [`MULTIPLIERS`].
    pub(crate) fn new(multiplier: u32) -> Self {
        Self {
            multiplier: multiplier.clamp(*MULTIPLIERS.start(), *MULTIPLIERS.end()),
        }
    }

    fn ms(self, base: u64) -> Duration {
        Duration::from_millis(base).saturating_mul(self.multiplier)
    }

    /// Leader lease and longest election timeout.
    pub(crate) fn election(self) -> Duration {
        self.ms(500)
    }

    /// An append stream that owes an answer for this long is broken. Longer than a heartbeat: a slow
    /// fsync must not make the leader send everything again.
    pub(crate) fn append_answer(self) -> Duration {
        self.ms(500)
    }

    /// TCP connect and TLS handshake together.
    pub(crate) fn connect(self) -> Duration {
        self.ms(1000)
    }

    /// An accepted connection must have finished its handshake by then.
    pub(crate) fn handshake(self) -> Duration {
        self.ms(5000)
    }

    /// Between probes of the other replicas, and what one may take.
    pub(crate) fn probe(self) -> Duration {
        self.ms(500)
    }

    /// A replica that has not answered for this long counts as unreachable.
    pub(crate) fn reachable_within(self) -> Duration {
        self.ms(2000)
    }

    /// Between looks at whether the leader is silent.
    pub(crate) fn glance(self) -> Duration {
        self.ms(25)
    }

    /// A leader that is silent for this long has missed a heartbeat: time to see whether its process
    /// is there. Later for a replica that others go before.
    pub(crate) fn silence(self, before_me: u32) -> Duration {
        self.ms(150)
            .saturating_add(self.ms(150).saturating_mul(before_me))
    }

    /// A replica that has heard of no leader for this long lacks one; elections take less.
    pub(crate) fn leaderless_after(self) -> Duration {
        self.ms(3000)
    }

    /// Between looks at what the leader has to do about membership and clocks.
    pub(crate) fn reconcile(self) -> Duration {
        self.ms(200)
    }

    /// How long a leadership transfer may take before it counts as failed.
    pub(crate) fn transfer(self) -> Duration {
        self.ms(2000)
    }

    /// How long to wait for anything better before asking for a leader again.
    pub(crate) fn retry(self) -> Duration {
        self.ms(50)
    }

    /// How long connections may drain at the end.
    pub(crate) fn drain(self) -> Duration {
        self.ms(500)
    }

    /// openraft's configuration.
    ///
    /// # Errors
    /// The values contradict each other.
    pub(crate) fn consensus(self, config: &ReplicaConfig) -> Result<Arc<Config>, ConfigError> {
        let ms = |base: u64| base.saturating_mul(u64::from(self.multiplier));
        let consensus = Config {
            cluster_name: "hydrascale".to_owned(),
            heartbeat_interval: ms(100),
            election_timeout_min: ms(250),
            election_timeout_max: ms(500),
            enable_pre_vote: Some(true),
            // Twice the lease: lets a connected majority elect although an old leader still
            // reaches a minority of it.
            quorum_loss_probe_interval: Some(ms(1000)),
            // An extra election costs a second and spares trusting a restored leadership.
            enable_leader_restore: Some(false),
            max_payload_entries: 256,
            max_append_entries: Some(1024),
            snapshot_policy: SnapshotPolicy::LogsSinceLast(config.snapshot_every),
            max_in_snapshot_log_to_keep: config.log_kept,
            // Must exceed the snapshot threshold, or a snapshot could not cure the lag.
            replication_lag_threshold: config.snapshot_every.saturating_mul(2),
            purge_batch_size: 1024.min(config.log_kept.max(1)),
            install_snapshot_timeout: 60_000,
            api_channel_size: Some(4096),
            heartbeat_min_interval: Some(0),
            removed_leader_step_down: StepDownPolicy::After(ms(1000)),
            // Not stretched: nothing is purged and nobody who is back is served while an attempt waits.
            backoff: "100ms 200ms ...200ms".to_owned(),
            broadcast_submitted_on_append: Some(true),
            ..Config::default()
        };
        Ok(Arc::new(consensus.validate()?))
    }
}
