//! A single-use key lets one node in, and is not used up for nothing.

use std::collections::{BTreeMap, BTreeSet};

use super::Verdict;
use crate::{
    history::{Answer, History, Op},
    outcome::Outcome,
};

/// What a registration with a used key is told.
const USED: &str = "already used";

/// What became of one key.
#[derive(Default)]
struct Uses<'a> {
    /// Nodes that it certainly let in.
    admitted: BTreeSet<&'a str>,
    /// Whether some attempt may have used it.
    may_be_used: bool,
    /// An attempt that was told that it is used.
    refused: Option<u64>,
}

/// Judges every single-use key.
pub fn check(history: &History) -> Verdict {
    let mut keys: BTreeMap<&str, Uses<'_>> = BTreeMap::new();
    for one in &history.operations {
        let Op::Register {
            auth_key,
            single_use: true,
            node_key,
        } = &one.op
        else {
            continue;
        };
        let uses = keys.entry(auth_key).or_default();
        uses.may_be_used |= one.outcome != Outcome::Failed;
        if one.outcome == Outcome::Ok {
            uses.admitted.insert(node_key);
        }
        if matches!(&one.answer, Answer::Text { text } if text.contains(USED)) {
            uses.refused = Some(one.id);
        }
    }
    for one in &history.operations {
        let Answer::Nodes { nodes } = &one.answer else {
            continue;
        };
        for node in nodes {
            if let Some(uses) = node.auth_key.as_deref().and_then(|key| keys.get_mut(key)) {
                uses.admitted.insert(&node.node_key);
            }
        }
    }
    let judged = keys.iter().map(|(key, uses)| uses.judge(key));
    Verdict::from_looks(judged.sum())
}

impl Uses<'_> {
    fn judge(&self, key: &str) -> Result<usize, String> {
        if self.admitted.len() > 1 {
            let nodes = &self.admitted;
            return Err(format!("the single-use key {key} let in {nodes:?}"));
        }
        match self.refused {
            Some(id) if !self.may_be_used => Err(format!(
                "operation {id} was told that key {key} is used, but nobody can have used it"
            )),
            Some(_) | None => Ok(1),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{done, failed, history, unknown};
    use super::*;
    use crate::history::{Listed, Operation};

    fn register(id: u64, node: &str) -> Operation {
        let op = Op::Register {
            auth_key: "7".to_owned(),
            single_use: true,
            node_key: node.to_owned(),
        };
        done(id, op, (id, id + 5), Answer::Nothing)
    }

    fn told_used(operation: Operation) -> Operation {
        Operation {
            answer: Answer::Text {
                text: "authkey already used".to_owned(),
            },
            ..failed(operation)
        }
    }

    #[test]
    fn one_node_uses_a_key_as_often_as_it_likes() {
        let again = history(vec![
            register(1, "a"),
            register(2, "a"),
            told_used(register(3, "b")),
        ]);
        assert_eq!(check(&again), Verdict::Holds(1));
        assert_eq!(check(&history(Vec::new())), Verdict::NothingSeen);
    }

    #[test]
    fn two_nodes_with_one_key_are_found_also_by_the_list() {
        let two = history(vec![register(1, "a"), register(2, "b")]);
        assert!(matches!(check(&two), Verdict::Violated(_)));
        let listed = Listed {
            id: "2".to_owned(),
            node_key: "b".to_owned(),
            addresses: Vec::new(),
            auth_key: Some("7".to_owned()),
            routes: Vec::new(),
            granted: Vec::new(),
            online: false,
        };
        let list = done(
            3,
            Op::List,
            (9, 10),
            Answer::Nodes {
                nodes: vec![listed],
            },
        );
        let hidden = history(vec![register(1, "a"), unknown(register(2, "b")), list]);
        assert!(matches!(check(&hidden), Verdict::Violated(_)));
    }

    #[test]
    fn a_key_that_is_used_up_for_nobody_is_found() {
        let lost = history(vec![failed(register(1, "a")), told_used(register(2, "b"))]);
        assert!(matches!(check(&lost), Verdict::Violated(_)));
        let perhaps = history(vec![unknown(register(1, "a")), told_used(register(2, "b"))]);
        assert_eq!(check(&perhaps), Verdict::Holds(1));
    }
}
