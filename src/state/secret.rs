//! Secrets as people hold them, and the keyed hash under which the state keeps them.
//!
//! Generated secrets carry 256 random bits, so a fast keyed hash stores them safely; the key, the
//! tailnet's pepper, keeps a leaked copy of the rows from being tested offline. Randomness comes in
//! as arguments.

use std::fmt;
use std::str::FromStr;

use data_encoding::HEXLOWER;
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

/// What a secret is for; part of its hash, so that one kind never stands for another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SecretKind {
    /// `hskey-api-…`, for the REST API.
    ApiKey,
    /// `hskey-auth-…`, lets nodes in.
    PreAuthKey,
}

impl SecretKind {
    /// The text before the public part.
    pub const fn prefix(self) -> &'static str {
        match self {
            Self::ApiKey => "hskey-api-",
            Self::PreAuthKey => "hskey-auth-",
        }
    }

    const fn domain(self) -> u8 {
        match self {
            Self::ApiKey => 1,
            Self::PreAuthKey => 2,
        }
    }
}

/// Hashes the secret part of a key: BLAKE3 keyed with the tailnet's pepper, over the kind and the
/// secret.
pub fn hash_secret(pepper: &[u8; 32], kind: SecretKind, secret: &[u8]) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new_keyed(pepper);
    hasher.update(&[kind.domain()]);
    hasher.update(secret);
    *hasher.finalize().as_bytes()
}

/// Compares two hashes in a time that does not depend on where they differ.
pub fn same_hash(a: &[u8], b: &[u8]) -> bool {
    a.ct_eq(b).into()
}

/// Why the text of a key was refused. Never names the text: it may be a secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SecretParseError {
    /// The text does not start as this kind of key does.
    #[error("key must start with {0:?}")]
    Prefix(&'static str),
    /// The rest is not 12 hex digits, a dash and 64 hex digits.
    #[error("key {0:?} must go on with 12 hex digits, a dash and 64 hex digits")]
    Form(&'static str),
}

/// A key in clear text, `<kind><12 hex>-<64 hex>`: what its owner holds.
#[derive(Clone, PartialEq, Eq)]
pub struct SecretText {
    kind: SecretKind,
    prefix: String,
    secret: Zeroizing<String>,
}

impl SecretText {
    /// Makes a key of random bytes.
    pub fn from_random(kind: SecretKind, prefix: [u8; 6], secret: &[u8; 32]) -> Self {
        Self {
            kind,
            prefix: HEXLOWER.encode(&prefix),
            secret: Zeroizing::new(HEXLOWER.encode(secret)),
        }
    }

    /// Reads the text of a key.
    ///
    /// # Errors
    /// The text is not a key of this kind.
    pub fn parse(kind: SecretKind, text: &str) -> Result<Self, SecretParseError> {
        let form = SecretParseError::Form(kind.prefix());
        let rest = text
            .strip_prefix(kind.prefix())
            .ok_or_else(|| SecretParseError::Prefix(kind.prefix()))?;
        let (prefix, secret) = rest.split_once('-').ok_or(form)?;
        if !is_hex(prefix, PREFIX_DIGITS) || !is_hex(secret, SECRET_DIGITS) {
            return Err(form);
        }
        Ok(Self {
            kind,
            prefix: prefix.to_owned(),
            secret: Zeroizing::new(secret.to_owned()),
        })
    }

    /// The public part, by which the key is found.
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// The hash that the state keeps.
    pub fn hash(&self, pepper: &[u8; 32]) -> [u8; 32] {
        hash_secret(pepper, self.kind, self.secret.as_bytes())
    }

    /// The whole key, shown once to whoever made it.
    pub fn expose(&self) -> Zeroizing<String> {
        Zeroizing::new(format!(
            "{}{}-{}",
            self.kind.prefix(),
            self.prefix,
            self.secret.as_str()
        ))
    }
}

impl fmt::Debug for SecretText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&masked(self.kind, &self.prefix))
    }
}

/// The form in which listings show a key: `<kind><12 hex>-***`.
pub fn masked(kind: SecretKind, prefix: &str) -> String {
    format!("{}{prefix}-***", kind.prefix())
}

/// Names an interactive login: `hskey-authreq-` and 24 hex digits.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AuthId(String);

/// Text that is no [`AuthId`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("auth id must be \"hskey-authreq-\" and 24 hex digits")]
pub struct AuthIdParseError;

impl AuthId {
    /// The text before the digits.
    pub const PREFIX: &'static str = "hskey-authreq-";

    /// Makes an id of random bytes.
    pub fn from_random(bytes: [u8; 12]) -> Self {
        Self(format!("{}{}", Self::PREFIX, HEXLOWER.encode(&bytes)))
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for AuthId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for AuthId {
    type Err = AuthIdParseError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let digits = text.strip_prefix(Self::PREFIX).ok_or(AuthIdParseError)?;
        if !is_hex(digits, AUTH_ID_DIGITS) {
            return Err(AuthIdParseError);
        }
        Ok(Self(text.to_owned()))
    }
}

/// Digits of the public part of a key.
pub(super) const PREFIX_DIGITS: usize = 12;
const SECRET_DIGITS: usize = 64;
const AUTH_ID_DIGITS: usize = 24;

/// Whether the text is exactly so many lower-case hex digits.
pub(super) fn is_hex(text: &str, digits: usize) -> bool {
    text.len() == digits && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn key_texts_round_trip_and_debug_hides_the_secret() {
        let key = SecretText::from_random(SecretKind::PreAuthKey, [0xab; 6], &[0xcd; 32]);
        let text = key.expose();
        assert_eq!(
            text.as_str(),
            format!("hskey-auth-abababababab-{}", "cd".repeat(32))
        );
        assert_eq!(
            SecretText::parse(SecretKind::PreAuthKey, &text),
            Ok(key.clone())
        );
        assert_eq!(format!("{key:?}"), "hskey-auth-abababababab-***");
    }

    #[test]
    fn malformed_keys_are_refused_without_echo() {
        let api = SecretKind::ApiKey;
        let refused = [
            ("", SecretParseError::Prefix("hskey-api-")),
            (
                "hskey-auth-abababababab-00",
                SecretParseError::Prefix("hskey-api-"),
            ),
            (
                "hskey-api-abababababab",
                SecretParseError::Form("hskey-api-"),
            ),
            (
                "hskey-api-abababababab-cdcd",
                SecretParseError::Form("hskey-api-"),
            ),
            (
                "hskey-api-\u{e9}babababab-cd",
                SecretParseError::Form("hskey-api-"),
            ),
        ];
        for (text, error) in refused {
            assert_eq!(SecretText::parse(api, text), Err(error), "{text}");
        }
    }

    #[test]
    fn hash_depends_on_pepper_kind_and_secret() {
        let hash = hash_secret(&[1; 32], SecretKind::ApiKey, b"secret");
        assert_ne!(hash, hash_secret(&[2; 32], SecretKind::ApiKey, b"secret"));
        assert_ne!(
            hash,
            hash_secret(&[1; 32], SecretKind::PreAuthKey, b"secret")
        );
        assert_ne!(hash, hash_secret(&[1; 32], SecretKind::ApiKey, b"secreT"));
        assert!(same_hash(
            &hash,
            &hash_secret(&[1; 32], SecretKind::ApiKey, b"secret")
        ));
        assert!(!same_hash(&hash, &hash[..31]));
    }

    #[test]
    fn auth_ids_parse_only_in_their_exact_form() {
        let id = AuthId::from_random([7; 12]);
        let parsed: AuthId = id.as_str().parse().unwrap();
        assert_eq!(parsed, id);
        for text in [
            "",
            "hskey-authreq-07",
            "hskey-authreq-0707070707070707070707ZZ",
        ] {
            assert_eq!(text.parse::<AuthId>(), Err(AuthIdParseError));
        }
    }
}
