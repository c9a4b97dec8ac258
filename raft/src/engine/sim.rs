//! An engine in memory that knows what a crash would keep.
//!
//! Reads see every write; only synced batches are durable. [`SimEngine::crash`] gives the engine
//! that a restart would find after a power loss that kept some prefix of the unsynced batches.

use std::collections::BTreeMap;
use std::ops::Bound;

use bytes::Bytes;
use parking_lot::Mutex;

use super::{Engine, EngineError, KeyRange, KeyValue, Read, Rows, Table, Write, WriteBatch};

type Tables = BTreeMap<Table, BTreeMap<Bytes, Bytes>>;

/// See the module.
#[derive(Default)]
pub(crate) struct SimEngine {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    live: Tables,
    durable: Tables,
    /// How many batches are durable.
    synced: u64,
    pending: Vec<Vec<Write>>,
}

impl SimEngine {
    /// How many batches a power loss could take.
    pub(crate) fn unsynced(&self) -> usize {
        self.state.lock().pending.len()
    }

    /// How many batches were written, those before crashes that kept them among them.
    pub(crate) fn written(&self) -> u64 {
        let state = self.state.lock();
        state.synced + state.pending.len() as u64
    }

    /// What is left after a power loss that kept the first `kept` unsynced batches.
    pub(crate) fn crash(&self, kept: usize) -> Self {
        let state = self.state.lock();
        let mut durable = state.durable.clone();
        for batch in state.pending.iter().take(kept) {
            apply(&mut durable, batch);
        }
        let state = State {
            live: durable.clone(),
            durable,
            synced: state.synced + kept.min(state.pending.len()) as u64,
            pending: Vec::new(),
        };
        Self {
            state: Mutex::new(state),
        }
    }
}

impl Read for SimEngine {
    fn value(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        value(&self.state.lock().live, table, key)
    }

    fn rows(&self, table: Table, range: KeyRange) -> Rows<'_> {
        Box::new(
            select(&self.state.lock().live, table, &range)
                .into_iter()
                .map(Ok),
        )
    }

    fn last(&self, table: Table, range: KeyRange) -> Result<Option<KeyValue>, EngineError> {
        Ok(select(&self.state.lock().live, table, &range).pop())
    }
}

impl Engine for SimEngine {
    fn write(&self, batch: WriteBatch) -> Result<(), EngineError> {
        let writes = batch.into_writes();
        let mut state = self.state.lock();
        apply(&mut state.live, &writes);
        state.pending.push(writes);
        Ok(())
    }

    fn sync(&self) -> Result<(), EngineError> {
        let mut state = self.state.lock();
        let State {
            durable,
            pending,
            synced,
            ..
        } = &mut *state;
        *synced += pending.len() as u64;
        for batch in pending.drain(..) {
            apply(durable, &batch);
        }
        Ok(())
    }

    fn view(&self) -> Box<dyn Read + '_> {
        Box::new(SimView(self.state.lock().live.clone()))
    }

    fn close(&self) -> Result<(), EngineError> {
        self.sync()
    }
}

struct SimView(Tables);

impl Read for SimView {
    fn value(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        value(&self.0, table, key)
    }

    fn rows(&self, table: Table, range: KeyRange) -> Rows<'_> {
        Box::new(select(&self.0, table, &range).into_iter().map(Ok))
    }

    fn last(&self, table: Table, range: KeyRange) -> Result<Option<KeyValue>, EngineError> {
        Ok(select(&self.0, table, &range).pop())
    }
}

fn apply(tables: &mut Tables, writes: &[Write]) {
    for write in writes {
        match write {
            Write::Put(table, key, value) => {
                tables
                    .entry(*table)
                    .or_default()
                    .insert(key.clone(), value.clone());
            }
            Write::Delete(table, key) => {
                tables.entry(*table).or_default().remove(key);
            }
            Write::DeleteRange(table, lower, upper) => {
                tables
                    .entry(*table)
                    .or_default()
                    .retain(|key, _| key < lower || key >= upper);
            }
        }
    }
}

fn value(tables: &Tables, table: Table, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
    Ok(tables.get(&table).and_then(|rows| rows.get(key)).cloned())
}

fn select(tables: &Tables, table: Table, range: &KeyRange) -> Vec<KeyValue> {
    let Some(rows) = tables.get(&table) else {
        return Vec::new();
    };
    if range
        .upper
        .as_ref()
        .is_some_and(|upper| *upper <= range.lower)
    {
        return Vec::new();
    }
    let upper = range
        .upper
        .as_deref()
        .map_or(Bound::Unbounded, Bound::Excluded);
    rows.range::<[u8], _>((Bound::Included(range.lower.as_slice()), upper))
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect()
}
