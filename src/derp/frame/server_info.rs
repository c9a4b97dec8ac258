//! `ServerInfo`: ends the handshake; a box that only the client opens.

use bytes::{BufMut, Bytes};

use super::{FrameType, Header, NONCE_BYTES};

/// The whole frame.
pub(crate) fn server_info(nonce: &[u8; NONCE_BYTES], sealed: &[u8]) -> Bytes {
    let mut frame = Header::start(FrameType::ServerInfo, NONCE_BYTES + sealed.len());
    frame.put_slice(nonce);
    frame.put_slice(sealed);
    frame.freeze()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frame_is_nonce_and_box() {
        let expected = [&[0x03, 0, 0, 0, 27][..], &[0x17; 24], b"box"].concat();
        assert_eq!(&server_info(&[0x17; 24], b"box")[..], &expected[..]);
    }
}
