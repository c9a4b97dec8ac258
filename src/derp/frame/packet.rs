//! `SendPacket` and `RecvPacket`: a packet on its way in and on its way out.
//!
//! Both are `type (1) length (4) key (32) packet`, of equal length. Relaying rewrites the type and
//! the key where they are: the packet is never copied, and never looked into beyond its first six
//! bytes.

use bytes::{BufMut, Bytes, BytesMut};

use super::{FrameType, HEADER_BYTES, KEY_BYTES};
use crate::derp::limits::PACKET_BYTES_MAX;
use crate::types::NodeKey;

/// Start of a disco packet (`disco.Magic`).
const DISCO_MAGIC: [u8; 6] = [0x54, 0x53, 0xf0, 0x9f, 0x92, 0xac];

/// A disco packet carries the magic, a key and a nonce (`disco.LooksLikeDiscoWrapper`).
const DISCO_BYTES_MIN: usize = DISCO_MAGIC.len() + 32 + 24;

/// What a packet carries, as far as a relay cares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PacketKind {
    /// WireGuard, presumably.
    Data,
    /// Path discovery: rare, small, and worth more than data.
    Disco,
}

impl PacketKind {
    /// Judges a packet by its first bytes.
    pub(crate) fn of(packet: &[u8]) -> Self {
        if packet.len() >= DISCO_BYTES_MIN && packet.starts_with(&DISCO_MAGIC) {
            Self::Disco
        } else {
            Self::Data
        }
    }
}

/// A whole `SendPacket` frame; at least header and key.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct SendPacket {
    dst: NodeKey,
    wire: BytesMut,
}

impl SendPacket {
    /// Takes a whole frame; `None` when it is too short for its key.
    pub(super) fn decode(wire: BytesMut) -> Option<Self> {
        let dst = wire
            .get(HEADER_BYTES..HEADER_BYTES + KEY_BYTES)
            .and_then(NodeKey::from_slice)?;
        Some(Self { dst, wire })
    }

    /// Where it goes.
    pub(crate) fn dst(&self) -> &NodeKey {
        &self.dst
    }

    /// The packet.
    pub(crate) fn packet(&self) -> &[u8] {
        self.wire
            .get(HEADER_BYTES + KEY_BYTES..)
            .unwrap_or_default()
    }

    /// What it carries.
    pub(crate) fn kind(&self) -> PacketKind {
        PacketKind::of(self.packet())
    }

    /// Turns the frame into the one for its receiver, in place.
    pub(crate) fn into_recv(mut self, src: &NodeKey) -> RecvPacket {
        let kind = self.kind();
        if let Some(type_byte) = self.wire.first_mut() {
            *type_byte = FrameType::RecvPacket.byte();
        }
        if let Some(key) = self.wire.get_mut(HEADER_BYTES..HEADER_BYTES + KEY_BYTES) {
            key.copy_from_slice(src.as_bytes());
        }
        RecvPacket {
            kind,
            wire: self.wire.freeze(),
        }
    }
}

/// A whole `RecvPacket` frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RecvPacket {
    /// What it carries.
    pub(crate) kind: PacketKind,
    /// The frame as it goes out.
    pub(crate) wire: Bytes,
}

impl RecvPacket {
    /// The frame of a packet that came from `src` by another way than a frame; `None` when it is
    /// too long.
    pub(crate) fn new(src: &NodeKey, packet: &[u8]) -> Option<Self> {
        if packet.len() > PACKET_BYTES_MAX {
            return None;
        }
        let len = u32::try_from(KEY_BYTES + packet.len()).ok()?;
        let mut wire = BytesMut::with_capacity(HEADER_BYTES + KEY_BYTES + packet.len());
        wire.put_u8(FrameType::RecvPacket.byte());
        wire.put_u32(len);
        wire.put_slice(src.as_bytes());
        wire.put_slice(packet);
        Some(Self {
            kind: PacketKind::of(packet),
            wire: wire.freeze(),
        })
    }

    /// Bytes of the packet, without header and key: what counters count.
    pub(crate) fn packet_len(&self) -> usize {
        self.wire.len().saturating_sub(HEADER_BYTES + KEY_BYTES)
    }

    /// The same frame in memory of its own, so that it does not keep a read buffer alive.
    pub(crate) fn detached(self) -> Self {
        Self {
            kind: self.kind,
            wire: Bytes::copy_from_slice(&self.wire),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The frame on the wire.
    fn wire(kind: u8, key: [u8; 32], packet: &[u8]) -> Vec<u8> {
        let len = u32::try_from(32 + packet.len()).unwrap().to_be_bytes();
        [&[kind][..], &len, &key, packet].concat()
    }

    #[test]
    fn relaying_changes_type_and_key_only() {
        let sent =
            SendPacket::decode(BytesMut::from(&wire(0x04, [0xdd; 32], b"hello")[..])).unwrap();
        assert_eq!(sent.dst(), &NodeKey::from_bytes([0xdd; 32]));
        let place = sent.wire.as_ptr();
        let relayed = sent.into_recv(&NodeKey::from_bytes([0x55; 32]));
        let expected = [
            &[0x05, 0, 0, 0, 37][..], // type, length
            &[0x55; 32],              // source
            b"hello",                 // packet
        ]
        .concat();
        assert_eq!(&relayed.wire[..], &expected[..]);
        assert_eq!(relayed.wire.as_ptr(), place, "in place");
        assert_eq!(relayed.packet_len(), 5);
    }

    #[test]
    fn disco_needs_magic_key_and_nonce() {
        let disco = [&DISCO_MAGIC[..], &[0; 56]].concat();
        assert_eq!(PacketKind::of(&disco), PacketKind::Disco);
        assert_eq!(PacketKind::of(&disco[..61]), PacketKind::Data);
        assert_eq!(PacketKind::of(&[0; 148]), PacketKind::Data);
    }

    proptest! {
        #[test]
        fn relayed_frame_equals_one_made_afresh(
            src: [u8; 32], dst: [u8; 32],
            packet in proptest::collection::vec(any::<u8>(), 0..2000),
        ) {
            let sent = SendPacket::decode(BytesMut::from(&wire(0x04, dst, &packet)[..])).unwrap();
            let relayed = sent.into_recv(&NodeKey::from_bytes(src));
            prop_assert_eq!(&relayed.wire[..], &wire(0x05, src, &packet)[..]);
            prop_assert_eq!(RecvPacket::new(&NodeKey::from_bytes(src), &packet), Some(relayed));
        }
    }
}
