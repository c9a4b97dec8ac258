//! What the storage tests share: a small state machine, entries, and storages on either engine.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use futures::stream;
use hydrascale_proto::raft::v1::{Proposal, proposal};
use openraft::EntryPayload;
use openraft::raft::AppendEntriesRequest;
use openraft::storage::{IOFlushed, RaftLogStorage, RaftStateMachine};
use openraft::type_config::TypeConfigExt;
use parking_lot::Mutex;
use tokio::sync::oneshot;

use crate::codec::{self, Entry, LogId, Vote};
use crate::engine::rocks::RocksEngine;
use crate::engine::sim::SimEngine;
use crate::engine::{Engine, Table, WriteBatch};
use crate::log_store::LogStore;
use crate::machine::{ApplyContext, Effects, MachineError, Row, RowWrite, StateMachine};
use crate::machine_store::MachineStore;
use crate::storage::{Storage, StorageConfig};
use crate::type_config::{Command, Member, TypeConfig};

/// Which engine a test runs on.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Kind {
    Rocks,
    Sim,
}

impl Kind {
    pub(crate) const BOTH: [Self; 2] = [Self::Rocks, Self::Sim];

    /// A new engine; RocksDB in a subfolder of `dir`.
    pub(crate) fn open(self, dir: &Path) -> Arc<dyn Engine> {
        match self {
            Self::Rocks => Arc::new(RocksEngine::open(&dir.join("db")).unwrap()),
            Self::Sim => Arc::new(SimEngine::default()),
        }
    }
}

/// Counts: the command is a key, applying it adds one to the key's row and answers the new count.
/// A command that starts with `!` is refused for good.
#[derive(Default)]
pub(crate) struct Counter {
    working: Mutex<BTreeMap<Bytes, u64>>,
    seen: Mutex<Seen>,
}

/// What readers of a [`Counter`] see.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) applied: u64,
    pub(crate) counts: BTreeMap<Bytes, u64>,
    /// Replicated time of every command applied since the start.
    pub(crate) times: Vec<i64>,
}

impl Counter {
    pub(crate) fn seen(&self) -> Seen {
        self.seen.lock().clone()
    }

    pub(crate) fn count(&self, key: &str) -> u64 {
        self.seen
            .lock()
            .counts
            .get(key.as_bytes())
            .copied()
            .unwrap_or(0)
    }
}

impl StateMachine for Counter {
    fn load(
        &self,
        applied: u64,
        rows: &mut dyn Iterator<Item = Result<Row, MachineError>>,
    ) -> Result<(), MachineError> {
        let mut counts = BTreeMap::new();
        for row in rows {
            let row = row?;
            let count = row.value.as_ref().try_into().map(u64::from_le_bytes);
            let count = count.map_err(|error| MachineError {
                message: "count".to_owned(),
                source: Some(Box::new(error)),
            })?;
            counts.insert(row.key, count);
        }
        *self.working.lock() = counts.clone();
        *self.seen.lock() = Seen {
            applied,
            counts,
            times: Vec::new(),
        };
        Ok(())
    }

    fn apply(&self, ctx: &ApplyContext, command: &[u8]) -> Result<Effects, MachineError> {
        if command.starts_with(b"!") {
            return Err(MachineError {
                message: "asked to halt".to_owned(),
                source: None,
            });
        }
        self.seen.lock().times.push(ctx.now_ms);
        let key = Bytes::copy_from_slice(command);
        let mut counts = self.working.lock();
        let count = counts.entry(key.clone()).or_default();
        *count += 1;
        let value = Bytes::copy_from_slice(&count.to_le_bytes());
        let writes = vec![RowWrite::Put(Row {
            key,
            value: value.clone(),
        })];
        Ok(Effects {
            writes,
            outcome: value,
        })
    }

    fn publish(&self, applied: u64) {
        let mut seen = self.seen.lock();
        seen.applied = applied;
        seen.counts = self.working.lock().clone();
    }
}

/// An open storage with its parts at hand.
pub(crate) struct Opened {
    pub(crate) engine: Arc<dyn Engine>,
    pub(crate) storage: Storage,
    pub(crate) log: LogStore,
    pub(crate) machine: MachineStore,
    pub(crate) counter: Arc<Counter>,
    /// The steps that failed, as the abort hook was told.
    pub(crate) fatal: Arc<Mutex<Vec<String>>>,
}

/// Opens storage on `engine`, its snapshots in `dir`.
pub(crate) fn open(engine: Arc<dyn Engine>, dir: &Path) -> Opened {
    open_with(engine, dir, |_| ())
}

pub(crate) fn open_with(
    engine: Arc<dyn Engine>,
    dir: &Path,
    change: impl FnOnce(&mut StorageConfig),
) -> Opened {
    let fatal = Arc::new(Mutex::new(Vec::new()));
    let reported = Arc::clone(&fatal);
    let mut config = StorageConfig::new(dir);
    config.on_fatal = Arc::new(move |step, _| reported.lock().push(step.to_owned()));
    change(&mut config);
    let counter = Arc::new(Counter::default());
    let mut storage = Storage::open_on(Arc::clone(&engine), &config, counter.clone()).unwrap();
    let machine = storage.machine_store().unwrap();
    Opened {
        engine,
        log: storage.log_store(),
        machine,
        storage,
        counter,
        fatal,
    }
}

impl Opened {
    /// Appends and waits until the entries are durable.
    pub(crate) async fn append(&mut self, entries: Vec<Entry>) -> std::io::Result<()> {
        let (done, synced) = signal();
        self.log.append(entries, done).await?;
        synced.await.unwrap()
    }

    /// Writes log rows beside openraft's back, so that applied entries exist at the next start.
    pub(crate) fn log_rows(&self, entries: &[Entry]) {
        let mut batch = WriteBatch::new();
        for entry in entries {
            let key = codec::log_key(entry.log_id.index());
            batch.put(Table::RaftLog, key, codec::encode_row(entry));
        }
        // Tests with a failing disk look at what follows from it.
        let _ = self.engine.write(batch);
    }

    /// Applies entries that are in the log.
    pub(crate) async fn apply(&mut self, entries: Vec<Entry>) -> std::io::Result<()> {
        self.log_rows(&entries);
        self.machine
            .apply(stream::iter(
                entries.into_iter().map(|entry| Ok((entry, None))),
            ))
            .await
    }
}

/// A callback for an append and where its answer arrives.
pub(crate) fn signal() -> (
    IOFlushed<TypeConfig>,
    oneshot::Receiver<std::io::Result<()>>,
) {
    let (done, answer) = TypeConfig::oneshot();
    (IOFlushed::signal(done), answer)
}

pub(crate) fn log_id(term: u64, index: u64) -> LogId {
    let leader = openraft::impls::leader_id_adv::LeaderId { term, node_id: 1 };
    LogId::new(leader, index)
}

pub(crate) fn vote(term: u64, committed: bool) -> Vote {
    let leader_id = openraft::impls::leader_id_adv::LeaderId { term, node_id: 1 };
    Vote {
        leader_id,
        committed,
    }
}

/// What a leader sends behind entry `behind`: `entries` blank ones, while `commit` is committed.
pub(crate) fn append_request(
    behind: u64,
    commit: u64,
    entries: usize,
) -> AppendEntriesRequest<TypeConfig> {
    AppendEntriesRequest {
        vote: Vote::new_committed(1, 1),
        prev_log_id: Some(log_id(1, behind)),
        leader_commit: Some(log_id(1, commit)),
        entries: (behind + 1..)
            .take(entries)
            .map(|index| blank(1, index))
            .collect(),
    }
}

pub(crate) fn blank(term: u64, index: u64) -> Entry {
    Entry {
        log_id: log_id(term, index),
        payload: EntryPayload::Blank,
    }
}

/// Counts `key` without exactly once.
pub(crate) fn count(index: u64, key: &str) -> Entry {
    proposal(index, 0, b"", 0, 0, key.as_bytes())
}

/// An entry of term 1 that proposes `command`.
pub(crate) fn proposal(
    index: u64,
    stamped_ms: i64,
    client: &[u8],
    seq: u64,
    lowest_unacked: u64,
    command: &[u8],
) -> Entry {
    let body = Some(proposal::Body::Command(Bytes::copy_from_slice(command)));
    let client_id = Bytes::copy_from_slice(client);
    let proposal = Proposal {
        level: 0,
        stamped_ms,
        client_id,
        seq,
        lowest_unacked,
        body,
    };
    Entry {
        log_id: log_id(1, index),
        payload: EntryPayload::Normal(Command(proposal)),
    }
}

/// An entry of term 1 that makes `ids` the voters.
pub(crate) fn membership(index: u64, ids: &[u64]) -> Entry {
    let voters = ids.iter().copied().collect();
    let member = |id: &u64| Member {
        name: format!("r{id}"),
        addr: format!("r{id}:7443"),
    };
    let members: BTreeMap<u64, Member> = ids.iter().map(|id| (*id, member(id))).collect();
    let membership = openraft::Membership::new(vec![voters], members).unwrap();
    Entry {
        log_id: log_id(1, index),
        payload: EntryPayload::Membership(membership),
    }
}
