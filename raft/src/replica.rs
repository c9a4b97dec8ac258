//! The handle of a running replica: propose, read, watch, administer, stop.

mod config;
mod error;
mod open;
mod start;
mod status;
mod stop;

use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::Stream;
use hydrascale_proto::raft::v1::manage_request::Op;
use hydrascale_proto::raft::v1::proposal::Body;
use hydrascale_proto::raft::v1::{
    ChangeVote, MoveLeadership, RaiseToHighest, RemoveMember, ReplaceMember,
};
use tokio::net::TcpListener;
use tokio::sync::watch;

pub use self::config::{Clock, DialOverrides, DiskFailure, ReplicaConfig};
pub use self::error::{
    AdminError, Cause, Fatal, InitError, JoinError, ProposeError, ReadError, StartError,
};
pub use self::status::{AuthorityStatus, MemberStatus, QuorumHealth, Role, Status};
use self::stop::Inner;
use crate::bootstrap::{bootstrap, formed};
use crate::carry::{CarryError, Hold, carry};
use crate::counters::ReplicaMetrics;
use crate::init::init_cluster;
use crate::join::join;
use crate::levels::FIRST;
use crate::{
    BackupError, BackupStream, Begun, BootstrapError, JoinToken, JoinTokenInfo, KeyId, Keyring,
    ReplicaId, StateMachine, invite,
};

/// A committed and locally applied command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proposed {
    /// A log index that includes the command: this replica has applied it.
    pub index: u64,
    /// The state machine's answer.
    pub outcome: Bytes,
}

/// A running replica. Clones are cheap and share it; dropping the last one stops it abruptly.
#[derive(Clone)]
pub struct Replica {
    inner: Arc<Inner>,
}

impl fmt::Debug for Replica {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Replica")
            .field("id", &self.id())
            .finish_non_exhaustive()
    }
}

impl Replica {
    /// Makes a new cluster in an empty data folder, with this replica as its single voter, id 1.
    /// Offline: nothing is listened to or started. Returns the cluster's id.
    ///
    /// # Errors
    /// The folder is in use or cannot be written. One that was in use is left as it was; what a
    /// broken-off attempt leaves is taken up or removed by the next `init` or join.
    pub fn init_cluster(config: &ReplicaConfig) -> Result<String, InitError> {
        init_cluster(config, 0)
    }

    /// Whether the data folder belongs to a replica already: made by [`Self::init_cluster`] or
    /// [`Self::join_cluster`].
    ///
    /// # Errors
    /// The folder holds an identity that cannot be read.
    pub fn is_initialised(data_dir: &Path) -> Result<bool, StartError> {
        open::is_initialised(data_dir)
    }

    /// Spends a join token: asks the cluster for an id and a certificate and stores both in the
    /// empty data folder. The private key never leaves it. After a failure in between, calling
    /// again with the same token goes on where it stopped. Returns the replica's id.
    ///
    /// # Errors
    /// The folder is in use, the token is refused, or nobody answers.
    pub async fn join_cluster(
        config: &ReplicaConfig,
        token: &JoinToken,
    ) -> Result<ReplicaId, JoinError> {
        join(config, token, 0).await
    }

    /// Forms a cluster with other replicas whose data folder is empty as well, as
    /// [`ReplicaConfig::bootstrap`] says, or joins the one that they have formed. `listener` is the
    /// one that [`Self::start`] takes next. Waits for the others as long as it takes.
    ///
    /// # Errors
    /// The folder is in use, or the cluster that was found does not take this replica.
    ///
    /// # Cancel safety
    /// Calling it again goes on where it stopped.
    pub async fn bootstrap_cluster(
        config: &ReplicaConfig,
        listener: &TcpListener,
    ) -> Result<Begun, BootstrapError> {
        bootstrap(config, listener).await
    }

    /// Waits until a cluster that its replicas have formed by themselves stands: most of those that were
    /// expected vote. At once in any other cluster.
    pub async fn formed(&self) {
        formed(&self.inner.core).await;
    }

    /// Opens the store, loads the state machine, serves other replicas on `listener`, and only then
    /// takes part in consensus.
    ///
    /// # Errors
    /// The folder belongs to no cluster or to another, or the store does not open.
    pub async fn start(
        config: ReplicaConfig,
        listener: TcpListener,
        machine: Arc<dyn StateMachine>,
    ) -> Result<Self, StartError> {
        let inner = start::start(config, listener, machine).await?;
        Ok(Self {
            inner: Arc::new(inner),
        })
    }

    /// As [`Self::start`], on a simulated disk and network.
    #[cfg(test)]
    pub(crate) async fn start_simulated(
        config: ReplicaConfig,
        disk: Arc<dyn crate::engine::Engine>,
        host: crate::simulation::Host,
        machine: Arc<dyn StateMachine>,
    ) -> Result<Self, StartError> {
        let inner = start::start_simulated(config, disk, host, machine).await?;
        Ok(Self {
            inner: Arc::new(inner),
        })
    }

    /// Proposes a command: here when leading, else through the leader, until it is applied on this
    /// replica. Tries across leader changes until the configured timeout; the command applies at
    /// most once however often it was sent.
    ///
    /// # Errors
    /// [`ProposeError::is_outcome_unknown`] tells whether the command may still apply.
    ///
    /// # Cancel safety
    /// A dropped call may or may not have proposed the command.
    pub async fn propose(&self, command: Bytes) -> Result<Proposed, ProposeError> {
        self.propose_traced(command, FIRST, "").await
    }

    /// As [`Self::propose`], for a command of the feature level `level`, which is refused while the
    /// cluster's is below it; hands a W3C `traceparent` on to the leader's span.
    ///
    /// # Errors
    /// As [`Self::propose`].
    pub async fn propose_traced(
        &self,
        command: Bytes,
        level: u32,
        traceparent: &str,
    ) -> Result<Proposed, ProposeError> {
        self.inner
            .core
            .propose(Body::Command(command), level, traceparent)
            .await
    }

    /// A log index that covers everything acknowledged anywhere before this call; the local state
    /// has reached it on return, so that a local read is linearizable. Concurrent calls share one
    /// question to the leader.
    ///
    /// # Errors
    /// No leader in time, or this replica is too far behind.
    pub async fn read_index(&self) -> Result<u64, ReadError> {
        self.inner.core.read_index().await
    }

    /// How long nothing has proven that a leader works, as of this call; near zero in a healthy
    /// cluster.
    pub fn time_without_leader(&self) -> Duration {
        self.inner.core.time_without_leader()
    }

    /// The same, once it is longer than elections take (3 s times the timing multiplier): from then
    /// on proposals are refused at once.
    pub fn lacks_leader(&self) -> Option<Duration> {
        self.inner.core.lacks_leader()
    }

    /// Waits until this replica has applied log index `index`.
    ///
    /// # Errors
    /// [`ReadError::Behind`] after `timeout`.
    pub async fn wait_applied(&self, index: u64, timeout: Duration) -> Result<(), ReadError> {
        self.inner.core.wait_applied(index, timeout).await
    }

    /// The replica's and the cluster's state, renewed at every change of role, leader or membership
    /// and a few times a second besides.
    pub fn status(&self) -> watch::Receiver<Status> {
        self.inner.core.status.subscribe()
    }

    /// This replica's id.
    pub fn id(&self) -> ReplicaId {
        ReplicaId(self.inner.core.id())
    }

    /// The cluster's id (UUID).
    pub fn cluster_id(&self) -> &str {
        &self.inner.core.identity.cluster_id
    }

    /// How often this replica has started; durable, grows by one each time.
    pub fn incarnation(&self) -> u64 {
        self.inner.core.incarnation
    }

    /// Makes a token that lets one new replica join within `ttl`, and take the place of `replaces`
    /// once it has caught up. Only its hash is stored; the token itself exists nowhere but in the
    /// answer.
    ///
    /// # Errors
    /// The cluster refuses or cannot be asked.
    pub async fn create_join_token(
        &self,
        ttl: Duration,
        replaces: Option<ReplicaId>,
    ) -> Result<JoinToken, AdminError> {
        invite::create_token(&self.inner.core, ttl, replaces).await
    }

    /// The tokens that the cluster remembers, spent and expired ones for a month after their expiry.
    ///
    /// # Errors
    /// No leader confirms that this replica is up to date.
    pub async fn join_tokens(&self) -> Result<Vec<JoinTokenInfo>, AdminError> {
        invite::list_tokens(&self.inner.core).await
    }

    /// Withdraws an unused join token.
    ///
    /// # Errors
    /// The token is unknown or used, or the cluster cannot be asked.
    pub async fn revoke_join_token(&self, token_id: &str) -> Result<(), AdminError> {
        invite::revoke_token(&self.inner.core, token_id).await
    }

    /// The key under which the cluster's secrets are to be sealed from now on: the first in this
    /// replica's file. Without `seal` none: what is sealed shall be unsealed.
    ///
    /// # Errors
    /// This replica has no key, or a member does not hold it; the cluster cannot be asked.
    pub async fn plan_sealing(&self, seal: bool) -> Result<Option<KeyId>, AdminError> {
        self.inner.core.plan_sealing(seal).await
    }

    /// Seals the authority's key under `key`, or not at all; the caller does so with its own secrets.
    ///
    /// # Errors
    /// Somebody else reseals it, or the cluster cannot be asked.
    pub async fn reseal_authority(&self, key: Option<KeyId>) -> Result<(), AdminError> {
        self.inner.core.reseal_authority(key).await
    }

    /// Asks replicas, without a name all members, for new certificates under new keys. Each makes its
    /// own as soon as it hears of it; connections go on.
    ///
    /// # Errors
    /// One is no member, or the cluster cannot be asked.
    pub async fn renew_certificates(&self, of: &[ReplicaId]) -> Result<(), AdminError> {
        self.inner.core.renew_certificates(of).await
    }

    /// Begins to replace the certificate authority whose certificate has this SHA-256; whoever leads
    /// finishes it. One that is under way goes on, and one that is done is done.
    ///
    /// # Errors
    /// A replica is joining, or the cluster cannot be asked.
    pub async fn rotate_authority(&self, replaces: &[u8]) -> Result<(), AdminError> {
        self.inner.core.rotate_authority(replaces).await
    }

    /// The sealing keys of this replica, to be replaced when its file has changed.
    pub fn keyring(&self) -> &Keyring {
        &self.inner.core.config.keyring
    }

    /// Hands leadership to a voter, or to the most caught-up other voter that is not to be avoided.
    /// Returns who leads now.
    ///
    /// # Errors
    /// The target is no voter or does not take over in time; the old leader goes on.
    pub async fn transfer_leadership(
        &self,
        to: Option<ReplicaId>,
        avoid: &[ReplicaId],
    ) -> Result<ReplicaId, AdminError> {
        let op = Op::MoveLeadership(MoveLeadership {
            to: to.map_or(0, |id| id.0),
            avoid: avoid.iter().map(|id| id.0).collect(),
        });
        self.inner.core.manage(op, None).await
    }

    /// Removes a replica for good: it leaves the membership, its id is never used again, and it
    /// stops when it hears of it. With `expected` ([`Status::membership_index`]) only while the
    /// membership is that one. Asking again for what is done is fine, here and below.
    ///
    /// # Errors
    /// The replica is unknown, the voters that are left could not commit, or the cluster cannot be
    /// asked.
    pub async fn remove_member(
        &self,
        id: ReplicaId,
        expected: Option<u64>,
    ) -> Result<(), AdminError> {
        let op = Op::RemoveMember(RemoveMember { replica_id: id.0 });
        self.inner.core.manage(op, expected).await.map(drop)
    }

    /// Gives a learner a vote, which it has once it has caught up with the log, or takes a member's
    /// vote away: it goes on as a learner until it is promoted.
    ///
    /// # Errors
    /// As [`Self::remove_member`].
    pub async fn set_voting(
        &self,
        id: ReplicaId,
        voting: bool,
        expected: Option<u64>,
    ) -> Result<(), AdminError> {
        let op = Op::ChangeVote(ChangeVote {
            replica_id: id.0,
            voting,
        });
        self.inner.core.manage(op, expected).await.map(drop)
    }

    /// Lets the learner `with` take the place of `id`, which is removed for good in the same change
    /// of the membership, once `with` has caught up. Returns when that is recorded: from then on
    /// whoever leads sees to it.
    ///
    /// # Errors
    /// As [`Self::remove_member`], and when `with` votes already.
    pub async fn replace_member(
        &self,
        id: ReplicaId,
        with: ReplicaId,
        expected: Option<u64>,
    ) -> Result<(), AdminError> {
        let op = Op::ReplaceMember(ReplaceMember {
            replica_id: id.0,
            with: with.0,
        });
        self.inner.core.manage(op, expected).await.map(drop)
    }

    /// Begins a backup of what this replica has applied: everything acknowledged anywhere before the
    /// call if [`Self::read_index`] came before it. Rows and position are of one moment; changes go on
    /// meanwhile. To be called on a runtime.
    ///
    /// # Errors
    /// The replica has stopped, or others are being made.
    pub fn backup(&self) -> Result<BackupStream, BackupError> {
        let core = &self.inner.core;
        let stopped = || BackupError::Failed {
            reason: "the replica has stopped".to_owned(),
        };
        let store = core.snapshots.load_full().ok_or_else(stopped)?;
        let taken_at_ms = core.config.clock.now_ms();
        let (stream, work) = BackupStream::prepare(store, taken_at_ms, core.stopping.clone())?;
        // The tracker waits for it when the replica stops.
        self.inner.tasks.spawn_blocking(work);
        Ok(stream)
    }

    /// Raises the cluster's feature level to the highest that all members support, from which there is
    /// no way back to a version that does not. Returns the level in force, applied here.
    ///
    /// # Errors
    /// A member is silent or too old, or the cluster cannot be asked.
    pub async fn raise_level(&self) -> Result<u32, AdminError> {
        let core = &self.inner.core;
        core.manage(Op::RaiseToHighest(RaiseToHighest {}), None)
            .await?;
        let read = core.read_index().await;
        read.map_err(|error| AdminError::Unknown {
            reason: error.to_string(),
        })?;
        Ok(core.records.load().level())
    }

    /// Resolves when the replica can no longer go on; the process must exit.
    pub async fn fatal(&self) -> Fatal {
        self.inner.core.fatal.wait().await
    }

    /// Hands leadership over if it leads (bounded), stops serving, and closes the store cleanly.
    /// Calling it again waits for the same end.
    pub async fn shutdown(&self) {
        self.inner.shutdown().await;
    }

    /// Stops at once, without handing leadership over, as a crash would.
    pub async fn abort(&self) {
        self.inner.abort().await;
    }

    /// Sends messages of the layer above to `to`, in order, until they end. Nothing is taken from
    /// `messages` before there is a connection, and no more than fits into one window beyond what
    /// the other side has taken.
    ///
    /// # Errors
    /// There is no connection, it broke, or nobody takes messages there yet.
    ///
    /// # Cancel safety
    /// A dropped call ends the stream.
    pub async fn carry(
        &self,
        to: ReplicaId,
        messages: impl Stream<Item = Bytes> + Send + 'static,
    ) -> Result<(), CarryError> {
        carry(&self.inner.core, to, messages).await
    }

    /// Who takes what other replicas [`Self::carry`] here, from now on. The first to ask stays it;
    /// `false` for anybody later.
    pub fn set_hold(&self, hold: Arc<dyn Hold>) -> bool {
        self.inner.core.hold.set(hold).is_ok()
    }

    /// The counters' present values.
    pub fn metrics(&self) -> ReplicaMetrics {
        self.inner.core.counters.snapshot()
    }

    /// The parts inside, for tests that make them fail.
    #[cfg(test)]
    pub(crate) fn core(&self) -> &crate::core::Core {
        &self.inner.core
    }
}
