//! Map streams show that a node is deleted: each shows it [`SHOWN`] after the deletion and the last
//! fault, none shows the node again after that, and one that was opened after the acknowledgement
//! never does, unless the replica said that it was cut off.
//!
//! Nodes see each other whatever the policy of a run says, so that only a deletion takes one away.

use std::collections::{BTreeMap, BTreeSet};

use super::{SHOWN, Verdict, nanos};
use crate::{
    history::{Answer, History, Op, OpId, Operation, PeerChange},
    outcome::Outcome,
};

/// Judges every stream; what holds are the deletions that were shown.
pub fn check(history: &History) -> Verdict {
    let deletions = deletions(history);
    let mut changes: BTreeMap<OpId, Vec<&PeerChange>> = BTreeMap::new();
    for change in &history.peers {
        changes.entry(change.id).or_default().push(change);
    }
    let mut looked = 0;
    for watch in &history.operations {
        let Some(changes) = changes.get(&watch.id) else {
            continue;
        };
        match check_one(history, &deletions, watch, changes) {
            Ok(shown) => looked += shown,
            Err(what) => return Verdict::Violated(format!("stream {}: {what}", watch.id)),
        }
    }
    Verdict::from_looks(Ok(looked))
}

/// The deletion of one node, whoever asked for it and however often.
struct Deletion {
    /// When it was first asked for.
    call: u64,
    /// When it was first acknowledged.
    end: Option<u64>,
}

/// Deletions that may have happened, by the id of the node.
fn deletions(history: &History) -> BTreeMap<&str, Deletion> {
    let mut deletions: BTreeMap<&str, Deletion> = BTreeMap::new();
    for one in &history.operations {
        let (Op::Delete { node }, true) = (&one.op, one.outcome != Outcome::Failed) else {
            continue;
        };
        let deletion = deletions.entry(node).or_insert(Deletion {
            call: one.call,
            end: None,
        });
        // Of those that have an end the earliest; `None` would be the least.
        deletion.end = [deletion.end, one.end].into_iter().flatten().min();
    }
    deletions
}

/// Says how many deletions the stream showed.
fn check_one(
    history: &History,
    deletions: &BTreeMap<&str, Deletion>,
    watch: &Operation,
    changes: &[&PeerChange],
) -> Result<usize, String> {
    let is_fresh = watch.outcome == Outcome::Ok && watch.answer != Answer::Stale;
    // Until when a deletion may be hidden; one that was not acknowledged may never happen.
    let limit = |deletion: &Deletion| {
        let end = deletion.end?;
        Some(end.max(history.healed_at).saturating_add(nanos(SHOWN)))
    };
    let is_late = |deletion: &Deletion, at: u64| limit(deletion).is_some_and(|limit| at > limit);
    let mut shown: BTreeSet<&str> = BTreeSet::new();
    let mut gone: BTreeSet<&str> = BTreeSet::new();
    for change in changes {
        for id in &change.left {
            shown.remove(&**id);
            let Some(deletion) = deletions.get(&**id) else {
                continue;
            };
            if is_late(deletion, change.at) {
                return Err(format!("node {id} was deleted, which it shows too late"));
            }
            if deletion.call < change.at {
                gone.insert(id);
            }
        }
        for id in &change.came {
            shown.insert(id);
            let Some(deletion) = deletions.get(&**id) else {
                continue;
            };
            if gone.contains(&**id) {
                return Err(format!("node {id} was deleted and is back"));
            }
            if is_fresh && deletion.end.is_some_and(|end| end < watch.call) {
                return Err(format!(
                    "it shows node {id}, whose deletion was acknowledged before"
                ));
            }
        }
    }
    // Without an end the run was interrupted.
    let end = watch.end.unwrap_or_default();
    let is_stuck = |id: &&str| deletions.get(*id).is_some_and(|one| is_late(one, end));
    match shown.iter().find(|id| is_stuck(id)) {
        Some(id) => Err(format!(
            "node {id} was deleted and is still shown {SHOWN:?} later"
        )),
        None => Ok(gone.len()),
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{done, failed, history, unknown};
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    /// At which second who came and who left.
    type Changes<'a> = [(u64, &'a [&'a str], &'a [&'a str])];

    fn delete(second: u64, node: &str) -> Operation {
        let op = Op::Delete {
            node: node.to_owned(),
        };
        let at = second * SECOND;
        done(second, op, (at, at + 1), Answer::Nothing)
    }

    fn ids(ids: &[&str]) -> Vec<String> {
        ids.iter().map(|id| (*id).to_owned()).collect()
    }

    /// A run whose last fault was healed after 50 s, with a stream that was open from and to these
    /// seconds.
    fn judged_as(
        answer: Answer,
        deletions: Vec<Operation>,
        (from, to): (u64, u64),
        changes: &Changes<'_>,
    ) -> Verdict {
        let mut history = history(deletions);
        history.healed_at = 50 * SECOND;
        let op = Op::Watch {
            key: "n".to_owned(),
        };
        let times = (from * SECOND, to * SECOND);
        history.operations.push(done(1000, op, times, answer));
        let changes = changes.iter().map(|(second, came, left)| PeerChange {
            at: second * SECOND,
            id: 1000,
            came: ids(came),
            left: ids(left),
        });
        history.peers = changes.collect();
        check(&history)
    }

    fn judged(deletions: Vec<Operation>, times: (u64, u64), changes: &Changes<'_>) -> Verdict {
        judged_as(Answer::Nothing, deletions, times, changes)
    }

    #[test]
    fn a_stream_shows_deletions() {
        let changes: &Changes<'_> = &[
            (1, &["1", "2", "3"], &[]),
            (6, &[], &["1"]),
            (8, &["4"], &[]),
            (60, &[], &["2"]),
        ];
        let verdict = judged(vec![delete(5, "1"), delete(55, "2")], (1, 90), changes);
        assert_eq!(verdict, Verdict::Holds(2));
        // Nobody deleted anything.
        assert_eq!(judged(Vec::new(), (1, 90), changes), Verdict::NothingSeen);
    }

    #[test]
    fn a_deleted_node_that_a_stream_shows_for_ever_is_found() {
        let changes: &Changes<'_> = &[(1, &["1", "2"], &[]), (6, &[], &["2"])];
        let deletions = || vec![delete(5, "1"), delete(5, "2")];
        let verdict = judged(deletions(), (1, 66), changes);
        assert!(verdict.to_string().contains("is still shown"), "{verdict}");
        // Among faults, and soon after them, a replica may be behind.
        assert_eq!(judged(deletions(), (1, 64), changes), Verdict::Holds(1));
        // What was refused has not happened, and what is unknown may never happen.
        for open in [failed(delete(5, "1")), unknown(delete(5, "1"))] {
            let deletions = vec![open, delete(5, "2")];
            assert_eq!(judged(deletions, (1, 90), changes), Verdict::Holds(1));
        }
    }

    #[test]
    fn a_deletion_that_is_shown_late_is_found() {
        let verdict = judged(
            vec![delete(5, "1")],
            (1, 90),
            &[(1, &["1"], &[]), (66, &[], &["1"])],
        );
        assert!(verdict.to_string().contains("too late"), "{verdict}");
    }

    #[test]
    fn a_deleted_node_that_comes_back_is_found() {
        let changes: &Changes<'_> = &[(1, &["1"], &[]), (6, &[], &["1"]), (8, &["1"], &[])];
        for deletion in [delete(5, "1"), unknown(delete(5, "1"))] {
            let verdict = judged(vec![deletion], (1, 10), changes);
            assert!(verdict.to_string().contains("is back"), "{verdict}");
        }
    }

    #[test]
    fn a_stream_does_not_begin_with_what_was_deleted_before_unless_it_says_so() {
        let deletions = || vec![delete(5, "1")];
        let changes: &Changes<'_> = &[(6, &["1"], &[]), (9, &[], &["1"])];
        let verdict = judged(deletions(), (6, 10), changes);
        assert!(
            verdict.to_string().contains("acknowledged before"),
            "{verdict}"
        );
        let stale = judged_as(Answer::Stale, deletions(), (6, 10), changes);
        assert_eq!(stale, Verdict::Holds(1));
    }
}
