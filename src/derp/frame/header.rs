//! The five bytes in front of every frame.

use bytes::{BufMut, BytesMut};

/// Bytes of a header: type and length.
pub(crate) const HEADER_BYTES: usize = 5;

/// The frame types that this relay knows (`derp.FrameType`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub(crate) enum FrameType {
    /// Relay to client, first of all.
    ServerKey = 0x01,
    /// Client to relay, in answer.
    ClientInfo = 0x02,
    /// Relay to client, ends the handshake.
    ServerInfo = 0x03,
    /// Client to relay: a packet for a key.
    SendPacket = 0x04,
    /// Relay to client: a packet from a key.
    RecvPacket = 0x05,
    /// Relay to client, empty.
    KeepAlive = 0x06,
    /// Client to relay: whether this relay is its home.
    NotePreferred = 0x07,
    /// Relay to client: a key cannot be reached here.
    PeerGone = 0x08,
    /// Relay to relay: a packet for a client of the other.
    ForwardPacket = 0x0a,
    /// Relay to relay: asks for a stream of who is present.
    WatchConns = 0x10,
    /// Relay to relay: asks to end a client's connections.
    ClosePeer = 0x11,
    /// Either way: asks for a pong.
    Ping = 0x12,
    /// Either way: the answer to a ping.
    Pong = 0x13,
    /// Relay to client: it is about to restart.
    Restarting = 0x15,
}

impl FrameType {
    /// The type of a type byte; `None` for those that this relay does not know.
    pub(crate) const fn from_byte(byte: u8) -> Option<Self> {
        Some(match byte {
            0x01 => Self::ServerKey,
            0x02 => Self::ClientInfo,
            0x03 => Self::ServerInfo,
            0x04 => Self::SendPacket,
            0x05 => Self::RecvPacket,
            0x06 => Self::KeepAlive,
            0x07 => Self::NotePreferred,
            0x08 => Self::PeerGone,
            0x0a => Self::ForwardPacket,
            0x10 => Self::WatchConns,
            0x11 => Self::ClosePeer,
            0x12 => Self::Ping,
            0x13 => Self::Pong,
            0x15 => Self::Restarting,
            _ => return None,
        })
    }

    /// The type byte.
    pub(crate) const fn byte(self) -> u8 {
        self as u8
    }
}

/// A header as it was received; the type may be unknown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    /// Type byte.
    pub(crate) kind: u8,
    /// Bytes that follow.
    pub(crate) len: usize,
}

impl Header {
    /// Reads the header at the start of `buf`; `None` while it is incomplete.
    pub(crate) fn peek(buf: &[u8]) -> Option<Self> {
        let (&[kind, a, b, c, d], _) = buf.split_first_chunk::<HEADER_BYTES>()?;
        let len = usize::try_from(u32::from_be_bytes([a, b, c, d])).ok()?;
        Some(Self { kind, len })
    }

    /// Starts a frame of `len` payload bytes: a buffer with room for all of it.
    ///
    /// `len` is the length of a frame that this relay makes, far below `u32::MAX`.
    pub(crate) fn start(kind: FrameType, len: usize) -> BytesMut {
        let mut frame = BytesMut::with_capacity(HEADER_BYTES + len);
        frame.put_u8(kind.byte());
        frame.put_u32(u32::try_from(len).unwrap_or(u32::MAX));
        frame
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn header_is_type_and_big_endian_length() {
        assert_eq!(
            Header::peek(&[4, 0, 1, 0, 2, 9]),
            Some(Header {
                kind: 4,
                len: 0x1_0002
            })
        );
        assert_eq!(Header::peek(&[4, 0, 1, 0]), None);
        assert_eq!(
            &Header::start(FrameType::SendPacket, 0x1_0002)[..],
            &[4, 0, 1, 0, 2]
        );
    }

    #[test]
    fn every_known_type_byte_round_trips() {
        let known = (0..=u8::MAX)
            .filter_map(FrameType::from_byte)
            .collect::<Vec<_>>();
        assert_eq!(known.len(), 14);
        for kind in known {
            assert_eq!(FrameType::from_byte(kind.byte()), Some(kind));
        }
    }
}
