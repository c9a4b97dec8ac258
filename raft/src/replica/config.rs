//! What a replica needs to be told.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use parking_lot::RwLock;
use tracing::Span;

use crate::{Bootstrap, FEATURE_LEVELS, Keyring, Levels};

/// Long enough to see that the new version works, and to go one step back if it does not.
const UPGRADE_AFTER: Duration = Duration::from_secs(60);

/// Everything a replica needs to be told. Its identity is not among it: that lives in the data
/// folder and is given once, by `init_cluster` or `join_cluster`.
#[derive(Clone, Debug)]
pub struct ReplicaConfig {
    /// Folder of the identity, the certificates and the store; one process at a time.
    pub data_dir: PathBuf,
    /// What operators call the replica; unique in the cluster.
    pub name: String,
    /// `host:port` under which the other replicas reach the peer listener.
    pub advertise_addr: String,
    /// Stretches every consensus timing, 1 to 10: 1 for production, more for slow machines.
    pub timing_multiplier: u32,
    /// Waits for the disk inside every append instead of grouping: slower, one less thing to trust.
    pub sync_append: bool,
    /// Entries applied after a snapshot before the next one is taken.
    pub snapshot_every: u64,
    /// Entries kept behind a snapshot, for replicas that were away only briefly.
    pub log_kept: u64,
    /// How long [`crate::Replica::propose`] and [`crate::Replica::read_index`] try at most.
    pub request_timeout: Duration,
    /// Replaces dialled addresses; tests put proxies between replicas with it.
    pub dial_overrides: DialOverrides,
    /// The wall clock that stamps commands.
    pub clock: Clock,
    /// Ties the span of a change that another replica forwards to the one there, which a W3C
    /// `traceparent` names.
    pub continue_trace: fn(&Span, &str),
    /// What a failed disk does to the process.
    pub disk_failure: DiskFailure,
    /// A join asks for a place without a vote: the replica serves clients and never weighs on a
    /// commit. Counts at the join only.
    pub non_voting: bool,
    /// The keys that seal the cluster's secrets; empty without a key file.
    pub keyring: Keyring,
    /// Feature levels that the replica supports: the program's, or fewer to act as an older one.
    pub levels: Levels,
    /// The cluster's feature level may be raised without being asked
    /// ([`crate::Replica::raise_level`]); one replica that says no is enough.
    pub auto_upgrade: bool,
    /// How long all members must have supported a feature level before it is raised to.
    pub upgrade_after: Duration,
    /// How replicas without data form a cluster by themselves; `None` where each is told what to do.
    pub bootstrap: Option<Bootstrap>,
}

impl ReplicaConfig {
    /// The production settings for a replica.
    pub fn new(
        data_dir: impl Into<PathBuf>,
        name: impl Into<String>,
        advertise_addr: impl Into<String>,
    ) -> Self {
        Self {
            data_dir: data_dir.into(),
            name: name.into(),
            advertise_addr: advertise_addr.into(),
            timing_multiplier: 1,
            sync_append: false,
            snapshot_every: 20_000,
            log_kept: 20_000,
            request_timeout: Duration::from_secs(10),
            dial_overrides: DialOverrides::default(),
            clock: Clock::default(),
            continue_trace: |_, _| {},
            disk_failure: DiskFailure::ExitProcess,
            non_voting: false,
            keyring: Keyring::default(),
            levels: FEATURE_LEVELS,
            auto_upgrade: true,
            upgrade_after: UPGRADE_AFTER,
            bootstrap: None,
        }
    }
}

/// What happens when the log or the state cannot be written: nobody knows then what the disk holds,
/// and only the next start can find out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DiskFailure {
    /// The process exits at once with code 74.
    ExitProcess,
    /// [`crate::Replica::fatal`] resolves; the caller must stop the replica.
    Report,
}

/// Dialled address to the address really connected to. Clones share one map, so that a test can
/// change it while replicas run.
#[derive(Clone, Debug, Default)]
pub struct DialOverrides(Arc<RwLock<BTreeMap<String, String>>>);

impl DialOverrides {
    /// Connects to `to` from now on where `addr` is advertised.
    pub fn set(&self, addr: impl Into<String>, to: impl Into<String>) {
        self.0.write().insert(addr.into(), to.into());
    }

    /// The address to connect to for `addr`.
    pub(crate) fn resolve(&self, addr: &str) -> String {
        self.0
            .read()
            .get(addr)
            .cloned()
            .unwrap_or_else(|| addr.to_owned())
    }
}

/// A wall clock. Only the driver reads it: what is replicated carries the leader's reading.
#[derive(Clone)]
pub struct Clock(Arc<dyn Fn() -> SystemTime + Send + Sync>);

impl Clock {
    /// A clock of the caller's making, for tests that shift it.
    pub fn new(read: impl Fn() -> SystemTime + Send + Sync + 'static) -> Self {
        Self(Arc::new(read))
    }

    /// Milliseconds since the Unix epoch; negative before it.
    pub(crate) fn now_ms(&self) -> i64 {
        let millis = |duration: Duration| i64::try_from(duration.as_millis()).unwrap_or(i64::MAX);
        match (self.0)().duration_since(SystemTime::UNIX_EPOCH) {
            Ok(since) => millis(since),
            Err(before) => -millis(before.duration()),
        }
    }
}

impl Default for Clock {
    fn default() -> Self {
        Self::new(SystemTime::now)
    }
}

impl std::fmt::Debug for Clock {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Clock")
    }
}
