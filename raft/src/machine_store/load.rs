//! Rebuilding the in-memory state from its rows, at start and after an install.

use hydrascale_proto::raft::v1 as pb;
use prost::Message;

use super::dedup::{Dedup, DedupError};
use crate::codec::{self, CodecError, LogId, StoredMembership};
use crate::engine::{EngineError, KeyRange, Read, Table};
use crate::machine::{MachineError, Row, StateMachine};
use crate::records::{ClusterRecords, RecordsError};
use crate::storage::meta;

/// Where the state machine stands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Position {
    /// Last applied entry.
    pub(crate) applied: Option<LogId>,
    /// Membership of the last applied membership entry.
    pub(crate) membership: StoredMembership,
    /// Replicated time, milliseconds since the Unix epoch; never goes back.
    pub(crate) now_ms: i64,
}

impl Position {
    /// Index of the last applied entry, 0 before the first.
    pub(crate) fn index(&self) -> u64 {
        self.applied.map_or(0, |id| id.index())
    }

    /// Encodes the position for its row or for a snapshot.
    pub(crate) fn to_proto(&self) -> pb::MachineState {
        pb::MachineState {
            applied: self.applied.as_ref().map(codec::log_id_to_proto),
            membership: Some(codec::stored_membership_to_proto(&self.membership)),
            now_ms: self.now_ms,
        }
    }

    /// Decodes a position.
    pub(crate) fn from_proto(state: pb::MachineState) -> Result<Self, CodecError> {
        let membership = state.membership.unwrap_or_default();
        Ok(Self {
            applied: state.applied.map(codec::log_id_from_proto),
            membership: codec::stored_membership_from_proto(membership)?,
            now_ms: state.now_ms,
        })
    }

    /// Reads the stored position.
    pub(crate) fn read(engine: &dyn Read) -> Result<Self, LoadError> {
        match engine.value(Table::StateMeta, meta::POSITION)? {
            None => Ok(Self::default()),
            Some(row) => {
                let state = pb::MachineState::decode(row).map_err(CodecError::from)?;
                Ok(Self::from_proto(state)?)
            }
        }
    }
}

/// Everything about the applied state that this crate keeps in memory.
pub(crate) struct Loaded {
    pub(crate) position: Position,
    pub(crate) dedup: Dedup,
    pub(crate) records: ClusterRecords,
}

/// Stored state that cannot be understood.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LoadError {
    /// The engine failed.
    #[error("stored state cannot be read")]
    Engine(#[from] EngineError),
    /// Position in the log.
    #[error("position of the state machine")]
    Position(#[from] CodecError),
    /// Table of answered commands.
    #[error("table of answered commands")]
    Dedup(#[from] DedupError),
    /// The cluster's records.
    #[error("records of the cluster")]
    Records(#[from] RecordsError),
    /// The application refused its rows.
    #[error("state machine rows")]
    Machine(#[from] MachineError),
}

/// Reads the whole applied state and gives the application its rows.
pub(crate) fn load(engine: &dyn Read, machine: &dyn StateMachine) -> Result<Loaded, LoadError> {
    let position = Position::read(engine)?;
    let mut dedup = Dedup::default();
    for row in engine.rows(Table::Dedup, KeyRange::all()) {
        dedup.load_row(row?)?;
    }
    let mut rows = Vec::new();
    for row in engine.rows(Table::Cluster, KeyRange::all()) {
        let (key, value) = row?;
        rows.push(Row { key, value });
    }
    let records = ClusterRecords::load(rows)?;
    let mut rows = engine
        .rows(Table::State, KeyRange::all())
        .map(|row| match row {
            Ok((key, value)) => Ok(Row { key, value }),
            Err(error) => Err(MachineError {
                message: "stored rows cannot be read".to_owned(),
                source: Some(Box::new(error)),
            }),
        });
    machine.load(position.index(), &mut rows)?;
    machine.publish(position.index());
    Ok(Loaded {
        position,
        dedup,
        records,
    })
}
