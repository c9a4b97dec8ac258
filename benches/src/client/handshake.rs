//! The Noise handshake of `/ts2021`, initiator's side.
//!
//! `Noise_IK_25519_ChaChaPoly_BLAKE2s`, prologue `Tailscale Control Protocol v<capver>`:
//!
//! ```text
//! initiation  u16be capver | 01 | u16be 96 | 96 bytes
//! response    02 | u16be 48 | 48 bytes
//! ```

use anyhow::{Context as _, Result, ensure};
use snow::{Builder, HandshakeState, StatelessTransportState};

/// Bytes of the server's answer.
pub(crate) const RESPONSE_BYTES: usize = 51;

const PATTERN: &str = "Noise_IK_25519_ChaChaPoly_BLAKE2s";

/// A handshake whose initiation is written and whose answer is awaited.
pub(crate) struct Initiator {
    state: HandshakeState,
    /// The 101 bytes to send.
    pub(crate) initiation: Vec<u8>,
}

impl Initiator {
    pub(crate) fn new(
        machine_private: &[u8; 32],
        server_key: &[u8; 32],
        capver: u16,
    ) -> Result<Self> {
        let prologue = format!("Tailscale Control Protocol v{capver}");
        let mut state = Builder::new(PATTERN.parse()?)
            .prologue(prologue.as_bytes())?
            .local_private_key(machine_private)?
            .remote_public_key(server_key)?
            .build_initiator()?;
        let mut payload = [0u8; 128];
        let len = state.write_message(&[], &mut payload)?;
        let mut initiation = capver.to_be_bytes().to_vec();
        initiation.push(1);
        initiation.extend_from_slice(&u16::try_from(len)?.to_be_bytes());
        initiation.extend(payload.iter().take(len));
        Ok(Self { state, initiation })
    }

    pub(crate) fn finish(
        mut self,
        response: &[u8; RESPONSE_BYTES],
    ) -> Result<StatelessTransportState> {
        let body = response
            .strip_prefix(&[2, 0, 48])
            .with_context(|| format!("not a handshake response: {:?}", &response[..3]))?;
        let mut payload = [0u8; 16];
        let len = self
            .state
            .read_message(body, &mut payload)
            .context("handshake response")?;
        ensure!(
            len == 0,
            "handshake response carries {len} bytes of payload"
        );
        Ok(self.state.into_stateless_transport_mode()?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_responder_with_the_server_key_accepts_the_initiation() {
        let server = Builder::new(PATTERN.parse().unwrap())
            .generate_keypair()
            .unwrap();
        let public: [u8; 32] = server.public.clone().try_into().unwrap();
        let initiator = Initiator::new(&[7; 32], &public, 130).unwrap();
        assert_eq!(initiator.initiation.len(), 101);
        assert_eq!(initiator.initiation[..5], [0, 130, 1, 0, 96]);

        let mut responder = Builder::new(PATTERN.parse().unwrap())
            .prologue(b"Tailscale Control Protocol v130")
            .unwrap()
            .local_private_key(&server.private)
            .unwrap()
            .build_responder()
            .unwrap();
        responder
            .read_message(&initiator.initiation[5..], &mut [0; 16])
            .unwrap();
        let mut response = [0u8; RESPONSE_BYTES];
        response[..3].copy_from_slice(&[2, 0, 48]);
        responder.write_message(&[], &mut response[3..]).unwrap();
        initiator.finish(&response).unwrap();
    }
}
