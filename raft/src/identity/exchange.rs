//! Putting another identity and store in the place of a folder's own.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use super::{Folder, IDENTITY, TLS, files};
use crate::storage::{DATABASE_FOLDER, SNAPSHOT_FOLDER};

/// What belongs to one replica, its identity first.
const PARTS: [&str; 4] = [IDENTITY, TLS, SNAPSHOT_FOLDER, DATABASE_FOLDER];

/// In a folder that takes another's place: the name of the folder for the old store.
const KEPT_AS: &str = "kept-as";

impl Folder {
    /// Creates the folder, for its owner only.
    ///
    /// # Errors
    /// It cannot be created.
    pub(crate) fn create(&self) -> io::Result<()> {
        files::create_private(&self.path)
    }

    /// Notes, durably, under which name the old store is kept once this folder's takes its place.
    ///
    /// # Errors
    /// The folder cannot be written.
    pub(crate) fn keep_as(&self, name: &str) -> io::Result<()> {
        files::write_durably(&self.path.join(KEPT_AS), name.as_bytes())
    }

    /// The folder below `beside` where [`Self::keep_as`] wants the old store.
    ///
    /// # Errors
    /// It was not noted, or is no name.
    pub(crate) fn kept_as(&self, beside: &Self) -> io::Result<PathBuf> {
        let note = self.path.join(KEPT_AS);
        let name = fs::read_to_string(&note)?;
        let name = name.trim();
        let is_name = Path::new(name).file_name() == Some(OsStr::new(name));
        if !is_name || PARTS.contains(&name) || beside.path.join(name) == self.path {
            let reason = format!(
                "{} does not say where the old store goes: write the name of a new folder into it, \
                 like lost-replica",
                note.display()
            );
            return Err(io::Error::new(io::ErrorKind::InvalidData, reason));
        }
        Ok(beside.path.join(name))
    }

    /// The first step of [`Self::exchange`]: the folder is nobody's then. Before that a process may own
    /// it, so that whoever calls keeps others out.
    ///
    /// # Errors
    /// A file cannot be moved.
    pub(crate) fn give_up_identity(&self, new: &Self, kept: &Path) -> io::Result<()> {
        // Nothing of a restore, which might empty the folder while it is nobody's.
        self.forget_filling()?;
        files::create_private(kept)?;
        self.sync()?;
        self.move_away(new, kept, IDENTITY)
    }

    /// Moves what is here to the folder `kept`, and what is in `new` here; all are on one file system.
    /// The identity goes first and comes last, so that in between the folder is nobody's. Calling it
    /// again finishes what was broken off.
    ///
    /// # Errors
    /// A file cannot be moved.
    pub(crate) fn exchange(&self, new: &Self, kept: &Path) -> io::Result<()> {
        self.give_up_identity(new, kept)?;
        for part in PARTS {
            self.move_away(new, kept, part)?;
        }
        for part in PARTS.into_iter().rev() {
            let coming = new.path.join(part);
            if coming.exists() {
                fs::rename(&coming, self.path.join(part))?;
                self.sync()?;
            }
        }
        fs::remove_dir_all(&new.path)
    }

    fn move_away(&self, new: &Self, kept: &Path, part: &str) -> io::Result<()> {
        let old = self.path.join(part);
        // Once the new one is here it is in `new` no more.
        if new.path.join(part).exists() && old.exists() {
            fs::rename(&old, kept.join(part))?;
            File::open(kept)?.sync_all()?;
            self.sync()?;
        }
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        File::open(&self.path)?.sync_all()
    }
}
