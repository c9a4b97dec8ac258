//! Takes the frames of an admitted client out of a growing buffer.

use bytes::{Buf, BytesMut};

use super::note_preferred::note_preferred;
use super::ping::ping;
use super::{FrameError, FrameType, HEADER_BYTES, Header, KEY_BYTES, PING_DATA_BYTES, SendPacket};
use crate::derp::limits::{FRAME_BYTES_MAX, PACKET_BYTES_MAX, PING_BYTES_MAX};

/// What a client may say after the handshake.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum ClientFrame {
    /// A type that means nothing here; its payload is skipped.
    Ignored(u8),
    /// Whether this relay is the client's home.
    NotePreferred(bool),
    /// Wants these eight bytes back.
    Ping([u8; PING_DATA_BYTES]),
    /// A packet for another client.
    SendPacket(SendPacket),
}

/// The place in the stream of frames.
#[derive(Debug, Default)]
pub(crate) struct Decoder {
    /// Bytes still to come of a frame that is skipped.
    skip: usize,
}

impl Decoder {
    /// Takes the next frame off the front of `buf`; `None` when more bytes are needed.
    ///
    /// # Errors
    /// The stream is broken, or the client says what it may not: the connection must end.
    pub(crate) fn decode(&mut self, buf: &mut BytesMut) -> Result<Option<ClientFrame>, FrameError> {
        self.discard(buf);
        if self.skip > 0 {
            return Ok(None);
        }
        let Some(header) = Header::peek(buf) else {
            return Ok(None);
        };
        match Action::of(header)? {
            Action::Skip => {
                buf.advance(HEADER_BYTES);
                self.skip = header.len;
                self.discard(buf);
                Ok(Some(ClientFrame::Ignored(header.kind)))
            }
            Action::Read(_) if buf.len() < HEADER_BYTES + header.len => Ok(None),
            Action::Read(kind) => read(kind, buf.split_to(HEADER_BYTES + header.len)).map(Some),
        }
    }

    /// Bytes that must still arrive to complete the frame at the front of `buf`, as far as known;
    /// nothing for a frame that is skipped.
    pub(crate) fn missing(&self, buf: &[u8]) -> usize {
        if self.skip > 0 {
            return 0;
        }
        match Header::peek(buf) {
            Some(header) => (HEADER_BYTES + header.len).saturating_sub(buf.len()),
            None => HEADER_BYTES.saturating_sub(buf.len()),
        }
    }

    fn discard(&mut self, buf: &mut BytesMut) {
        let here = self.skip.min(buf.len());
        buf.advance(here);
        self.skip -= here;
    }
}

enum Action {
    Read(Inbound),
    Skip,
}

/// The frames that are read rather than skipped.
#[derive(Clone, Copy)]
enum Inbound {
    NotePreferred,
    Ping,
    SendPacket,
}

impl Action {
    /// What to do with a frame, judged by its header alone.
    fn of(header: Header) -> Result<Self, FrameError> {
        let Some(kind) = FrameType::from_byte(header.kind) else {
            check_length(header, 0, FRAME_BYTES_MAX)?;
            return Ok(Self::Skip);
        };
        match kind {
            FrameType::SendPacket => {
                check_length(header, KEY_BYTES, KEY_BYTES + PACKET_BYTES_MAX)?;
                Ok(Self::Read(Inbound::SendPacket))
            }
            FrameType::NotePreferred => {
                check_length(header, 1, 1)?;
                Ok(Self::Read(Inbound::NotePreferred))
            }
            FrameType::Ping => {
                check_length(header, PING_DATA_BYTES, PING_BYTES_MAX)?;
                Ok(Self::Read(Inbound::Ping))
            }
            FrameType::ForwardPacket | FrameType::WatchConns | FrameType::ClosePeer => {
                Err(FrameError::RelaysOnly(kind))
            }
            FrameType::ServerKey
            | FrameType::ClientInfo
            | FrameType::ServerInfo
            | FrameType::RecvPacket
            | FrameType::KeepAlive
            | FrameType::PeerGone
            | FrameType::Pong
            | FrameType::Restarting => {
                check_length(header, 0, FRAME_BYTES_MAX)?;
                Ok(Self::Skip)
            }
        }
    }
}

fn check_length(header: Header, min: usize, max: usize) -> Result<(), FrameError> {
    let Header { kind, len: got } = header;
    match FrameType::from_byte(kind) {
        Some(kind) if got < min => Err(FrameError::TooShort { kind, got, min }),
        _ if got > max => Err(FrameError::TooLong { kind, got, max }),
        _ => Ok(()),
    }
}

/// Reads a whole frame whose length was checked.
fn read(kind: Inbound, wire: BytesMut) -> Result<ClientFrame, FrameError> {
    let payload = wire.get(HEADER_BYTES..).unwrap_or_default();
    let got = payload.len();
    match kind {
        Inbound::NotePreferred => note_preferred(payload).map(ClientFrame::NotePreferred),
        Inbound::Ping => ping(payload)
            .map(ClientFrame::Ping)
            .ok_or(FrameError::TooShort {
                kind: FrameType::Ping,
                got,
                min: PING_DATA_BYTES,
            }),
        Inbound::SendPacket => {
            SendPacket::decode(wire)
                .map(ClientFrame::SendPacket)
                .ok_or(FrameError::TooShort {
                    kind: FrameType::SendPacket,
                    got,
                    min: KEY_BYTES,
                })
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A frame on the wire.
    fn frame(kind: u8, payload: &[u8]) -> Vec<u8> {
        let len = u32::try_from(payload.len()).unwrap().to_be_bytes();
        [&[kind][..], &len, payload].concat()
    }

    /// All frames of `chunks`, which arrive one after another.
    fn decode(chunks: &[&[u8]]) -> Result<Vec<ClientFrame>, FrameError> {
        let (mut decoder, mut buf, mut frames) = (Decoder::default(), BytesMut::new(), Vec::new());
        for chunk in chunks {
            buf.extend_from_slice(chunk);
            while let Some(frame) = decoder.decode(&mut buf)? {
                frames.push(frame);
            }
        }
        assert!(buf.len() < HEADER_BYTES + FRAME_BYTES_MAX);
        Ok(frames)
    }

    #[test]
    fn a_stream_of_frames_decodes_in_order() {
        let stream = [
            frame(0x07, &[1]),
            frame(0x12, &[1, 2, 3, 4, 5, 6, 7, 8]),
            frame(0x42, b"of a later version"),
            frame(0x04, &[0xdd; 32 + 3]),
            frame(0x13, &[0; 8]),
        ]
        .concat();
        let frames = decode(&[&stream]).unwrap();
        let [preferred, ping, unknown, packet, pong] = &frames[..] else {
            panic!("{frames:?}")
        };
        assert_eq!(*preferred, ClientFrame::NotePreferred(true));
        assert_eq!(*ping, ClientFrame::Ping([1, 2, 3, 4, 5, 6, 7, 8]));
        assert_eq!(*unknown, ClientFrame::Ignored(0x42));
        assert!(matches!(packet, ClientFrame::SendPacket(p) if p.packet() == [0xdd; 3]));
        assert_eq!(*pong, ClientFrame::Ignored(0x13));
    }

    #[test]
    fn lengths_outside_the_bounds_are_refused_at_the_header() {
        let error = |wire: &[u8]| decode(&[wire]).unwrap_err();
        // SendPacket of 32 + 65537 bytes
        let long = error(&[0x04, 0, 1, 0, 33]);
        assert_eq!(
            long,
            FrameError::TooLong {
                kind: 4,
                got: 65_569,
                max: 65_568
            }
        );
        assert!(matches!(
            error(&[0x04, 0, 0, 0, 31]),
            FrameError::TooShort { min: 32, .. }
        ));
        assert!(matches!(
            error(&[0x07, 0, 0, 0, 2]),
            FrameError::TooLong { max: 1, .. }
        ));
        assert!(matches!(
            error(&[0x07, 0, 0, 0, 0]),
            FrameError::TooShort { min: 1, .. }
        ));
        assert!(matches!(
            error(&[0x12, 0, 0, 0, 7]),
            FrameError::TooShort { min: 8, .. }
        ));
        assert!(matches!(
            error(&[0x12, 0, 0, 3, 0xe9]),
            FrameError::TooLong { max: 1000, .. }
        ));
        assert!(matches!(
            error(&[0x42, 0, 0x10, 0, 1]),
            FrameError::TooLong { .. }
        ));
    }

    #[test]
    fn frames_for_relays_end_the_connection() {
        for kind in [0x0a, 0x10, 0x11] {
            let error = decode(&[&frame(kind, &[0; 64])]).unwrap_err();
            assert!(matches!(error, FrameError::RelaysOnly(_)), "{error}");
        }
    }

    #[test]
    fn a_skipped_frame_needs_no_buffer() {
        let mut decoder = Decoder::default();
        let mut buf = BytesMut::from(&[0x42, 0, 0, 0xff, 0xff, 1, 2, 3][..]);
        assert_eq!(
            decoder.decode(&mut buf),
            Ok(Some(ClientFrame::Ignored(0x42)))
        );
        assert_eq!((buf.len(), decoder.missing(&buf)), (0, 0));
        buf.extend_from_slice(&[0; 0xffff - 3]);
        buf.extend_from_slice(&frame(0x07, &[0]));
        assert_eq!(
            decoder.decode(&mut buf),
            Ok(Some(ClientFrame::NotePreferred(false)))
        );
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = decode(&[&bytes]);
        }

        #[test]
        fn plausible_headers_do_not_panic(
            frames in proptest::collection::vec(
                (0u8..0x16, proptest::collection::vec(any::<u8>(), 0..80)), 0..8),
        ) {
            let wire = frames.iter().flat_map(|(kind, body)| frame(*kind, body)).collect::<Vec<_>>();
            let _ = decode(&[&wire]);
        }

        #[test]
        fn how_bytes_are_cut_changes_nothing(
            packets in proptest::collection::vec(
                proptest::collection::vec(any::<u8>(), 0..100), 1..6),
            cut in 0usize..400,
        ) {
            let mut stream = Vec::new();
            for packet in &packets {
                stream.extend(frame(0x04, &[&[7; 32], &packet[..]].concat()));
                stream.extend(frame(0x99, packet));
            }
            let (head, tail) = stream.split_at(cut.min(stream.len()));
            prop_assert_eq!(decode(&[head, tail]), decode(&[&stream]));
        }
    }
}
