//! Which changes of the membership are due: a function of what is recorded and what is seen.

use std::collections::BTreeSet;

use crate::records::ClusterRecords;

/// One change of the membership.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Due {
    /// A learner takes a member's place.
    Swap { old: u64, with: u64 },
    /// A removed replica leaves.
    Drop(u64),
    /// A voter becomes a learner.
    Demote(u64),
    /// A learner gets its vote.
    Promote(u64),
}

/// The cluster as its leader sees it.
#[derive(Debug, Default)]
pub(super) struct Seen {
    /// The leader itself, which ends its own vote for nobody: the next one does.
    pub(super) own: u64,
    pub(super) members: BTreeSet<u64>,
    pub(super) voters: BTreeSet<u64>,
    /// Whom it has heard of lately.
    pub(super) heard: BTreeSet<u64>,
    /// Learners that follow in step.
    pub(super) caught_up: BTreeSet<u64>,
}

/// All that is due, in the order in which to try it. The silent go before those that answer: the vote
/// of one that answers may be what it takes to be rid of one that does not.
pub(super) fn due(records: &ClusterRecords, seen: &Seen) -> Vec<Due> {
    let silent_first = |ids: Vec<u64>| {
        let (heard, silent): (Vec<u64>, Vec<u64>) =
            ids.into_iter().partition(|id| seen.heard.contains(id));
        silent.into_iter().chain(heard)
    };
    let fit = |id: &u64| seen.caught_up.contains(id) && !records.is_removed(*id);
    let swaps = records
        .replacements()
        .filter(|(old, with)| seen.members.contains(old) && fit(with))
        .map(|(old, with)| Due::Swap { old, with });
    let others = |ids: &BTreeSet<u64>, wanted: &dyn Fn(u64) -> bool| -> Vec<u64> {
        let ids = ids.iter().copied();
        ids.filter(|id| *id != seen.own && wanted(*id)).collect()
    };
    let removed = others(&seen.members, &|id| records.is_removed(id));
    let demoted = others(&seen.voters, &|id| records.is_non_voting(id));
    let waits_for_place = |id: u64| records.replaces(id).any(|old| seen.members.contains(&old));
    let promoted = seen.caught_up.iter().copied();
    let promoted = promoted.filter(|id| !records.is_ending(*id) && !waits_for_place(*id));
    swaps
        .chain(silent_first(removed).map(Due::Drop))
        .chain(silent_first(demoted).map(Due::Demote))
        .chain(promoted.map(Due::Promote))
        .collect()
}

#[cfg(test)]
mod tests {
    use hydrascale_proto::raft::v1::{Admin, RemoveReplica, ReplaceReplica, SetVoting, admin};

    use super::*;

    fn recorded(ops: impl IntoIterator<Item = admin::Op>) -> ClusterRecords {
        let mut records = ClusterRecords::default();
        for op in ops {
            records.apply(9, 0, &Admin { op: Some(op) });
        }
        records
    }

    fn remove(replica_id: u64) -> admin::Op {
        admin::Op::RemoveReplica(RemoveReplica { replica_id })
    }

    fn replace(replica_id: u64, with: u64) -> admin::Op {
        admin::Op::ReplaceReplica(ReplaceReplica { replica_id, with })
    }

    fn demote(replica_id: u64) -> admin::Op {
        admin::Op::SetVoting(SetVoting {
            replica_id,
            voting: false,
        })
    }

    /// Led by 1, with voters 1 to 3 and the learners 4 to 6.
    fn seen(heard: &[u64], caught_up: &[u64]) -> Seen {
        Seen {
            own: 1,
            members: (1..=6).collect(),
            voters: (1..=3).collect(),
            heard: heard.iter().copied().collect(),
            caught_up: caught_up.iter().copied().collect(),
        }
    }

    #[test]
    fn the_removal_of_a_silent_voter_does_not_wait_for_that_of_one_that_answers() {
        let records = recorded([remove(2), remove(3)]);
        let both = [Due::Drop(3), Due::Drop(2)];
        assert_eq!(due(&records, &seen(&[2], &[])), both);
        let records = recorded([demote(2), demote(3), demote(1)]);
        let both = [Due::Demote(3), Due::Demote(2)];
        assert_eq!(due(&records, &seen(&[2], &[])), both);
    }

    #[test]
    fn one_replacement_that_must_wait_holds_up_no_other() {
        let records = recorded([replace(2, 4), replace(3, 5)]);
        let both = [Due::Swap { old: 2, with: 4 }, Due::Swap { old: 3, with: 5 }];
        assert_eq!(
            due(&records, &seen(&[], &[4, 5, 6])),
            [both[0], both[1], Due::Promote(6)]
        );
        assert_eq!(due(&records, &seen(&[], &[5])), [both[1]]);
    }

    #[test]
    fn a_removed_learner_is_neither_promoted_nor_put_into_a_place() {
        let records = recorded([replace(2, 4), remove(4), remove(5), demote(6)]);
        let leaves = [Due::Drop(4), Due::Drop(5)];
        assert_eq!(due(&records, &seen(&[4, 5], &[4, 5, 6])), leaves);
    }
}
