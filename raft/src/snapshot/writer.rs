//! Writing a snapshot, row by row.

use std::io::Write;

use hydrascale_proto::raft::v1 as pb;
use prost::Message;

use super::format::{
    self, BLOCK_BYTES, MAGIC, TAG_BLOCK, TAG_FOOTER, VERSION, ZSTD_LEVEL, push_record,
};
use super::{SnapshotError, SnapshotHeader};
use crate::engine::Table;

/// Writes header, blocks and footer to `out`; rows come table after table in key order.
pub(crate) struct SnapshotWriter<W> {
    out: W,
    digest: blake3::Hasher,
    block: Vec<u8>,
    table: Table,
    rows: u64,
    counts: Vec<pb::TableCount>,
}

impl<W: Write> SnapshotWriter<W> {
    /// Writes the header.
    pub(crate) fn new(out: W, header: &SnapshotHeader) -> Result<Self, SnapshotError> {
        let mut writer = Self {
            out,
            digest: blake3::Hasher::new(),
            block: Vec::with_capacity(BLOCK_BYTES),
            table: Table::State,
            rows: 0,
            counts: Vec::new(),
        };
        writer.put(MAGIC)?;
        writer.put(&VERSION.to_le_bytes())?;
        writer.put(&message(&header.to_proto().encode_to_vec())?)?;
        Ok(writer)
    }

    /// Adds a row.
    pub(crate) fn row(
        &mut self,
        table: Table,
        key: &[u8],
        value: &[u8],
    ) -> Result<(), SnapshotError> {
        if table != self.table {
            self.end_table()?;
            self.table = table;
        }
        push_record(&mut self.block, key, value)?;
        self.rows = self.rows.saturating_add(1);
        if self.block.len() >= BLOCK_BYTES {
            self.end_block()
        } else {
            Ok(())
        }
    }

    /// Writes the footer and gives the output back, neither flushed nor synced.
    pub(crate) fn finish(mut self) -> Result<W, SnapshotError> {
        self.end_table()?;
        let footer = pb::SnapshotFileFooter {
            tables: self.counts,
            digest: self.digest.finalize().as_bytes().to_vec().into(),
        };
        let write = |out: &mut W, bytes: &[u8]| {
            out.write_all(bytes)
                .map_err(SnapshotError::io("write the snapshot"))
        };
        write(&mut self.out, &[TAG_FOOTER])?;
        write(&mut self.out, &message(&footer.encode_to_vec())?)?;
        Ok(self.out)
    }

    fn end_table(&mut self) -> Result<(), SnapshotError> {
        self.end_block()?;
        if let Some(table) = format::table_number(self.table).filter(|_| self.rows > 0) {
            self.counts.push(pb::TableCount {
                table: table.into(),
                rows: self.rows,
            });
        }
        self.rows = 0;
        Ok(())
    }

    fn end_block(&mut self) -> Result<(), SnapshotError> {
        if self.block.is_empty() {
            return Ok(());
        }
        // Tables that no snapshot holds have no number; the caller chooses among those that do.
        let table = format::table_number(self.table).ok_or(SnapshotError::Order)?;
        let stored = zstd::bulk::compress(&self.block, ZSTD_LEVEL)
            .map_err(SnapshotError::io("compress the snapshot"))?;
        let raw = length(self.block.len())?;
        self.put(&[TAG_BLOCK, table])?;
        self.put(&raw.to_le_bytes())?;
        self.put(&length(stored.len())?.to_le_bytes())?;
        self.put(&crc32c::crc32c(&stored).to_le_bytes())?;
        self.put(&stored)?;
        self.block.clear();
        Ok(())
    }

    fn put(&mut self, bytes: &[u8]) -> Result<(), SnapshotError> {
        self.digest.update(bytes);
        self.out
            .write_all(bytes)
            .map_err(SnapshotError::io("write the snapshot"))
    }
}

fn message(protobuf: &[u8]) -> Result<Vec<u8>, SnapshotError> {
    let head = [length(protobuf.len())?, crc32c::crc32c(protobuf)].map(u32::to_le_bytes);
    Ok([head.concat().as_slice(), protobuf].concat())
}

fn length(bytes: usize) -> Result<u32, SnapshotError> {
    let oversized = |_| SnapshotError::Oversized {
        part: "block",
        bytes: bytes as u64,
    };
    u32::try_from(bytes).map_err(oversized)
}
