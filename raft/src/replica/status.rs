//! How a replica and its cluster are doing.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::{CertificateState, KeyId, Levels, ReplicaId};

/// How a replica and its cluster are doing, as this replica sees it.
#[derive(Clone, Debug)]
pub struct Status {
    /// UUID of the cluster.
    pub cluster_id: Arc<str>,
    /// This replica.
    pub replica_id: ReplicaId,
    /// How often this replica has started; grows by one each time.
    pub incarnation: u64,
    /// What this replica does in the cluster now.
    pub role: Role,
    /// Who leads, as far as known here.
    pub leader: Option<ReplicaId>,
    /// Consensus term.
    pub term: u64,
    /// Newest entry that left the local log for a snapshot; 0 while none did.
    pub purged_index: u64,
    /// Newest entry in the local log; 0 while empty.
    pub last_log_index: u64,
    /// Newest entry known here to be committed, be it in the local log or not; 0 while none.
    pub committed_index: u64,
    /// Newest entry applied here; 0 while none.
    pub applied_index: u64,
    /// Voters and learners by id, this replica included.
    pub members: Vec<MemberStatus>,
    /// Log index of the membership: another one is another membership.
    pub membership_index: u64,
    /// Whether a membership change is under way.
    pub joint: bool,
    /// Replicas that were removed for good and have left the membership.
    pub removed: Vec<ReplicaId>,
    /// Last proof of a working leader: on the leader the last answer of a quorum, elsewhere the last
    /// message of the leader.
    pub last_leader_contact: Instant,
    /// How long another replica may stay silent before it counts as unreachable.
    pub reachable_within: Duration,
    /// The key that seals the cluster's secrets, as far as applied here; `None` while they are not
    /// sealed.
    pub sealing_key: Option<KeyId>,
    /// The certificate authority, once it is recorded.
    pub authority: Option<AuthorityStatus>,
    /// The cluster's feature level as applied here; `None` before the cluster is known.
    pub level: Option<u32>,
}

/// The cluster's certificate authority, and how far its replacement is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuthorityStatus {
    /// SHA-256 of the certificate of the one that signs.
    pub sha256: Vec<u8>,
    /// The next one is made known: it signs once all members trust it.
    pub next_is_trusted: bool,
    /// The next one signs: the old one goes once all members have new certificates.
    pub old_is_trusted: bool,
    /// The members that the next step waits for.
    pub waits_for: Vec<ReplicaId>,
}

/// What a replica does in the cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Receives the log without a vote.
    Learner,
    /// Follows a leader, or waits for one.
    Follower,
    /// Asks for votes.
    Candidate,
    /// Leads.
    Leader,
}

/// One member, as this replica sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberStatus {
    /// Its id.
    pub id: ReplicaId,
    /// Its configured name.
    pub name: String,
    /// `host:port` of its peer listener.
    pub addr: String,
    /// Whether it votes; a learner does not.
    pub voter: bool,
    /// It stays a learner; any other learner votes once it has caught up.
    pub non_voting: bool,
    /// Its removal is recorded: it leaves once the cluster goes on without it.
    pub leaving: bool,
    /// The member whose place it takes once it has caught up.
    pub replaces: Option<ReplicaId>,
    /// Its last acknowledgement to the leader; known on the leader only, absent for itself.
    pub last_contact: Option<Instant>,
    /// Its last answer to this replica's own probe, absent for itself.
    pub last_answer: Option<Instant>,
    /// Newest entry that it is known to have; known on the leader only.
    pub matched_index: Option<u64>,
    /// Newest entry that it had applied when it last answered, and now for this replica itself.
    pub applied_index: Option<u64>,
    /// Its incarnation when it last answered.
    pub incarnation: Option<u64>,
    /// How far its wall clock is ahead of ours, milliseconds, when it last answered.
    pub clock_ahead_ms: Option<i64>,
    /// The sealing keys that it had when it last answered, the first one first.
    pub sealing_keys: Option<Arc<[KeyId]>>,
    /// Its certificate and whom it trusts, when it last answered.
    pub certificate: Option<Arc<CertificateState>>,
    /// Log index of the newest request that it renew its certificate; 0: there was none.
    pub renewal_asked_at: u64,
    /// Feature levels that it supports, when it last answered.
    pub levels: Option<Levels>,
    /// It wants to be asked before the feature level is raised, when it last answered.
    pub holds_level: bool,
}

impl MemberStatus {
    /// Whether the member answered this replica within `within` before `now`.
    pub(crate) fn answered(&self, within: Duration, now: Instant) -> bool {
        self.last_answer
            .is_some_and(|at| now.saturating_duration_since(at) <= within)
    }
}

/// Whether the cluster can commit, and what it can still lose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QuorumHealth {
    /// Members that vote.
    pub voters: usize,
    /// Voters reachable from this replica, itself included.
    pub reachable: usize,
    /// Voters needed to commit.
    pub needed: usize,
}

impl QuorumHealth {
    /// Whether enough voters are reachable to commit.
    pub fn is_healthy(&self) -> bool {
        self.reachable >= self.needed
    }

    /// How many more voters may fail before the cluster stops committing.
    pub fn tolerated_failures(&self) -> usize {
        self.reachable.saturating_sub(self.needed)
    }
}

impl Status {
    /// How long nothing has proven that a leader works; near zero in a healthy cluster.
    pub fn time_without_leader(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.last_leader_contact)
    }

    /// Voters reachable from here against those needed.
    pub fn quorum(&self, now: Instant) -> QuorumHealth {
        let voters = self.members.iter().filter(|member| member.voter);
        let reachable = voters.clone().filter(|member| {
            member.id == self.replica_id || member.answered(self.reachable_within, now)
        });
        let count = voters.clone().count();
        QuorumHealth {
            voters: count,
            reachable: reachable.count(),
            needed: count / 2 + 1,
        }
    }

    /// Whether there are other replicas and none of them answers this one.
    pub fn is_cut_off(&self, now: Instant) -> bool {
        let mut others = self
            .members
            .iter()
            .filter(|member| member.id != self.replica_id)
            .peekable();
        others.peek().is_some() && !others.any(|other| other.answered(self.reachable_within, now))
    }

    /// The member with this id.
    pub fn member(&self, id: ReplicaId) -> Option<&MemberStatus> {
        self.members.iter().find(|member| member.id == id)
    }

    /// Whether this replica leads.
    pub fn is_leader(&self) -> bool {
        self.role == Role::Leader
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_reachable_voters_tolerate_one_failure_and_two_tolerate_none() {
        let now = Instant::now();
        let all = status(now, &[Some(now), Some(now)]);
        assert_eq!(all.quorum(now).tolerated_failures(), 1);
        let one_silent = status(now, &[Some(now), None]);
        assert!(one_silent.quorum(now).is_healthy());
        assert_eq!(one_silent.quorum(now).tolerated_failures(), 0);
    }

    #[test]
    fn a_replica_that_nobody_answers_is_cut_off_and_a_single_one_is_not() {
        let now = Instant::now();
        let later = now + Duration::from_secs(10);
        assert!(status(now, &[None, Some(now)]).is_cut_off(later));
        assert!(!status(now, &[None, Some(now)]).is_cut_off(now));
        assert!(!status(now, &[]).is_cut_off(later));
        assert!(status(now, &[]).quorum(later).is_healthy());
    }

    fn status(now: Instant, answers: &[Option<Instant>]) -> Status {
        let others = answers
            .iter()
            .enumerate()
            .map(|(i, answer)| (i + 2, *answer));
        Status {
            cluster_id: "c".into(),
            replica_id: ReplicaId(1),
            incarnation: 1,
            role: Role::Follower,
            leader: None,
            term: 1,
            purged_index: 0,
            last_log_index: 0,
            committed_index: 0,
            applied_index: 0,
            members: std::iter::once((1, None))
                .chain(others)
                .map(member)
                .collect(),
            membership_index: 0,
            joint: false,
            removed: Vec::new(),
            last_leader_contact: now,
            reachable_within: Duration::from_secs(3),
            sealing_key: None,
            authority: None,
            level: None,
        }
    }

    fn member((id, last_answer): (usize, Option<Instant>)) -> MemberStatus {
        MemberStatus {
            id: ReplicaId(id as u64),
            name: format!("r{id}"),
            addr: String::new(),
            voter: true,
            non_voting: false,
            leaving: false,
            replaces: None,
            last_contact: None,
            last_answer,
            matched_index: None,
            applied_index: None,
            incarnation: None,
            clock_ahead_ms: None,
            sealing_keys: None,
            certificate: None,
            renewal_asked_at: 0,
            levels: None,
            holds_level: false,
        }
    }
}
