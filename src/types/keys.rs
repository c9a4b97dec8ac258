//! Curve25519 keys in the text forms of Tailscale's `types/key`: a prefix and 64 hex digits.

use std::fmt;
use std::str::FromStr;

use data_encoding::{BASE64, HEXLOWER, HEXLOWER_PERMISSIVE};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use zeroize::Zeroize;

/// Why a key's text was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyParseError {
    /// The text does not start with the prefix of this kind of key.
    #[error("key must start with {0:?}")]
    Prefix(&'static str),
    /// The part behind the prefix is not 64 hex digits.
    #[error("key {0:?} must be followed by 64 hex digits")]
    Hex(&'static str),
}

macro_rules! public_key {
    ($(#[$doc:meta])* $name:ident, $prefix:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name([u8; 32]);

        impl $name {
            /// The text that stands before the hex digits.
            pub const PREFIX: &'static str = $prefix;

            /// Wraps the 32 raw bytes.
            pub const fn from_bytes(bytes: [u8; 32]) -> Self {
                Self(bytes)
            }

            /// Reads 32 raw bytes; any other length gives `None`.
            pub fn from_slice(bytes: &[u8]) -> Option<Self> {
                bytes.try_into().ok().map(Self)
            }

            /// The 32 raw bytes.
            pub const fn as_bytes(&self) -> &[u8; 32] {
                &self.0
            }

            /// Whether this is the zero key, which the protocol uses for "absent".
            pub fn is_zero(&self) -> bool {
                self.0 == [0; 32]
            }

            /// The form for logs: `[` and the first five base64 characters and `]`.
            pub fn short(&self) -> String {
                let text = BASE64.encode(&self.0);
                format!("[{}]", text.chars().take(5).collect::<String>())
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}{}", Self::PREFIX, HEXLOWER.encode(&self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.short())
            }
        }

        impl FromStr for $name {
            type Err = KeyParseError;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                parse_key(text, Self::PREFIX).map(Self)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = String::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

public_key! {
    /// The Noise static key of a device, and of the control plane in `/key`.
    MachineKey, "mkey:"
}
public_key! {
    /// The WireGuard key of one login of a node; rotates.
    NodeKey, "nodekey:"
}
public_key! {
    /// The key of a node's path discovery; new at every client start.
    DiscoKey, "discokey:"
}

/// The control plane's Noise private key, one for the whole cluster and for ever.
#[derive(Clone, PartialEq, Eq)]
pub struct MachinePrivateKey([u8; 32]);

impl MachinePrivateKey {
    /// The text that stands before the hex digits.
    pub const PREFIX: &'static str = "privkey:";

    /// Wraps the 32 raw bytes.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The 32 raw bytes; handle with care.
    pub const fn expose_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The text form `privkey:<64 hex>`, for writing a key file.
    pub fn expose_text(&self) -> String {
        format!("{}{}", Self::PREFIX, HEXLOWER.encode(&self.0))
    }

    /// The matching public key.
    pub fn public(&self) -> MachineKey {
        let secret = crypto_box::SecretKey::from(self.0);
        MachineKey::from_bytes(*secret.public_key().as_bytes())
    }
}

impl Drop for MachinePrivateKey {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl fmt::Debug for MachinePrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MachinePrivateKey(redacted)")
    }
}

impl FromStr for MachinePrivateKey {
    type Err = KeyParseError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        parse_key(text, Self::PREFIX).map(Self)
    }
}

fn parse_key(text: &str, prefix: &'static str) -> Result<[u8; 32], KeyParseError> {
    let hex = text
        .strip_prefix(prefix)
        .ok_or(KeyParseError::Prefix(prefix))?;
    let bytes = HEXLOWER_PERMISSIVE
        .decode(hex.as_bytes())
        .map_err(|_| KeyParseError::Hex(prefix))?;
    bytes.try_into().map_err(|_| KeyParseError::Hex(prefix))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEX: &str = "7b4e909bbe7ffe44c465a220037d608ee35897d31ef972f07f74892cb0f73f13";

    #[test]
    fn text_form_round_trips_and_accepts_upper_case() {
        let key: NodeKey = format!("nodekey:{}", HEX.to_uppercase()).parse().unwrap();
        assert_eq!(key.to_string(), format!("nodekey:{HEX}"));
    }

    #[test]
    fn wrong_prefix_and_wrong_length_are_refused() {
        assert_eq!(
            format!("mkey:{HEX}").parse::<NodeKey>(),
            Err(KeyParseError::Prefix("nodekey:"))
        );
        assert_eq!(
            "nodekey:00".parse::<NodeKey>(),
            Err(KeyParseError::Hex("nodekey:"))
        );
    }

    #[test]
    fn private_key_gives_the_public_key_of_the_noise_test_vector() {
        let private = MachinePrivateKey::from_bytes([0x11; 32]);
        assert_eq!(private.public().to_string(), format!("mkey:{HEX}"));
        assert!(!format!("{private:?}").contains("1111"));
    }
}
