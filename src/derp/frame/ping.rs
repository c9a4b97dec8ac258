//! `Ping` and `Pong`: eight bytes and their echo.

use bytes::{BufMut, Bytes};

use super::{FrameType, Header};

/// Bytes that a pong echoes.
pub(crate) const PING_DATA_BYTES: usize = 8;

/// Reads a ping's payload: its first eight bytes count, the rest is for later versions.
pub(super) fn ping(payload: &[u8]) -> Option<[u8; PING_DATA_BYTES]> {
    payload.first_chunk().copied()
}

/// The answer to a ping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Pong(pub(crate) [u8; PING_DATA_BYTES]);

impl Pong {
    /// The whole frame.
    pub(crate) fn encode(self) -> Bytes {
        let mut frame = Header::start(FrameType::Pong, PING_DATA_BYTES);
        frame.put_slice(&self.0);
        frame.freeze()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pong_echoes_the_first_eight_bytes() {
        let data = ping(&[1, 2, 3, 4, 5, 6, 7, 8, 9]).unwrap();
        let frame = Pong(data).encode();
        // type, length, data
        assert_eq!(&frame[..], &[0x13, 0, 0, 0, 8, 1, 2, 3, 4, 5, 6, 7, 8]);
        assert_eq!(ping(&[1; 7]), None);
    }
}
