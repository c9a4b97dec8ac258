//! The DERP wire codec, protocol version 2: what a relay receives and sends.
//!
//! Every frame is `type (1) length (4, big endian) payload (length)`. Keys are raw 32-byte
//! Curve25519 points. Source: `derp/derp.go` of the official client.
//!
//! | type | frame | direction | payload |
//! |---|---|---|---|
//! | 0x01 | `ServerKey` | out | magic (8), key of the relay (32) |
//! | 0x02 | `ClientInfo` | in | key of the client (32), nonce (24), sealed JSON |
//! | 0x03 | `ServerInfo` | out | nonce (24), sealed JSON |
//! | 0x04 | `SendPacket` | in | key of the destination (32), packet |
//! | 0x05 | `RecvPacket` | out | key of the source (32), packet |
//! | 0x06 | `KeepAlive` | out | empty |
//! | 0x07 | `NotePreferred` | in | 1 = this relay is my home, 0 = it is not |
//! | 0x08 | `PeerGone` | out | key (32), reason (1) |
//! | 0x12 | `Ping` | in | 8 bytes to echo; longer payloads are allowed |
//! | 0x13 | `Pong` | out | the 8 bytes |
//! | 0x15 | `Restarting` | out | reconnect in, try for (u32 ms each, big endian) |
//!
//! Types unknown to the receiver are skipped by their length. Pure: bytes in, values out.

mod client_info;
mod decoder;
mod error;
mod header;
mod keep_alive;
mod note_preferred;
mod packet;
mod peer_gone;
mod ping;
mod restarting;
mod server_info;
mod server_key;

pub(crate) use self::client_info::ClientInfoFrame;
pub(crate) use self::decoder::{ClientFrame, Decoder};
pub(crate) use self::error::FrameError;
pub(crate) use self::header::FrameType;
pub(crate) use self::header::{HEADER_BYTES, Header};
pub(crate) use self::keep_alive::KEEP_ALIVE;
pub(crate) use self::packet::{PacketKind, RecvPacket, SendPacket};
pub(crate) use self::peer_gone::{PeerGone, PeerGoneReason};
pub(crate) use self::ping::{PING_DATA_BYTES, Pong};
pub(crate) use self::restarting::Restarting;
pub(crate) use self::server_info::server_info;
pub(crate) use self::server_key::server_key;

/// Bytes of a key on the wire.
pub(crate) const KEY_BYTES: usize = 32;

/// Bytes of a box's nonce on the wire.
pub(crate) const NONCE_BYTES: usize = 24;
