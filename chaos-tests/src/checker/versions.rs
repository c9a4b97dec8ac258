//! The versions of a register form one chain in which no update is lost: numbers and values belong
//! together for ever, an acknowledged change is there once, right behind the version that it
//! replaced, and changes are numbered in the order in which they were made.

use std::collections::{BTreeMap, BTreeSet};

use super::Verdict;
use crate::{
    history::{Answer, History, Op, Operation},
    outcome::Outcome,
};

/// Judges the versions of every register that has some.
pub fn check(history: &History) -> Verdict {
    let mut chains: BTreeMap<&str, Chain<'_>> = BTreeMap::new();
    for one in &history.operations {
        if let (Op::Write { key, .. } | Op::Swap { key, .. } | Op::Versions { key }, true) =
            (&one.op, one.outcome != Outcome::Failed)
        {
            chains.entry(key).or_default().operations.push(one);
        }
    }
    let judged = chains.iter_mut().map(|(key, chain)| {
        let looked = chain.judge();
        Verdict::from_looks(looked.map_err(|what| format!("register {key}: {what}")))
    });
    Verdict::of_all(judged)
}

/// Everything about one register that did not fail.
#[derive(Default)]
struct Chain<'a> {
    operations: Vec<&'a Operation>,
    values: BTreeMap<u64, u64>,
    numbers: BTreeMap<u64, u64>,
    /// When the newest list was asked for.
    listed: u64,
}

impl Chain<'_> {
    fn judge(&mut self) -> Result<usize, String> {
        self.merge()?;
        if self.values.is_empty() {
            return Ok(0);
        }
        self.check_sent()?;
        self.check_acknowledged()?;
        self.check_order()?;
        Ok(self.values.len())
    }

    /// Collects what the lists say, as far as they agree.
    fn merge(&mut self) -> Result<(), String> {
        for one in &self.operations {
            let Answer::Versions { versions } = &one.answer else {
                continue;
            };
            self.listed = self.listed.max(one.call);
            for version in versions {
                let value = *self.values.entry(version.number).or_insert(version.value);
                let number = *self.numbers.entry(version.value).or_insert(version.number);
                if value != version.value {
                    let (number, other) = (version.number, version.value);
                    return Err(format!("version {number} is {value} and {other}"));
                }
                if number != version.number {
                    let (value, other) = (version.value, version.number);
                    return Err(format!(
                        "{value} is version {number} and {other}: set twice"
                    ));
                }
            }
        }
        Ok(())
    }

    fn check_sent(&self) -> Result<(), String> {
        let sent: BTreeSet<u64> = self
            .operations
            .iter()
            .filter_map(|one| written(one))
            .collect();
        match self.numbers.iter().find(|(value, _)| !sent.contains(value)) {
            Some((value, number)) => Err(format!("version {number} is {value}, and nobody set it")),
            None => Ok(()),
        }
    }

    /// Whether the lists leave out no version up to the newest.
    fn is_whole(&self) -> bool {
        let newest = self
            .values
            .last_key_value()
            .map_or(0, |(number, _)| *number);
        u64::try_from(self.values.len()) == Ok(newest)
    }

    fn check_acknowledged(&self) -> Result<(), String> {
        let whole = self.is_whole();
        for one in self
            .operations
            .iter()
            .filter(|one| one.outcome == Outcome::Ok)
        {
            let Some(value) = written(one) else {
                continue;
            };
            let Some(number) = self.numbers.get(&value) else {
                if whole && one.end.is_some_and(|end| end < self.listed) {
                    return Err(format!("{value} was acknowledged and is no version: lost"));
                }
                continue;
            };
            let before = self.values.get(&(number - 1));
            if let (Op::Swap { from, .. }, Some(before)) = (&one.op, before)
                && from != before
            {
                return Err(format!(
                    "{value} should have replaced {from}, but version {number} follows {before}"
                ));
            }
        }
        Ok(())
    }

    /// Of two changes of which one was acknowledged before the other was asked for, that one is the
    /// older version.
    fn check_order(&self) -> Result<(), String> {
        let mut numbered: Vec<(u64, &Operation)> = self
            .operations
            .iter()
            .filter_map(|one| Some((*self.numbers.get(&written(one)?)?, *one)))
            .collect();
        numbered.sort_by_key(|(number, _)| *number);
        let mut newer_end = u64::MAX;
        for (number, one) in numbered.into_iter().rev() {
            if newer_end < one.call {
                return Err(format!(
                    "version {number} was asked for after a newer one was made"
                ));
            }
            newer_end = newer_end.min(one.end.unwrap_or(u64::MAX));
        }
        Ok(())
    }
}

fn written(operation: &Operation) -> Option<u64> {
    operation.op.written().map(|(_, value)| value)
}

#[cfg(test)]
mod tests {
    use super::super::testing::{done, failed, history, unknown};
    use super::*;
    use crate::history::Version;

    fn swap(from: u64, to: u64) -> Operation {
        let op = Op::Swap {
            key: "p".to_owned(),
            from,
            to,
        };
        done(to, op, (10 * to, 10 * to + 5), Answer::Nothing)
    }

    fn versions(at: u64, values: &[(u64, u64)]) -> Operation {
        let versions = values.iter().map(|(number, value)| Version {
            number: *number,
            value: *value,
        });
        let answer = Answer::Versions {
            versions: versions.collect(),
        };
        done(
            at,
            Op::Versions {
                key: "p".to_owned(),
            },
            (at, at + 1),
            answer,
        )
    }

    fn complaint(operations: Vec<Operation>) -> String {
        let verdict = check(&history(operations));
        match verdict {
            Verdict::Violated(what) => what,
            Verdict::Holds(_) | Verdict::GaveUp(_) | Verdict::NothingSeen => panic!("{verdict}"),
        }
    }

    #[test]
    fn a_chain_holds_with_unknown_and_failed_changes() {
        let operations = vec![
            swap(0, 1),
            unknown(swap(1, 2)),
            failed(swap(1, 3)),
            swap(2, 4),
            versions(90, &[(1, 1), (2, 2), (3, 4)]),
            versions(95, &[(2, 2), (3, 4)]),
        ];
        assert_eq!(check(&history(operations)), Verdict::Holds(3));
    }

    #[test]
    fn a_lost_update_is_found() {
        let lost = vec![swap(0, 1), swap(1, 2), versions(90, &[(1, 1)])];
        assert!(complaint(lost).contains("lost"));
        let beside = vec![
            swap(0, 1),
            swap(1, 2),
            swap(1, 3),
            versions(90, &[(1, 1), (2, 2), (3, 3)]),
        ];
        assert!(complaint(beside).contains("should have replaced 1"));
    }

    #[test]
    fn a_change_made_twice_or_by_nobody_is_found() {
        let twice = vec![swap(0, 1), versions(90, &[(1, 1), (2, 1)])];
        assert!(complaint(twice).contains("set twice"));
        let phantom = vec![
            swap(0, 1),
            failed(swap(1, 2)),
            versions(90, &[(1, 1), (2, 2)]),
        ];
        assert!(complaint(phantom).contains("nobody set it"));
        let rewritten = vec![
            swap(0, 1),
            unknown(swap(0, 2)),
            versions(90, &[(1, 1)]),
            versions(95, &[(1, 2)]),
        ];
        assert!(complaint(rewritten).contains("version 1 is 1 and 2"));
    }

    #[test]
    fn versions_follow_the_order_of_the_changes() {
        let write = |value: u64| Operation {
            op: Op::Write {
                key: "p".to_owned(),
                value,
            },
            ..swap(0, value)
        };
        let wrong = vec![write(1), write(2), versions(90, &[(1, 2), (2, 1)])];
        assert!(complaint(wrong).contains("after a newer one"));
    }
}
