//! The bytes of a snapshot file. All integers are little-endian.
//!
//! ```text
//! file    = magic[8] version:u32 header block* footer
//! header  = length:u32 crc32c:u32 protobuf[length]
//! block   = 0x01 table:u8 raw:u32 stored:u32 crc32c:u32 zstd[stored]
//! record  = key_length:u32 value_length:u32 key value        (inside a block, `raw` bytes in all)
//! footer  = 0x02 length:u32 crc32c:u32 protobuf[length]
//! ```

use bytes::{Buf, Bytes};

use super::SnapshotError;
use crate::engine::{KeyValue, Table};

pub(super) const MAGIC: &[u8; 8] = b"HYDRSNAP";
pub(super) const VERSION: u32 = 1;
pub(super) const TAG_BLOCK: u8 = 1;
pub(super) const TAG_FOOTER: u8 = 2;
/// Rows gathered before a block is compressed.
pub(super) const BLOCK_BYTES: usize = 1 << 20;
/// A row larger than this is refused by writer and reader: the state's rows are far smaller.
pub(super) const RECORD_BYTES_MAX: usize = 16 << 20;
/// Largest block: one record that comes when the block is almost full.
pub(super) const BLOCK_BYTES_MAX: usize = BLOCK_BYTES + RECORD_BYTES_MAX + RECORD_HEAD_BYTES;
/// Header and footer hold a membership and a few numbers.
pub(super) const MESSAGE_BYTES_MAX: usize = 1 << 20;
pub(super) const RECORD_HEAD_BYTES: usize = 8;
/// Level 3 is zstd's own default: dumps are bound by reading rows, not by compressing them.
pub(super) const ZSTD_LEVEL: i32 = 3;

/// The tables of a snapshot, in file order.
pub(super) const TABLES: [Table; 3] = [Table::State, Table::Dedup, Table::Cluster];

/// A table's number in files; never changes.
pub(super) fn table_number(table: Table) -> Option<u8> {
    match table {
        Table::State => Some(1),
        Table::Dedup => Some(2),
        Table::Cluster => Some(3),
        Table::Meta | Table::RaftLog | Table::StateMeta => None,
    }
}

/// The table of a number.
pub(super) fn table_of(number: u8) -> Option<Table> {
    TABLES
        .into_iter()
        .find(|table| table_number(*table) == Some(number))
}

/// Appends a record to a block.
pub(super) fn push_record(
    block: &mut Vec<u8>,
    key: &[u8],
    value: &[u8],
) -> Result<(), SnapshotError> {
    let bytes = key.len().saturating_add(value.len());
    let oversized = || SnapshotError::Oversized {
        part: "record",
        bytes: bytes as u64,
    };
    if bytes > RECORD_BYTES_MAX {
        return Err(oversized());
    }
    let key_length = u32::try_from(key.len()).map_err(|_| oversized())?;
    let value_length = u32::try_from(value.len()).map_err(|_| oversized())?;
    block.extend_from_slice(&key_length.to_le_bytes());
    block.extend_from_slice(&value_length.to_le_bytes());
    block.extend_from_slice(key);
    block.extend_from_slice(value);
    Ok(())
}

/// The records of a decompressed block.
pub(super) fn records(mut block: Bytes) -> Result<Vec<KeyValue>, SnapshotError> {
    let mut records = Vec::new();
    while !block.is_empty() {
        let key_length = length(&mut block)?;
        let value_length = length(&mut block)?;
        let key = part(&mut block, key_length)?;
        let value = part(&mut block, value_length)?;
        records.push((key, value));
    }
    Ok(records)
}

fn length(block: &mut Bytes) -> Result<usize, SnapshotError> {
    let length = block
        .try_get_u32_le()
        .map_err(|_| SnapshotError::Corrupted("record"))?;
    usize::try_from(length).map_err(|_| SnapshotError::Corrupted("record"))
}

fn part(block: &mut Bytes, length: usize) -> Result<Bytes, SnapshotError> {
    if length > block.len() {
        return Err(SnapshotError::Corrupted("record"));
    }
    Ok(block.split_to(length))
}
