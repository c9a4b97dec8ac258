//! The consensus of a real replica, in the terms of [`Consensus`].

use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use hydrascale_raft::{MemberStatus as RaftMember, Replica, Role as RaftRole, Status};

use super::{ClusterStatus, Consensus, MemberStatus, ProposeError, ReadError, Role};
use crate::telemetry::traceparent;

impl Consensus for Replica {
    fn propose(&self, command: Bytes) -> BoxFuture<'_, Result<Bytes, ProposeError>> {
        async move {
            match self.propose_traced(command, &traceparent()).await {
                Ok(proposed) => Ok(proposed.outcome),
                Err(error) if error.is_outcome_unknown() => Err(ProposeError::Unknown {
                    reason: chain(&error),
                }),
                Err(error) => Err(ProposeError::Unavailable {
                    reason: chain(&error),
                }),
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
        describe(&Self::status(self).borrow().clone(), Instant::now())
    }

    fn create_join_token(&self, ttl: Duration) -> BoxFuture<'_, Result<String, ProposeError>> {
        async move {
            match Self::create_join_token(self, ttl).await {
                Ok(token) => Ok(token.to_string()),
                Err(error) => Err(ProposeError::Unavailable {
                    reason: chain(&error),
                }),
            }
        }
        .boxed()
    }
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
        last_log_index: status.last_log_index,
        committed_index: status.committed_index,
        applied_index: status.applied_index,
        leaderless_ms: millis(status.time_without_leader(now)),
        cut_off: status.is_cut_off(now),
        quorum: quorum.is_healthy(),
        tolerated_failures: quorum.tolerated_failures(),
        members: status
            .members
            .iter()
            .map(|member| describe_member(member, status, now))
            .collect(),
        warnings: Vec::new(),
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
        last_contact_ms: member.last_contact.map(|at| millis(since(at))),
        matched_index: member.matched_index,
        reachable: me
            || member
                .last_answer
                .is_some_and(|at| since(at) <= status.reachable_within),
        announced: None,
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// An error with its causes, on one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(source) = cause {
        text.push_str(": ");
        text.push_str(&source.to_string());
        cause = source.source();
    }
    text
}
