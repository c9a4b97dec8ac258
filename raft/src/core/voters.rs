//! Who votes: removal, promotion, demotion, and one replica in the place of another. What is wanted
//! is recorded first and done then, so that whoever leads finishes what it finds.
//!
//! Whoever calls these holds the turn, [`Core::membership`].

use std::collections::BTreeSet;

use futures::future::join_all;
use hydrascale_proto::raft::v1::{
    Admin, ChangeVote, IdentifyRequest, RemoveReplica, ReplaceMember, ReplaceReplica, SetVoting,
    admin,
};
use openraft::alias::StoredMembershipOf;
use openraft::errors::{ClientWriteError, RaftError};
use openraft::{ChangeMembers, Precondition};

use super::{AdminDenied, Core, Managed};
use crate::records::gone;
use crate::type_config::{Member, TypeConfig};

type Stored = StoredMembershipOf<TypeConfig>;

impl Core {
    /// Removes a replica for good.
    pub(super) async fn remove(&self, id: u64, expected: Option<u64>) -> Result<u64, Managed> {
        let stored = self.effective_membership();
        let records = self.records.load_full();
        let removed = records.is_removed(id);
        let is_member = stored.membership().get_node(&id).is_some();
        if !is_member && !removed && !records.is_given(id) {
            return Err(no_member(id));
        }
        if is_member && !removed {
            check_expected(&stored, expected)?;
            self.check_without(&stored, id).await?;
        }
        self.leave_to_another(id).await?;
        if !removed {
            let op = admin::Op::RemoveReplica(RemoveReplica { replica_id: id });
            self.record(op).await?;
        }
        if is_member {
            recorded(self.drop_member(id).await)?;
        }
        Ok(self.id())
    }

    /// Gives a member a vote, once it has caught up, or takes it away.
    pub(super) async fn change_vote(
        &self,
        change: &ChangeVote,
        expected: Option<u64>,
    ) -> Result<u64, Managed> {
        let (id, voting) = (change.replica_id, change.voting);
        let stored = self.effective_membership();
        let ends = !voting && stored.voter_ids().any(|voter| voter == id);
        let records = self.records.load_full();
        if records.is_removed(id) {
            return Err(Managed::Refused(gone(id)));
        }
        if stored.membership().get_node(&id).is_none() {
            return Err(no_member(id));
        }
        let as_wanted = records.is_non_voting(id) != voting;
        if !as_wanted {
            check_expected(&stored, expected)?;
            if ends {
                self.check_without(&stored, id).await?;
            }
        }
        if ends {
            self.leave_to_another(id).await?;
        }
        if !as_wanted {
            let op = admin::Op::SetVoting(SetVoting {
                replica_id: id,
                voting,
            });
            self.record(op).await?;
        }
        // A learner that is meant to vote gets its vote once it has caught up.
        if ends {
            recorded(self.demote(id).await)?;
        }
        Ok(self.id())
    }

    /// Lets a learner take a member's place, once it has caught up.
    pub(super) async fn replace(
        &self,
        replace: &ReplaceMember,
        expected: Option<u64>,
    ) -> Result<u64, Managed> {
        let (old, with) = (replace.replica_id, replace.with);
        let stored = self.effective_membership();
        let voters: BTreeSet<u64> = stored.voter_ids().collect();
        let records = self.records.load_full();
        if records.replacement_of(old) == Some(with) {
            return Ok(self.id());
        }
        for id in [old, with] {
            if stored.membership().get_node(&id).is_none() {
                return Err(no_member(id));
            }
        }
        if voters.contains(&with) {
            return Err(Managed::Refused(format!(
                "replica {with} votes already and takes nobody's place: remove replica {old} \
                 instead"
            )));
        }
        check_expected(&stored, expected)?;
        if voters.contains(&old) {
            let after = swapped(&voters, old, with);
            self.check_next(&after).await?;
        }
        let op = admin::Op::ReplaceReplica(ReplaceReplica {
            replica_id: old,
            with,
        });
        self.record(op).await?;
        Ok(self.id())
    }

    /// A leader that loses its own vote would lead a cluster that it does not belong to: the next
    /// one does it.
    async fn leave_to_another(&self, id: u64) -> Result<(), Managed> {
        if id != self.id() {
            return Ok(());
        }
        let leader = self.move_leadership(None, &[]).await?;
        Err(Managed::NotLeader {
            leader: Some(leader),
        })
    }

    async fn record(&self, op: admin::Op) -> Result<(), Managed> {
        let recorded = self.propose_admin(Admin { op: Some(op) }).await;
        recorded.map(drop).map_err(|denied| match denied {
            AdminDenied::Refused(reason) => Managed::Refused(reason),
            AdminDenied::Propose(error) => Managed::Unavailable(error.to_string()),
        })
    }

    /// Whether the cluster goes on taking changes when a voter has none any more.
    async fn check_without(&self, stored: &Stored, id: u64) -> Result<(), Managed> {
        let mut next: BTreeSet<u64> = stored.voter_ids().collect();
        if !next.remove(&id) {
            return Ok(());
        }
        self.check_next(&next).await
    }

    /// Whether the cluster goes on taking changes with the voters `next`, and also once everything
    /// that is recorded is done: those whose end is recorded count until then, and must not be what
    /// it lives by. Asks them all, now: what was heard of them a moment ago is no proof that they live.
    async fn check_next(&self, next: &BTreeSet<u64>) -> Result<(), Managed> {
        let others = next.iter().copied().filter(|id| *id != self.id());
        let asked = others.map(|id| async move { (id, self.answers(id).await) });
        let silent = join_all(asked).await.into_iter();
        let silent: BTreeSet<u64> = silent
            .filter(|(_, answers)| !answers)
            .map(|(id, _)| id)
            .collect();
        let records = self.records.load();
        let stays = |id: &u64| !records.is_ending(*id);
        let last: BTreeSet<u64> = next.iter().copied().filter(stays).collect();
        let judged = survives(next, &silent).and_then(|()| survives(&last, &silent));
        judged.map_err(Managed::Refused)
    }

    /// Whether a replica answers this one now.
    pub(super) async fn answers(&self, id: u64) -> bool {
        let asked = IdentifyRequest::default();
        let identified = self.lanes.identify(id, self.timing.probe(), asked).await;
        identified.is_ok()
    }

    /// Takes a removed replica out of the membership.
    pub(super) async fn drop_member(&self, id: u64) -> Result<(), Managed> {
        let stored = self.effective_membership();
        let voter = stored.voter_ids().any(|voter| voter == id);
        self.check_without(&stored, id).await?;
        let ids = BTreeSet::from([id]);
        let change = if voter {
            ChangeMembers::RemoveVoters(ids)
        } else {
            ChangeMembers::RemoveNodes(ids)
        };
        self.change_membership(&stored, change, false).await?;
        tracing::info!(replica.id = id, "replica removed from the membership");
        Ok(())
    }

    /// Makes a voter a learner.
    pub(super) async fn demote(&self, id: u64) -> Result<(), Managed> {
        let stored = self.effective_membership();
        self.check_without(&stored, id).await?;
        let change = ChangeMembers::RemoveVoters(BTreeSet::from([id]));
        self.change_membership(&stored, change, true).await?;
        tracing::info!(replica.id = id, "replica votes no more");
        Ok(())
    }

    /// Makes a learner vote.
    pub(super) async fn promote(&self, seen: &Stored, id: u64) -> Result<(), Managed> {
        let change = ChangeMembers::AddVoterIds(BTreeSet::from([id]));
        self.change_membership(seen, change, true).await?;
        tracing::info!(replica.id = id, "replica votes from now on");
        Ok(())
    }

    /// Puts a learner into the place of a voter, in one change: there is never a voter more that the
    /// dead one's silence could weigh against.
    pub(super) async fn swap(&self, old: u64, with: u64) -> Result<(), Managed> {
        let stored = self.effective_membership();
        let voters: BTreeSet<u64> = stored.voter_ids().collect();
        let after = swapped(&voters, old, with);
        self.check_next(&after).await?;
        self.leave_to_another(old).await?;
        let op = admin::Op::RemoveReplica(RemoveReplica { replica_id: old });
        self.record(op).await?;
        if !voters.contains(&old) {
            return self.drop_member(old).await;
        }
        let change = ChangeMembers::ReplaceAllVoters(after);
        self.change_membership(&stored, change, false).await?;
        tracing::info!(
            replica.id = with,
            replaced = old,
            "replica took another's place"
        );
        Ok(())
    }

    /// Finishes a change that an earlier leader left half-way.
    pub(super) async fn finish_joint(&self, seen: &Stored) -> Result<(), Managed> {
        let change = ChangeMembers::AddVoterIds(BTreeSet::new());
        self.change_membership(seen, change, true).await
    }

    /// A change of the membership `seen`, and of no other.
    pub(super) async fn change_membership(
        &self,
        seen: &Stored,
        change: ChangeMembers<u64, Member>,
        retain: bool,
    ) -> Result<(), Managed> {
        let last_membership_log_id = *seen.log_id();
        let unchanged = Precondition::LastMembershipLogId {
            last_membership_log_id,
        };
        match self
            .raft
            .change_membership_if(change, retain, [unchanged])
            .await
        {
            Ok(_) => Ok(()),
            Err(RaftError::APIError(
                ClientWriteError::ForwardToLeader(forward)
                | ClientWriteError::LogEntryDiscarded(forward),
            )) => Err(Managed::NotLeader {
                leader: forward.leader_id,
            }),
            Err(RaftError::APIError(
                error @ (ClientWriteError::ChangeMembershipError(_)
                | ClientWriteError::PreconditionFailed(_)),
            )) => Err(Managed::Unavailable(error.to_string())),
            Err(RaftError::Fatal(fatal)) => Err(Managed::Unavailable(fatal.to_string())),
        }
    }
}

/// What is recorded is done sooner or later, so that having to wait is no refusal.
fn recorded(done: Result<(), Managed>) -> Result<(), Managed> {
    match done {
        Err(Managed::Refused(reason)) => {
            tracing::warn!(reason, "the change is recorded and made once it is safe");
            Ok(())
        }
        done => done,
    }
}

fn no_member(id: u64) -> Managed {
    Managed::Refused(format!(
        "replica {id} is no member of the cluster; `cluster status` lists them"
    ))
}

/// Compare and swap: what was decided on another membership is not done.
fn check_expected(stored: &Stored, expected: Option<u64>) -> Result<(), Managed> {
    let now = stored.log_id().map_or(0, |log| log.index());
    match expected {
        Some(expected) if expected != now => Err(Managed::Refused(format!(
            "the membership has changed (it is {now}, not {expected}): look at `cluster status` \
             and decide anew"
        ))),
        Some(_) | None => Ok(()),
    }
}

fn swapped(voters: &BTreeSet<u64>, old: u64, with: u64) -> BTreeSet<u64> {
    let mut after = voters.clone();
    after.remove(&old);
    after.insert(with);
    after
}

/// Whether these voters could commit by themselves, as things are.
///
/// # Errors
/// Why not, and what to do about it.
fn survives(after: &BTreeSet<u64>, silent: &BTreeSet<u64>) -> Result<(), String> {
    if after.is_empty() {
        return Err("that is the last voter: add or promote another replica first".to_owned());
    }
    let silent: Vec<String> = after.intersection(silent).map(u64::to_string).collect();
    let (needed, answering) = (after.len() / 2 + 1, after.len() - silent.len());
    if answering >= needed {
        return Ok(());
    }
    Err(format!(
        "that would leave {} voters of which {answering} answer and {needed} must, and the cluster \
         would take no changes any more: bring replica {} back, or remove it first",
        after.len(),
        silent.join(" and ")
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judge(after: &[u64], silent: &[u64]) -> Result<(), String> {
        let set = |ids: &[u64]| ids.iter().copied().collect();
        survives(&set(after), &set(silent))
    }

    #[test]
    fn what_is_left_must_be_able_to_go_on_without_the_silent() {
        assert_eq!(judge(&[1, 2], &[]), Ok(()));
        assert_eq!(judge(&[1, 2, 3], &[3]), Ok(()));
        assert_eq!(judge(&[1], &[]), Ok(()));
        let refused = judge(&[1, 3], &[3]).unwrap_err();
        assert!(
            refused.contains("2 voters of which 1 answer and 2 must"),
            "{refused}"
        );
        assert!(refused.contains("bring replica 3 back"), "{refused}");
        let refused = judge(&[1, 2, 3, 4], &[3, 4]).unwrap_err();
        assert!(refused.contains("replica 3 and 4 back"), "{refused}");
        assert!(judge(&[], &[]).unwrap_err().contains("last voter"));
        // Who has no say does not weigh.
        assert_eq!(judge(&[1, 2], &[3]), Ok(()));
    }
}
