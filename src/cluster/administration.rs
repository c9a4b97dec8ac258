//! Changes of who belongs to the cluster: what [`super::Cluster`] asks of the consensus layer.

use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use hydrascale_proto::state::v1::{self as pb, Refusal, RefusalCode, command::Op};
use hydrascale_raft::{BackupError, KeyId};
use serde::Serialize;

use super::{Cluster, ProposeError, SealingPlan};
use crate::types::{ReplicaId, Timestamp};

/// A change of the membership, or of who leads it. What is done already is done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MemberChange {
    /// The replica leaves for good.
    Remove(ReplicaId),
    /// The replica votes, once it has caught up.
    Promote(ReplicaId),
    /// The replica goes on without a vote.
    Demote(ReplicaId),
    /// The learner `with` takes the replica's place, once it has caught up.
    Replace {
        /// Who leaves for good.
        id: ReplicaId,
        /// Who comes.
        with: ReplicaId,
    },
    /// Another replica leads.
    Lead {
        /// Who; absent = whom it costs least.
        to: Option<ReplicaId>,
        /// Not these, when nobody is named.
        avoid: Vec<ReplicaId>,
    },
}

/// A join token as the cluster remembers it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct JoinTokenStatus {
    /// Its name; not secret.
    pub id: String,
    /// When it expires.
    pub expiration: Timestamp,
    /// Withdrawn before it was used.
    pub revoked: bool,
    /// The replica that joined with it.
    pub used_by: Option<u64>,
    /// When that was.
    pub used_at: Option<Timestamp>,
    /// The replica whose place the joiner takes.
    pub replaces: Option<u64>,
}

/// The part of a consensus layer that administers itself. A log that cannot says so.
pub trait Administration: Send + Sync + 'static {
    /// Makes a one-time token that admits a new replica, which may take another's place.
    fn create_join_token(
        &self,
        _ttl: Duration,
        _replaces: Option<ReplicaId>,
    ) -> BoxFuture<'_, Result<String, ProposeError>> {
        unable()
    }

    /// The bytes of a backup of what is applied here; whole when they end without an error.
    fn backup(&self) -> Result<BackupBytes, ProposeError> {
        let reason = "this cluster keeps nothing on a disk".to_owned();
        Err(ProposeError::Unavailable { reason })
    }

    /// The tokens that are remembered.
    fn join_tokens(&self) -> BoxFuture<'_, Result<Vec<JoinTokenStatus>, ProposeError>> {
        unable()
    }

    /// Withdraws an unused token.
    fn revoke_join_token(&self, _id: String) -> BoxFuture<'_, Result<(), ProposeError>> {
        unable()
    }

    /// Makes a change; with `expected` only while the membership is that one. Tells who leads.
    fn change_member(
        &self,
        _change: MemberChange,
        _expected: Option<u64>,
    ) -> BoxFuture<'_, Result<ReplicaId, ProposeError>> {
        unable()
    }

    /// Finds the key under which the secrets are to be sealed from now on.
    fn plan_sealing(&self, _seal: bool) -> BoxFuture<'_, Result<SealingPlan, ProposeError>> {
        unable()
    }

    /// Seals the secrets of the consensus layer itself under this key, or unseals them.
    fn reseal_authority(&self, _key: Option<KeyId>) -> BoxFuture<'_, Result<(), ProposeError>> {
        unable()
    }

    /// Asks a replica, or all, for a new certificate.
    fn renew_certificates(
        &self,
        _of: Option<ReplicaId>,
    ) -> BoxFuture<'_, Result<(), ProposeError>> {
        unable()
    }

    /// Begins to replace the certificate authority that has this SHA-256.
    fn rotate_authority(&self, _replaces: Vec<u8>) -> BoxFuture<'_, Result<(), ProposeError>> {
        unable()
    }

    /// Raises the feature level to the highest that all members support; tells which it is.
    fn raise_level(&self) -> BoxFuture<'_, Result<u32, ProposeError>> {
        unable()
    }
}

/// A backup on its way; dropping it stops it.
pub type BackupBytes = BoxStream<'static, Result<Bytes, BackupError>>;

fn unable<T: Send + 'static>() -> BoxFuture<'static, Result<T, ProposeError>> {
    let reason = "this cluster has no members to administer".to_owned();
    async move { Err(ProposeError::Unavailable { reason }) }.boxed()
}

impl Cluster {
    /// Makes a one-time token that admits a new replica within `ttl`; with `replaces` it takes that
    /// one's place once it has caught up.
    ///
    /// # Errors
    /// As [`Self::propose`].
    pub async fn create_join_token(
        &self,
        ttl: Duration,
        replaces: Option<ReplicaId>,
    ) -> Result<String, ProposeError> {
        let consensus = &self.inner.consensus;
        consensus.create_join_token(ttl, replaces).await
    }

    /// The bytes of a backup of what this replica has applied: everything acknowledged before the call
    /// if [`Self::linearizable`] came first. Whole when they end without an error.
    ///
    /// # Errors
    /// The replica stops, or others are being made.
    pub fn backup(&self) -> Result<BackupBytes, ProposeError> {
        self.inner.consensus.backup()
    }

    /// The join tokens that are remembered: spent and expired ones for a month after their expiry.
    ///
    /// # Errors
    /// When no leader confirms that this replica is up to date.
    pub async fn join_tokens(&self) -> Result<Vec<JoinTokenStatus>, ProposeError> {
        self.inner.consensus.join_tokens().await
    }

    /// Withdraws an unused join token.
    ///
    /// # Errors
    /// As [`Self::propose`]; the token is unknown or was used.
    pub async fn revoke_join_token(&self, id: String) -> Result<(), ProposeError> {
        self.inner.consensus.revoke_join_token(id).await
    }

    /// Changes the membership; with `expected` ([`super::ClusterStatus::membership_index`]) only
    /// while it is that one. Tells who leads then.
    ///
    /// # Errors
    /// As [`Self::propose`]; refused is what would leave voters that cannot commit.
    pub async fn change_member(
        &self,
        change: MemberChange,
        expected: Option<u64>,
    ) -> Result<ReplicaId, ProposeError> {
        self.inner.consensus.change_member(change, expected).await
    }

    /// Asks a replica, without a name all members, for a new certificate under a new key. Nothing is
    /// interrupted; [`super::CertificateStatus::renewing`] tells when it is there.
    ///
    /// # Errors
    /// As [`Self::propose`].
    pub async fn renew_certificates(&self, of: Option<ReplicaId>) -> Result<(), ProposeError> {
        self.inner.consensus.renew_certificates(of).await
    }

    /// Begins to replace the certificate authority whose certificate has this SHA-256. Whoever leads
    /// finishes it, and [`super::AuthorityStatus`] shows how far it is; asked for again, one that is
    /// under way goes on and one that is done stays done.
    ///
    /// # Errors
    /// As [`Self::propose`]; refused while a replica is joining.
    pub async fn rotate_authority(&self, replaces: Vec<u8>) -> Result<(), ProposeError> {
        self.inner.consensus.rotate_authority(replaces).await
    }

    /// Raises the cluster's feature level to the highest that all members support, from which there is
    /// no way back to a version that does not. Tells which it is.
    ///
    /// # Errors
    /// As [`Self::propose`]; refused while a member is silent or supports too little.
    pub async fn finalize_upgrade(&self) -> Result<u32, ProposeError> {
        self.inner.consensus.raise_level().await
    }

    /// Hands leadership over: to the one named, else to whom it costs least and who is not drained.
    ///
    /// # Errors
    /// As [`Self::propose`]; the old leader goes on.
    pub async fn transfer_leadership(
        &self,
        to: Option<ReplicaId>,
    ) -> Result<ReplicaId, ProposeError> {
        let state = self.state();
        if let Some(to) = to
            && state
                .replica(to)
                .is_some_and(|replica| replica.drained_since.is_some())
        {
            return Err(refused(format!(
                "replica {to} is drained and would hand leadership on: undrain it first"
            )));
        }
        let drained = state
            .replicas()
            .filter(|replica| replica.drained_since.is_some());
        let avoid = drained.map(|replica| replica.id).collect();
        self.change_member(MemberChange::Lead { to, avoid }, None)
            .await
    }

    /// Sends a replica's clients elsewhere and keeps them away, or lets them come again.
    ///
    /// # Errors
    /// As [`Self::propose`]; refused when no other replica would take the clients.
    pub async fn set_drained(&self, id: ReplicaId, drained: bool) -> Result<(), ProposeError> {
        let state = self.state();
        let known = state.replica(id);
        let already = known.is_some_and(|replica| replica.drained_since.is_some());
        if drained && !already && known.is_some() && !self.has_host_besides(id) {
            return Err(refused(format!(
                "nobody would take the clients of replica {id}: every other replica is drained, \
                 dead or about to stop"
            )));
        }
        let op = Op::DrainReplica(pb::DrainReplica {
            replica_id: id.0,
            drained,
        });
        self.propose(op).await.map(drop)
    }

    /// Whether this replica is drained and another one takes its clients.
    pub fn is_drained(&self) -> bool {
        let me = self.inner.replica;
        let drained = self
            .state()
            .replica(me)
            .is_some_and(|replica| replica.drained_since.is_some());
        drained && self.has_host_besides(me)
    }

    /// Whether any other replica is there for clients.
    pub(super) fn has_host_besides(&self, id: ReplicaId) -> bool {
        let state = self.state();
        let mut others = state.replicas().filter(|replica| replica.id != id);
        others.any(|other| {
            other.drained_since.is_none() && other.down_since.is_none() && !other.stopping
        })
    }
}

/// The cluster says no.
pub(super) fn refused(message: String) -> ProposeError {
    ProposeError::Refused(Refusal {
        code: RefusalCode::Precondition.into(),
        message,
    })
}
