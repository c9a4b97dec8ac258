//! Letting new replicas into the cluster: tokens, and the one RPC that needs no certificate. The
//! joiner's side of it is [`crate::join`].
//!
//! A token is spent in the log, which also numbers the joiner: its id is the index of that entry, so
//! that no id is ever given twice. Any replica can do it, because the authority's key is part of the
//! replicated records. The certificate is made for a key that never leaves the joiner.

mod host;
mod service;

use std::time::Duration;

use bytes::Bytes;
use hydrascale_proto::raft::v1::{Admin, CreateJoinToken, JoinTokenRow, RevokeJoinToken, admin};
use rand::RngCore;
use rustls_pki_types::CertificateDer;
use tokio::time::timeout;

pub(crate) use self::service::JoinService;
use crate::core::{AdminDenied, Core};
use crate::tls::sha256;
use crate::token::SECRET_BYTES;
use crate::{AdminError, JoinToken, ReplicaId};

/// A token that outlives this is a standing invitation.
const TTL_MAX: Duration = Duration::from_secs(30 * 24 * 3600);

/// Makes a token for one new replica, perhaps to take the place of another.
pub(crate) async fn create_token(
    core: &Core,
    ttl: Duration,
    replaces: Option<ReplicaId>,
) -> Result<JoinToken, AdminError> {
    if let Some(old) = replaces {
        check_member(core, old)?;
    }
    if ttl.is_zero() || ttl > TTL_MAX {
        let reason = format!(
            "a join token lives up to {} days",
            TTL_MAX.as_secs() / (24 * 3600)
        );
        return Err(AdminError::Refused { reason });
    }
    let mut secret = [0; SECRET_BYTES];
    rand::rng().fill_bytes(&mut secret);
    let token_id = uuid::Uuid::new_v4().simple().to_string();
    let doors = cluster_doors(core).await?;
    let secret_hash = JoinToken::secret_hash(&secret);
    record_token(core, token_id.clone(), secret_hash, ttl, replaces).await?;
    Ok(JoinToken {
        cluster_id: doors.cluster_id,
        token_id,
        secret,
        ca_sha256: doors.ca_sha256,
        addrs: doors.addrs,
    })
}

/// What a token says of the cluster.
pub(crate) struct ClusterDoors {
    /// Its id (UUID).
    pub(crate) cluster_id: String,
    /// The hash of its authority's certificate.
    pub(crate) ca_sha256: [u8; 32],
    /// Where its replicas are.
    pub(crate) addrs: Vec<String>,
}

/// What a token made now would say of the cluster.
///
/// # Errors
/// The cluster is so new that its authority is not recorded yet, or the replica stops.
pub(crate) async fn cluster_doors(core: &Core) -> Result<ClusterDoors, AdminError> {
    let ca_sha256 = timeout(core.config.request_timeout, authority_hash(core)).await;
    let ca_sha256 = ca_sha256.map_err(|_| AdminError::Unavailable {
        reason: "the cluster has not recorded its authority yet".to_owned(),
    })??;
    let stored = core.effective_membership();
    let addrs = stored
        .membership()
        .nodes()
        .map(|(_, member)| member.addr.clone());
    Ok(ClusterDoors {
        cluster_id: core.identity.cluster_id.clone(),
        ca_sha256,
        addrs: addrs.collect(),
    })
}

/// Records a token, so that whoever knows its secret can join with it.
///
/// # Errors
/// It is refused, or there is no leader.
pub(crate) async fn record_token(
    core: &Core,
    id: String,
    secret_hash: Bytes,
    ttl: Duration,
    replaces: Option<ReplicaId>,
) -> Result<(), AdminError> {
    let ttl_ms = i64::try_from(ttl.as_millis()).unwrap_or(i64::MAX);
    let op = admin::Op::CreateJoinToken(CreateJoinToken {
        id,
        secret_hash,
        expires_at_ms: core.config.clock.now_ms().saturating_add(ttl_ms),
        replaces: replaces.map_or(0, |id| id.0),
    });
    let made = core.propose_admin(Admin { op: Some(op) }).await;
    if matches!(made, Err(AdminDenied::Refused(_))) {
        core.counters.join_tokens_refused.add_one();
    }
    made.map(drop).map_err(AdminError::from)
}

fn check_member(core: &Core, id: ReplicaId) -> Result<(), AdminError> {
    let is_member = core.member(id.0).is_some();
    let refused = |reason| Err(AdminError::Refused { reason });
    match is_member {
        true => Ok(()),
        false if core.records.load().is_removed(id.0) => refused(format!(
            "replica {id} was removed for good: make a token that replaces nobody"
        )),
        false => refused(format!(
            "replica {id} is no member of the cluster; `cluster status` lists them"
        )),
    }
}

/// The tokens that are remembered, as of now.
pub(crate) async fn list_tokens(core: &Core) -> Result<Vec<JoinTokenInfo>, AdminError> {
    let read = core.read_index().await;
    read.map_err(|error| AdminError::Unavailable {
        reason: error.to_string(),
    })?;
    let records = core.records.load();
    Ok(records.tokens().map(describe).collect())
}

fn describe(token: &JoinTokenRow) -> JoinTokenInfo {
    JoinTokenInfo {
        id: token.id.clone(),
        expires_at_ms: token.expires_at_ms,
        revoked: token.revoked,
        used_by: token.r#use.as_ref().map(|used| ReplicaId(used.replica_id)),
        used_at_ms: token.r#use.as_ref().map(|used| used.used_at_ms),
        replaces: Some(ReplicaId(token.replaces)).filter(|id| id.0 != 0),
    }
}

/// A join token as the cluster remembers it, without its secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JoinTokenInfo {
    /// Its name; not secret.
    pub id: String,
    /// When it expires, milliseconds since the Unix epoch.
    pub expires_at_ms: i64,
    /// Withdrawn before it was used.
    pub revoked: bool,
    /// The replica that joined with it.
    pub used_by: Option<ReplicaId>,
    /// When that was, milliseconds since the Unix epoch.
    pub used_at_ms: Option<i64>,
    /// The replica whose place the joiner takes.
    pub replaces: Option<ReplicaId>,
}

/// The recorded authority's hash; a new cluster records it with its first entries.
async fn authority_hash(core: &Core) -> Result<[u8; 32], AdminError> {
    let mut applied = core.applied.clone();
    loop {
        if let Some(cluster) = core.records.load().cluster() {
            return Ok(sha256(&CertificateDer::from(
                cluster.ca_certificate.as_ref(),
            )));
        }
        applied.changed().await.map_err(|_| AdminError::Stopped)?;
    }
}

/// Withdraws an unused token.
pub(crate) async fn revoke_token(core: &Core, token_id: &str) -> Result<(), AdminError> {
    let op = admin::Op::RevokeJoinToken(RevokeJoinToken {
        id: token_id.to_owned(),
    });
    core.propose_admin(Admin { op: Some(op) })
        .await
        .map(drop)
        .map_err(AdminError::from)
}
