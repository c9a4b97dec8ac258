//! The machine under simulation: named lists that only grow, shown as length and digest; and the
//! ledger, what all replicas together have applied.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;

use super::violation;
use crate::{ApplyContext, Effects, MachineError, Row, RowWrite, StateMachine};

/// A list, as long as it needs to be told from every other: its length and a digest of all in it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Line {
    pub(super) length: u64,
    pub(super) digest: u64,
}

impl Line {
    fn append(self, tag: u64) -> Self {
        Self {
            length: self.length + 1,
            digest: mix(self.digest, tag),
        }
    }

    pub(super) fn parse(text: &[u8]) -> Option<Self> {
        let (length, digest) = std::str::from_utf8(text).ok()?.split_once(' ')?;
        Some(Self {
            length: length.parse().ok()?,
            digest: digest.parse().ok()?,
        })
    }

    fn text(self) -> Bytes {
        format!("{} {}", self.length, self.digest).into()
    }
}

type Lines = BTreeMap<String, Line>;

/// What was applied at an index, and what that left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Applied {
    tag: u64,
    now_ms: i64,
    state: u64,
}

/// What the cluster has agreed on, as its replicas apply it.
#[derive(Default)]
pub(super) struct Ledger {
    by_index: BTreeMap<u64, Applied>,
    by_tag: BTreeMap<u64, u64>,
    lists: BTreeMap<String, Vec<(u64, Line)>>,
}

impl Ledger {
    /// The list as it was with this length, and the tag that made it so.
    pub(super) fn at(&self, key: &str, length: u64) -> Option<(u64, Line)> {
        let place = usize::try_from(length.checked_sub(1)?).ok()?;
        self.lists.get(key)?.get(place).copied()
    }

    /// Where a command was applied.
    pub(super) fn index_of(&self, tag: u64) -> Option<u64> {
        self.by_tag.get(&tag).copied()
    }

    fn note(&mut self, index: u64, applied: Applied, key: &str, line: Line) {
        match self.by_index.get(&index) {
            Some(before) if *before == applied => return,
            Some(before) => {
                violation(format!(
                    "equal state at equal index: entry {index} is {applied:?}, elsewhere {before:?}"
                ));
                return;
            }
            None => {}
        }
        self.by_index.insert(index, applied);
        if let Some(first) = self.by_tag.insert(applied.tag, index) {
            violation(format!(
                "exactly once: command {} is applied at {first} and at {index}",
                applied.tag
            ));
        }
        let list = self.lists.entry(key.to_owned()).or_default();
        list.push((applied.tag, line));
    }

    fn check_loaded(&self, applied: u64, state: u64) {
        let at = self.by_index.range(..=applied).next_back();
        let expected = at.map_or(0, |(_, at)| at.state);
        if state != expected {
            violation(format!(
                "equal state at equal index: rows loaded at {applied} differ from what was applied"
            ));
        }
    }
}

/// One replica's machine.
pub(super) struct Lists {
    lines: Mutex<Lines>,
    shown: Mutex<Lines>,
    ledger: Arc<Mutex<Ledger>>,
}

impl Lists {
    pub(super) fn new(ledger: Arc<Mutex<Ledger>>) -> Self {
        Self {
            lines: Mutex::default(),
            shown: Mutex::default(),
            ledger,
        }
    }

    /// What readers see.
    pub(super) fn read(&self, key: &str) -> Line {
        self.shown.lock().get(key).copied().unwrap_or_default()
    }

    /// A digest of what readers see.
    pub(super) fn state(&self) -> u64 {
        digest(&self.shown.lock())
    }
}

impl StateMachine for Lists {
    fn load(
        &self,
        applied: u64,
        rows: &mut dyn Iterator<Item = Result<Row, MachineError>>,
    ) -> Result<(), MachineError> {
        let mut lines = Lines::new();
        for row in rows {
            let row = row?;
            let key = String::from_utf8_lossy(&row.key).into_owned();
            lines.insert(key, Line::parse(&row.value).ok_or_else(halted)?);
        }
        self.ledger.lock().check_loaded(applied, digest(&lines));
        *self.lines.lock() = lines;
        Ok(())
    }

    fn apply(&self, ctx: &ApplyContext, command: &[u8]) -> Result<Effects, MachineError> {
        let text = std::str::from_utf8(command).map_err(|_| halted())?;
        let (key, tag) = text.split_once(' ').ok_or_else(halted)?;
        let tag: u64 = tag.parse().map_err(|_| halted())?;
        let mut lines = self.lines.lock();
        let line = lines.entry(key.to_owned()).or_default();
        *line = line.append(tag);
        let line = *line;
        let applied = Applied {
            tag,
            now_ms: ctx.now_ms,
            state: digest(&lines),
        };
        self.ledger.lock().note(ctx.index, applied, key, line);
        let row = Row {
            key: Bytes::from(key.to_owned()),
            value: line.text(),
        };
        Ok(Effects {
            writes: vec![RowWrite::Put(row)],
            outcome: line.text(),
        })
    }

    fn publish(&self, _applied: u64) {
        *self.shown.lock() = self.lines.lock().clone();
    }
}

fn halted() -> MachineError {
    MachineError {
        message: "the simulation's machine does not understand this".to_owned(),
        source: None,
    }
}

fn digest(lines: &Lines) -> u64 {
    let add = |sum, (key, line): (&String, &Line)| {
        let key = key.bytes().fold(7, |sum, byte| mix(sum, byte.into()));
        mix(mix(sum, key), mix(line.length, line.digest))
    };
    lines.iter().fold(0, add)
}

/// Both numbers in one.
pub(super) fn mix(one: u64, two: u64) -> u64 {
    let mixed = (one ^ two.rotate_left(32)).wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb)
}
