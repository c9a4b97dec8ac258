//! What all parts of a running replica share.

mod admission;
mod append;
mod certificates;
mod clock;
mod disk;
mod due;
mod level;
mod members;
mod observe;
mod probe;
mod propose;
mod read;
mod reconcile;
mod sealing;
mod succession;
mod voters;
mod window;

use std::sync::atomic::AtomicI64;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use arc_swap::{ArcSwap, ArcSwapOption};
use openraft::Raft;
use openraft::alias::StoredMembershipOf;
use openraft::async_runtime::watch::WatchReceiver;
use openraft::metrics::{RaftMetrics, RaftServerMetrics};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

pub(crate) use self::admission::seek_admission;
pub(crate) use self::append::Appended;
pub use self::certificates::CertificateState;
pub(crate) use self::certificates::certify;
pub(crate) use self::disk::{Disk, watch_disk};
pub(crate) use self::members::Managed;
pub(crate) use self::observe::{initial_status, observe};
pub(crate) use self::probe::{Probes, probe};
pub(crate) use self::propose::AdminDenied;
pub use self::propose::COMMAND_BYTES_MAX;
pub(crate) use self::read::{QUEUE as READ_QUEUE, ReadHere, ReadRequest, serve_reads};
pub(crate) use self::reconcile::reconcile;
pub(crate) use self::sealing::{AUTHORITY_KEY, AuthorityError};
pub(crate) use self::succession::watch_leader;
pub(crate) use self::window::{IN_FLIGHT_MAX, Window};
use crate::counters::Counters;
use crate::fatal_slot::FatalSlot;
use crate::identity::{Folder, Identity};
use crate::machine_store::MachineStore;
use crate::network::{Barred, Guard, Lanes, LeaderContact};
use crate::records::ClusterRecords;
use crate::snapshot::SnapshotStore;
use crate::timing::Timing;
use crate::tls::{Credentials, Tls};
use crate::type_config::{Member, TypeConfig};
use crate::{Hold, ReadError, ReplicaConfig, Status};

/// The consensus core on our storage.
pub(crate) type Consensus = Raft<TypeConfig, MachineStore>;

/// Role, leader and membership.
pub(crate) type ServerMetrics = RaftServerMetrics<TypeConfig>;

/// A running replica's parts.
pub(crate) struct Core {
    pub(crate) identity: Identity,
    pub(crate) incarnation: u64,
    pub(crate) config: ReplicaConfig,
    pub(crate) timing: Timing,
    pub(crate) folder: Folder,
    pub(crate) raft: Consensus,
    pub(crate) applied: watch::Receiver<u64>,
    pub(crate) records: Arc<ArcSwap<ClusterRecords>>,
    /// Replicated time as applied here, milliseconds since the Unix epoch.
    pub(crate) replicated_ms: Arc<AtomicI64>,
    /// Taken when the replica stops, so that the database can be closed.
    pub(crate) snapshots: ArcSwapOption<SnapshotStore>,
    /// How connections to and from others are made from now on.
    pub(crate) tls: Tls,
    pub(crate) credentials: ArcSwap<Credentials>,
    pub(crate) lanes: Lanes,
    pub(crate) guard: Guard,
    pub(crate) barred: Barred,
    pub(crate) contact: LeaderContact,
    pub(crate) probes: Probes,
    pub(crate) counters: Arc<Counters>,
    pub(crate) fatal: FatalSlot,
    pub(crate) status: watch::Sender<Status>,
    pub(crate) disk: Disk,
    pub(crate) window: Window,
    pub(crate) reads: mpsc::Sender<ReadRequest>,
    /// The turn to decide on and make a membership change as leader, one after the other.
    pub(crate) membership: tokio::sync::Mutex<()>,
    pub(crate) stopping: CancellationToken,
    /// Takes what other replicas send to the layer above, once that is there.
    pub(crate) hold: OnceLock<Arc<dyn Hold>>,
}

impl Core {
    /// This replica's id.
    pub(crate) fn id(&self) -> u64 {
        self.identity.replica_id
    }

    /// The replica that leads, as far as known here.
    pub(crate) fn leader(&self) -> Option<u64> {
        self.raft.server_metrics().borrow_watched().current_leader
    }

    /// The membership in force, committed or not.
    pub(crate) fn effective_membership(&self) -> Arc<StoredMembershipOf<TypeConfig>> {
        Arc::clone(
            &self
                .raft
                .server_metrics()
                .borrow_watched()
                .membership_config,
        )
    }

    /// A member's name and address.
    pub(crate) fn member(&self, id: u64) -> Option<Member> {
        self.effective_membership()
            .membership()
            .get_node(&id)
            .cloned()
    }

    /// Waits until log index `index` is applied here.
    pub(crate) async fn wait_applied(
        &self,
        index: u64,
        patience: Duration,
    ) -> Result<(), ReadError> {
        let mut applied = self.applied.clone();
        let reached = tokio::time::timeout(patience, applied.wait_for(|at| *at >= index)).await;
        match reached {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) => Err(ReadError::Stopped),
            Err(_) => Err(ReadError::Behind {
                applied: *self.applied.borrow(),
                needed: index,
            }),
        }
    }

    /// Waits for another leader than `than`, but not for long: what is known may be outdated.
    pub(crate) async fn await_other_leader(&self, than: Option<u64>, patience: Duration) {
        let patience = patience.min(self.timing.retry());
        let until = Instant::now() + patience;
        let other =
            |now: &ServerMetrics| now.current_leader.is_some() && now.current_leader != than;
        if self.wait_server(other, patience).await.is_none() {
            // At once when consensus has ended: who asks in a loop must not do so without a rest.
            let rest = tokio::time::sleep_until(until);
            self.stopping.run_until_cancelled(rest).await;
        }
    }

    /// Waits until another leader than `asked` comes up. Who waits for an answer of a leader that
    /// fell silent need not wait for the connection to notice.
    pub(crate) async fn leader_replaced(&self, asked: u64) {
        let known = self.leader();
        let replaced = |now: &ServerMetrics| {
            now.current_leader.is_some()
                && now.current_leader != known
                && now.current_leader != Some(asked)
        };
        let mut server = self.raft.server_metrics();
        while !replaced(&server.borrow_and_update()) {
            // Consensus has ended: nobody will lead, as far as this replica hears.
            if server.changed().await.is_err() {
                return;
            }
        }
    }

    /// Everything that consensus says about itself. A copy: the original is locked while borrowed.
    pub(crate) fn metrics(&self) -> RaftMetrics<TypeConfig> {
        self.raft.metrics().borrow_watched().clone()
    }

    /// Waits until role, leader and membership are as `wanted`; `None` when they were not in time,
    /// and at once when consensus has ended.
    pub(crate) async fn wait_server(
        &self,
        wanted: impl Fn(&ServerMetrics) -> bool,
        patience: Duration,
    ) -> Option<ServerMetrics> {
        let mut server = self.raft.server_metrics();
        let waiting = async {
            loop {
                let now = server.borrow_and_update().clone();
                if wanted(&now) {
                    return Some(now);
                }
                server.changed().await.ok()?;
            }
        };
        tokio::time::timeout(patience, waiting).await.ok().flatten()
    }
}
