//! The file with sealing keys: one key a line, `hssealkey:` and 64 hex digits; `#` begins a comment.

use std::fs;
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use data_encoding::HEXLOWER_PERMISSIVE;
use rand::RngCore;
use zeroize::Zeroizing;

use super::{KEY_BYTES, KeyId, SealingKeys};

const PREFIX: &str = "hssealkey:";
/// Keys in a file: one in use, the next, and some that are still to be taken out.
const KEYS_MAX: usize = 16;
/// A key file is a few lines.
const FILE_BYTES_MAX: u64 = 16 << 10;
/// Nobody but the owner may have any of these.
const OTHERS: u32 = 0o077;

impl SealingKeys {
    /// Reads a key file. Like an SSH key, one that belongs to the reader is refused while others may
    /// read or write it.
    ///
    /// # Errors
    /// See [`SealingFileError`].
    pub fn read(path: &Path) -> Result<Self, SealingFileError> {
        let unreadable = |source| SealingFileError::Read {
            path: path.to_owned(),
            source,
        };
        let file = fs::File::open(path).map_err(unreadable)?;
        let about = file.metadata().map_err(unreadable)?;
        let own = about.uid() == rustix::process::geteuid().as_raw();
        if own && about.mode() & OTHERS != 0 {
            return Err(SealingFileError::TooOpen {
                path: path.to_owned(),
                mode: about.mode() & 0o777,
            });
        }
        let mut text = Zeroizing::new(String::new());
        file.take(FILE_BYTES_MAX)
            .read_to_string(&mut text)
            .map_err(unreadable)?;
        Self::parse(&text).map_err(|(line, reason)| SealingFileError::Line {
            path: path.to_owned(),
            line,
            reason,
        })
    }

    /// Adds a new key, as the first, to the file at `path`, which is created when absent; only its
    /// owner can read it. Returns the new key's id.
    ///
    /// # Errors
    /// The file cannot be read or written.
    pub fn add_to_file(path: &Path) -> Result<KeyId, SealingFileError> {
        let before = match Self::read(path) {
            Ok(_) => fs::read_to_string(path).map(Zeroizing::new),
            Err(SealingFileError::Read { source, .. })
                if source.kind() == io::ErrorKind::NotFound =>
            {
                Ok(Zeroizing::default())
            }
            Err(error) => return Err(error),
        };
        let written = before.and_then(|before| {
            let (id, line) = Self::new_line();
            let text = Zeroizing::new(format!("{}{}", *line, *before));
            write_private(path, text.as_bytes()).map(|()| id)
        });
        written.map_err(|source| SealingFileError::Write {
            path: path.to_owned(),
            source,
        })
    }

    /// A new key as a line of a key file, and its id.
    pub fn new_line() -> (KeyId, Zeroizing<String>) {
        let mut key = Zeroizing::new([0; KEY_BYTES]);
        rand::rng().fill_bytes(&mut *key);
        let digits = Zeroizing::new(HEXLOWER_PERMISSIVE.encode(&*key));
        let line = Zeroizing::new(format!("{PREFIX}{}\n", *digits));
        (KeyId::of(&key), line)
    }

    /// Reads the text of a key file.
    ///
    /// # Errors
    /// The number of the first bad line, from 1, and what is wrong; never what it holds.
    pub(crate) fn parse(text: &str) -> Result<Self, (usize, &'static str)> {
        let mut found = Self::default();
        for (number, line) in (1..).zip(text.lines()) {
            let line = line.split('#').next().unwrap_or_default().trim();
            if line.is_empty() {
                continue;
            }
            let key = parse_key(line).ok_or((number, "is no sealing key"))?;
            let id = KeyId::of(&key);
            if found.ids().any(|known| known == id) {
                return Err((number, "repeats a key"));
            }
            if found.keys.len() == KEYS_MAX {
                return Err((number, "is one key more than the 16 that a file may hold"));
            }
            found.keys.push((id, key));
        }
        match found.keys.is_empty() {
            true => Err((1, "is not followed by any key")),
            false => Ok(found),
        }
    }
}

fn parse_key(line: &str) -> Option<Zeroizing<[u8; KEY_BYTES]>> {
    let digits = line.strip_prefix(PREFIX)?;
    let bytes = HEXLOWER_PERMISSIVE.decode(digits.as_bytes()).ok()?;
    let bytes = Zeroizing::new(bytes);
    bytes.as_slice().try_into().ok().map(Zeroizing::new)
}

/// Replaces the file whole; what is written is never readable by others.
fn write_private(path: &Path, content: &[u8]) -> io::Result<()> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    let beside = path.with_file_name(name);
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&beside)?;
    let written = file.write_all(content).and_then(|()| file.sync_all());
    let replaced = written.and_then(|()| fs::rename(&beside, path));
    replaced.inspect_err(|_| drop(fs::remove_file(&beside)))
}

/// Why there are no sealing keys.
#[derive(Debug, thiserror::Error)]
pub enum SealingFileError {
    /// The file cannot be read.
    #[error("the sealing keys in {} cannot be read", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The file cannot be written.
    #[error("the sealing keys in {} cannot be written", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Others may read or write the file.
    #[error(
        "the sealing keys in {} are open to others (mode {mode:04o}): run `chmod 600 {}`",
        path.display(),
        path.display()
    )]
    TooOpen {
        /// The file.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
    },
    /// A line is wrong.
    #[error(
        "line {line} of {} {reason}: a key is `hssealkey:` and 64 hex digits, as `hydrascale \
         generate sealing-key` makes it",
        path.display()
    )]
    Line {
        /// The file.
        path: PathBuf,
        /// Number of the line, from 1.
        line: usize,
        /// What is wrong with it.
        reason: &'static str,
    },
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_new_key_comes_first_and_the_file_stays_private() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("sealing.key");
        let first = SealingKeys::add_to_file(&path).unwrap();
        let second = SealingKeys::add_to_file(&path).unwrap();
        let keys = SealingKeys::read(&path).unwrap();
        assert_eq!(keys.ids().collect::<Vec<_>>(), [second, first]);
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(temp.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_file_that_others_can_read_is_refused_with_what_to_do() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("sealing.key");
        SealingKeys::add_to_file(&path).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        let text = SealingKeys::read(&path).unwrap_err().to_string();
        assert!(
            text.contains("0640") && text.contains("chmod 600"),
            "{text}"
        );
    }

    #[test]
    fn a_bad_line_is_named_and_not_shown() {
        let key = SealingKeys::new_line().1;
        let bad = |text: &str| SealingKeys::parse(text).unwrap_err();
        assert_eq!(bad("# none\n\n").1, "is not followed by any key");
        assert_eq!(bad("# a comment\nhssealkey:12").0, 2);
        assert_eq!(bad(&format!("{}{}", *key, *key)), (2, "repeats a key"));
        assert_eq!(bad("privkey:00"), (1, "is no sealing key"));
        let many: String = (0..=KEYS_MAX)
            .map(|_| SealingKeys::new_line().1.to_string())
            .collect();
        assert_eq!(bad(&many).0, KEYS_MAX + 1);
        let commented = format!("# the key of 2026\n  {}  # in use", key.trim_end());
        assert_eq!(SealingKeys::parse(&commented).unwrap().ids().count(), 1);
    }
}
