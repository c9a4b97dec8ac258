//! The responder's half of the Noise handshake.
//!
//! `Noise_IK_25519_ChaChaPoly_BLAKE2s`; prologue `Tailscale Control Protocol v` and the client's
//! capability version in decimal; empty payloads (`control/controlbase/handshake.go`).
//!
//! ```text
//! initiation, 101 bytes: u16be capver | 0x01 | u16be 96 | e (32) | s sealed (48) | tag (16)
//! response,    51 bytes: 0x02 | u16be 48 | e (32) | tag (16)
//! ```
//!
//! Any machine key may connect: who may do what is decided per request.

#![deny(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::cast_possible_truncation
)]

use super::dh::Resolver;
use super::record::SessionKeys;
use crate::types::{MachineKey, MachinePrivateKey};

/// Length of the client's message, in bytes.
pub const INITIATION_LEN: usize = 101;
/// Length of our answer, in bytes.
pub const RESPONSE_LEN: usize = 51;

const PATTERN: &str = "Noise_IK_25519_ChaChaPoly_BLAKE2s";
const PROLOGUE: &str = "Tailscale Control Protocol v";
const TYPE_INITIATION: u8 = 1;
const TYPE_RESPONSE: u8 = 2;
const INITIATION_NOISE_LEN: usize = 96;
const RESPONSE_NOISE_LEN: usize = 48;

/// Why a handshake was refused.
#[derive(Debug, PartialEq, thiserror::Error)]
pub enum HandshakeError {
    /// The message is not [`INITIATION_LEN`] bytes long.
    #[error("handshake initiation is {0} bytes long instead of {INITIATION_LEN}")]
    Length(usize),
    /// The message's type byte is not the one of an initiation.
    #[error("handshake initiation has type {0} instead of {TYPE_INITIATION}")]
    MessageType(u8),
    /// The message's length field does not match.
    #[error("handshake initiation announces {0} bytes instead of {INITIATION_NOISE_LEN}")]
    MessageLength(u16),
    /// The client encrypted to another server key, or sent a low-order or damaged key.
    #[error("handshake initiation does not authenticate under this control plane's key")]
    Read(#[source] snow::Error),
    /// The answer could not be built, for example from a low-order client key.
    #[error("handshake response cannot be built")]
    Write(#[source] snow::Error),
}

/// The client's first message, checked for shape only.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Initiation {
    capver: u16,
    noise: [u8; INITIATION_NOISE_LEN],
}

/// What a finished handshake gives.
#[derive(Debug)]
pub struct Accepted {
    /// Capability version of the client, authenticated by the handshake.
    pub capver: u16,
    /// Who the client proved to be.
    pub machine_key: MachineKey,
    /// Bytes to send first.
    pub response: [u8; RESPONSE_LEN],
    /// Keys of the records that follow.
    pub keys: SessionKeys,
}

impl Initiation {
    /// Reads the 101 bytes of `X-Tailscale-Handshake`.
    ///
    /// # Errors
    /// Says which part of the message has the wrong shape.
    pub fn parse(bytes: &[u8]) -> Result<Self, HandshakeError> {
        let bytes: &[u8; INITIATION_LEN] = bytes
            .try_into()
            .map_err(|_| HandshakeError::Length(bytes.len()))?;
        let [v0, v1, kind, l0, l1, noise @ ..] = bytes;
        if *kind != TYPE_INITIATION {
            return Err(HandshakeError::MessageType(*kind));
        }
        let len = u16::from_be_bytes([*l0, *l1]);
        if usize::from(len) != INITIATION_NOISE_LEN {
            return Err(HandshakeError::MessageLength(len));
        }
        Ok(Self {
            capver: u16::from_be_bytes([*v0, *v1]),
            noise: *noise,
        })
    }

    /// Capability version that the client claims; authenticated only by [`accept`].
    pub const fn capver(&self) -> u16 {
        self.capver
    }
}

/// Answers an initiation.
///
/// `ephemeral` is the private half of a key that no other handshake used: 32 random bytes.
///
/// # Errors
/// The client does not know our public key, or one of its keys is unusable.
pub fn accept(
    private: &MachinePrivateKey,
    initiation: &Initiation,
    ephemeral: &[u8; 32],
) -> Result<Accepted, HandshakeError> {
    let prologue = format!("{PROLOGUE}{}", initiation.capver);
    let mut state =
        build_responder(private, prologue.as_bytes(), ephemeral).map_err(HandshakeError::Write)?;
    let mut no_payload = [0; 0];
    state
        .read_message(&initiation.noise, &mut no_payload)
        .map_err(HandshakeError::Read)?;
    let mut noise = [0; RESPONSE_NOISE_LEN];
    state
        .write_message(&[], &mut noise)
        .map_err(HandshakeError::Write)?;
    let machine_key = state
        .get_remote_static()
        .and_then(MachineKey::from_slice)
        .ok_or(HandshakeError::Read(snow::Error::Dh))?;
    let (client_to_server, server_to_client) = state.dangerously_get_raw_split();
    Ok(Accepted {
        capver: initiation.capver,
        machine_key,
        response: frame_response(&noise),
        keys: SessionKeys {
            client_to_server,
            server_to_client,
        },
    })
}

fn build_responder(
    private: &MachinePrivateKey,
    prologue: &[u8],
    ephemeral: &[u8; 32],
) -> Result<snow::HandshakeState, snow::Error> {
    let params = PATTERN.parse()?;
    snow::Builder::with_resolver(params, Box::new(Resolver))
        .local_private_key(private.expose_bytes())?
        .prologue(prologue)?
        // Snow's name for "the caller brings the randomness", which keeps this function pure.
        .fixed_ephemeral_key_for_testing_only(ephemeral)
        .build_responder()
}

fn frame_response(noise: &[u8; RESPONSE_NOISE_LEN]) -> [u8; RESPONSE_LEN] {
    let mut response = [0; RESPONSE_LEN];
    let [kind, _, len, body @ ..] = &mut response;
    *kind = TYPE_RESPONSE;
    *len = 48;
    body.copy_from_slice(noise);
    response
}

#[cfg(test)]
#[allow(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "tests may panic"
)]
mod tests {
    use data_encoding::HEXLOWER;
    use proptest::prelude::*;

    use super::*;

    const SERVER: [u8; 32] = [0x11; 32];
    const CLIENT: [u8; 32] = [0x22; 32];

    // Computed from the protocol's definition, independently of this code: server static 0x11,
    // client machine 0x22, client ephemeral 0x33, server ephemeral 0x44, version 145.
    const INITIATION: &str = "00910100607b0d47d93427f8311160781c7c733fd89f88970aef490d8aa0ee19a4cb8\
        a1b14b903b541e3810f9a9f788541f1d8f2ec482568e39b9f0f56a9f4a7a56450f31a9dc60bcb4e75254359f94\
        60a6bc3abd2a01b3a2deff662afe0b9497becb6a113";
    const RESPONSE: &str = "020030ff2ee45601ec1b67310c7790404585ae697331eee1c1f8cf2419731c1fff3e6b\
        b724869747b9edde7346ebd00e8c83be";
    const CLIENT_TO_SERVER: &str =
        "97bb1ff1b3c0030ed1e8f7d54ad3728ad885ba618751ae88d5a752c3c5f31027";
    const SERVER_TO_CLIENT: &str =
        "67e4e0ae881d024a7aef742740ca594e486443a61ac5362959c6b1350e8e5ab0";

    fn private() -> MachinePrivateKey {
        MachinePrivateKey::from_bytes(SERVER)
    }

    fn hex(text: &str) -> Vec<u8> {
        HEXLOWER.decode(text.as_bytes()).unwrap()
    }

    #[test]
    fn answers_the_test_vector_byte_for_byte() {
        let initiation = Initiation::parse(&hex(INITIATION)).unwrap();
        assert_eq!(initiation.capver(), 145);
        let accepted = accept(&private(), &initiation, &[0x44; 32]).unwrap();
        assert_eq!(accepted.response.to_vec(), hex(RESPONSE));
        assert_eq!(
            accepted.keys.client_to_server.to_vec(),
            hex(CLIENT_TO_SERVER)
        );
        assert_eq!(
            accepted.keys.server_to_client.to_vec(),
            hex(SERVER_TO_CLIENT)
        );
        assert_eq!(
            accepted.machine_key,
            MachinePrivateKey::from_bytes(CLIENT).public()
        );
    }

    #[test]
    fn shape_errors_name_what_is_wrong() {
        let good = hex(INITIATION);
        assert_eq!(
            Initiation::parse(&good[..100]),
            Err(HandshakeError::Length(100))
        );
        let mut kind = good.clone();
        kind[2] = 4;
        assert_eq!(
            Initiation::parse(&kind),
            Err(HandshakeError::MessageType(4))
        );
        let mut len = good;
        len[4] = 95;
        assert_eq!(
            Initiation::parse(&len),
            Err(HandshakeError::MessageLength(95))
        );
    }

    #[test]
    fn another_version_in_the_header_fails_authentication() {
        let mut bytes = hex(INITIATION);
        bytes[1] = 144;
        let initiation = Initiation::parse(&bytes).unwrap();
        let refused = accept(&private(), &initiation, &[0x44; 32]).unwrap_err();
        assert!(matches!(refused, HandshakeError::Read(_)), "{refused:?}");
    }

    #[test]
    fn another_server_key_fails_authentication() {
        let initiation = Initiation::parse(&hex(INITIATION)).unwrap();
        let other = MachinePrivateKey::from_bytes([0x12; 32]);
        assert!(matches!(
            accept(&other, &initiation, &[0x44; 32]),
            Err(HandshakeError::Read(_))
        ));
    }

    #[test]
    fn a_low_order_ephemeral_key_is_refused() {
        let mut bytes = hex(INITIATION);
        bytes[5..37].fill(0);
        let initiation = Initiation::parse(&bytes).unwrap();
        let refused = accept(&private(), &initiation, &[0x44; 32]).unwrap_err();
        assert_eq!(refused, HandshakeError::Read(snow::Error::Dh));
    }

    proptest! {
        #[test]
        fn no_bytes_panic_the_handshake(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = Initiation::parse(&bytes);
        }

        #[test]
        fn damaged_initiations_are_refused(at in 0_usize..101, flip in 1_u8..) {
            let mut bytes = hex(INITIATION);
            bytes[at] ^= flip;
            let accepted = Initiation::parse(&bytes)
                .and_then(|initiation| accept(&private(), &initiation, &[0x44; 32]));
            // X25519 ignores the top bit of a public key, but the transcript hash does not.
            prop_assert!(accepted.is_err());
        }
    }
}
