//! The record layer: what travels once the handshake is done.
//!
//! ```text
//! record: 0x04 | u16be n | n bytes of ciphertext, tag included
//! ```
//!
//! At most 4096 bytes with the header, so at most 4093 of ciphertext and 4077 of plaintext; a
//! record of no plaintext is legal. ChaCha20-Poly1305 without associated data; the nonce is four
//! zero bytes and a **big-endian** counter, unlike Noise's own
//! (`control/controlbase/conn.go`).

#![deny(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::cast_possible_truncation
)]

use std::fmt;

use aws_lc_rs::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
use bytes::{Buf, BufMut, BytesMut};
use zeroize::Zeroize;

/// Longest record on the wire, header included, in bytes.
pub const RECORD_LEN_MAX: usize = 4096;
/// Type byte and length.
pub const HEADER_LEN: usize = 3;
/// Most ciphertext in a record, tag included, in bytes.
pub const CIPHERTEXT_LEN_MAX: usize = 4093;
/// Most plaintext in a record, in bytes.
pub const PLAINTEXT_LEN_MAX: usize = 4077;
/// The authentication tag at the end of the ciphertext.
pub const TAG_LEN: usize = 16;

const TYPE_RECORD: u8 = 4;

/// Why the record layer gave up; the connection is of no use after any of these.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// The peer sent something other than a record.
    #[error("frame has type {0} instead of {TYPE_RECORD}")]
    Type(u8),
    /// The announced length leaves no room for a tag, or exceeds the limit.
    #[error(
        "record announces {0} bytes of ciphertext, allowed are {TAG_LEN} to {CIPHERTEXT_LEN_MAX}"
    )]
    Length(u16),
    /// The record was not sealed by the peer, or not as the next one.
    #[error("record does not authenticate")]
    Unauthentic,
    /// A key sealed 2^64 - 1 records.
    #[error("record counter is exhausted")]
    CounterExhausted,
    /// The cipher refused to seal.
    #[error("record cannot be sealed")]
    Seal,
}

/// The two keys that a handshake leaves.
#[derive(Clone, PartialEq, Eq)]
pub struct SessionKeys {
    /// Seals what the client sends.
    pub client_to_server: [u8; 32],
    /// Seals what the server sends.
    pub server_to_client: [u8; 32],
}

impl SessionKeys {
    /// The codec halves of the server's side.
    pub fn server_halves(&self) -> (Opener, Sealer) {
        (
            Opener::new(&self.client_to_server),
            Sealer::new(&self.server_to_client),
        )
    }

    /// The codec halves of the client's side.
    pub fn client_halves(&self) -> (Opener, Sealer) {
        (
            Opener::new(&self.server_to_client),
            Sealer::new(&self.client_to_server),
        )
    }
}

impl Drop for SessionKeys {
    fn drop(&mut self) {
        self.client_to_server.zeroize();
        self.server_to_client.zeroize();
    }
}

impl fmt::Debug for SessionKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SessionKeys(redacted)")
    }
}

/// Decrypts the records of one direction.
#[derive(Debug)]
pub struct Opener {
    cipher: Cipher,
}

/// Encrypts the records of one direction.
#[derive(Debug)]
pub struct Sealer {
    cipher: Cipher,
}

#[derive(Debug)]
struct Cipher {
    key: LessSafeKey,
    /// Records so far; the value 2^64 - 1 is never used.
    counter: u64,
}

impl Opener {
    /// Starts at record 0.
    pub fn new(key: &[u8; 32]) -> Self {
        Self {
            cipher: Cipher::new(key),
        }
    }

    /// Takes the next whole record off the front of `buf` and gives its plaintext, which may be
    /// empty; `None` while the record is incomplete.
    ///
    /// # Errors
    /// After any error the stream has lost its place: close the connection.
    pub fn open_next(&mut self, buf: &mut BytesMut) -> Result<Option<BytesMut>, RecordError> {
        let Some(ciphertext_len) = peek_header(buf)? else {
            return Ok(None);
        };
        if buf.len() < ciphertext_len.saturating_add(HEADER_LEN) {
            return Ok(None);
        }
        buf.advance(HEADER_LEN);
        let mut record = buf.split_to(ciphertext_len);
        let nonce = self.cipher.next_nonce()?;
        let plaintext_len = self
            .cipher
            .key
            .open_in_place(nonce, Aad::empty(), &mut record)
            .map_err(|_| RecordError::Unauthentic)?
            .len();
        record.truncate(plaintext_len);
        Ok(Some(record))
    }
}

/// The length of the ciphertext that follows the header, as soon as the header is there.
fn peek_header(buf: &[u8]) -> Result<Option<usize>, RecordError> {
    // The type is judged as soon as its byte is there, so that garbage is not waited for.
    match buf.first() {
        None | Some(&TYPE_RECORD) => {}
        Some(&other) => return Err(RecordError::Type(other)),
    }
    let Some([_, l0, l1]) = buf.first_chunk() else {
        return Ok(None);
    };
    let announced = u16::from_be_bytes([*l0, *l1]);
    let len = usize::from(announced);
    if !(TAG_LEN..=CIPHERTEXT_LEN_MAX).contains(&len) {
        return Err(RecordError::Length(announced));
    }
    Ok(Some(len))
}

impl Sealer {
    /// Starts at record 0.
    pub fn new(key: &[u8; 32]) -> Self {
        Self {
            cipher: Cipher::new(key),
        }
    }

    /// Takes up to [`PLAINTEXT_LEN_MAX`] bytes off `plaintext`, appends them to `out` as one
    /// record, and gives their number.
    ///
    /// # Errors
    /// `out` then ends in a useless piece: close the connection.
    pub fn seal(
        &mut self,
        plaintext: &mut impl Buf,
        out: &mut BytesMut,
    ) -> Result<usize, RecordError> {
        let len = plaintext.remaining().min(PLAINTEXT_LEN_MAX);
        let nonce = self.cipher.next_nonce()?;
        let announced =
            u16::try_from(len.saturating_add(TAG_LEN)).map_err(|_| RecordError::Seal)?;
        out.reserve(RECORD_LEN_MAX.min(len.saturating_add(HEADER_LEN + TAG_LEN)));
        out.put_u8(TYPE_RECORD);
        out.put_u16(announced);
        let start = out.len();
        out.put(plaintext.take(len));
        let body = out.get_mut(start..).ok_or(RecordError::Seal)?;
        let tag = self
            .cipher
            .key
            .seal_in_place_separate_tag(nonce, Aad::empty(), body)
            .map_err(|_| RecordError::Seal)?;
        out.put_slice(tag.as_ref());
        Ok(len)
    }
}

impl Cipher {
    fn new(key: &[u8; 32]) -> Self {
        let key = UnboundKey::new(&CHACHA20_POLY1305, key)
            .expect("ChaCha20-Poly1305 takes any 32 bytes as its key");
        Self {
            key: LessSafeKey::new(key),
            counter: 0,
        }
    }

    fn next_nonce(&mut self) -> Result<Nonce, RecordError> {
        let counter = self.counter;
        self.counter = counter
            .checked_add(1)
            .ok_or(RecordError::CounterExhausted)?;
        let mut nonce = [0; 12];
        let (_zeros, tail) = nonce.split_at_mut(4);
        tail.copy_from_slice(&counter.to_be_bytes());
        Ok(Nonce::assume_unique_for_key(nonce))
    }
}

#[cfg(test)]
#[allow(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "tests may panic"
)]
mod tests {
    use data_encoding::HEXLOWER;
    use proptest::prelude::*;

    use super::*;

    const CLIENT_TO_SERVER: &str =
        "97bb1ff1b3c0030ed1e8f7d54ad3728ad885ba618751ae88d5a752c3c5f31027";
    const SERVER_TO_CLIENT: &str =
        "67e4e0ae881d024a7aef742740ca594e486443a61ac5362959c6b1350e8e5ab0";

    fn hex(text: &str) -> Vec<u8> {
        HEXLOWER.decode(text.as_bytes()).unwrap()
    }

    fn keys() -> SessionKeys {
        SessionKeys {
            client_to_server: hex(CLIENT_TO_SERVER).try_into().unwrap(),
            server_to_client: hex(SERVER_TO_CLIENT).try_into().unwrap(),
        }
    }

    fn seal(sealer: &mut Sealer, plaintext: &[u8]) -> BytesMut {
        let mut out = BytesMut::new();
        let mut rest = plaintext;
        while sealer.seal(&mut rest, &mut out).unwrap() == PLAINTEXT_LEN_MAX {}
        out
    }

    #[test]
    fn seals_the_test_vector_byte_for_byte() {
        let (_, mut server) = keys().server_halves();
        let hello = hex("0400159f21fcc5ff6d62c30f202a451b042053172347c44a");
        let world = hex("040015daad9a1794832bd864e666db466e6eb980abe68932");
        assert_eq!(seal(&mut server, b"hello").to_vec(), hello);
        assert_eq!(seal(&mut server, b"world").to_vec(), world);
        let (_, mut client) = keys().client_halves();
        let first = hex("04001214a5367f890b069fdc68d026229c00c731f2");
        let second = hex("040012238f8fdb48250796a459b9ea6760a0ddef34");
        assert_eq!(seal(&mut client, b"hi").to_vec(), first);
        assert_eq!(seal(&mut client, b"hi").to_vec(), second);
    }

    #[test]
    fn the_longest_record_is_4096_bytes() {
        let (_, mut sealer) = keys().server_halves();
        let mut out = BytesMut::new();
        let plaintext = [7; PLAINTEXT_LEN_MAX + 1];
        let mut rest = plaintext.as_slice();
        assert_eq!(sealer.seal(&mut rest, &mut out), Ok(PLAINTEXT_LEN_MAX));
        assert_eq!(out.len(), RECORD_LEN_MAX);
        assert_eq!(rest.len(), 1);
    }

    #[test]
    fn an_empty_record_is_legal() {
        let (_, mut sealer) = keys().server_halves();
        let (mut opener, _) = keys().client_halves();
        let mut wire = seal(&mut sealer, b"");
        assert_eq!(opener.open_next(&mut wire), Ok(Some(BytesMut::new())));
        assert_eq!(opener.open_next(&mut wire), Ok(None));
    }

    #[test]
    fn wrong_type_and_wrong_length_are_told_before_the_body_arrives() {
        let (mut opener, _) = keys().server_halves();
        assert_eq!(
            opener.open_next(&mut BytesMut::from(&[3][..])),
            Err(RecordError::Type(3))
        );
        let long = &[4, 0x0f, 0xfe][..];
        assert_eq!(
            opener.open_next(&mut BytesMut::from(long)),
            Err(RecordError::Length(4094))
        );
        let short = &[4, 0, 15][..];
        assert_eq!(
            opener.open_next(&mut BytesMut::from(short)),
            Err(RecordError::Length(15))
        );
    }

    #[test]
    fn a_replayed_record_is_refused() {
        let (_, mut sealer) = keys().server_halves();
        let (mut opener, _) = keys().client_halves();
        let once = seal(&mut sealer, b"once");
        let mut twice = BytesMut::from([once.as_ref(), once.as_ref()].concat().as_slice());
        assert!(opener.open_next(&mut twice).is_ok());
        assert_eq!(opener.open_next(&mut twice), Err(RecordError::Unauthentic));
    }

    #[test]
    fn the_last_counter_is_never_used() {
        let (_, mut sealer) = keys().server_halves();
        sealer.cipher.counter = u64::MAX;
        let sealed = sealer.seal(&mut b"x".as_slice(), &mut BytesMut::new());
        assert_eq!(sealed, Err(RecordError::CounterExhausted));
    }

    #[test]
    fn keys_do_not_appear_in_debug_output() {
        assert_eq!(format!("{:?}", keys()), "SessionKeys(redacted)");
    }

    proptest! {
        #[test]
        fn any_plaintext_round_trips_however_it_is_cut(
            plaintext in prop::collection::vec(any::<u8>(), 0..20_000),
            cut in 1_usize..5000,
        ) {
            let (_, mut sealer) = keys().server_halves();
            let (mut opener, _) = keys().client_halves();
            let wire = seal(&mut sealer, &plaintext);
            let (mut incoming, mut got) = (BytesMut::new(), Vec::new());
            for piece in wire.chunks(cut) {
                incoming.extend_from_slice(piece);
                while let Some(part) = opener.open_next(&mut incoming).unwrap() {
                    got.extend_from_slice(&part);
                }
            }
            prop_assert_eq!(got, plaintext);
        }

        #[test]
        fn no_bytes_panic_the_opener(bytes in prop::collection::vec(any::<u8>(), 0..10_000)) {
            let (mut opener, _) = keys().client_halves();
            let mut wire = BytesMut::from(bytes.as_slice());
            let opened = opener.open_next(&mut wire);
            prop_assert!(!matches!(opened, Ok(Some(_))));
        }

        #[test]
        fn a_flipped_bit_anywhere_is_noticed(at in 0_usize..24, bit in 0_u8..8) {
            let (_, mut sealer) = keys().server_halves();
            let (mut opener, _) = keys().client_halves();
            let mut wire = seal(&mut sealer, b"hello");
            wire[at] ^= 1 << bit;
            prop_assert!(!matches!(opener.open_next(&mut wire), Ok(Some(_))));
        }
    }
}
