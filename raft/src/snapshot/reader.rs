//! Reading a snapshot block by block; everything is checked, nothing is trusted.

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::Path;

use bytes::Bytes;
use hydrascale_proto::raft::v1 as pb;
use prost::Message;

use super::format::{
    self, BLOCK_BYTES_MAX, MAGIC, MESSAGE_BYTES_MAX, TAG_BLOCK, TAG_FOOTER, VERSION,
};
use super::{SnapshotError, SnapshotHeader};
use crate::codec::CodecError;
use crate::engine::{KeyValue, Table};

/// Reads the blocks of a snapshot; rows count as read only once the footer has been checked.
pub(crate) struct SnapshotReader<R> {
    input: R,
    digest: blake3::Hasher,
    header: SnapshotHeader,
    created_by: String,
    counts: Vec<pb::TableCount>,
    last_key: Option<Bytes>,
}

impl SnapshotReader<BufReader<File>> {
    /// Opens a file and reads its header.
    pub(crate) fn open(path: &Path) -> Result<Self, SnapshotError> {
        let file = File::open(path).map_err(SnapshotError::io("open the snapshot"))?;
        Self::new(BufReader::with_capacity(READ_BYTES, file))
    }
}

impl<R: Read> SnapshotReader<R> {
    /// The format version that is read.
    pub(crate) const FORMAT: u32 = VERSION;

    /// Reads the header from `input`.
    pub(crate) fn new(input: R) -> Result<Self, SnapshotError> {
        let mut reader = Self {
            input,
            digest: blake3::Hasher::new(),
            header: SnapshotHeader::default(),
            created_by: String::new(),
            counts: Vec::new(),
            last_key: None,
        };
        if &reader.array::<8>()? != MAGIC {
            return Err(SnapshotError::Magic);
        }
        let version = u32::from_le_bytes(reader.array()?);
        if version != VERSION {
            return Err(SnapshotError::Version(version));
        }
        let header = reader.message("header")?;
        let header = pb::SnapshotFileHeader::decode(header).map_err(CodecError::from)?;
        reader.created_by.clone_from(&header.created_by);
        reader.header = SnapshotHeader::from_proto(header)?;
        Ok(reader)
    }

    /// What the file says about itself.
    pub(crate) fn header(&self) -> &SnapshotHeader {
        &self.header
    }

    /// Name and version of what wrote the file, for people.
    pub(crate) fn created_by(&self) -> &str {
        &self.created_by
    }

    /// The next block's rows, never empty; `None` once the footer has confirmed everything.
    pub(crate) fn next_block(&mut self) -> Result<Option<(Table, Vec<KeyValue>)>, SnapshotError> {
        // The footer's bytes are not part of the digest.
        match self.unhashed::<1>()? {
            [TAG_BLOCK] => {
                self.digest.update(&[TAG_BLOCK]);
                self.block().map(Some)
            }
            [TAG_FOOTER] => {
                self.footer()?;
                Ok(None)
            }
            [other] => Err(SnapshotError::Part(other)),
        }
    }

    /// Reads to the end; gives the header back if everything is as it was written.
    pub(crate) fn verify(mut self) -> Result<SnapshotHeader, SnapshotError> {
        while self.next_block()?.is_some() {}
        Ok(self.header)
    }

    fn block(&mut self) -> Result<(Table, Vec<KeyValue>), SnapshotError> {
        let [number] = self.array::<1>()?;
        let table = format::table_of(number).ok_or(SnapshotError::Part(number))?;
        let raw = self.length("block", BLOCK_BYTES_MAX)?;
        let stored = self.length("block", BLOCK_BYTES_MAX)?;
        let checksum = u32::from_le_bytes(self.array()?);
        let stored = self.bytes(stored)?;
        if crc32c::crc32c(&stored) != checksum {
            return Err(SnapshotError::Corrupted("block"));
        }
        let block =
            zstd::bulk::decompress(&stored, raw).map_err(|_| SnapshotError::Corrupted("block"))?;
        if block.len() != raw {
            return Err(SnapshotError::Corrupted("block"));
        }
        let records = format::records(block.into())?;
        self.check_order(number, &records)?;
        Ok((table, records))
    }

    fn check_order(&mut self, number: u8, records: &[KeyValue]) -> Result<(), SnapshotError> {
        let number = u32::from(number);
        match self.counts.last() {
            Some(last) if last.table > number => return Err(SnapshotError::Order),
            Some(last) if last.table == number => {}
            Some(_) | None => {
                self.counts.push(pb::TableCount {
                    table: number,
                    rows: 0,
                });
                self.last_key = None;
            }
        }
        for (key, _) in records {
            if self.last_key.as_ref().is_some_and(|last| last >= key) {
                return Err(SnapshotError::Order);
            }
            self.last_key = Some(key.clone());
        }
        if let Some(count) = self.counts.last_mut() {
            count.rows = count.rows.saturating_add(records.len() as u64);
        }
        Ok(())
    }

    fn footer(&mut self) -> Result<(), SnapshotError> {
        let digest = self.digest.finalize();
        let footer = self.message("footer")?;
        let footer = pb::SnapshotFileFooter::decode(footer).map_err(CodecError::from)?;
        if footer.digest.as_ref() != digest.as_bytes() {
            return Err(SnapshotError::Corrupted("file"));
        }
        if footer.tables != self.counts {
            return Err(SnapshotError::Count);
        }
        let mut rest = [0_u8; 1];
        match self.input.read(&mut rest).map_err(read_error)? {
            0 => Ok(()),
            _ => Err(SnapshotError::Length),
        }
    }

    fn message(&mut self, part: &'static str) -> Result<Bytes, SnapshotError> {
        let length = self.length(part, MESSAGE_BYTES_MAX)?;
        let checksum = u32::from_le_bytes(self.array()?);
        let message = self.bytes(length)?;
        if crc32c::crc32c(&message) != checksum {
            return Err(SnapshotError::Corrupted(part));
        }
        Ok(message)
    }

    fn length(&mut self, part: &'static str, max: usize) -> Result<usize, SnapshotError> {
        let length = u32::from_le_bytes(self.array()?);
        let oversized = SnapshotError::Oversized {
            part,
            bytes: length.into(),
        };
        usize::try_from(length)
            .ok()
            .filter(|length| *length <= max)
            .ok_or(oversized)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], SnapshotError> {
        let array = self.unhashed()?;
        self.digest.update(&array);
        Ok(array)
    }

    fn unhashed<const N: usize>(&mut self) -> Result<[u8; N], SnapshotError> {
        let mut array = [0_u8; N];
        self.input.read_exact(&mut array).map_err(read_error)?;
        Ok(array)
    }

    fn bytes(&mut self, length: usize) -> Result<Bytes, SnapshotError> {
        let mut bytes = Vec::new();
        let limit = u64::try_from(length).unwrap_or(u64::MAX);
        // Grows with what is there: a lying length allocates nothing.
        (&mut self.input)
            .take(limit)
            .read_to_end(&mut bytes)
            .map_err(read_error)?;
        if bytes.len() != length {
            return Err(SnapshotError::Length);
        }
        self.digest.update(&bytes);
        Ok(bytes.into())
    }
}

fn read_error(error: io::Error) -> SnapshotError {
    if error.kind() == io::ErrorKind::UnexpectedEof {
        return SnapshotError::Length;
    }
    SnapshotError::Io {
        step: "read the snapshot",
        source: error,
    }
}

/// Read ahead from disk.
const READ_BYTES: usize = 256 << 10;
