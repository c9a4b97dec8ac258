//! `PeerGone`: a key cannot be reached through this relay; the client forgets its return route.

use bytes::{BufMut, Bytes};

use super::{FrameType, Header, KEY_BYTES};
use crate::types::NodeKey;

/// Why the key cannot be reached (`derp.PeerGoneReasonType`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub(crate) enum PeerGoneReason {
    /// It was connected, and sent something to the receiver of this frame.
    Disconnected = 0x00,
    /// It is not known here.
    NotHere = 0x01,
}

/// The frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct PeerGone {
    /// Who is gone.
    pub(crate) key: NodeKey,
    /// Why.
    pub(crate) reason: PeerGoneReason,
}

impl PeerGone {
    /// The whole frame.
    pub(crate) fn encode(&self) -> Bytes {
        let mut frame = Header::start(FrameType::PeerGone, KEY_BYTES + 1);
        frame.put_slice(self.key.as_bytes());
        frame.put_u8(self.reason as u8);
        frame.freeze()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frame_is_key_and_reason() {
        let key = NodeKey::from_bytes([0xab; 32]);
        let frame = PeerGone {
            key,
            reason: PeerGoneReason::NotHere,
        }
        .encode();
        let expected = [&[0x08, 0, 0, 0, 33][..], &[0xab; 32], &[0x01]].concat();
        assert_eq!(&frame[..], &expected[..]);
    }
}
