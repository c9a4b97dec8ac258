//! Exactly once: which commands were applied already, and what they answered.
//!
//! A proposer numbers its commands and says with each which is the lowest that it still waits for.
//! Below the lowest ever said: refused, because the answer is gone. Answered before: the same
//! answer. Everything else executes. All of it is part of the replicated state, so every replica
//! decides alike; memory mirrors the rows of [`Table::Dedup`].

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use hydrascale_proto::raft::v1::DedupClient;
use prost::Message;

use crate::engine::{KeyValue, Table, WriteBatch};

/// A proposer, one per start of a replica.
pub(crate) type ClientId = [u8; CLIENT_ID_BYTES];

/// What to do with a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// New: apply it.
    Execute,
    /// Applied before, with this outcome.
    Stored(Bytes),
    /// Below what its proposer waits for: its outcome is no longer known.
    Stale,
}

/// The answered commands of every proposer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Dedup {
    clients: BTreeMap<ClientId, Window>,
    by_use: BTreeSet<(i64, ClientId)>,
    touched: BTreeSet<ClientId>,
}

/// One proposer's answered commands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Window {
    lowest: u64,
    last_used_ms: i64,
    outcomes: BTreeMap<u64, Bytes>,
}

/// A row that does not belong into the table.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DedupError {
    /// Neither a proposer's key nor an outcome's.
    #[error("row with a key of {0} bytes")]
    Key(usize),
    /// The proposer's row cannot be decoded.
    #[error("proposer row")]
    Client(#[from] prost::DecodeError),
    /// An outcome without its proposer.
    #[error("outcome of sequence {0} without its proposer")]
    Orphan(u64),
}

impl Dedup {
    /// Adds a stored row; rows come in key order, a proposer's before its outcomes.
    pub(crate) fn load_row(&mut self, (key, value): KeyValue) -> Result<(), DedupError> {
        let bad_key = || DedupError::Key(key.len());
        let (client, rest) = key
            .split_first_chunk::<CLIENT_ID_BYTES>()
            .ok_or_else(bad_key)?;
        if rest.is_empty() {
            let DedupClient {
                lowest,
                last_used_ms,
            } = DedupClient::decode(value)?;
            let window = Window {
                lowest,
                last_used_ms,
                outcomes: BTreeMap::new(),
            };
            self.clients.insert(*client, window);
            self.by_use.insert((last_used_ms, *client));
            return Ok(());
        }
        let seq = u64::from_be_bytes(rest.try_into().map_err(|_| bad_key())?);
        let window = self
            .clients
            .get_mut(client)
            .ok_or(DedupError::Orphan(seq))?;
        window.outcomes.insert(seq, value);
        Ok(())
    }

    /// Drops proposers that proposed nothing for [`UNUSED_MS`] of replicated time, but not the one
    /// that proposes now.
    pub(crate) fn expire(
        &mut self,
        now_ms: i64,
        proposing: Option<ClientId>,
        batch: &mut WriteBatch,
    ) {
        let oldest = now_ms.saturating_sub(UNUSED_MS);
        let old = self.by_use.iter().take_while(|(used, _)| *used < oldest);
        let old = old.filter(|(_, client)| Some(*client) != proposing);
        for client in old.map(|(_, client)| *client).collect::<Vec<_>>() {
            self.remove(client, batch);
        }
    }

    /// Time has leapt by `by_ms`: a clock was corrected, or nothing happened for long. Nobody is
    /// forgotten for that, or a command that is under way would execute again.
    pub(crate) fn leap(&mut self, by_ms: i64) {
        self.by_use.clear();
        for (client, window) in &mut self.clients {
            window.last_used_ms = window.last_used_ms.saturating_add(by_ms);
            self.by_use.insert((window.last_used_ms, *client));
            self.touched.insert(*client);
        }
    }

    /// Forgets the proposer unused for longest if `client` is new and there are too many; whether
    /// it did.
    pub(crate) fn make_room(&mut self, client: ClientId, batch: &mut WriteBatch) -> bool {
        if self.clients.contains_key(&client) || self.clients.len() < CLIENTS_MAX {
            return false;
        }
        let Some((_, unused)) = self.by_use.first().copied() else {
            return false;
        };
        self.remove(unused, batch);
        true
    }

    /// Decides about command `seq` of `client`, who waits for nothing below `lowest_unacked`.
    pub(crate) fn admit(
        &mut self,
        now_ms: i64,
        client: ClientId,
        seq: u64,
        lowest_unacked: u64,
        batch: &mut WriteBatch,
    ) -> Verdict {
        let window = self.clients.entry(client).or_default();
        self.by_use.remove(&(window.last_used_ms, client));
        window.last_used_ms = now_ms;
        self.by_use.insert((now_ms, client));
        self.touched.insert(client);
        // A proposer with more commands in flight than are kept loses the oldest answers, but no
        // command ever applies twice.
        let oldest_kept = seq.saturating_sub(WINDOW - 1);
        window.lowest = window.lowest.max(lowest_unacked).max(oldest_kept);
        while let Some(first) = window
            .outcomes
            .first_entry()
            .filter(|e| *e.key() < window.lowest)
        {
            batch.delete(Table::Dedup, outcome_key(client, first.remove_entry().0));
        }
        if seq < window.lowest {
            return Verdict::Stale;
        }
        window
            .outcomes
            .get(&seq)
            .map_or(Verdict::Execute, |seen| Verdict::Stored(seen.clone()))
    }

    /// Keeps the outcome of an executed command.
    pub(crate) fn record(
        &mut self,
        client: ClientId,
        seq: u64,
        outcome: Bytes,
        batch: &mut WriteBatch,
    ) {
        batch.put(Table::Dedup, outcome_key(client, seq), outcome.clone());
        if let Some(window) = self.clients.get_mut(&client) {
            window.outcomes.insert(seq, outcome);
        }
    }

    /// Writes the rows of the proposers seen since the last call.
    pub(crate) fn flush(&mut self, batch: &mut WriteBatch) {
        for client in std::mem::take(&mut self.touched) {
            if let Some(window) = self.clients.get(&client) {
                let row = DedupClient {
                    lowest: window.lowest,
                    last_used_ms: window.last_used_ms,
                };
                batch.put(Table::Dedup, client.to_vec(), row.encode_to_vec());
            }
        }
    }

    fn remove(&mut self, client: ClientId, batch: &mut WriteBatch) {
        let Some(window) = self.clients.remove(&client) else {
            return;
        };
        self.by_use.remove(&(window.last_used_ms, client));
        self.touched.remove(&client);
        batch.delete(Table::Dedup, client.to_vec());
        for seq in window.outcomes.into_keys() {
            batch.delete(Table::Dedup, outcome_key(client, seq));
        }
    }
}

/// The proposer of a command; `None` for one that does not ask for exactly once.
pub(crate) fn client_id(bytes: &[u8]) -> Option<ClientId> {
    bytes.try_into().ok()
}

fn outcome_key(client: ClientId, seq: u64) -> Bytes {
    [client.as_slice(), &seq.to_be_bytes()].concat().into()
}

/// A random 128 bit number.
const CLIENT_ID_BYTES: usize = 16;
/// Outcomes kept per proposer; it must keep fewer commands in flight (DESIGN 4.15).
pub(crate) const WINDOW: u64 = 4096;
/// Proposers kept: each start of a replica makes one, so that this many starts within a day would
/// mean that something restarts in a loop. The one unused for longest makes room.
const CLIENTS_MAX: usize = 1024;
/// Replicated time after which an unused proposer is forgotten: far longer than any retry.
const UNUSED_MS: i64 = 24 * 60 * 60 * 1000;
/// One command that moves time by more than this does not make proposers old.
pub(crate) const LEAP_MS: i64 = 60 * 60 * 1000;

#[cfg(test)]
mod tests;
