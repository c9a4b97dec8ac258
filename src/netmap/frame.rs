//! Frames of a map stream: u32 little-endian length, then JSON or zstd frames of it.

use bytes::{BufMut, Bytes, BytesMut};
use serde::Serialize;

use crate::tailcfg::{MapResponse, PeerChange};
use crate::types::RegionId;

/// The fastest level: most of a netmap is keys, which no level compresses.
const ZSTD_LEVEL: i32 = 1;

/// How a client wants its messages (`tailcfg.MapRequest.Compress`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Wire {
    /// JSON as it is.
    Raw,
    /// zstd frames with content size and without checksum.
    Zstd,
}

/// One message as a frame.
pub fn encode(message: &MapResponse, wire: Wire) -> Bytes {
    frame(&[pack(json(message), wire)])
}

/// A message as one frame, or as two that say the same: of what changed of a peer, clients from 1.84
/// on take only the first thing of each message to their connections (first its home, then its
/// endpoints, in the order of `tailcfg.PeerChange`).
pub(super) fn encode_in_steps(mut message: MapResponse, wire: Wire) -> Bytes {
    let mut later = Vec::new();
    for patch in &mut message.peers_changed_patch {
        if patch.derp_region != RegionId(0) && patch.endpoints.is_some() {
            later.push(PeerChange {
                node_id: patch.node_id,
                endpoints: patch.endpoints.take(),
                ..PeerChange::default()
            });
        }
    }
    let first = encode(&message, wire);
    if later.is_empty() {
        return first;
    }
    let second = MapResponse {
        peers_changed_patch: later,
        ..MapResponse::default()
    };
    [first, encode(&second, wire)].concat().into()
}

pub(super) fn json(value: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(value).expect("map keys are strings or numbers")
}

/// A piece of a message as it goes into a frame. All pieces of one have the same form.
pub(super) fn pack(json: Vec<u8>, wire: Wire) -> Bytes {
    match wire {
        Wire::Raw => Bytes::from(json),
        Wire::Zstd => {
            let compressed = zstd::bulk::compress(&json, ZSTD_LEVEL);
            Bytes::from(compressed.expect("zstd compresses any bytes into its own bound"))
        }
    }
}

/// The frame of a message in pieces.
pub(super) fn frame(pieces: &[Bytes]) -> Bytes {
    let len: usize = pieces.iter().map(Bytes::len).sum();
    let mut frame = BytesMut::with_capacity(size_of::<u32>() + len);
    frame.put_u32_le(u32::try_from(len).expect("a netmap stays below 4 GiB"));
    for piece in pieces {
        frame.extend_from_slice(piece);
    }
    frame.freeze()
}

/// The keep-alive frames: always the same bytes, which clients recognise without decoding.
#[derive(Clone, Debug)]
pub struct KeepAlive {
    raw: Bytes,
    zstd: Bytes,
}

impl Default for KeepAlive {
    fn default() -> Self {
        let message = MapResponse {
            keep_alive: true,
            ..Default::default()
        };
        Self {
            raw: encode(&message, Wire::Raw),
            zstd: encode(&message, Wire::Zstd),
        }
    }
}

impl KeepAlive {
    /// The frame for one wire form.
    pub fn frame(&self, wire: Wire) -> Bytes {
        match wire {
            Wire::Raw => self.raw.clone(),
            Wire::Zstd => self.zstd.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_raw_keep_alive_is_its_length_and_its_exact_text() {
        let frame = KeepAlive::default().frame(Wire::Raw);
        assert_eq!(&*frame, b"\x12\0\0\0{\"KeepAlive\":true}");
    }

    #[test]
    fn a_compressed_frame_tells_its_size_and_holds_the_json() {
        let frame = KeepAlive::default().frame(Wire::Zstd);
        let (len, payload) = frame.split_at(4);
        assert_eq!(
            u32::from_le_bytes(len.try_into().unwrap()) as usize,
            payload.len()
        );
        assert_eq!(
            zstd::zstd_safe::get_frame_content_size(payload).unwrap(),
            Some(18)
        );
        assert_eq!(
            zstd::bulk::decompress(payload, 64).unwrap(),
            b"{\"KeepAlive\":true}"
        );
    }
}
