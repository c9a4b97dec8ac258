//! A file that has its name only once it is whole.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// A file being written beside its final name, readable by its owner only; removed when it is
/// dropped before it was finished.
pub struct NewFile {
    file: File,
    hidden: PathBuf,
    path: PathBuf,
    named: bool,
}

impl NewFile {
    /// Begins what shall be at `path` in the end; what is there stays until then.
    ///
    /// # Errors
    /// The folder is not writable, or another process writes the same file.
    pub fn create(path: &Path) -> io::Result<Self> {
        let mut name = OsString::from(HIDDEN);
        name.push(path.file_name().ok_or(io::ErrorKind::IsADirectory)?);
        name.push(PARTIAL);
        let hidden = path.with_file_name(name);
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&hidden)?;
        file.try_lock().map_err(|_| {
            io::Error::new(io::ErrorKind::ResourceBusy, "another process writes it")
        })?;
        file.set_len(0)?;
        Ok(Self {
            file,
            hidden,
            path: path.to_owned(),
            named: false,
        })
    }

    /// The name that the unfinished file `name` shall have; `None` for other files.
    pub fn meant(name: &str) -> Option<&str> {
        name.strip_prefix(HIDDEN)?.strip_suffix(PARTIAL)
    }

    /// What was written so far, to read it from its beginning.
    ///
    /// # Errors
    /// The file cannot be opened.
    pub fn reopen(&self) -> io::Result<File> {
        File::open(&self.hidden)
    }

    /// Makes the content durable and gives the file its name.
    ///
    /// # Errors
    /// The disk failed; there is no file under the name then, or the one of before.
    pub fn finish(mut self) -> io::Result<()> {
        self.file.sync_all()?;
        fs::rename(&self.hidden, &self.path)?;
        self.named = true;
        let folder = self.path.parent().filter(|path| *path != Path::new(""));
        File::open(folder.unwrap_or_else(|| Path::new(".")))?.sync_all()
    }
}

impl Write for NewFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl Drop for NewFile {
    fn drop(&mut self) {
        if !self.named {
            // The next one that is written to the same name begins with what is left.
            let _ = fs::remove_file(&self.hidden);
        }
    }
}

/// What the name of an unfinished file has before and behind the final one.
const HIDDEN: &str = ".";
const PARTIAL: &str = ".partial";

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_file_has_its_name_once_it_is_whole_and_is_its_owners_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("b");
        let mut broken_off = NewFile::create(&path).unwrap();
        broken_off.write_all(b"half").unwrap();
        assert!(!path.exists());
        let busy = NewFile::create(&path).map(drop).unwrap_err();
        assert_eq!(busy.kind(), io::ErrorKind::ResourceBusy);
        drop(broken_off);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);

        let mut whole = NewFile::create(&path).unwrap();
        whole.write_all(b"whole").unwrap();
        whole.finish().unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"whole");
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}
