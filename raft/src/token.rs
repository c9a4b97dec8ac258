//! Join tokens as people copy them: one word that names the cluster, proves the right to join and
//! pins the cluster's certificate authority.

use std::fmt;
use std::str::FromStr;

use bytes::Bytes;
use data_encoding::BASE64URL_NOPAD;
use hydrascale_proto::raft::v1::JoinTokenBody;
use prost::Message;
use sha2::{Digest, Sha256};

const PREFIX: &str = "hydra-join-";

/// Longest text accepted: a body with dozens of addresses stays far below.
const TEXT_BYTES_MAX: usize = 8 * 1024;

/// Bytes of secret in a token: enough that guessing is hopeless.
pub(crate) const SECRET_BYTES: usize = 32;

/// The right to join a cluster once. `Display` gives the word to hand over; `Debug` hides it.
///
/// Text: `hydra-join-` and base64url of a protobuf body followed by its CRC-32C (4 bytes,
/// big-endian), so that a word cut off by a terminal is told apart from a wrong one.
#[derive(Clone, PartialEq, Eq)]
pub struct JoinToken {
    pub(crate) cluster_id: String,
    pub(crate) token_id: String,
    pub(crate) secret: [u8; SECRET_BYTES],
    pub(crate) ca_sha256: [u8; 32],
    pub(crate) addrs: Vec<String>,
}

impl JoinToken {
    /// Which cluster the token admits to (UUID).
    pub fn cluster_id(&self) -> &str {
        &self.cluster_id
    }

    /// The token's name in lists; not secret.
    pub fn id(&self) -> &str {
        &self.token_id
    }

    /// `host:port` of the replicas that the token names.
    pub fn addrs(&self) -> &[String] {
        &self.addrs
    }

    /// What the cluster remembers of the secret.
    pub(crate) fn secret_hash(secret: &[u8]) -> Bytes {
        Bytes::copy_from_slice(&Sha256::digest(secret))
    }
}

impl fmt::Display for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut body = JoinTokenBody {
            cluster_id: self.cluster_id.clone(),
            token_id: self.token_id.clone(),
            secret: Bytes::copy_from_slice(&self.secret),
            ca_sha256: Bytes::copy_from_slice(&self.ca_sha256),
            addrs: self.addrs.clone(),
        }
        .encode_to_vec();
        body.extend_from_slice(&crc32c::crc32c(&body).to_be_bytes());
        write!(f, "{PREFIX}{}", BASE64URL_NOPAD.encode(&body))
    }
}

impl fmt::Debug for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JoinToken")
            .field("cluster_id", &self.cluster_id)
            .field("token_id", &self.token_id)
            .finish_non_exhaustive()
    }
}

impl FromStr for JoinToken {
    type Err = JoinTokenError;

    fn from_str(text: &str) -> Result<Self, JoinTokenError> {
        let text = text.trim();
        if text.len() > TEXT_BYTES_MAX {
            return Err(JoinTokenError::TooLong { bytes: text.len() });
        }
        let encoded = text.strip_prefix(PREFIX).ok_or(JoinTokenError::Prefix)?;
        let bytes = BASE64URL_NOPAD
            .decode(encoded.as_bytes())
            .map_err(|_| JoinTokenError::Damaged)?;
        let (body, sum) = bytes
            .split_last_chunk::<4>()
            .ok_or(JoinTokenError::Damaged)?;
        if crc32c::crc32c(body) != u32::from_be_bytes(*sum) {
            return Err(JoinTokenError::Damaged);
        }
        let body = JoinTokenBody::decode(body).map_err(|_| JoinTokenError::Damaged)?;
        let fixed = |bytes: &Bytes| <[u8; 32]>::try_from(bytes.as_ref());
        Ok(Self {
            secret: fixed(&body.secret).map_err(|_| JoinTokenError::Damaged)?,
            ca_sha256: fixed(&body.ca_sha256).map_err(|_| JoinTokenError::Damaged)?,
            cluster_id: body.cluster_id,
            token_id: body.token_id,
            addrs: body.addrs,
        })
    }
}

/// Why a text is no join token.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JoinTokenError {
    /// Something else was given.
    #[error("a join token starts with `{PREFIX}`")]
    Prefix,
    /// Far longer than any token.
    #[error("the text has {bytes} bytes, too many for a join token")]
    TooLong {
        /// Its length.
        bytes: usize,
    },
    /// The text was cut off or mistyped.
    #[error("the join token is damaged: copy the whole word again")]
    Damaged,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_token_survives_its_text_and_hides_its_secret_from_debug() {
        let token = example();
        assert_eq!(token.to_string().parse(), Ok(token.clone()));
        assert!(!format!("{token:?}").contains("secret"));
    }

    #[test]
    fn a_cut_off_or_foreign_word_is_told_apart() {
        let text = example().to_string();
        let cut = &text[..text.len() - 4];
        assert_eq!(cut.parse::<JoinToken>(), Err(JoinTokenError::Damaged));
        assert_eq!(
            "tskey-auth-x".parse::<JoinToken>(),
            Err(JoinTokenError::Prefix)
        );
    }

    proptest! {
        #[test]
        fn no_text_panics_the_parser(text in "(hydra-join-)?\\PC*") {
            let _ = text.parse::<JoinToken>();
        }
    }

    fn example() -> JoinToken {
        JoinToken {
            cluster_id: "7e57ab1e-0000-4000-8000-000000000001".to_owned(),
            token_id: "t1".to_owned(),
            secret: [7; SECRET_BYTES],
            ca_sha256: [9; 32],
            addrs: vec!["a:7443".to_owned(), "b:7443".to_owned()],
        }
    }
}
