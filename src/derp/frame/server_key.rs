//! `ServerKey`: the relay's first frame, which names the protocol and the relay's key.

use bytes::{BufMut, Bytes};

use super::{FrameType, Header, KEY_BYTES};

/// "DERP" and the key emoji (`derp.Magic`).
const MAGIC: [u8; 8] = [0x44, 0x45, 0x52, 0x50, 0xf0, 0x9f, 0x94, 0x91];

/// The whole frame for a relay with this public key.
pub(crate) fn server_key(public_key: &[u8; KEY_BYTES]) -> Bytes {
    let mut frame = Header::start(FrameType::ServerKey, MAGIC.len() + KEY_BYTES);
    frame.put_slice(&MAGIC);
    frame.put_slice(public_key);
    frame.freeze()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frame_is_magic_and_key() {
        let expected = [
            &[0x01, 0, 0, 0, 40][..],                          // type, length
            &[0x44, 0x45, 0x52, 0x50, 0xf0, 0x9f, 0x94, 0x91], // magic
            &[0x5e; 32],                                       // key
        ]
        .concat();
        assert_eq!(&server_key(&[0x5e; 32])[..], &expected[..]);
    }
}
