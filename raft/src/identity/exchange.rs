//! Putting another identity and store in the place of a folder's own.

use std::fs::{self, File};
use std::io;
use std::path::Path;

use super::{Folder, IDENTITY, TLS, files};
use crate::storage::{DATABASE_FOLDER, SNAPSHOT_FOLDER};

/// What belongs to one replica, its identity first.
const PARTS: [&str; 4] = [IDENTITY, TLS, SNAPSHOT_FOLDER, DATABASE_FOLDER];

impl Folder {
    /// Creates the folder, for its owner only.
    ///
    /// # Errors
    /// It cannot be created.
    pub(crate) fn create(&self) -> io::Result<()> {
        files::create_private(&self.path)
    }

    /// Moves what is here to the folder `kept`, and what is in `new` here; all are on one file system.
    /// The identity goes first and comes last, so that in between the folder is nobody's. Calling it
    /// again finishes what was broken off.
    ///
    /// # Errors
    /// A file cannot be moved.
    pub(crate) fn exchange(&self, new: &Self, kept: &Path) -> io::Result<()> {
        files::create_private(kept)?;
        for part in PARTS {
            let (old, coming) = (self.path.join(part), new.path.join(part));
            // Once the new one is here it is in `new` no more.
            if coming.exists() && old.exists() {
                fs::rename(&old, kept.join(part))?;
                File::open(kept)?.sync_all()?;
                File::open(&self.path)?.sync_all()?;
            }
        }
        for part in PARTS.into_iter().rev() {
            let coming = new.path.join(part);
            if coming.exists() {
                fs::rename(&coming, self.path.join(part))?;
                File::open(&self.path)?.sync_all()?;
            }
        }
        fs::remove_dir_all(&new.path)
    }
}
