//! Reads a history and pairs invocations with completions. Pure, but for opening the file.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    fs::File,
    io::{self, BufRead, BufReader},
    path::Path,
};

use super::{Answer, Event, Op, OpId, Run};
use crate::outcome::Outcome;

/// A run as checkers see it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct History {
    /// What was run.
    pub run: Run,
    /// Every operation, in the order of their invocations.
    pub operations: Vec<Operation>,
    /// What open map streams showed, in order.
    pub sightings: Vec<Sighting>,
    /// Which peers open map streams showed, in order.
    pub peers: Vec<PeerChange>,
    /// Faults that were installed, one after another.
    pub faults: Vec<Spell>,
    /// Terms with their leaders, in the order in which they were seen.
    pub leaders: Vec<Leadership>,
    /// Snapshots that replicas were seen to have installed.
    pub snapshots: Vec<Installation>,
    /// When the last fault was healed.
    pub healed_at: u64,
    /// In what replicas differed at the end; `None` when they were not compared.
    pub compared: Option<Option<String>>,
    /// Whether the run came to its end.
    pub ended: bool,
}

/// An operation from its invocation to its completion.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Operation {
    /// Its name.
    pub id: OpId,
    /// The client.
    pub process: u32,
    /// What was asked for.
    pub op: Op,
    /// When it was asked for.
    pub call: u64,
    /// When its end was known; `None` for what has no end.
    pub end: Option<u64>,
    /// What is known about it.
    pub outcome: Outcome,
    /// What came back.
    pub answer: Answer,
}

/// A value that an open map stream showed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sighting {
    /// When.
    pub at: u64,
    /// The [`Op::Watch`] that it belongs to.
    pub id: OpId,
    /// The value.
    pub value: u64,
}

/// A change of the peers that an open map stream shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerChange {
    /// When.
    pub at: u64,
    /// The [`Op::Watch`] that it belongs to.
    pub id: OpId,
    /// The ids of the nodes that it shows from now on.
    pub came: Vec<String>,
    /// The ids of the nodes that it shows no more.
    pub left: Vec<String>,
}

/// A fault from its installation to its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spell {
    /// Which nemesis did it.
    pub nemesis: String,
    /// What it did, to whom.
    pub what: String,
    /// Just before it was installed.
    pub from: u64,
    /// When it was healed; `None` when the run was interrupted before.
    pub until: Option<u64>,
}

/// A replica that leads a term.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Leadership {
    /// When it was first seen.
    pub at: u64,
    /// The term.
    pub term: u64,
    /// The replica's id in the cluster.
    pub replica: usize,
}

/// Snapshots that a replica was seen to have installed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Installation {
    /// When.
    pub at: u64,
    /// How many more than before.
    pub count: u64,
}

/// Why a file is no history.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// It cannot be read.
    #[error("the history cannot be read")]
    Io(#[source] io::Error),
    /// A line is no event.
    #[error("line {line} of the history is no event")]
    Event {
        /// Counts from 1.
        line: usize,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
    /// The first line says nothing about the run.
    #[error("the history does not begin with its run")]
    NoRun,
    /// A line does not fit those before it.
    #[error("line {line} of the history: {problem}")]
    Order {
        /// Counts from 1.
        line: usize,
        /// What does not fit.
        problem: &'static str,
    },
}

/// Reads a file that a [`super::Recorder`] has written.
///
/// # Errors
/// When it is none. A last line that was torn off is left out.
pub fn read(path: &Path) -> Result<History, ReadError> {
    read_lines(BufReader::new(File::open(path).map_err(ReadError::Io)?))
}

/// As [`read`], from anything.
///
/// # Errors
/// As [`read`].
pub fn read_lines(mut lines: impl BufRead) -> Result<History, ReadError> {
    let mut assembly = Assembly::default();
    let mut text = String::new();
    for line in 1.. {
        text.clear();
        lines.read_line(&mut text).map_err(ReadError::Io)?;
        // The end, or a line that the end of the harness tore off.
        let Some(event) = text.strip_suffix('\n') else {
            break;
        };
        let event =
            serde_json::from_str(event).map_err(|source| ReadError::Event { line, source })?;
        match (line, event) {
            (1, Event::Run(run)) => assembly.history.run = run,
            (1, _) => return Err(ReadError::NoRun),
            (_, event) => assembly
                .take(event)
                .map_err(|problem| ReadError::Order { line, problem })?,
        }
    }
    Ok(assembly.history)
}

#[derive(Default)]
struct Assembly {
    history: History,
    /// Where an operation that has not ended is among the operations.
    open: BTreeMap<OpId, usize>,
    now: u64,
}

impl Assembly {
    fn take(&mut self, event: Event) -> Result<(), &'static str> {
        if self.history.ended {
            return Err("it comes after the end");
        }
        match event {
            Event::Run(_) => return Err("a second run in one history"),
            Event::Invoke {
                at,
                id,
                process,
                op,
            } => {
                self.pass(at)?;
                self.invoke(at, id, process, op)?;
            }
            Event::Complete {
                at,
                id,
                outcome,
                answer,
            } => {
                self.pass(at)?;
                self.complete(at, id, outcome, answer)?;
            }
            Event::Sighting { at, id, value } => {
                self.pass(at)?;
                self.history.sightings.push(Sighting { at, id, value });
            }
            Event::Peers { at, id, came, left } => {
                self.pass(at)?;
                self.history.peers.push(PeerChange { at, id, came, left });
            }
            Event::Fault {
                at,
                nemesis,
                what,
                heals,
            } => {
                self.pass(at)?;
                self.fault(at, nemesis, what, heals);
            }
            Event::Installed { at, count, .. } => {
                self.pass(at)?;
                self.history.snapshots.push(Installation { at, count });
            }
            Event::Leader { at, replica, term } => {
                self.pass(at)?;
                let leadership = Leadership { at, term, replica };
                self.history.leaders.push(leadership);
            }
            Event::Compared { at, difference } => {
                self.pass(at)?;
                self.history.compared = Some(difference);
            }
            Event::End { at } => {
                self.pass(at)?;
                self.history.ended = true;
            }
        }
        Ok(())
    }

    fn pass(&mut self, at: u64) -> Result<(), &'static str> {
        if at < self.now {
            return Err("time goes back");
        }
        self.now = at;
        Ok(())
    }

    /// One fault is healed before the next one is installed.
    fn fault(&mut self, at: u64, nemesis: String, what: String, heals: bool) {
        let faults = &mut self.history.faults;
        if !heals {
            faults.push(Spell {
                nemesis,
                what,
                from: at,
                until: None,
            });
            return;
        }
        self.history.healed_at = at;
        if let Some(last) = faults.last_mut() {
            last.until = Some(at);
        }
    }

    fn invoke(&mut self, call: u64, id: OpId, process: u32, op: Op) -> Result<(), &'static str> {
        match self.open.entry(id) {
            Entry::Occupied(_) => return Err("an operation begins twice"),
            Entry::Vacant(entry) => entry.insert(self.history.operations.len()),
        };
        // Until its end is known it has none.
        self.history.operations.push(Operation {
            id,
            process,
            op,
            call,
            end: None,
            outcome: Outcome::Unknown,
            answer: Answer::Nothing,
        });
        Ok(())
    }

    fn complete(
        &mut self,
        at: u64,
        id: OpId,
        outcome: Outcome,
        answer: Answer,
    ) -> Result<(), &'static str> {
        let place = self.open.remove(&id);
        let operation = place.and_then(|place| self.history.operations.get_mut(place));
        let operation = operation.ok_or("an operation ends that has not begun")?;
        operation.outcome = outcome;
        operation.answer = answer;
        operation.end = match outcome {
            Outcome::Ok | Outcome::Failed => Some(at),
            Outcome::Unknown => None,
        };
        Ok(())
    }
}

#[cfg(test)]
mod tests;
