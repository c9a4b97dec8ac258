//! Receiving a snapshot from another replica into a file.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::sync::Arc;

use super::store::TempFile;
use super::{SnapshotError, SnapshotFile, SnapshotReader, SnapshotStore};

/// A snapshot on its way in; dropping it deletes what has come. All calls block on the disk.
pub(crate) struct SnapshotReceiver {
    store: Arc<SnapshotStore>,
    temp: TempFile,
    out: BufWriter<File>,
    bytes: u64,
}

impl SnapshotReceiver {
    pub(super) fn create(store: Arc<SnapshotStore>) -> Result<Self, SnapshotError> {
        let temp = TempFile::new(store.dir(), "recv");
        let out = temp.writer()?;
        Ok(Self {
            store,
            temp,
            out,
            bytes: 0,
        })
    }

    /// Adds the next chunk of the file.
    ///
    /// # Errors
    /// The disk failed, or the file grows beyond what any replica sends.
    pub(crate) fn write(&mut self, chunk: &[u8]) -> Result<(), SnapshotError> {
        self.bytes = self.bytes.saturating_add(chunk.len() as u64);
        if self.bytes > RECEIVED_BYTES_MAX {
            return Err(SnapshotError::Oversized {
                part: "file",
                bytes: self.bytes,
            });
        }
        self.out
            .write_all(chunk)
            .map_err(SnapshotError::io("write the snapshot"))
    }

    /// Bytes received so far.
    #[cfg(test)]
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Checks the whole file, makes it durable and gives it its name; it becomes current only by
    /// being installed.
    ///
    /// # Errors
    /// The file is damaged, incomplete, of another cluster, or above what this program supports; nothing of it is kept.
    pub(crate) fn finish(self) -> Result<SnapshotFile, SnapshotError> {
        let Self {
            store,
            temp,
            mut out,
            ..
        } = self;
        out.flush()
            .map_err(SnapshotError::io("write the snapshot"))?;
        let header = SnapshotReader::open(temp.path()).and_then(SnapshotReader::verify)?;
        let expected = store.cluster_id()?;
        let found = header.cluster_id.clone();
        if !expected.is_empty() && found != expected {
            return Err(SnapshotError::WrongCluster { found, expected });
        }
        store.levels.check(header.level)?;
        temp.publish(out, &store, header.meta())
    }
}

/// Far above any tailnet's state; keeps a broken sender from filling the disk.
const RECEIVED_BYTES_MAX: u64 = 16 << 30;
