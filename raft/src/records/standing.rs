//! What members are meant to be: who stays without a vote, who takes whose place, who is gone.

use hydrascale_proto::raft::v1::{
    NonVotingRow, RemoveReplica, RemovedReplicaRow, ReplaceReplica, ReplacementRow, SetVoting,
};

use super::{
    Applied, ClusterRecords, NON_VOTING_PREFIX, REMOVED_PREFIX, REPLACEMENT_PREFIX, numbered, put,
};
use crate::RowWrite;

impl ClusterRecords {
    /// Whether a replica was removed for good.
    pub(crate) fn is_removed(&self, replica_id: u64) -> bool {
        self.removed.contains(&replica_id)
    }

    /// The replicas removed for good.
    pub(crate) fn removed(&self) -> impl Iterator<Item = u64> + '_ {
        self.removed.iter().copied()
    }

    /// Whether a member stays a learner however far it has caught up.
    pub(crate) fn is_non_voting(&self, replica_id: u64) -> bool {
        self.non_voting.contains(&replica_id)
    }

    /// Whether its vote, if it has one, is to end.
    pub(crate) fn is_ending(&self, replica_id: u64) -> bool {
        self.is_removed(replica_id) || self.is_non_voting(replica_id)
    }

    /// Who takes whose place: (leaves, comes).
    pub(crate) fn replacements(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        self.replacements.iter().map(|(old, with)| (*old, *with))
    }

    /// Who takes the place of a replica.
    pub(crate) fn replacement_of(&self, replica_id: u64) -> Option<u64> {
        self.replacements.get(&replica_id).copied()
    }

    /// Whose place a replica takes or has taken.
    pub(crate) fn replaces(&self, replica_id: u64) -> impl Iterator<Item = u64> + '_ {
        let all = self.replacements();
        all.filter(move |(_, with)| *with == replica_id)
            .map(|(old, _)| old)
    }

    /// Whether an id was given to somebody, member or not, as far as it is remembered.
    pub(crate) fn is_given(&self, replica_id: u64) -> bool {
        let mut joins = self
            .tokens
            .values()
            .filter_map(|token| token.r#use.as_ref());
        joins.any(|used| used.replica_id == replica_id)
            || self.replaces(replica_id).next().is_some()
            || self.is_non_voting(replica_id)
    }

    pub(super) fn set_voting(&mut self, op: &SetVoting) -> Applied {
        if self.is_removed(op.replica_id) {
            return Err(gone(op.replica_id));
        }
        Ok((self.note_voting(op.replica_id, op.voting), op.replica_id))
    }

    pub(super) fn replace_replica(&mut self, op: &ReplaceReplica) -> Applied {
        let writes = self.note_replacement(op.replica_id, op.with)?;
        Ok((writes, op.with))
    }

    /// Checks that a place can be taken, for a joiner as well as for a member.
    pub(super) fn note_replacement(
        &mut self,
        old: u64,
        with: u64,
    ) -> Result<Vec<RowWrite>, String> {
        if let Some(other) = self.replacement_of(old) {
            if other == with {
                return Ok(Vec::new());
            }
            return Err(taken(old, other));
        }
        if old == with {
            return Err(format!("replica {old} cannot take its own place"));
        }
        for id in [old, with] {
            if self.is_removed(id) {
                return Err(gone(id));
            }
        }
        if let Some(another) = self.replaces(with).find(|id| !self.is_removed(*id)) {
            return Err(format!(
                "replica {with} takes the place of replica {another} already, and of no other"
            ));
        }
        self.replacements.insert(old, with);
        let row = ReplacementRow {
            replica_id: old,
            with,
        };
        let mut writes = vec![put(numbered(REPLACEMENT_PREFIX, old), &row)];
        // It takes the place as it is, with or without a vote.
        let votes = !self.is_non_voting(old);
        writes.extend(self.note_voting(with, votes));
        Ok(writes)
    }

    pub(super) fn note_voting(&mut self, replica_id: u64, voting: bool) -> Vec<RowWrite> {
        let key = numbered(NON_VOTING_PREFIX, replica_id);
        let write = match voting {
            true => self
                .non_voting
                .remove(&replica_id)
                .then(|| RowWrite::Delete(key)),
            false => self
                .non_voting
                .insert(replica_id)
                .then(|| put(key, &NonVotingRow { replica_id })),
        };
        write.into_iter().collect()
    }

    pub(super) fn remove_replica(
        &mut self,
        now_ms: i64,
        op: &RemoveReplica,
    ) -> (Vec<RowWrite>, u64) {
        let replica_id = op.replica_id;
        if !self.removed.insert(replica_id) {
            return (Vec::new(), replica_id);
        }
        let row = RemovedReplicaRow {
            replica_id,
            removed_at_ms: now_ms,
        };
        let mut writes = vec![put(numbered(REMOVED_PREFIX, replica_id), &row)];
        writes.extend(self.note_voting(replica_id, true));
        // Who was to come is gone: the place is free for another.
        let places: Vec<u64> = self.replaces(replica_id).collect();
        for old in places {
            self.replacements.remove(&old);
            writes.push(RowWrite::Delete(numbered(REPLACEMENT_PREFIX, old)));
        }
        (writes, replica_id)
    }
}

pub(super) fn taken(old: u64, with: u64) -> String {
    format!(
        "replica {with} takes the place of replica {old} already: to let another take it, run \
         `cluster remove {with}` first"
    )
}

/// Why nothing is changed about a removed replica.
pub(crate) fn gone(replica_id: u64) -> String {
    format!("replica {replica_id} was removed for good")
}
