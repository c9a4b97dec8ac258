//! Answering joiners.

use std::sync::Arc;

use hydrascale_proto::raft::v1 as pb;
use hydrascale_proto::raft::v1::join_server::Join;
use hydrascale_proto::raft::v1::{Admin, UseJoinToken, admin, admin_outcome};
use time::OffsetDateTime;
use tokio::sync::Semaphore;
use tonic::{Request, Response, Status};

use super::host::Host;
use crate::core::{AdminDenied, AuthorityError, Core};
use crate::records::{BEING_REPLACED, ClusterRecords, is_replaced};
use crate::tls::{PeerName, sha256};
use crate::{JoinToken, KeyId, Levels};

/// Joins answered at once: they are rare, and each costs a log entry and a signature.
const JOINS_MAX: usize = 2;

/// A name is shown in tables and logs.
const NAME_CHARS_MAX: usize = 64;

/// Serves the one RPC that needs no certificate.
pub(crate) struct JoinService {
    core: Arc<Core>,
    joins: Semaphore,
}

impl JoinService {
    /// Serves on behalf of `core`.
    pub(crate) fn new(core: Arc<Core>) -> Self {
        Self {
            core,
            joins: Semaphore::new(JOINS_MAX),
        }
    }

    async fn answer(&self, request: pb::JoinRequest) -> Result<pb::JoinGranted, Denied> {
        let ours = &self.core.identity.cluster_id;
        if request.cluster_id != *ours {
            return Err(Denied::Refused(format!(
                "this is cluster {ours}, the token is for cluster {}",
                request.cluster_id
            )));
        }
        check_name(&request.name)?;
        let cluster = self.core.records.load().cluster().cloned();
        let cluster = cluster.ok_or_else(|| {
            Denied::Unavailable("the cluster has not recorded its authority yet".to_owned())
        })?;
        if is_replaced(&cluster) {
            return Err(Denied::Unavailable(BEING_REPLACED.to_owned()));
        }
        check_level(&request, self.core.records.load().level())?;
        self.check_sealing(&request)?;
        let authority = self.core.authority(&cluster).map_err(internal)?;
        let probe = PeerName::new(ours.clone(), 0);
        let now = OffsetDateTime::now_utc();
        // A key that cannot be signed must not spend the token.
        authority
            .sign(&probe, &request.public_key, now)
            .map_err(|error| Denied::Refused(format!("the public key is not usable: {error}")))?;
        let op = admin::Op::UseJoinToken(UseJoinToken {
            id: request.token_id,
            secret_hash: JoinToken::secret_hash(&request.secret),
            name: request.name,
            public_key: request.public_key.clone(),
            non_voting: request.non_voting,
            ca_sha256: sha256(authority.certificate()).to_vec().into(),
        });
        let admin = Admin { op: Some(op) };
        self.try_out(&admin).await?;
        let done = self.core.propose_admin(admin).await.map_err(denied)?;
        let name = PeerName::new(ours.clone(), done.replica_id);
        let certificate = authority
            .sign(&name, &request.public_key, now)
            .map_err(|error| internal(error.into()))?;
        tracing::info!(replica.id = done.replica_id, "join token used");
        Ok(pb::JoinGranted {
            replica_id: done.replica_id,
            certificate: certificate.to_vec().into(),
            ca_certificate: cluster.ca_certificate,
            peers: self.peers(),
        })
    }

    /// A replica that could not read the cluster's secrets would end as soon as it had them.
    fn check_sealing(&self, request: &pb::JoinRequest) -> Result<(), Denied> {
        let Some(key) = self.core.sealing_key() else {
            return Ok(());
        };
        let held = request.sealing_key_ids.iter();
        if held
            .filter_map(|id| KeyId::from_bytes(id))
            .any(|id| id == key)
        {
            return Ok(());
        }
        Err(Denied::Refused(format!(
            "the cluster's secrets are sealed under key {key}: copy the file that \
             cluster.sealing_key_file names on the other replicas, name it there here too, and join \
             again with the same token"
        )))
    }

    /// Refuses without an entry in the log what would be refused there: whoever has no token must
    /// not be able to fill it. Time is left to the log.
    async fn try_out(&self, admin: &Admin) -> Result<(), Denied> {
        let outcome = || {
            let mut records = ClusterRecords::clone(&self.core.records.load());
            records.apply(0, 0, admin).1.result
        };
        if !matches!(outcome(), Some(admin_outcome::Result::Refused(_))) {
            return Ok(());
        }
        // The token may be newer than what is applied here.
        let read = self.core.read_index().await;
        read.map_err(|error| Denied::Unavailable(error.to_string()))?;
        match outcome() {
            Some(admin_outcome::Result::Refused(reason)) => Err(Denied::Refused(reason)),
            Some(admin_outcome::Result::Done(_)) | None => Ok(()),
        }
    }

    fn peers(&self) -> Vec<pb::Member> {
        let stored = self.core.effective_membership();
        let members = stored.membership().nodes().map(|(id, member)| pb::Member {
            replica_id: *id,
            name: member.name.clone(),
            addr: member.addr.clone(),
        });
        members.collect()
    }
}

#[tonic::async_trait]
impl Join for JoinService {
    async fn join(
        &self,
        request: Request<pb::JoinRequest>,
    ) -> Result<Response<pb::JoinReply>, Status> {
        let Ok(_slot) = self.joins.try_acquire() else {
            self.core.counters.joins_busy.add_one();
            return Err(Status::resource_exhausted("too many joins are under way"));
        };
        let result = match self.answer(request.into_inner()).await {
            Ok(granted) => {
                self.core.counters.joins_granted.add_one();
                pb::join_reply::Result::Granted(granted)
            }
            Err(Denied::Refused(reason)) => {
                self.core.counters.joins_refused.add_one();
                tracing::warn!(reason, "join refused");
                pb::join_reply::Result::Refused(reason)
            }
            Err(Denied::Unavailable(reason)) => pb::join_reply::Result::Unavailable(reason),
        };
        Ok(Response::new(pb::JoinReply {
            result: Some(result),
        }))
    }

    async fn greet(
        &self,
        request: Request<pb::SealedWord>,
    ) -> Result<Response<pb::SealedWord>, Status> {
        let Ok(_slot) = self.joins.try_acquire() else {
            self.core.counters.joins_busy.add_one();
            return Err(Status::resource_exhausted("too many joins are under way"));
        };
        let host = Host::of(&self.core)
            .ok_or_else(|| Status::failed_precondition("this replica has no bootstrap secret"))?;
        let answer = host.answer(&request.into_inner()).await;
        let word = answer.map_err(|error| Status::permission_denied(error.to_string()))?;
        Ok(Response::new(word))
    }
}

enum Denied {
    Refused(String),
    Unavailable(String),
}

fn denied(denied: AdminDenied) -> Denied {
    match denied {
        AdminDenied::Refused(reason) => Denied::Refused(reason),
        AdminDenied::Propose(error) => Denied::Unavailable(error.to_string()),
    }
}

fn internal(error: AuthorityError) -> Denied {
    tracing::error!(
        error = crate::fatal::chain(&error),
        "certificate cannot be made"
    );
    Denied::Unavailable("the certificate cannot be made here".to_owned())
}

fn check_level(request: &pb::JoinRequest, active: u32) -> Result<(), Denied> {
    let min = request.proto_level;
    let max = request.level_max.max(min);
    let checked = Levels { min, max }.check(active);
    checked.map_err(|error| Denied::Refused(error.to_string()))
}

fn check_name(name: &str) -> Result<(), Denied> {
    let length = name.chars().count();
    if (1..=NAME_CHARS_MAX).contains(&length) && !name.chars().any(char::is_control) {
        return Ok(());
    }
    Err(Denied::Refused(format!(
        "a replica's name has 1 to {NAME_CHARS_MAX} printable characters"
    )))
}
