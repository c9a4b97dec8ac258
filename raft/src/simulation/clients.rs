//! Clients of a simulated cluster, what they were told, and whether that can be true.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::time::{Duration, sleep};

use super::cluster::Cluster;
use super::machine::{Ledger, Line};
use super::process::Running;
use super::{choose, millis, note, passed, random, violation};
use crate::ProposeError;

/// An operation and what came of it.
struct Operation {
    key: &'static str,
    /// What it appends; nothing when it reads.
    tag: Option<u64>,
    called: Duration,
    ended: Duration,
    outcome: Outcome,
}

/// What a client was told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    /// This is the list now.
    Ok(Line),
    /// It has not happened and never will.
    Failed,
    /// It may happen at any later time, or never.
    Unknown,
}

/// How many operations came out how.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Counts {
    pub(super) ok: u64,
    pub(super) failed: u64,
    pub(super) unknown: u64,
}

/// What all clients have seen.
#[derive(Default)]
pub(super) struct History {
    operations: Mutex<Vec<Operation>>,
    next_tag: Mutex<u64>,
}

impl History {
    /// One operation of some client on some replica.
    pub(super) async fn operate(&self, cluster: &Cluster) {
        let Some(id) = choose(&cluster.ids()).filter(|id| cluster.running(*id).is_some()) else {
            sleep(millis(1..20)).await;
            return;
        };
        let key = choose(&KEYS).unwrap_or("a");
        let tag = (random(0..3) > 0).then(|| {
            let mut next = self.next_tag.lock();
            *next += 1;
            *next
        });
        let called = passed();
        let asking = cluster.ask(id, move |one| operate(one, key, tag));
        // A client whose replica dies has no answer.
        let outcome = asking.await.unwrap_or(Outcome::Unknown);
        note(&[3, tag.unwrap_or(0), u64::from(outcome == Outcome::Unknown)]);
        self.operations.lock().push(Operation {
            key,
            tag,
            called,
            ended: passed(),
            outcome,
        });
    }

    pub(super) fn counts(&self) -> Counts {
        let mut counts = Counts::default();
        for operation in &*self.operations.lock() {
            match operation.outcome {
                Outcome::Ok(_) => counts.ok += 1,
                Outcome::Failed => counts.failed += 1,
                Outcome::Unknown => counts.unknown += 1,
            }
        }
        counts
    }

    /// Judges all that was answered. Lists show their whole past, so that no order need be
    /// searched: each answer has one place at most.
    pub(super) fn check(&self, ledger: &Ledger) {
        let mut placed: BTreeMap<&str, Vec<(&Operation, u64)>> = BTreeMap::new();
        let operations = self.operations.lock();
        for operation in &*operations {
            match (operation.outcome, operation.tag) {
                (Outcome::Ok(line), _) => {
                    check_answer(operation, line, ledger);
                    placed
                        .entry(operation.key)
                        .or_default()
                        .push((operation, line.length));
                }
                (Outcome::Failed, Some(tag)) if ledger.index_of(tag).is_some() => {
                    violation(format!(
                        "outcome: command {tag} was refused for certain and applied"
                    ));
                }
                (Outcome::Failed | Outcome::Unknown, _) => {}
            }
        }
        placed
            .into_iter()
            .for_each(|(key, mut ops)| check_order(key, &mut ops));
    }
}

async fn operate(one: Running, key: &str, tag: Option<u64>) -> Outcome {
    let Some(tag) = tag else {
        return match one.replica.read_index().await {
            Ok(_) => Outcome::Ok(one.machine.read(key)),
            Err(_) => Outcome::Unknown,
        };
    };
    match one
        .replica
        .propose(Bytes::from(format!("{key} {tag}")))
        .await
    {
        Ok(proposed) => match Line::parse(&proposed.outcome) {
            Some(line) => Outcome::Ok(line),
            None => Outcome::Unknown,
        },
        Err(ProposeError::NotProposed { .. } | ProposeError::TooLarge { .. }) => Outcome::Failed,
        Err(_) => Outcome::Unknown,
    }
}

/// What was answered must be what the cluster agreed on.
fn check_answer(operation: &Operation, line: Line, ledger: &Ledger) {
    let key = operation.key;
    if line.length == 0 && operation.tag.is_none() {
        return;
    }
    match (ledger.at(key, line.length), operation.tag) {
        (Some((tag, at)), Some(own)) if at == line && tag == own => {}
        (Some((_, at)), None) if at == line => {}
        (found, _) => violation(format!(
            "kept: an answer says that list {key} was {line:?}, it was {found:?}"
        )),
    }
}

/// Who asks after an answer must see no less; an append must add to it.
fn check_order(key: &str, operations: &mut [(&Operation, u64)]) {
    let mut by_end = operations.to_vec();
    by_end.sort_by_key(|(operation, _)| operation.ended);
    operations.sort_by_key(|(operation, _)| operation.called);
    let mut ended = by_end.into_iter().peekable();
    let mut seen = 0;
    for (operation, length) in operations.iter() {
        while let Some((_, before)) = ended.next_if(|(one, _)| one.ended < operation.called) {
            seen = seen.max(before);
        }
        let least = if operation.tag.is_some() {
            seen + 1
        } else {
            seen
        };
        if *length < least {
            violation(format!(
                "linearizable: list {key} had {seen} entries when somebody was told of {length}"
            ));
        }
    }
}

/// Works until it is told to stop.
pub(super) async fn client(cluster: Arc<Cluster>, history: Arc<History>) {
    loop {
        history.operate(&cluster).await;
        sleep(millis(0..60)).await;
    }
}

const KEYS: [&str; 3] = ["a", "b", "c"];
