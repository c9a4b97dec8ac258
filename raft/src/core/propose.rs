//! Proposing from any replica, exactly once.

use std::time::Duration;

use hydrascale_proto::raft::v1::proposal::Body;
use hydrascale_proto::raft::v1::{
    Admin, AdminDone, AdminOutcome, ForwardReply, ForwardRequest, Proposal, admin_outcome,
    forward_reply,
};
use prost::Message;
use tokio::time::Instant;

use super::{Appended, Core};
use crate::levels;
use crate::network::{Lane, MESSAGE_BYTES_MAX};
use crate::records::level_needed;
use crate::{ProposeError, Proposed};

/// Largest command, bytes: with its envelope and a batch of others it fits a message.
pub const COMMAND_BYTES_MAX: usize = MESSAGE_BYTES_MAX / 4;

impl Core {
    /// Proposes until it is applied here, the outcome is certain, or time is up. Every attempt
    /// carries the same number, so that the command applies once at most. `level` is the feature level
    /// that the body needs.
    pub(crate) async fn propose(
        &self,
        body: Body,
        level: u32,
        traceparent: &str,
    ) -> Result<Proposed, ProposeError> {
        let proposed = self.propose_until_deadline(body, level, traceparent).await;
        match &proposed {
            Ok(_) => self.counters.proposals_applied.add_one(),
            Err(error) if error.is_outcome_unknown() => self.counters.proposals_unknown.add_one(),
            Err(_) => self.counters.proposals_failed.add_one(),
        }
        proposed
    }

    /// Proposes a change of the cluster's own records.
    pub(crate) async fn propose_admin(&self, admin: Admin) -> Result<AdminDone, AdminDenied> {
        let level = level_needed(&admin);
        let proposed = self
            .propose(Body::Admin(admin), level, "")
            .await
            .map_err(AdminDenied::Propose)?;
        let outcome = AdminOutcome::decode(proposed.outcome)
            .ok()
            .and_then(|outcome| outcome.result);
        match outcome {
            Some(admin_outcome::Result::Done(done)) => Ok(done),
            Some(admin_outcome::Result::Refused(reason)) => Err(AdminDenied::Refused(reason)),
            None => Err(AdminDenied::Refused(
                "the answer cannot be understood".to_owned(),
            )),
        }
    }

    async fn propose_until_deadline(
        &self,
        body: Body,
        level: u32,
        traceparent: &str,
    ) -> Result<Proposed, ProposeError> {
        check_size(&body).inspect_err(|_| self.counters.proposals_too_large.add_one())?;
        self.check_level(level)?;
        let deadline = Instant::now() + self.config.request_timeout;
        let opening = tokio::time::timeout_at(deadline, self.window.open(&self.counters));
        let ticket = opening.await.map_err(|_| ProposeError::NotProposed {
            reason: "too many commands are under way".to_owned(),
        })?;
        let mut proposal = Proposal {
            stamped_ms: 0,
            client_id: client_id(self.id(), self.incarnation),
            seq: ticket.seq(),
            lowest_unacked: 0,
            body: Some(body),
            level: levels::to_state(level),
        };
        let mut attempts = Attempts::default();
        loop {
            let patience = deadline.saturating_duration_since(Instant::now());
            if patience.is_zero() {
                return Err(attempts.give_up());
            }
            if self.stopping.is_cancelled() {
                return Err(attempts.stopped());
            }
            if let Some(reason) = self.no_leader()
                && attempts.doubt.is_none()
            {
                return Err(ProposeError::NotProposed { reason });
            }
            proposal.lowest_unacked = ticket.lowest_unacked();
            let target = attempts.hint.take().or_else(|| self.leader());
            match self
                .attempt(target, proposal.clone(), traceparent, patience)
                .await
            {
                Appended::Applied { index, outcome } => {
                    return self
                        .applied_here(Proposed { index, outcome }, deadline)
                        .await;
                }
                Appended::NotLeader { leader } => attempts.redirected(target, leader),
                Appended::NotTaken(reason) => attempts.last = reason,
                Appended::Unknown(reason) => attempts.doubt = Some(reason),
                Appended::Refused(reason) => {
                    attempts.last = reason;
                    return Err(attempts.give_up());
                }
                Appended::Stale => {
                    return Err(ProposeError::Unknown {
                        reason: "answered long ago".to_owned(),
                    });
                }
            }
            self.counters.proposal_retries.add_one();
            if attempts.hint.is_none() {
                let patience = deadline.saturating_duration_since(Instant::now());
                self.await_other_leader(target, patience).await;
            }
        }
    }

    /// Nothing above the cluster's level leaves this replica: an older leader would not even see that
    /// it is above.
    fn check_level(&self, needed: u32) -> Result<(), ProposeError> {
        let active = self.records.load().level();
        match needed <= active {
            true => Ok(()),
            false => Err(ProposeError::Level { needed, active }),
        }
    }

    async fn attempt(
        &self,
        target: Option<u64>,
        proposal: Proposal,
        traceparent: &str,
        patience: Duration,
    ) -> Appended {
        match target {
            None => Appended::NotTaken("no leader is known".to_owned()),
            Some(target) if target == self.id() => self.append_here(proposal, patience).await,
            Some(target) => tokio::select! {
                biased;
                appended = self.forward(target, proposal, traceparent, patience) => appended,
                () = self.leader_replaced(target) => {
                    Appended::Unknown("the leader changed while it was asked".to_owned())
                }
            },
        }
    }

    async fn forward(
        &self,
        target: u64,
        proposal: Proposal,
        traceparent: &str,
        patience: Duration,
    ) -> Appended {
        self.counters.forwards_sent.add_one();
        let message = ForwardRequest {
            proposal: Some(proposal),
            deadline_ms: u32::try_from(patience.as_millis()).unwrap_or(u32::MAX),
            traceparent: traceparent.to_owned(),
        };
        let reply = self
            .lanes
            .call(
                target,
                Lane::Log,
                patience,
                message,
                |mut client, request| async move { client.forward(request).await },
            )
            .await;
        match reply {
            Ok(reply) => self.read_reply(reply),
            Err(error) if error.is_not_taken() => Appended::NotTaken(error.to_string()),
            Err(error) => Appended::Unknown(error.to_string()),
        }
    }

    fn read_reply(&self, reply: ForwardReply) -> Appended {
        match reply.result {
            Some(forward_reply::Result::Applied(applied)) => Appended::Applied {
                index: applied.index,
                outcome: applied.outcome,
            },
            Some(forward_reply::Result::NotLeader(other)) => {
                self.lanes.list(other.leader, &other.leader_addr);
                Appended::NotLeader {
                    leader: Some(other.leader).filter(|id| *id != 0),
                }
            }
            Some(forward_reply::Result::Stale(_)) => Appended::Stale,
            Some(forward_reply::Result::Unknown(reason)) => Appended::Unknown(reason),
            Some(forward_reply::Result::Refused(reason)) => Appended::Refused(reason),
            None => Appended::Unknown("the leader's answer cannot be understood".to_owned()),
        }
    }

    /// Read your writes: the answer comes once this replica's own state has it.
    async fn applied_here(
        &self,
        proposed: Proposed,
        deadline: Instant,
    ) -> Result<Proposed, ProposeError> {
        let patience = deadline.saturating_duration_since(Instant::now());
        match self.wait_applied(proposed.index, patience).await {
            Ok(()) => Ok(proposed),
            Err(behind) => Err(ProposeError::Unknown {
                reason: format!("it is committed at {}, but {behind}", proposed.index),
            }),
        }
    }
}

/// Why a change of the cluster's records was not made.
#[derive(Clone, Debug)]
pub(crate) enum AdminDenied {
    /// The cluster said no.
    Refused(String),
    /// It could not be asked, or did not answer.
    Propose(ProposeError),
}

/// What is known after some attempts.
#[derive(Debug, Default)]
pub(super) struct Attempts {
    pub(super) hint: Option<u64>,
    pub(super) doubt: Option<String>,
    pub(super) last: String,
}

impl Attempts {
    /// Follows a hint once; two replicas that name each other must not be asked in a tight loop.
    pub(super) fn redirected(&mut self, target: Option<u64>, leader: Option<u64>) {
        let named = leader.map_or_else(|| "no other".to_owned(), |id| format!("replica {id}"));
        let repeated = self.last.ends_with(&named);
        self.last = format!("the asked replica does not lead and names {named}");
        self.hint = leader.filter(|leader| !repeated && Some(*leader) != target);
    }

    fn give_up(self) -> ProposeError {
        match self.doubt {
            Some(reason) => ProposeError::Unknown { reason },
            None => ProposeError::NotProposed { reason: self.last },
        }
    }

    fn stopped(self) -> ProposeError {
        match self.doubt {
            Some(reason) => ProposeError::Unknown { reason },
            None => ProposeError::Stopped,
        }
    }
}

fn check_size(body: &Body) -> Result<(), ProposeError> {
    let bytes = match body {
        Body::Command(command) => command.len(),
        Body::Admin(admin) => admin.encoded_len(),
    };
    if bytes > COMMAND_BYTES_MAX {
        return Err(ProposeError::TooLarge {
            bytes,
            max: COMMAND_BYTES_MAX,
        });
    }
    Ok(())
}

/// One proposer per start of a replica: numbers begin anew each time, and what an earlier start
/// left in flight can no longer be mistaken for this one's.
fn client_id(replica_id: u64, incarnation: u64) -> bytes::Bytes {
    let id: u128 = (u128::from(replica_id) << 64) | u128::from(incarnation);
    bytes::Bytes::copy_from_slice(&id.to_be_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hint_is_followed_once_and_never_back_to_who_was_asked() {
        let mut attempts = Attempts::default();
        attempts.redirected(Some(1), Some(2));
        assert_eq!(attempts.hint.take(), Some(2));
        attempts.redirected(Some(2), Some(2));
        assert_eq!(attempts.hint, None);
        attempts.redirected(Some(2), Some(1));
        assert_eq!(attempts.hint.take(), Some(1));
        attempts.redirected(Some(2), Some(1));
        assert_eq!(attempts.hint, None);
    }

    #[test]
    fn one_doubtful_attempt_makes_the_end_doubtful() {
        assert!(!Attempts::default().give_up().is_outcome_unknown());
        let doubt = Some("broken".to_owned());
        let attempts = Attempts {
            doubt,
            last: "nobody leads".to_owned(),
            hint: None,
        };
        assert!(attempts.give_up().is_outcome_unknown());
    }

    #[test]
    fn every_start_of_every_replica_is_another_proposer() {
        assert_ne!(client_id(1, 2), client_id(2, 1));
        assert_ne!(client_id(1, 1), client_id(1, 2));
        assert_eq!(client_id(1, 1).len(), 16);
    }
}
