//! Who is there: opens the client's box and seals ours.
//!
//! `ServerKey` out, `ClientInfo` in, `ServerInfo` out. Both boxes are NaCl `crypto_box` between the
//! relay's key and the client's node key, so a client that makes one owns its key. Pure: nonces
//! are arguments. Source: `derp/derp_client.go` and `derp/derpserver` of the official client.

use bytes::Bytes;
use crypto_box::SalsaBox;
use crypto_box::aead::Aead;
use serde_json::Value;

use super::frame::{self, ClientInfoFrame, NONCE_BYTES};
use super::key::RelayPrivateKey;
use crate::types::NodeKey;

/// The protocol version that both sides speak.
const VERSION: u32 = 2;

/// Points whose product with any secret is the same known value; a box made with one proves
/// nothing. The list of RFC 7748's curve in canonical form, and two that are not.
const LOW_ORDER_POINTS: [[u8; 32]; 7] = [
    [0; 32],
    low_order(1, 0, 0),
    [
        0xe0, 0xeb, 0x7a, 0x7c, 0x3b, 0x41, 0xb8, 0xae, 0x16, 0x56, 0xe3, 0xfa, 0xf1, 0x9f, 0xc4,
        0x6a, 0xda, 0x09, 0x8d, 0xeb, 0x9c, 0x32, 0xb1, 0xfd, 0x86, 0x62, 0x05, 0x16, 0x5f, 0x49,
        0xb8, 0x00,
    ],
    [
        0x5f, 0x9c, 0x95, 0xbc, 0xa3, 0x50, 0x8c, 0x24, 0xb1, 0xd0, 0xb1, 0x55, 0x9c, 0x83, 0xef,
        0x5b, 0x04, 0x44, 0x5c, 0xc4, 0x58, 0x1c, 0x8e, 0x86, 0xd8, 0x22, 0x4e, 0xdd, 0xd0, 0x9f,
        0x11, 0x57,
    ],
    low_order(0xec, 0xff, 0x7f),
    low_order(0xed, 0xff, 0x7f),
    low_order(0xee, 0xff, 0x7f),
];

const fn low_order(first: u8, middle: u8, last: u8) -> [u8; 32] {
    let mut point = [middle; 32];
    point[0] = first;
    point[31] = last;
    point
}

/// Why a client's introduction was refused.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HandshakeError {
    /// A key that anybody could answer for.
    #[error("client key is a point of low order")]
    WeakKey,
    /// The box was made for another relay, or by somebody without the key.
    #[error("client info does not open with the client's key and ours")]
    Sealed,
    /// What the box holds is not what it should be.
    #[error("client info is not a JSON object")]
    Json(#[source] serde_json::Error),
}

/// What a client says about itself (`derp.clientInfo`).
///
/// A `meshKey` is not kept: nothing is granted for one, and one of the clients sends the word
/// "none".
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ClientInfo {
    /// Protocol version; 0 when it did not say.
    pub(crate) version: u64,
    /// Answers pings.
    pub(crate) can_ack_pings: bool,
    /// A monitor rather than a node.
    pub(crate) is_prober: bool,
}

impl ClientInfo {
    /// Reads the JSON; unknown fields and fields of an unexpected type are passed over.
    fn from_json(json: &[u8]) -> Result<Self, HandshakeError> {
        let fields: serde_json::Map<String, Value> =
            serde_json::from_slice(json).map_err(HandshakeError::Json)?;
        let mut info = Self::default();
        for (name, value) in &fields {
            match folded(name).as_str() {
                "version" => info.version = value.as_u64().unwrap_or_default(),
                "canackpings" => info.can_ack_pings = value.as_bool().unwrap_or_default(),
                "isprober" => info.is_prober = value.as_bool().unwrap_or_default(),
                _ => {}
            }
        }
        Ok(info)
    }
}

/// A field name without case and underscores: Go sends `CanAckPings`, tailscale-rs `can_ack_pings`.
fn folded(name: &str) -> String {
    name.chars()
        .filter(|&c| c != '_')
        .map(|c| c.to_ascii_lowercase())
        .collect()
}

/// The two boxes between this relay and one client.
pub(crate) struct Introduction {
    key: NodeKey,
    cipher: SalsaBox,
    info: ClientInfo,
}

impl Introduction {
    /// Opens the client's box, which proves that it owns the key it claims.
    ///
    /// # Errors
    /// See [`HandshakeError`].
    pub(crate) fn open(
        relay: &RelayPrivateKey,
        frame: &ClientInfoFrame,
    ) -> Result<Self, HandshakeError> {
        if is_low_order(&frame.key) {
            return Err(HandshakeError::WeakKey);
        }
        let client = crypto_box::PublicKey::from(*frame.key.as_bytes());
        let cipher = SalsaBox::new(&client, &relay.secret());
        let json = cipher
            .decrypt(&frame.nonce.into(), &frame.sealed[..])
            .map_err(|_| HandshakeError::Sealed)?;
        let info = ClientInfo::from_json(&json)?;
        Ok(Self {
            key: frame.key,
            cipher,
            info,
        })
    }

    /// The client's key.
    pub(crate) fn key(&self) -> NodeKey {
        self.key
    }

    /// What the client said about itself.
    pub(crate) fn info(&self) -> &ClientInfo {
        &self.info
    }

    /// The `ServerInfo` frame that answers. Each nonce is used once.
    ///
    /// # Errors
    /// The cipher refuses to seal, which it does for input of gigabytes only.
    pub(crate) fn answer(&self, nonce: [u8; NONCE_BYTES]) -> Result<Bytes, HandshakeError> {
        let json = format!(r#"{{"version":{VERSION}}}"#);
        let sealed = self
            .cipher
            .encrypt(&nonce.into(), json.as_bytes())
            .map_err(|_| HandshakeError::Sealed)?;
        Ok(frame::server_info(&nonce, &sealed))
    }
}

fn is_low_order(key: &NodeKey) -> bool {
    let mut point = *key.as_bytes();
    if let Some(last) = point.last_mut() {
        *last &= 0x7f; // the curve ignores the top bit
    }
    LOW_ORDER_POINTS.contains(&point)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NONCE: [u8; NONCE_BYTES] = [7; NONCE_BYTES];

    fn relay() -> RelayPrivateKey {
        RelayPrivateKey::from_bytes([0x22; 32])
    }

    /// The frame of the client with secret key `33…`, made for `relay`.
    fn introduce(relay: &RelayPrivateKey, json: &[u8]) -> ClientInfoFrame {
        let secret = crypto_box::SecretKey::from([0x33; 32]);
        let cipher = SalsaBox::new(&crypto_box::PublicKey::from(relay.public()), &secret);
        ClientInfoFrame {
            key: NodeKey::from_bytes(*secret.public_key().as_bytes()),
            nonce: NONCE,
            sealed: cipher.encrypt(&NONCE.into(), json).unwrap().into(),
        }
    }

    fn open(json: &[u8]) -> Result<ClientInfo, HandshakeError> {
        Introduction::open(&relay(), &introduce(&relay(), json)).map(|it| it.info().clone())
    }

    #[test]
    fn go_and_rust_spellings_are_understood() {
        let expected = ClientInfo {
            version: 2,
            can_ack_pings: true,
            is_prober: false,
        };
        let go = br#"{"version":2,"CanAckPings":true,"AppName":"x","later":[1]}"#;
        assert_eq!(open(go).unwrap(), expected);
        let rust = br#"{"version":2,"mesh_key":"none","can_ack_pings":true,"is_prober":false}"#;
        assert_eq!(open(rust).unwrap(), expected);
        assert_eq!(
            open(br#"{"version":"two","IsProber":1}"#).unwrap(),
            ClientInfo::default()
        );
    }

    #[test]
    fn what_is_no_object_is_refused() {
        for json in [&b""[..], b"[]", b"null", b"{", b"\xff"] {
            assert!(
                matches!(open(json), Err(HandshakeError::Json(_))),
                "{json:?}"
            );
        }
    }

    #[test]
    fn a_box_for_another_relay_or_a_changed_key_does_not_open() {
        let other = RelayPrivateKey::from_bytes([0x44; 32]);
        let frame = introduce(&other, b"{}");
        assert!(matches!(
            Introduction::open(&relay(), &frame),
            Err(HandshakeError::Sealed)
        ));
        let mut frame = introduce(&relay(), b"{}");
        frame.key = NodeKey::from_bytes([0x09; 32]);
        assert!(matches!(
            Introduction::open(&relay(), &frame),
            Err(HandshakeError::Sealed)
        ));
    }

    #[test]
    fn the_client_opens_our_answer() {
        let introduction = Introduction::open(&relay(), &introduce(&relay(), b"{}")).unwrap();
        let answer = introduction.answer([9; NONCE_BYTES]).unwrap();
        // type, length of nonce + authenticator + JSON, nonce
        assert_eq!(
            &answer[..29],
            &[&[0x03, 0, 0, 0, 24 + 16 + 13][..], &[9; 24]].concat()[..]
        );
        let secret = crypto_box::SecretKey::from([0x33; 32]);
        let cipher = SalsaBox::new(&crypto_box::PublicKey::from(relay().public()), &secret);
        let json = cipher
            .decrypt(&[9; NONCE_BYTES].into(), &answer[29..])
            .unwrap();
        assert_eq!(json, br#"{"version":2}"#);
    }

    #[test]
    fn points_of_low_order_are_refused() {
        for mut point in LOW_ORDER_POINTS {
            // all secrets make the same box with such a point
            let seal = |secret: [u8; 32]| {
                let cipher = SalsaBox::new(&point.into(), &crypto_box::SecretKey::from(secret));
                cipher.encrypt(&NONCE.into(), &b"x"[..]).unwrap()
            };
            assert_eq!(seal([1; 32]), seal([2; 32]), "{point:x?}");
            for top_bit in [0, 0x80] {
                point[31] ^= top_bit;
                let mut frame = introduce(&relay(), b"{}");
                frame.key = NodeKey::from_bytes(point);
                let refused = Introduction::open(&relay(), &frame);
                assert!(
                    matches!(refused, Err(HandshakeError::WeakKey)),
                    "{point:x?}"
                );
            }
        }
    }

    proptest! {
        #[test]
        fn no_box_and_no_json_panics(
            key: [u8; 32], sealed in proptest::collection::vec(any::<u8>(), 0..100), json: String,
        ) {
            let key = NodeKey::from_bytes(key);
            let frame = ClientInfoFrame { key, nonce: NONCE, sealed: sealed.into() };
            prop_assert!(Introduction::open(&relay(), &frame).is_err());
            let _ = open(json.as_bytes());
        }
    }
}
