//! The typed face of the replicated state machine: propose, read, follow changes, soft state.
//!
//! Everything durable goes through [`Cluster::propose`]; readers take [`Cluster::state`], which is
//! lock-free and never older than what this replica has shown before. What a client or
//! administrator must see as of now is read after [`Cluster::linearizable`].

mod administration;
mod announce;
#[cfg(test)]
mod at_once;
mod catch_up;
mod consensus;
mod disputed;
mod local;
mod machine;
mod members;
mod metrics;
mod policy;
mod presence;
mod proposals;
mod replicated;
mod report;
mod route_approval;
mod sealing;
mod soft;
mod stopping;
mod upgrade;

use std::sync::Arc;
use std::time::Duration;

use hydrascale_proto::state::v1::{self as pb, command::Op};
use hydrascale_raft::{Bug, is_planted};
use tokio::sync::broadcast;
use tokio::task::JoinSet;

pub use self::administration::{Administration, BackupBytes, JoinTokenStatus, MemberChange};
pub use self::announce::{Announcement, Unwelcome, spawn_announcer};
use self::catch_up::CaughtUp;
pub use self::consensus::{
    AnnouncedStatus, AuthorityStatus, CertificateStatus, ClusterStatus, Consensus, FeatureLevels,
    MemberStatus, Role,
};
pub use self::local::LocalControl;
#[cfg(test)]
pub(crate) use self::local::plain_tailnet;
pub use self::machine::{Applied, Machine, What};
pub use self::members::spawn_member_clerk;
pub use self::metrics::{Bound, ClusterMetrics};
use self::policy::PolicyReader;
pub use self::presence::spawn_presence;
use self::proposals::Proposals;
pub use self::route_approval::spawn_route_approval;
pub use self::sealing::{SealingPlan, seal_noise_key, unseal_noise_key};
use self::soft::SoftState;
pub use self::upgrade::{UpgradePhase, UpgradeStatus};
use crate::state::{SessionNo, State};
use crate::tasks::Tasks;
use crate::types::{NodeId, ReplicaId};

/// Why a proposal has no result.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ProposeError {
    /// The state machine said no; nothing changed.
    #[error("{}", .0.message)]
    Refused(pb::Refusal),
    /// Certainly not done, and worth a retry.
    #[error("the cluster cannot take changes now: {reason}; try again in a moment")]
    Unavailable {
        /// What is missing.
        reason: String,
    },
    /// It may have been done or not.
    #[error("the outcome is not known: {reason}; look before you try again")]
    Unknown {
        /// What happened.
        reason: String,
    },
}

impl ProposeError {
    /// Whether the same proposal may simply be made again.
    pub const fn is_retryable(&self) -> bool {
        matches!(self, Self::Unavailable { .. })
    }
}

/// Why a linearizable read has no result.
#[derive(Clone, Debug, thiserror::Error)]
#[error("this replica cannot confirm that it is up to date: {reason}; try again in a moment")]
pub struct ReadError {
    /// What is missing.
    pub reason: String,
}

/// A handle on the cluster as this replica sees it. Cloning is cheap.
#[derive(Clone)]
pub struct Cluster {
    inner: Arc<Inner>,
}

struct Inner {
    consensus: Arc<dyn Consensus>,
    machine: Arc<Machine>,
    proposals: Proposals,
    soft: Arc<SoftState>,
    caught_up: CaughtUp,
    policy: PolicyReader,
    replica: ReplicaId,
    incarnation: u64,
    /// They end with the last handle.
    tasks: Tasks,
}

/// A map stream that runs here.
pub struct StreamGuard {
    soft: Arc<SoftState>,
    node: NodeId,
}

impl Drop for StreamGuard {
    fn drop(&mut self) {
        self.soft.end_stream(self.node);
    }
}

impl Cluster {
    /// Makes the handle over a running consensus whose commands `machine` applies.
    pub fn new(
        consensus: Arc<dyn Consensus>,
        machine: Arc<Machine>,
        replica: ReplicaId,
        incarnation: u64,
    ) -> Self {
        let mut tasks = JoinSet::new();
        let metrics = ClusterMetrics::default();
        let proposals = Proposals::spawn(Arc::clone(&consensus), metrics, &mut tasks);
        let soft = SoftState::spawn(proposals.clone(), Arc::clone(&machine), replica, &mut tasks);
        let caught_up = CaughtUp::spawn(Arc::clone(&consensus), &mut tasks);
        let inner = Inner {
            consensus,
            machine,
            proposals,
            soft,
            caught_up,
            policy: PolicyReader::default(),
            replica,
            incarnation,
            tasks: Tasks::new("the cluster", tasks),
        };
        Self {
            inner: Arc::new(inner),
        }
    }

    /// Resolves when a background task of this handle has ended, which only a fault does; tells how.
    pub async fn ended(&self) -> String {
        self.inner.tasks.ended().await
    }

    /// The newest state that this replica has applied.
    pub fn state(&self) -> Arc<State> {
        self.inner.machine.state()
    }

    /// Log index of [`Self::state`].
    pub fn applied_index(&self) -> u64 {
        self.inner.machine.applied_index()
    }

    /// [`Self::state`], and the log index at which it differed last: [`Self::subscribe`] tells of
    /// that one, while entries that change nothing only move [`Self::applied_index`].
    pub fn changed(&self) -> (u64, Arc<State>) {
        self.inner.machine.changed()
    }

    /// Waits until [`Self::state`] includes this log index.
    ///
    /// # Cancel safety
    /// Nothing is lost when the caller stops waiting.
    pub async fn wait_applied(&self, index: u64) {
        // The machine, which the handle shares, keeps the sender.
        let _ = self
            .inner
            .machine
            .applied()
            .wait_for(|at| *at >= index)
            .await;
    }

    /// How long nothing has proven that a leader works, once that is longer than elections take:
    /// from then on changes are refused.
    pub fn lacks_leader(&self) -> Option<Duration> {
        self.inner.consensus.lacks_leader()
    }

    /// Proposes a change and waits until it is applied here, so that the proposer reads its write.
    ///
    /// # Errors
    /// See [`ProposeError`]; only `Unknown` leaves open whether the change was made.
    ///
    /// # Cancel safety
    /// A change that nobody waits for any more is dropped while it is in the queue; one under way
    /// goes on.
    pub async fn propose(&self, op: Op) -> Result<pb::Done, ProposeError> {
        if let Some(without) = self.lacks_leader() {
            return Err(ProposeError::Unavailable {
                reason: format!("no leader for {:.1} s", without.as_secs_f64()),
            });
        }
        let op = if is_planted(Bug::AddressByProposer) {
            self.state().with_chosen_address(op)
        } else {
            op
        };
        self.inner.proposals.propose(op).await
    }

    /// The state as of now: not older than any change acknowledged before this call, anywhere.
    ///
    /// # Errors
    /// When no leader confirms it in time.
    pub async fn linearizable(&self) -> Result<Arc<State>, ReadError> {
        self.inner.consensus.read_index().await?;
        Ok(self.state())
    }

    /// Whether this replica has reached, since it started, what was committed then.
    pub fn has_caught_up(&self) -> bool {
        self.inner.caught_up.is_so()
    }

    /// Follows what is applied from here on. A receiver that lags behind must start over from
    /// [`Self::state`].
    pub fn subscribe(&self) -> broadcast::Receiver<Arc<Applied>> {
        self.inner.machine.subscribe()
    }

    /// Stores what a node reports about itself: soon, newest wins, equal values are skipped. What
    /// waits here while the node moves to another replica is dropped; what is only taken for that is
    /// stored later, if the node still streams here then ([`Self::begin_stream`]).
    pub fn update_node(&self, update: pb::UpdateNode) {
        let known = self.newest_session(NodeId(update.node_id));
        self.inner.soft.update(pb::UpdateNode {
            replica_id: self.inner.replica.0,
            known_session: Some(known.into()),
            ..update
        });
    }

    /// Notes that a map stream of the node runs here, until the guard is dropped.
    pub fn begin_stream(&self, node: NodeId) -> StreamGuard {
        self.inner.soft.begin_stream(node);
        StreamGuard {
            soft: Arc::clone(&self.inner.soft),
            node,
        }
    }

    /// Number of the node's newest session as far as this replica knows; zero for none.
    pub fn newest_session(&self, node: NodeId) -> SessionNo {
        let state = self.state();
        state
            .session(node)
            .map(|session| session.no)
            .unwrap_or_default()
    }

    /// Records that the node's map stream is held here. Refused when a session newer than `known`
    /// runs on another replica.
    ///
    /// # Errors
    /// As [`Self::propose`].
    pub async fn open_session(
        &self,
        node: NodeId,
        known: SessionNo,
    ) -> Result<SessionNo, ProposeError> {
        let op = Op::OpenSession(pb::OpenSession {
            node_id: node.0,
            replica_id: self.inner.replica.0,
            incarnation: self.inner.incarnation,
            known: Some(known.into()),
        });
        let done = self.propose(op).await?;
        Ok(done.session_no.unwrap_or_default().into())
    }

    /// Records, soon, that this map stream has ended; a newer stream of the node is not touched.
    pub fn close_session(&self, node: NodeId, no: SessionNo) {
        self.inner.soft.close(node, no);
    }

    /// How the cluster looks from here.
    pub fn status(&self) -> ClusterStatus {
        self.inner.consensus.status()
    }

    /// The same, with what the replicas have announced and warnings for operators.
    pub fn report(&self) -> ClusterStatus {
        report::report(self.status(), &self.state())
    }

    /// What this handle counts.
    pub fn metrics(&self) -> &ClusterMetrics {
        self.inner.proposals.metrics()
    }

    /// Which replica this is.
    pub fn replica_id(&self) -> ReplicaId {
        self.inner.replica
    }

    /// Boot counter of this replica.
    pub fn incarnation(&self) -> u64 {
        self.inner.incarnation
    }
}
