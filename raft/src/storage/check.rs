//! What is checked when a data folder is opened.

use bytes::{Buf, Bytes};
use prost::Message;

use super::{OpenError, meta};
use crate::Levels;
use crate::codec::{self, CodecError, LogId};
use crate::engine::{Engine, KeyRange, Table, WriteBatch};
use crate::machine_store::load::Position;
use crate::records;
use crate::snapshot::SnapshotFile;

/// Layout of the database that this version reads and writes.
pub(super) const FORMAT: u32 = 1;

/// Accepts a folder of this format and marks a new one as such.
pub(super) fn format(engine: &dyn Engine) -> Result<(), OpenError> {
    match engine
        .value(Table::Meta, meta::FORMAT)?
        .map(|mut found| found.try_get_u32_le())
    {
        Some(Ok(FORMAT)) => Ok(()),
        Some(found) => Err(OpenError::Format {
            found: found.unwrap_or(0),
        }),
        None if engine.last(Table::Meta, KeyRange::all())?.is_some() => {
            Err(OpenError::Format { found: 0 })
        }
        None => {
            let mut batch = WriteBatch::new();
            batch.put(Table::Meta, meta::FORMAT, FORMAT.to_le_bytes().to_vec());
            engine.write(batch)?;
            Ok(engine.sync()?)
        }
    }
}

/// Refuses a folder of another cluster.
pub(super) fn cluster(engine: &dyn Engine, expected: Option<&str>) -> Result<(), OpenError> {
    let found = engine.value(Table::Meta, meta::CLUSTER_ID)?;
    match (found, expected) {
        (Some(found), Some(expected)) if found != expected.as_bytes() => {
            let found = String::from_utf8_lossy(&found).into_owned();
            Err(OpenError::WrongCluster {
                found,
                expected: expected.to_owned(),
            })
        }
        (Some(_), Some(_)) | (None, _) | (_, None) => Ok(()),
    }
}

/// Refuses a folder whose feature level is not among `levels`: its rows may mean anything here.
pub(super) fn level(engine: &dyn Engine, levels: Levels) -> Result<(), OpenError> {
    // Before the cluster is known, it has none.
    if engine
        .value(Table::Cluster, records::CLUSTER_KEY)?
        .is_some()
    {
        levels.check(records::level_of(engine)?)?;
    }
    Ok(())
}

/// Counts this start; the number is durable on return.
pub(super) fn count_start(engine: &dyn Engine) -> Result<u64, OpenError> {
    let stored = engine.value(Table::Meta, meta::INCARNATION)?;
    let last = match stored {
        Some(row) => u64::from_le_bytes(
            row.as_ref()
                .try_into()
                .map_err(|_| CodecError::Missing("incarnation"))?,
        ),
        None => 0,
    };
    let next = last.saturating_add(1);
    let mut batch = WriteBatch::new();
    batch.put(Table::Meta, meta::INCARNATION, next.to_le_bytes().to_vec());
    engine.write(batch)?;
    engine.sync()?;
    Ok(next)
}

/// Checks that the log is whole from the last purge on and reaches what is known to exist.
///
/// Two leftovers of a crash are cleaned up: rows that a purge had not deleted yet, and rows before
/// an installed snapshot's end that openraft had not purged yet.
pub(super) fn log(engine: &dyn Engine, snapshot: Option<&SnapshotFile>) -> Result<(), OpenError> {
    let mut purged = meta::log_id(engine, meta::LAST_PURGED)?;
    let mut found = scan(engine, purged)?;
    if let Found::Gap {
        expected,
        found: index,
    } = found
    {
        let end = snapshot.and_then(|file| file.meta().last_log_id);
        let Some(end) = end.filter(|end| index <= end.index().saturating_add(1)) else {
            return Err(OpenError::LogGap {
                expected,
                found: index,
            });
        };
        purge(engine, end)?;
        purged = Some(end);
        found = scan(engine, purged)?;
    }
    let last = match found {
        Found::Gap { expected, found } => return Err(OpenError::LogGap { expected, found }),
        Found::Whole { last } => last,
    };
    check_reach(
        engine,
        snapshot,
        last.max(purged.map_or(0, |id| id.index())),
    )
}

/// What a look at every log row says.
enum Found {
    /// No entry is missing; `last` is 0 in an empty log.
    Whole { last: u64 },
    /// An entry is missing before `found`.
    Gap { expected: u64, found: u64 },
}

fn scan(engine: &dyn Engine, purged: Option<LogId>) -> Result<Found, OpenError> {
    let first = purged.map_or(0, |id| id.index().saturating_add(1));
    delete_before(engine, first)?;
    let range = KeyRange {
        lower: first.to_be_bytes().to_vec(),
        upper: None,
    };
    let mut expected = purged.map(|_| first);
    let mut last = 0;
    for row in engine.rows(Table::RaftLog, range) {
        let (key, row) = row?;
        let found = codec::log_index(&key)?;
        codec::check_row(&row)?;
        match expected {
            Some(expected) if expected != found => return Ok(Found::Gap { expected, found }),
            // Initialising writes entry 0, joining starts at 1.
            None if found > 1 => return Ok(Found::Gap { expected: 1, found }),
            Some(_) | None => {}
        }
        last = found;
        expected = found.checked_add(1);
    }
    Ok(Found::Whole { last })
}

fn delete_before(engine: &dyn Engine, first: u64) -> Result<(), OpenError> {
    let upper = first.to_be_bytes().to_vec();
    let range = KeyRange {
        lower: Vec::new(),
        upper: Some(upper.clone()),
    };
    if engine.last(Table::RaftLog, range)?.is_some() {
        let mut batch = WriteBatch::new();
        batch.delete_range(Table::RaftLog, Bytes::new(), upper);
        engine.write(batch)?;
    }
    Ok(())
}

fn purge(engine: &dyn Engine, end: LogId) -> Result<(), OpenError> {
    let mut batch = WriteBatch::new();
    batch.put(
        Table::Meta,
        meta::LAST_PURGED,
        codec::log_id_to_proto(&end).encode_to_vec(),
    );
    engine.write(batch)?;
    Ok(())
}

fn check_reach(
    engine: &dyn Engine,
    snapshot: Option<&SnapshotFile>,
    last: u64,
) -> Result<(), OpenError> {
    let in_snapshot = snapshot.and_then(|file| file.meta().last_log_id);
    let last = last.max(in_snapshot.map_or(0, |id| id.index()));
    let committed = meta::log_id(engine, meta::COMMITTED)?.map_or(0, |id| id.index());
    let applied = Position::read(engine)?.index();
    for (known, what) in [(committed, "committed"), (applied, "applied")] {
        if known > last {
            return Err(OpenError::LogShort { last, known, what });
        }
    }
    Ok(())
}
