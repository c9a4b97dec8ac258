//! A folder that is being filled: until that is done it is nobody's, and what a broken-off attempt
//! leaves is removed by the next one. Nobody else removes it, or begins anything in the folder: who
//! asked for the state of a backup must not get an empty cluster.

use std::fs::{self, File};
use std::io;
use std::path::PathBuf;

use super::{Folder, IDENTITY, TLS, files};
use crate::storage::{DATABASE_FOLDER, SNAPSHOT_FOLDER};

/// Present, and locked, while the folder is being filled.
const FILLING: &str = "filling";

/// A folder being filled, by this process alone.
pub(crate) struct Unfinished {
    path: PathBuf,
    /// Holds the lock.
    _mark: File,
}

impl Folder {
    /// Marks an empty folder as one that is being filled.
    ///
    /// # Errors
    /// The folder cannot be written, or another process fills it.
    pub(crate) fn begin_filling(&self) -> io::Result<Unfinished> {
        let mark = File::create(self.path.join(FILLING))?;
        lock(&mark)?;
        mark.sync_all()?;
        File::open(&self.path)?.sync_all()?;
        Ok(Unfinished {
            path: self.path.clone(),
            _mark: mark,
        })
    }

    /// Whether an attempt to fill the folder goes on or was broken off.
    pub(crate) fn is_half_filled(&self) -> bool {
        self.path.join(FILLING).exists()
    }

    /// Removes the mark of a folder that was filled to the end.
    pub(super) fn forget_filling(&self) -> io::Result<()> {
        files::remove(&self.path.join(FILLING))
    }

    /// Removes what a broken-off attempt has left.
    ///
    /// # Errors
    /// It cannot be removed, or the attempt still goes on.
    pub(super) fn discard_unfinished(&self) -> io::Result<()> {
        let mark = match File::open(self.path.join(FILLING)) {
            Ok(mark) => mark,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(error),
        };
        lock(&mark)?;
        let unfinished = Unfinished {
            path: self.path.clone(),
            _mark: mark,
        };
        unfinished.discard()
    }
}

impl Unfinished {
    /// The folder is filled.
    ///
    /// # Errors
    /// The mark cannot be removed.
    pub(crate) fn finish(self) -> io::Result<()> {
        files::remove(&self.path.join(FILLING))
    }

    /// Empties the folder again.
    ///
    /// # Errors
    /// Something cannot be removed.
    pub(crate) fn discard(self) -> io::Result<()> {
        // First: a folder with an identity is taken for a replica's that is whole.
        files::remove(&self.path.join(IDENTITY))?;
        for name in [DATABASE_FOLDER, SNAPSHOT_FOLDER, TLS] {
            match fs::remove_dir_all(self.path.join(name)) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        self.finish()
    }
}

fn lock(mark: &File) -> io::Result<()> {
    mark.try_lock().map_err(|_| {
        let reason = "another process is filling this folder at the moment";
        io::Error::new(io::ErrorKind::ResourceBusy, reason)
    })
}
