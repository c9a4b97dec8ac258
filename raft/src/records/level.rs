//! The cluster's feature level.

use hydrascale_proto::raft::v1::{Admin, LevelRow, RaiseLevel, admin};
use prost::Message;

use super::{Applied, ClusterRecords, LEVEL_KEY, RecordsError, lossy, put};
use crate::engine::{EngineError, Read, Table};
use crate::levels;

impl ClusterRecords {
    /// The feature level in force.
    pub(crate) fn level(&self) -> u32 {
        self.level
            .as_ref()
            .map_or(levels::FIRST, |row| levels::stated(row.level))
    }

    /// A level is never lowered: asking for one that is passed is fine.
    pub(super) fn raise_level(&mut self, now_ms: i64, op: &RaiseLevel) -> Applied {
        if op.to <= self.level() {
            return Ok((Vec::new(), 0));
        }
        let row = LevelRow {
            level: op.to,
            raised_at_ms: now_ms,
        };
        let write = put(bytes::Bytes::from_static(LEVEL_KEY), &row);
        self.level = Some(row);
        Ok((vec![write], 0))
    }
}

/// The feature level that a change needs: in the programs of the level before it is unknown, or does
/// something else. The raise itself is proposed only where all know it.
pub(crate) fn level_needed(admin: &Admin) -> u32 {
    match &admin.op {
        Some(
            admin::Op::ResealAuthority(_)
            | admin::Op::RenewCertificates(_)
            | admin::Op::RotateAuthority(_)
            | admin::Op::AdvanceAuthority(_),
        ) => 2,
        Some(
            admin::Op::Init(_)
            | admin::Op::CreateJoinToken(_)
            | admin::Op::RevokeJoinToken(_)
            | admin::Op::UseJoinToken(_)
            | admin::Op::RemoveReplica(_)
            | admin::Op::SetVoting(_)
            | admin::Op::ReplaceReplica(_)
            | admin::Op::RaiseLevel(_),
        )
        | None => levels::FIRST,
    }
}

/// Why the level of stored rows is not known.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LevelRowError {
    /// The engine failed.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The row is damaged.
    #[error(transparent)]
    Records(#[from] RecordsError),
}

/// The feature level of the rows in a view of the engine.
///
/// # Errors
/// The engine failed, or the row cannot be read.
pub(crate) fn level_of(view: &dyn Read) -> Result<u32, LevelRowError> {
    let Some(row) = view.value(Table::Cluster, LEVEL_KEY)? else {
        return Ok(levels::FIRST);
    };
    let row = LevelRow::decode(row).map_err(|source| RecordsError::Unreadable {
        key: lossy(LEVEL_KEY),
        source,
    })?;
    Ok(levels::stated(row.level))
}
