//! How far the write-ahead log is known to have been synced, in a file beside it.
//!
//! RocksDB takes a damaged record of its newest write-ahead log for the torn end that a power loss
//! leaves, and goes on without what follows. What follows may have been promised to others. The
//! number of the newest synced write tells the two apart: a power loss takes nothing that was
//! synced.
//!
//! ```text
//! SYNCED   sequence number u64le | crc32c of it u32le
//! ```
//!
//! The file is written after each sync and not synced itself: a power loss may leave it older than
//! the log, never newer, so that it never refuses a healthy folder. It may also leave it empty, or long
//! enough and all zeros where the length reached the disk before the bytes did: nothing is known then. A
//! process that is killed leaves it as it was written.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use super::EngineError;

const FILE: &str = "SYNCED";
const BYTES: usize = 12;

/// The newest synced write of one database.
pub(crate) struct SyncedMark {
    file: File,
    noted: u64,
}

/// What must not be opened.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Damage {
    /// Less is left than was synced.
    #[error(
        "the database ends at write {found}, but write {synced} was synced: its write-ahead log is \
         damaged, and entries that this replica has promised to keep are gone; replace this replica"
    )]
    Short {
        /// Where the database ends.
        found: u64,
        /// Where it must not end before.
        synced: u64,
    },
    /// The mark itself cannot be trusted.
    #[error(
        "the file {FILE} of the database is damaged, so that nobody knows whether its write-ahead \
         log is whole; replace this replica"
    )]
    Mark,
}

impl SyncedMark {
    /// Opens the mark of the database in `folder`; a database without one has synced nothing yet.
    pub(crate) fn open(folder: &Path) -> Result<Self, EngineError> {
        let failed = |error: io::Error| EngineError::new("open the mark of synced writes", error);
        let mut options = File::options();
        options.read(true).write(true).create(true).truncate(false);
        let file = options.open(folder.join(FILE)).map_err(failed)?;
        let mut text = [0; BYTES];
        let noted = match file.metadata().map_err(failed)?.len() {
            0 => 0,
            _ => {
                file.read_exact_at(&mut text, 0)
                    .map_err(|_| EngineError::new("check what was synced", Damage::Mark))?;
                match text == [0; BYTES] {
                    true => 0,
                    false => decode(text)?,
                }
            }
        };
        Ok(Self { file, noted })
    }

    /// Refuses a database that ends before what was synced.
    pub(crate) fn check(&self, found: u64) -> Result<(), EngineError> {
        if found < self.noted {
            let damage = Damage::Short {
                found,
                synced: self.noted,
            };
            return Err(EngineError::new("check what was synced", damage));
        }
        Ok(())
    }

    /// Notes that everything up to this write survives a power loss.
    pub(crate) fn note(&self, synced: u64) -> Result<(), EngineError> {
        let written = self.file.write_all_at(&encode(synced), 0);
        written.map_err(|error| EngineError::new("note what was synced", error))
    }
}

fn encode(synced: u64) -> [u8; BYTES] {
    let number = synced.to_le_bytes();
    let sum = crc32c::crc32c(&number).to_le_bytes();
    let mut bytes = [0; BYTES];
    for (place, byte) in bytes.iter_mut().zip(number.into_iter().chain(sum)) {
        *place = byte;
    }
    bytes
}

fn decode(bytes: [u8; BYTES]) -> Result<u64, EngineError> {
    let (number, _) = bytes.split_first_chunk().unwrap_or((&[0; 8], &[]));
    let synced = u64::from_le_bytes(*number);
    if encode(synced) == bytes {
        Ok(synced)
    } else {
        Err(EngineError::new("check what was synced", Damage::Mark))
    }
}

#[cfg(test)]
mod tests {
    use super::super::is_damage;
    use super::*;

    #[test]
    fn a_database_that_ends_before_what_was_synced_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let mark = SyncedMark::open(folder.path()).unwrap();
        mark.check(0).unwrap();
        mark.note(17).unwrap();
        let mark = SyncedMark::open(folder.path()).unwrap();
        mark.check(17).unwrap();
        mark.check(18).unwrap();
        let refused = mark.check(16).unwrap_err();
        assert!(is_damage(&*refused.source));
        assert!(refused.source.to_string().contains("replace this replica"));
    }

    #[test]
    fn a_mark_whose_bytes_a_power_loss_took_refuses_no_healthy_folder() {
        let folder = tempfile::tempdir().unwrap();
        for left in [&[0; BYTES][..], &[]] {
            std::fs::write(folder.path().join(FILE), left).unwrap();
            SyncedMark::open(folder.path()).unwrap().check(0).unwrap();
        }
    }

    #[test]
    fn a_damaged_mark_is_refused_and_not_believed() {
        let folder = tempfile::tempdir().unwrap();
        SyncedMark::open(folder.path()).unwrap().note(17).unwrap();
        let path = folder.path().join(FILE);
        let whole = std::fs::read(&path).unwrap();
        for place in 0..BYTES {
            let mut bytes = whole.clone();
            bytes[place] ^= 4;
            std::fs::write(&path, bytes).unwrap();
            assert!(SyncedMark::open(folder.path()).is_err());
        }
        std::fs::write(&path, &whole[..5]).unwrap();
        assert!(SyncedMark::open(folder.path()).is_err());
    }
}
