//! The relay's own key pair: a Curve25519 key per replica, in a file of its own.

use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use data_encoding::HEXLOWER;
use zeroize::{Zeroize, Zeroizing};

use super::files;
use crate::types::{KeyParseError, MachinePrivateKey};

/// The private key of one relay; never shared between replicas, never the Noise key.
#[derive(Clone, PartialEq, Eq)]
pub struct RelayPrivateKey([u8; 32]);

/// Why there is no relay key.
#[derive(Debug, thiserror::Error)]
pub enum RelayKeyError {
    /// The file cannot be read.
    #[error("cannot read relay key {}", path.display())]
    Read {
        /// The key file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The file does not hold a key.
    #[error("{} is no relay key: expected privkey: and 64 hex digits", path.display())]
    Parse {
        /// The key file.
        path: PathBuf,
        /// Why.
        #[source]
        source: KeyParseError,
    },
    /// The file cannot be written.
    #[error("cannot write relay key {}", path.display())]
    Write {
        /// The key file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// One key for two purposes.
    #[error("relay key equals the noise key: remove the relay's key file, a new key is made")]
    SameAsNoise,
}

impl RelayPrivateKey {
    /// A fresh key.
    pub fn generate() -> Self {
        Self(rand::random())
    }

    /// Wraps the 32 raw bytes.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// Reads the key at `path` (`privkey:<64 hex>`), or makes one and stores it there.
    ///
    /// # Errors
    /// The file cannot be read or written, or holds something else.
    pub fn load_or_create(path: &Path) -> Result<Self, RelayKeyError> {
        match fs::read_to_string(path).map(Zeroizing::new) {
            Ok(text) => text.trim().parse().map_err(|source| {
                let path = path.to_owned();
                RelayKeyError::Parse { path, source }
            }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Self::create(path),
            Err(source) => Err(RelayKeyError::Read {
                path: path.to_owned(),
                source,
            }),
        }
    }

    fn create(path: &Path) -> Result<Self, RelayKeyError> {
        let key = Self::generate();
        let text = Zeroizing::new(format!("{}\n", *key.expose_text()));
        files::write_private(path, text.as_bytes()).map_err(|source| RelayKeyError::Write {
            path: path.to_owned(),
            source,
        })?;
        Ok(key)
    }

    /// Refuses a key that is also the cluster's Noise key, as a leak of one would be a leak of both.
    ///
    /// # Errors
    /// [`RelayKeyError::SameAsNoise`].
    pub fn ensure_differs(&self, noise: &MachinePrivateKey) -> Result<(), RelayKeyError> {
        if &self.0 == noise.expose_bytes() {
            Err(RelayKeyError::SameAsNoise)
        } else {
            Ok(())
        }
    }

    /// The matching public key.
    pub fn public(&self) -> [u8; 32] {
        *self.secret().public_key().as_bytes()
    }

    /// The public key as 64 lowercase hex digits, without prefix.
    pub fn public_hex(&self) -> String {
        HEXLOWER.encode(&self.public())
    }

    /// The text form `privkey:<64 hex>`.
    fn expose_text(&self) -> Zeroizing<String> {
        Zeroizing::new(format!(
            "{}{}",
            MachinePrivateKey::PREFIX,
            HEXLOWER.encode(&self.0)
        ))
    }

    /// The key as the box needs it.
    pub(crate) fn secret(&self) -> crypto_box::SecretKey {
        crypto_box::SecretKey::from(self.0)
    }
}

impl Drop for RelayPrivateKey {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl fmt::Debug for RelayPrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RelayPrivateKey(redacted)")
    }
}

impl FromStr for RelayPrivateKey {
    type Err = KeyParseError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse()
            .map(|key: MachinePrivateKey| Self(*key.expose_bytes()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn key_is_made_once_and_read_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("derp/relay.key");
        let made = RelayPrivateKey::load_or_create(&path).unwrap();
        assert!(fs::read_to_string(&path).unwrap().starts_with("privkey:"));
        assert_eq!(RelayPrivateKey::load_or_create(&path).unwrap(), made);
    }

    #[test]
    fn a_file_with_something_else_is_named_and_kept() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("relay.key");
        fs::write(&path, "nodekey:00").unwrap();
        let error = RelayPrivateKey::load_or_create(&path)
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("relay.key") && error.contains("privkey:"),
            "{error}"
        );
        assert_eq!(fs::read_to_string(&path).unwrap(), "nodekey:00");
    }

    #[test]
    fn the_noise_key_is_refused() {
        let key = RelayPrivateKey::from_bytes([0x11; 32]);
        let noise = MachinePrivateKey::from_bytes([0x11; 32]);
        assert!(matches!(
            key.ensure_differs(&noise),
            Err(RelayKeyError::SameAsNoise)
        ));
        assert!(RelayPrivateKey::generate().ensure_differs(&noise).is_ok());
        assert!(!format!("{key:?}").contains("11"));
    }
}
