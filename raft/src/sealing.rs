//! Secrets of the replicated state, sealed under a key that the state does not hold.
//!
//! Each replica may have a file with sealing keys, the same on all. What is sealed (XChaCha20-Poly1305)
//! names its key, so that a replica that lacks it can say which one it needs. Sealing is the
//! proposer's work, and the log carries the result: apply neither seals nor unseals.
//!
//! A sealed secret is `"hss1"`, the key's id (8 bytes), the nonce (24 bytes) and the ciphertext with
//! its tag (16 bytes more than the secret). Its purpose is authenticated with it: one secret cannot
//! stand in another's place.

mod file;

use std::fmt;
use std::sync::Arc;

use arc_swap::ArcSwap;
use bytes::Bytes;
use chacha20poly1305::aead::AeadInPlace;
use chacha20poly1305::{KeyInit, XChaCha20Poly1305, XNonce};
use data_encoding::HEXLOWER;
use rand::RngCore;
use zeroize::Zeroizing;

pub use self::file::SealingFileError;

const MAGIC: &[u8; 4] = b"hss1";
const KEY_BYTES: usize = 32;
const ID_BYTES: usize = 8;
const NONCE_BYTES: usize = 24;
const TAG_BYTES: usize = 16;
const HEADER_BYTES: usize = MAGIC.len() + ID_BYTES + NONCE_BYTES;
const ID_CONTEXT: &str = "hydrascale 2026 sealing key id";

/// Names a sealing key: the first 8 bytes of its hash, shown as 16 hex digits. Not secret.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyId([u8; ID_BYTES]);

impl KeyId {
    /// The key that `stored` is sealed under; `None` for bytes that are not sealed.
    pub fn sealing(stored: &[u8]) -> Option<Self> {
        let rest = stored.strip_prefix(MAGIC)?;
        let (id, rest) = rest.split_first_chunk()?;
        (rest.len() > NONCE_BYTES + TAG_BYTES).then_some(Self(*id))
    }

    /// Reads an id from the wire.
    pub(crate) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }

    fn of(key: &[u8; KEY_BYTES]) -> Self {
        let digest = Zeroizing::new(blake3::derive_key(ID_CONTEXT, key));
        let mut id = [0; ID_BYTES];
        id.copy_from_slice(digest.split_at(ID_BYTES).0);
        Self(id)
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&HEXLOWER.encode(&self.0))
    }
}

impl fmt::Debug for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The keys of a key file. The first one seals what is sealed anew; the others still unseal.
#[derive(Default)]
pub struct SealingKeys {
    keys: Vec<(KeyId, Zeroizing<[u8; KEY_BYTES]>)>,
}

impl fmt::Debug for SealingKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.ids()).finish()
    }
}

impl SealingKeys {
    /// The first key's id; `None` without a key file.
    pub fn current(&self) -> Option<KeyId> {
        self.ids().next()
    }

    /// All ids, in the file's order.
    pub fn ids(&self) -> impl Iterator<Item = KeyId> + '_ {
        self.keys.iter().map(|(id, _)| *id)
    }

    /// All ids as they go over the wire.
    pub(crate) fn wire_ids(&self) -> Vec<Bytes> {
        self.ids().map(|id| Bytes::copy_from_slice(&id.0)).collect()
    }

    /// Whether `stored` can be read with these keys; what is not sealed always can.
    ///
    /// # Errors
    /// It is sealed under a key that is not among them.
    pub fn check(&self, stored: &[u8]) -> Result<(), UnsealError> {
        match KeyId::sealing(stored) {
            Some(id) => self.key(id).map(drop),
            None => Ok(()),
        }
    }

    /// Seals `secret` under `key`, or leaves it as it is where there is none.
    ///
    /// # Errors
    /// The key is not among these.
    pub fn seal(
        &self,
        key: Option<KeyId>,
        purpose: &str,
        secret: &[u8],
    ) -> Result<Vec<u8>, UnsealError> {
        let Some(id) = key else {
            return Ok(secret.to_vec());
        };
        let cipher = self.key(id)?;
        let mut nonce = [0; NONCE_BYTES];
        rand::rng().fill_bytes(&mut nonce);
        let mut sealed = [MAGIC.as_slice(), &id.0, &nonce].concat();
        let mut text = Zeroizing::new(secret.to_vec());
        let nonce = XNonce::from(nonce);
        let tag = cipher
            .encrypt_in_place_detached(&nonce, purpose.as_bytes(), &mut text)
            .map_err(|_| UnsealError::Damaged { id })?;
        sealed.extend_from_slice(&text);
        sealed.extend_from_slice(&tag);
        Ok(sealed)
    }

    /// The secret in `stored`, sealed or not.
    ///
    /// # Errors
    /// Its key is not among these, or it was altered.
    pub fn unseal(&self, purpose: &str, stored: &[u8]) -> Result<Zeroizing<Vec<u8>>, UnsealError> {
        let Some(id) = KeyId::sealing(stored) else {
            return Ok(Zeroizing::new(stored.to_vec()));
        };
        let cipher = self.key(id)?;
        let damaged = UnsealError::Damaged { id };
        let parts = stored
            .split_at_checked(HEADER_BYTES)
            .and_then(|(head, rest)| {
                let nonce: [u8; NONCE_BYTES] = *head.last_chunk()?;
                let (text, tag) = rest.split_last_chunk::<TAG_BYTES>()?;
                Some((nonce, text, *tag))
            });
        let (nonce, text, tag) = parts.ok_or(damaged)?;
        let mut text = Zeroizing::new(text.to_vec());
        cipher
            .decrypt_in_place_detached(
                &XNonce::from(nonce),
                purpose.as_bytes(),
                &mut text,
                &tag.into(),
            )
            .map_err(|_| damaged)?;
        Ok(text)
    }

    /// Bytes that only who has the first key can tell, the same for the same words.
    pub(crate) fn derive(&self, purpose: &str, of: &str) -> Option<Zeroizing<[u8; KEY_BYTES]>> {
        let (_, key) = self.keys.first()?;
        let material = Zeroizing::new([key.as_slice(), of.as_bytes()].concat());
        Some(Zeroizing::new(blake3::derive_key(purpose, &material)))
    }

    fn key(&self, id: KeyId) -> Result<XChaCha20Poly1305, UnsealError> {
        let mut keys = self.keys.iter();
        let (_, key) = keys
            .find(|(known, _)| *known == id)
            .ok_or(UnsealError::MissingKey { id })?;
        Ok(XChaCha20Poly1305::new((&**key).into()))
    }
}

/// Why a stored secret cannot be read or written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UnsealError {
    /// The file with sealing keys does not hold the key.
    #[error(
        "the cluster's secrets are sealed under key {id}, which this replica does not have: put it \
         into the file that cluster.sealing_key_file names (the other replicas have it), and start \
         the replica again"
    )]
    MissingKey {
        /// The key that is needed.
        id: KeyId,
    },
    /// The key fits, but not what it sealed.
    #[error("a secret that was sealed under key {id} is damaged")]
    Damaged {
        /// The key.
        id: KeyId,
    },
}

/// The sealing keys of a running replica; clones share them, and all see them replaced.
#[derive(Clone, Debug, Default)]
pub struct Keyring(Arc<ArcSwap<SealingKeys>>);

impl Keyring {
    /// A keyring that holds `keys`.
    pub fn new(keys: SealingKeys) -> Self {
        Self(Arc::new(ArcSwap::from_pointee(keys)))
    }

    /// The keys as of now.
    pub fn keys(&self) -> Arc<SealingKeys> {
        self.0.load_full()
    }

    /// Takes other keys from now on.
    pub fn replace(&self, keys: SealingKeys) {
        self.0.store(Arc::new(keys));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OLD: &str = "hssealkey:0000000000000000000000000000000000000000000000000000000000000001";
    const NEW: &str = "hssealkey:0000000000000000000000000000000000000000000000000000000000000002";

    fn keys(lines: &[&str]) -> SealingKeys {
        SealingKeys::parse(&lines.join("\n")).unwrap()
    }

    #[test]
    fn what_is_sealed_under_any_key_of_the_file_is_read_and_names_its_key() {
        let old = keys(&[OLD]);
        let sealed = old.seal(old.current(), "a secret", b"secret").unwrap();
        assert_eq!(KeyId::sealing(&sealed), old.current());
        assert!(!sealed.windows(6).any(|part| part == b"secret"));
        let both = keys(&[NEW, OLD]);
        assert_ne!(both.current(), old.current());
        assert_eq!(*both.unseal("a secret", &sealed).unwrap(), b"secret");
        // The same secret twice looks different.
        assert_ne!(
            sealed,
            old.seal(old.current(), "a secret", b"secret").unwrap()
        );
    }

    #[test]
    fn without_the_key_nothing_is_read_and_the_key_is_named() {
        let old = keys(&[OLD]);
        let sealed = old.seal(old.current(), "a secret", b"secret").unwrap();
        for keys in [keys(&[NEW]), SealingKeys::default()] {
            let error = keys.unseal("a secret", &sealed).unwrap_err();
            assert_eq!(keys.check(&sealed), Err(error));
            let id = old.current().unwrap();
            assert_eq!(error, UnsealError::MissingKey { id });
            assert!(error.to_string().contains(&id.to_string()), "{error}");
            assert!(error.to_string().contains("cluster.sealing_key_file"));
        }
    }

    #[test]
    fn an_altered_secret_is_refused_and_so_is_one_in_anothers_place() {
        let keys = keys(&[OLD]);
        let sealed = keys.seal(keys.current(), "a secret", b"secret").unwrap();
        assert!(keys.unseal("another", &sealed).is_err());
        for at in MAGIC.len()..sealed.len() {
            let mut altered = sealed.clone();
            altered[at] ^= 1;
            assert!(keys.unseal("a secret", &altered).is_err(), "byte {at}");
        }
    }

    #[test]
    fn what_is_not_sealed_is_what_it_is() {
        let none = SealingKeys::default();
        assert_eq!(none.seal(None, "a secret", b"raw").unwrap(), b"raw");
        assert_eq!(*none.unseal("a secret", b"raw").unwrap(), b"raw");
        assert_eq!(none.check(b"raw"), Ok(()));
        // 32 bytes are a raw key however they begin.
        let mut raw = [7; 32];
        raw[..4].copy_from_slice(MAGIC);
        assert_eq!(KeyId::sealing(&raw), None);
    }

    #[test]
    fn debug_shows_ids_and_no_key() {
        let keys = keys(&[NEW, OLD]);
        let text = format!("{keys:?}");
        assert!(
            text.contains(&keys.current().unwrap().to_string()),
            "{text}"
        );
        assert!(!text.contains("00000000"), "{text}");
    }
}
