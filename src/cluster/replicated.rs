//! The consensus of a real replica, in the terms of [`Consensus`].

use std::time::{Duration, Instant};

use bytes::Bytes;
use data_encoding::HEXLOWER;
use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt};
use hydrascale_proto::state::v1::{Refusal, RefusalCode};
use hydrascale_raft::{
    AdminError, AuthorityStatus as RaftAuthority, JoinTokenInfo, KeyId, MemberStatus as RaftMember,
    ProposeError as RaftProposeError, Replica, ReplicaId as RaftReplicaId, Role as RaftRole,
    Status, chain,
};

use super::{
    Administration, AuthorityStatus, BackupBytes, CertificateStatus, ClusterStatus, Consensus,
    FeatureLevels, JoinTokenStatus, MemberChange, MemberStatus, ProposeError, ReadError, Role,
    SealingPlan, UpgradeStatus,
};
use crate::telemetry::traceparent;
use crate::types::{ReplicaId, Timestamp};

impl Consensus for Replica {
    fn propose(&self, command: Bytes, level: u32) -> BoxFuture<'_, Result<Bytes, ProposeError>> {
        async move {
            match self.propose_traced(command, level, &traceparent()).await {
                Ok(proposed) => Ok(proposed.outcome),
                Err(error) => Err(not_proposed(&error)),
            }
        }
        .boxed()
    }

    fn read_index(&self) -> BoxFuture<'_, Result<u64, ReadError>> {
        Self::read_index(self)
            .map(|result| result.map_err(|e| ReadError { reason: chain(&e) }))
            .boxed()
    }

    fn status(&self) -> ClusterStatus {
        let mut status = describe(&Self::status(self).borrow().clone(), Instant::now());
        // The status is renewed a few times a second, contacts come more often.
        status.leaderless_ms = millis(self.time_without_leader());
        status
    }

    fn lacks_leader(&self) -> Option<Duration> {
        Self::lacks_leader(self)
    }
}

impl Administration for Replica {
    fn create_join_token(
        &self,
        ttl: Duration,
        replaces: Option<ReplicaId>,
    ) -> BoxFuture<'_, Result<String, ProposeError>> {
        async move {
            let made = Self::create_join_token(self, ttl, replaces.map(raft_id)).await;
            made.map(|token| token.to_string())
                .map_err(|error| not_administered(&error))
        }
        .boxed()
    }

    fn backup(&self) -> Result<BackupBytes, ProposeError> {
        let begun = Self::backup(self).map(StreamExt::boxed);
        begun.map_err(|error| ProposeError::Unavailable {
            reason: chain(&error),
        })
    }

    fn join_tokens(&self) -> BoxFuture<'_, Result<Vec<JoinTokenStatus>, ProposeError>> {
        async move {
            let tokens = Self::join_tokens(self).await;
            let tokens = tokens.map_err(|error| not_administered(&error))?;
            Ok(tokens.into_iter().map(describe_token).collect())
        }
        .boxed()
    }

    fn revoke_join_token(&self, id: String) -> BoxFuture<'_, Result<(), ProposeError>> {
        async move {
            let revoked = Self::revoke_join_token(self, &id).await;
            revoked.map_err(|error| not_administered(&error))
        }
        .boxed()
    }

    fn change_member(
        &self,
        change: MemberChange,
        expected: Option<u64>,
    ) -> BoxFuture<'_, Result<ReplicaId, ProposeError>> {
        async move {
            let changed = match change {
                MemberChange::Remove(id) => self.remove_member(raft_id(id), expected).await,
                MemberChange::Promote(id) => self.set_voting(raft_id(id), true, expected).await,
                MemberChange::Demote(id) => self.set_voting(raft_id(id), false, expected).await,
                MemberChange::Replace { id, with } => {
                    self.replace_member(raft_id(id), raft_id(with), expected)
                        .await
                }
                MemberChange::Lead { to, avoid } => {
                    let avoid: Vec<_> = avoid.into_iter().map(raft_id).collect();
                    let leads = Self::transfer_leadership(self, to.map(raft_id), &avoid).await;
                    return leads
                        .map(|id| ReplicaId(id.0))
                        .map_err(|error| not_administered(&error));
                }
            };
            changed.map_err(|error| not_administered(&error))?;
            let leader = Self::status(self).borrow().leader;
            Ok(leader.map_or(ReplicaId(0), |id| ReplicaId(id.0)))
        }
        .boxed()
    }

    fn plan_sealing(&self, seal: bool) -> BoxFuture<'_, Result<SealingPlan, ProposeError>> {
        async move {
            let key = Self::plan_sealing(self, seal).await;
            Ok(SealingPlan {
                key: key.map_err(|error| not_administered(&error))?,
                keys: self.keyring().keys(),
            })
        }
        .boxed()
    }

    fn reseal_authority(&self, key: Option<KeyId>) -> BoxFuture<'_, Result<(), ProposeError>> {
        async move {
            let resealed = Self::reseal_authority(self, key).await;
            resealed.map_err(|error| not_administered(&error))
        }
        .boxed()
    }

    fn renew_certificates(&self, of: Option<ReplicaId>) -> BoxFuture<'_, Result<(), ProposeError>> {
        async move {
            let of: Vec<_> = of.into_iter().map(raft_id).collect();
            let asked = Self::renew_certificates(self, &of).await;
            asked.map_err(|error| not_administered(&error))
        }
        .boxed()
    }

    fn rotate_authority(&self, replaces: Vec<u8>) -> BoxFuture<'_, Result<(), ProposeError>> {
        async move {
            let begun = Self::rotate_authority(self, &replaces).await;
            begun.map_err(|error| not_administered(&error))
        }
        .boxed()
    }

    fn raise_level(&self) -> BoxFuture<'_, Result<u32, ProposeError>> {
        let raised = Self::raise_level(self);
        raised
            .map(|raised| raised.map_err(|error| not_administered(&error)))
            .boxed()
    }
}

fn raft_id(id: ReplicaId) -> RaftReplicaId {
    RaftReplicaId(id.0)
}

fn describe_token(token: JoinTokenInfo) -> JoinTokenStatus {
    JoinTokenStatus {
        id: token.id,
        expiration: Timestamp::from_unix_ms(token.expires_at_ms),
        revoked: token.revoked,
        used_by: token.used_by.map(|id| id.0),
        used_at: token.used_at_ms.map(Timestamp::from_unix_ms),
        replaces: token.replaces.map(|id| id.0),
    }
}

fn not_proposed(error: &RaftProposeError) -> ProposeError {
    let reason = chain(error);
    match error {
        RaftProposeError::Unknown { .. } => ProposeError::Unknown { reason },
        RaftProposeError::TooLarge { .. } => refused(RefusalCode::Invalid, reason),
        RaftProposeError::Level { .. } => refused(RefusalCode::Precondition, reason),
        RaftProposeError::NotProposed { .. } | RaftProposeError::Stopped => {
            ProposeError::Unavailable { reason }
        }
    }
}

fn not_administered(error: &AdminError) -> ProposeError {
    let reason = chain(error);
    match error {
        AdminError::Refused { .. } => refused(RefusalCode::Precondition, reason),
        AdminError::Unknown { .. } => ProposeError::Unknown { reason },
        AdminError::Unavailable { .. } | AdminError::Stopped => {
            ProposeError::Unavailable { reason }
        }
    }
}

fn refused(code: RefusalCode, message: String) -> ProposeError {
    ProposeError::Refused(Refusal {
        code: code.into(),
        message,
    })
}

fn describe(status: &Status, now: Instant) -> ClusterStatus {
    let quorum = status.quorum(now);
    ClusterStatus {
        cluster_id: status.cluster_id.to_string(),
        replica_id: status.replica_id.0,
        incarnation: status.incarnation,
        role: match status.role {
            RaftRole::Candidate => Role::Candidate,
            RaftRole::Follower => Role::Follower,
            RaftRole::Leader => Role::Leader,
            RaftRole::Learner => Role::Learner,
        },
        leader: status.leader.map(|id| id.0),
        term: status.term,
        purged_index: status.purged_index,
        last_log_index: status.last_log_index,
        committed_index: status.committed_index,
        applied_index: status.applied_index,
        leaderless_ms: millis(status.time_without_leader(now)),
        cut_off: status.is_cut_off(now),
        quorum: quorum.is_healthy(),
        tolerated_failures: quorum.tolerated_failures(),
        membership_index: status.membership_index,
        joint: status.joint,
        removed: status.removed.iter().map(|id| id.0).collect(),
        members: status
            .members
            .iter()
            .map(|member| describe_member(member, status, now))
            .collect(),
        sealing_key: status.sealing_key.map(|id| id.to_string()),
        authority: status.authority.as_ref().map(describe_authority),
        feature_level: status.level,
        upgrade: UpgradeStatus::default(),
        warnings: Vec::new(),
    }
}

fn describe_authority(authority: &RaftAuthority) -> AuthorityStatus {
    AuthorityStatus {
        id: HEXLOWER.encode(&authority.sha256),
        next_is_trusted: authority.next_is_trusted,
        old_is_trusted: authority.old_is_trusted,
        waits_for: authority.waits_for.iter().map(|id| id.0).collect(),
    }
}

fn describe_member(member: &RaftMember, status: &Status, now: Instant) -> MemberStatus {
    let since = |at: Instant| now.saturating_duration_since(at);
    let me = member.id == status.replica_id;
    MemberStatus {
        id: member.id.0,
        name: member.name.clone(),
        addr: member.addr.clone(),
        voter: member.voter,
        non_voting: member.non_voting,
        leaving: member.leaving,
        replaces: member.replaces.map(|id| id.0),
        last_contact_ms: member.last_contact.map(|at| millis(since(at))),
        matched_index: member.matched_index,
        applied_index: member.applied_index,
        reachable: me
            || member
                .last_answer
                .is_some_and(|at| since(at) <= status.reachable_within),
        sealing_keys: member
            .sealing_keys
            .as_ref()
            .map(|keys| keys.iter().map(ToString::to_string).collect()),
        certificate: member.certificate.as_ref().map(|held| CertificateStatus {
            expiry: Timestamp::from_unix_ms(held.expires_ms),
            renewing: held.renewed_at < member.renewal_asked_at,
        }),
        feature_levels: member.levels.map(|levels| FeatureLevels {
            min: levels.min,
            max: levels.max,
        }),
        holds_level: member.holds_level,
        announced: None,
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const REASON: &str = "256 join tokens exist, the most that are kept";

    #[test]
    fn a_refused_join_token_is_not_worth_a_retry() {
        let reason = REASON.to_owned();
        let error = not_administered(&AdminError::Refused { reason });
        assert!(!error.is_retryable());
        assert_eq!(error.to_string(), REASON);
    }

    #[test]
    fn an_unknown_outcome_is_never_told_as_certainly_not_done() {
        let reason = "the answer was lost".to_owned();
        let token = not_administered(&AdminError::Unknown {
            reason: reason.clone(),
        });
        let change = not_proposed(&RaftProposeError::Unknown { reason });
        for error in [token, change] {
            assert!(matches!(error, ProposeError::Unknown { .. }), "{error}");
        }
    }

    #[test]
    fn a_command_that_no_entry_can_hold_is_invalid_and_not_unavailable() {
        let error = not_proposed(&RaftProposeError::TooLarge { bytes: 2, max: 1 });
        let ProposeError::Refused(refusal) = error else {
            panic!("{error}");
        };
        assert_eq!(refusal.code(), RefusalCode::Invalid);
    }
}
