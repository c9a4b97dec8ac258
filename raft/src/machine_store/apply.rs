//! Applying one entry: time, exactly-once, the command, and the rows that follow from it.

use bytes::Bytes;
use hydrascale_proto::raft::v1::{Admin, Proposal, admin, proposal};
use openraft::EntryPayload;
use openraft::storage::ApplyResponder;
use prost::Message;

use super::MachineStore;
use super::dedup::{LEAP_MS, Verdict, client_id};
use crate::Clock;
use crate::codec::{Entry, StoredMembership};
use crate::engine::{Table, WriteBatch};
use crate::levels::{LevelError, Levels};
use crate::machine::{ApplyContext, MachineError, RowWrite};
use crate::planted::{Bug, is_planted};
use crate::type_config::{Command, Response, TypeConfig};

/// Entries applied in memory whose rows are not written yet.
#[derive(Default)]
pub(super) struct Chunk {
    pub(super) batch: WriteBatch,
    pub(super) entries: usize,
    pub(super) answers: Vec<(ApplyResponder<TypeConfig>, Response)>,
    pub(super) records_changed: bool,
}

impl Chunk {
    /// Whether no entry is in it.
    pub(super) fn is_empty(&self) -> bool {
        self.entries == 0
    }

    /// Whether it should be written before it grows further.
    pub(super) fn is_full(&self) -> bool {
        self.entries >= CHUNK_ENTRIES || self.batch.bytes() >= CHUNK_BYTES
    }

    fn write_rows(&mut self, table: Table, rows: Vec<RowWrite>) {
        for row in rows {
            match row {
                RowWrite::Delete(key) => self.batch.delete(table, key),
                RowWrite::Put(row) => self.batch.put(table, row.key, row.value),
            }
        }
    }
}

/// Why an entry cannot be applied: this replica must stop, others may go on.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ApplyError {
    /// The application refused to go on.
    #[error("entry {index} cannot be applied")]
    Machine {
        /// Log index of the entry.
        index: u64,
        /// The application's reason.
        #[source]
        source: MachineError,
    },
    /// The command is of a kind that this version does not know; skipping it would let this
    /// replica's state differ from the others'.
    #[error("entry {index} holds a command of a newer version: upgrade this replica")]
    Unknown {
        /// Log index of the entry.
        index: u64,
    },
    /// From this entry on the cluster is above what this program supports.
    #[error("entry {index} cannot be applied: {source}")]
    Level {
        /// Log index of the entry.
        index: u64,
        /// What to do.
        source: LevelError,
    },
}

impl MachineStore {
    /// Applies an entry in memory; its rows wait in `chunk`.
    pub(super) fn apply_entry(
        &mut self,
        chunk: &mut Chunk,
        entry: Entry,
    ) -> Result<Response, ApplyError> {
        let log_id = entry.log_id;
        let response = match entry.payload {
            EntryPayload::Blank => Response::Empty,
            EntryPayload::Membership(membership) => {
                self.loaded.position.membership = StoredMembership::new(Some(log_id), membership);
                Response::Empty
            }
            EntryPayload::Normal(Command(proposal)) => {
                self.apply_proposal(chunk, log_id.index(), proposal)?
            }
        };
        self.loaded.position.applied = Some(log_id);
        chunk.entries = chunk.entries.saturating_add(1);
        Ok(response)
    }

    fn apply_proposal(
        &mut self,
        chunk: &mut Chunk,
        index: u64,
        proposal: Proposal,
    ) -> Result<Response, ApplyError> {
        check_level(self.levels, &proposal)
            .map_err(|source| ApplyError::Level { index, source })?;
        let position = &mut self.loaded.position;
        let before_ms = position.now_ms;
        position.now_ms = position.now_ms.max(proposal.stamped_ms);
        if is_planted(Bug::ApplyNotDeterministic) {
            position.now_ms = position.now_ms.max(Clock::default().now_ms());
        }
        let now_ms = position.now_ms;
        let dedup = &mut self.loaded.dedup;
        let leapt_ms = now_ms.saturating_sub(before_ms);
        if leapt_ms > LEAP_MS {
            dedup.leap(leapt_ms);
        }
        let client = client_id(&proposal.client_id);
        dedup.expire(now_ms, client, &mut chunk.batch);
        let Some(client) = client else {
            return Ok(Response::Outcome(self.execute(
                chunk,
                index,
                now_ms,
                proposal.body,
            )?));
        };
        if dedup.make_room(client, &mut chunk.batch) {
            self.counters.proposers_evicted.add_one();
        }
        let (seq, lowest) = (proposal.seq, proposal.lowest_unacked);
        match dedup.admit(now_ms, client, seq, lowest, &mut chunk.batch) {
            Verdict::Stale | Verdict::Stored(_) if is_planted(Bug::NoDedup) => Ok(
                Response::Outcome(self.execute(chunk, index, now_ms, proposal.body)?),
            ),
            Verdict::Stale => {
                self.counters.commands_stale.add_one();
                Ok(Response::Stale)
            }
            Verdict::Stored(outcome) => {
                self.counters.commands_repeated.add_one();
                Ok(Response::Outcome(outcome))
            }
            Verdict::Execute => {
                let outcome = self.execute(chunk, index, now_ms, proposal.body)?;
                self.loaded
                    .dedup
                    .record(client, seq, outcome.clone(), &mut chunk.batch);
                Ok(Response::Outcome(outcome))
            }
        }
    }

    fn execute(
        &mut self,
        chunk: &mut Chunk,
        index: u64,
        now_ms: i64,
        body: Option<proposal::Body>,
    ) -> Result<Bytes, ApplyError> {
        match body {
            Some(proposal::Body::Command(command)) => {
                let context = ApplyContext { index, now_ms };
                let effects = self
                    .machine
                    .apply(&context, &command)
                    .map_err(|source| ApplyError::Machine { index, source })?;
                chunk.write_rows(Table::State, effects.writes);
                Ok(effects.outcome)
            }
            Some(proposal::Body::Admin(admin @ Admin { op: Some(_) })) => {
                let (rows, outcome) = self.loaded.records.apply(index, now_ms, &admin);
                chunk.records_changed = chunk.records_changed || !rows.is_empty();
                chunk.write_rows(Table::Cluster, rows);
                Ok(outcome.encode_to_vec().into())
            }
            Some(proposal::Body::Admin(Admin { op: None })) | None => {
                Err(ApplyError::Unknown { index })
            }
        }
    }
}

/// A command of a higher level may decode to something else here. So nothing is made of it, nor of
/// anything after the cluster was raised.
fn check_level(levels: Levels, proposal: &Proposal) -> Result<(), LevelError> {
    let raised = match &proposal.body {
        Some(proposal::Body::Admin(Admin {
            op: Some(admin::Op::RaiseLevel(raise)),
        })) => raise.to,
        Some(proposal::Body::Admin(_) | proposal::Body::Command(_)) | None => 0,
    };
    match proposal.level.max(raised) {
        0 => Ok(()),
        level => levels.check(level.max(levels.min)),
    }
}

/// Entries per batch at most: bounds how much a crash replays and how long readers wait.
const CHUNK_ENTRIES: usize = 512;
/// Bytes of rows after which a batch is written.
const CHUNK_BYTES: usize = 1 << 20;
