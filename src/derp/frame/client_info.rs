//! `ClientInfo`: the client's key and a box that proves that it owns the key.

use bytes::{Bytes, BytesMut};

use super::{FrameError, FrameType, HEADER_BYTES, Header, KEY_BYTES, NONCE_BYTES};
use crate::derp::limits::CLIENT_INFO_BYTES_MAX;
use crate::types::NodeKey;

/// Shortest payload: an empty box would still carry its nonce.
const BYTES_MIN: usize = KEY_BYTES + NONCE_BYTES;

/// The frame, taken apart; the box is still closed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ClientInfoFrame {
    /// The key that the client claims.
    pub(crate) key: NodeKey,
    /// Nonce of the box.
    pub(crate) nonce: [u8; NONCE_BYTES],
    /// The box: an authenticator and JSON.
    pub(crate) sealed: Bytes,
}

impl ClientInfoFrame {
    /// Takes the frame off the front of `buf` once it is complete.
    ///
    /// # Errors
    /// Another type of frame, or a length that no client sends, or one above `budget`; judged from
    /// the header alone, before the payload is waited for.
    pub(crate) fn take(buf: &mut BytesMut, budget: usize) -> Result<Option<Self>, FrameError> {
        let Some(header) = Header::peek(buf) else {
            return Ok(None);
        };
        check(header, budget.min(CLIENT_INFO_BYTES_MAX))?;
        if buf.len() < HEADER_BYTES + header.len {
            return Ok(None);
        }
        let wire = buf.split_to(HEADER_BYTES + header.len).freeze();
        Ok(Self::decode(wire.slice(HEADER_BYTES..)))
    }

    fn decode(payload: Bytes) -> Option<Self> {
        let (key, rest) = payload.split_first_chunk::<KEY_BYTES>()?;
        let (nonce, rest) = rest.split_first_chunk::<NONCE_BYTES>()?;
        let sealed = payload.slice_ref(rest);
        Some(Self {
            key: NodeKey::from_bytes(*key),
            nonce: *nonce,
            sealed,
        })
    }
}

fn check(header: Header, max: usize) -> Result<(), FrameError> {
    if FrameType::from_byte(header.kind) != Some(FrameType::ClientInfo) {
        return Err(FrameError::NotClientInfo { got: header.kind });
    }
    if header.len < BYTES_MIN {
        let kind = FrameType::ClientInfo;
        return Err(FrameError::TooShort {
            kind,
            got: header.len,
            min: BYTES_MIN,
        });
    }
    if header.len > max {
        return Err(FrameError::TooLong {
            kind: header.kind,
            got: header.len,
            max,
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn frame_is_key_nonce_and_box() {
        let wire = [
            &[0x02, 0, 0, 0, 59][..],
            &[0x0c; 32],
            &[0x17; 24],
            b"box",
            b"next",
        ]
        .concat();
        let mut buf = BytesMut::from(&wire[..]);
        let frame = ClientInfoFrame::take(&mut buf, 8192).unwrap().unwrap();
        assert_eq!(frame.key, NodeKey::from_bytes([0x0c; 32]));
        assert_eq!(frame.nonce, [0x17; 24]);
        assert_eq!(&frame.sealed[..], b"box");
        assert_eq!(&buf[..], b"next", "what follows stays in the buffer");
    }

    #[test]
    fn length_is_judged_before_the_payload_arrives() {
        let take = |wire: &[u8]| ClientInfoFrame::take(&mut BytesMut::from(wire), 8192);
        assert_eq!(take(&[0x02, 0, 0, 0x20]), Ok(None));
        assert!(matches!(
            take(&[0x02, 0, 0, 0x20, 1]),
            Err(FrameError::TooLong { got: 8193, .. })
        ));
        assert!(matches!(
            take(&[0x02, 0, 0, 0, 55]),
            Err(FrameError::TooShort { got: 55, .. })
        ));
        assert_eq!(
            take(&[0x04, 0, 0, 0, 60]),
            Err(FrameError::NotClientInfo { got: 4 })
        );
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = ClientInfoFrame::take(&mut BytesMut::from(&bytes[..]), 8192);
        }
    }
}
