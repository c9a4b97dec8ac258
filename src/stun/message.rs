//! The two messages: a binding request as Tailscale clients send it, and the answer.
//!
//! A request is 20 bytes of header (type, length, cookie, transaction), the attribute SOFTWARE with
//! the value `tailnode`, and FINGERPRINT as the last attribute. Anything else is not for us: not
//! answering it keeps the server from being of use to reflection attacks. Source: RFC 8489 and
//! `net/stun/stun.go` of the official client. Pure.

use std::net::{IpAddr, SocketAddr};

/// Bytes of the answer to an IPv6 client, the longer one.
pub(super) const RESPONSE_BYTES_MAX: usize = HEADER_BYTES + 4 + 20;

/// Bytes of a request; clients send no other length.
pub(super) const REQUEST_BYTES: usize = 40;

const HEADER_BYTES: usize = 20;
const BINDING_REQUEST: [u8; 2] = [0x00, 0x01];
const BINDING_SUCCESS: [u8; 2] = [0x01, 0x01];
const COOKIE: [u8; 4] = [0x21, 0x12, 0xa4, 0x42];
const SOFTWARE: u16 = 0x8022;
const FINGERPRINT: u16 = 0x8028;
const XOR_MAPPED_ADDRESS: [u8; 2] = [0x00, 0x20];
const TAILNODE: &[u8] = b"tailnode";
/// "STUN", mixed into the checksum (RFC 8489 §14.7).
const FINGERPRINT_XOR: u32 = 0x5354_554e;

/// What ties an answer to its request.
pub(super) type TransactionId = [u8; 12];

/// Why a datagram is not answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum MessageError {
    /// An attribute is cut short, or reaches beyond the datagram.
    #[error("malformed attributes")]
    Attributes,
    /// Not STUN at all.
    #[error("not a stun message")]
    NotStun,
    /// A STUN message of another type.
    #[error("not a binding request")]
    NotRequest,
    /// SOFTWARE is missing or names another program.
    #[error("not from a tailscale client")]
    OtherSoftware,
    /// FINGERPRINT is missing, not last, or wrong.
    #[error("wrong fingerprint")]
    Fingerprint,
}

/// Reads a binding request of a Tailscale client.
///
/// # Errors
/// See [`MessageError`]; none of these is answered.
pub(super) fn parse_request(datagram: &[u8]) -> Result<TransactionId, MessageError> {
    let (header, attributes) = datagram
        .split_first_chunk::<HEADER_BYTES>()
        .ok_or(MessageError::NotStun)?;
    let [t0, t1, _, _, c0, c1, c2, c3, transaction @ ..] = *header;
    if t0 & 0xc0 != 0 || [c0, c1, c2, c3] != COOKIE {
        return Err(MessageError::NotStun);
    }
    if [t0, t1] != BINDING_REQUEST {
        return Err(MessageError::NotRequest);
    }
    check_attributes(datagram, attributes)?;
    Ok(transaction)
}

/// SOFTWARE must be ours, and FINGERPRINT must be last and right.
fn check_attributes(datagram: &[u8], mut rest: &[u8]) -> Result<(), MessageError> {
    let mut is_tailnode = false;
    while !rest.is_empty() {
        let checked = datagram.len() - rest.len();
        let (kind, value, after) = split_attribute(rest)?;
        match kind {
            SOFTWARE => is_tailnode = value == TAILNODE,
            FINGERPRINT => {
                let covered = datagram.get(..checked).unwrap_or_default();
                let is_right = value == (crc32(covered) ^ FINGERPRINT_XOR).to_be_bytes();
                return match (is_tailnode, is_right && after.is_empty()) {
                    (_, false) => Err(MessageError::Fingerprint),
                    (false, true) => Err(MessageError::OtherSoftware),
                    (true, true) => Ok(()),
                };
            }
            _ => {}
        }
        rest = after;
    }
    Err(MessageError::Fingerprint)
}

/// The first attribute's type and value, and what comes behind its padding.
fn split_attribute(bytes: &[u8]) -> Result<(u16, &[u8], &[u8]), MessageError> {
    let (&[k0, k1, l0, l1], rest) = bytes.split_first_chunk().ok_or(MessageError::Attributes)?;
    let len = usize::from(u16::from_be_bytes([l0, l1]));
    let (value, _) = rest.split_at_checked(len).ok_or(MessageError::Attributes)?;
    let after = rest
        .get(len.next_multiple_of(4)..)
        .ok_or(MessageError::Attributes)?;
    Ok((u16::from_be_bytes([k0, k1]), value, after))
}

/// An answer, of up to [`RESPONSE_BYTES_MAX`] bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Response {
    bytes: [u8; RESPONSE_BYTES_MAX],
    len: usize,
}

impl Response {
    /// Tells the sender of a request that it came from `source`.
    pub(super) fn new(transaction: &TransactionId, source: SocketAddr) -> Self {
        let mut response = Self {
            bytes: [0; RESPONSE_BYTES_MAX],
            len: 0,
        };
        let [port_high, port_low] = source.port().to_be_bytes();
        let port = [port_high ^ COOKIE[0], port_low ^ COOKIE[1]];
        match source.ip().to_canonical() {
            IpAddr::V4(ip) => {
                response.push_header(transaction, 0x0c);
                response.push(&[0, 0x08, 0, 0x01]);
                response.push(&port);
                response.push_masked(&ip.octets(), transaction);
            }
            IpAddr::V6(ip) => {
                response.push_header(transaction, 0x18);
                response.push(&[0, 0x14, 0, 0x02]);
                response.push(&port);
                response.push_masked(&ip.octets(), transaction);
            }
        }
        response
    }

    /// The datagram.
    pub(super) fn as_bytes(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or_default()
    }

    fn push_header(&mut self, transaction: &TransactionId, len: u8) {
        self.push(&BINDING_SUCCESS);
        self.push(&[0, len]);
        self.push(&COOKIE);
        self.push(transaction);
        self.push(&XOR_MAPPED_ADDRESS);
    }

    /// Adds an address, mixed with cookie and transaction so that no NAT on the way rewrites it.
    fn push_masked(&mut self, address: &[u8], transaction: &TransactionId) {
        for (byte, mask) in address.iter().zip(COOKIE.iter().chain(transaction)) {
            self.push(&[byte ^ mask]);
        }
    }

    fn push(&mut self, bytes: &[u8]) {
        if let Some(place) = self.bytes.get_mut(self.len..self.len + bytes.len()) {
            place.copy_from_slice(bytes);
            self.len += bytes.len();
        }
    }
}

/// CRC-32 as in Ethernet.
fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |crc, &byte| {
        let [low, ..] = crc.to_le_bytes();
        (crc >> 8) ^ CRC_TABLE[usize::from(low ^ byte)]
    })
}

const CRC_TABLE: [u32; 256] = {
    const POLYNOMIAL: u32 = 0xedb8_8320;
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        let mut crc = byte as u32;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 1 == 1 {
                (crc >> 1) ^ POLYNOMIAL
            } else {
                crc >> 1
            };
            bit += 1;
        }
        table[byte] = crc;
        byte += 1;
    }
    table
};

#[cfg(test)]
pub(super) mod tests {
    use data_encoding::HEXLOWER;
    use proptest::prelude::*;

    use super::*;

    const TRANSACTION: TransactionId = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12];

    /// The request of an official client with the transaction `01..0c`.
    pub(in crate::stun) fn request() -> Vec<u8> {
        let hex = [
            "000100142112a442",         // binding request, 20 bytes, cookie
            "0102030405060708090a0b0c", // transaction
            "802200087461696c6e6f6465", // SOFTWARE, 8 bytes, "tailnode"
            "80280004b32c370f",         // FINGERPRINT, 4 bytes, checksum
        ]
        .concat();
        HEXLOWER.decode(hex.as_bytes()).unwrap()
    }

    /// A request with other attributes and a right fingerprint.
    fn request_with(attributes: &[u8]) -> Vec<u8> {
        let mut bytes = [&request()[..HEADER_BYTES], attributes].concat();
        let fingerprint = crc32(&bytes) ^ FINGERPRINT_XOR;
        bytes.extend([0x80, 0x28, 0, 4]);
        bytes.extend(fingerprint.to_be_bytes());
        bytes
    }

    #[test]
    fn a_clients_request_is_understood() {
        assert_eq!(request().len(), REQUEST_BYTES);
        assert_eq!(parse_request(&request()), Ok(TRANSACTION));
    }

    #[test]
    fn what_a_client_does_not_send_is_refused() {
        let with = |at: usize, byte: u8| {
            let mut bytes = request();
            bytes[at] = byte;
            parse_request(&bytes)
        };
        assert_eq!(with(0, 0x40), Err(MessageError::NotStun));
        assert_eq!(with(4, 0), Err(MessageError::NotStun));
        assert_eq!(with(1, 2), Err(MessageError::NotRequest));
        assert_eq!(with(39, 0), Err(MessageError::Fingerprint));
        assert_eq!(
            with(19, 0),
            Err(MessageError::Fingerprint),
            "covers the transaction"
        );
        assert_eq!(with(23, 255), Err(MessageError::Attributes));
        assert_eq!(parse_request(&request()[..19]), Err(MessageError::NotStun));
        assert_eq!(
            parse_request(&request()[..32]),
            Err(MessageError::Fingerprint)
        );
        assert_eq!(
            parse_request(&request()[..34]),
            Err(MessageError::Attributes)
        );
        let trailing = [&request()[..], &[0; 4]].concat();
        assert_eq!(
            parse_request(&trailing),
            Err(MessageError::Fingerprint),
            "must be last"
        );
    }

    #[test]
    fn other_software_is_refused_even_with_a_right_fingerprint() {
        assert_eq!(
            parse_request(&request_with(b"")),
            Err(MessageError::OtherSoftware)
        );
        let other = request_with(b"\x80\x22\0\x08otherone");
        assert_eq!(parse_request(&other), Err(MessageError::OtherSoftware));
        let padded = request_with(b"\x80\x22\0\x08tailnode\0\x06\0\x01x\0\0\0");
        assert_eq!(
            parse_request(&padded),
            Ok(TRANSACTION),
            "more attributes are fine"
        );
    }

    #[test]
    fn answers_match_the_vectors() {
        let answer = |source: &str| {
            HEXLOWER.encode(Response::new(&TRANSACTION, source.parse().unwrap()).as_bytes())
        };
        let v4 = "0101000c2112a4420102030405060708090a0b0c002000080001f523e112a663";
        assert_eq!(answer("192.0.2.33:54321"), v4);
        assert_eq!(
            answer("[::ffff:192.0.2.33]:54321"),
            v4,
            "mapped addresses are unmapped"
        );
        assert_eq!(
            answer("[2001:db8::1]:54321"),
            "010100182112a4420102030405060708090a0b0c\
             002000140002f5230113a9fa0102030405060708090a0b0d"
        );
    }

    #[test]
    fn checksum_is_the_usual_one() {
        assert_eq!(crc32(b"123456789"), 0xcbf4_3926);
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..120)) {
            let _ = parse_request(&bytes);
        }

        #[test]
        fn no_attributes_panic(attributes in proptest::collection::vec(any::<u8>(), 0..60)) {
            let bytes = [&request()[..HEADER_BYTES], &attributes].concat();
            let _ = parse_request(&bytes);
            let _ = parse_request(&request_with(&attributes));
        }

        #[test]
        fn every_address_comes_back(ip: IpAddr, port: u16, transaction: TransactionId) {
            let response = Response::new(&transaction, SocketAddr::new(ip, port));
            let bytes = response.as_bytes();
            let mask = COOKIE.iter().chain(&transaction);
            let unmasked = bytes[28..].iter().zip(mask).map(|(a, b)| a ^ b).collect::<Vec<_>>();
            match ip.to_canonical() {
                IpAddr::V4(v4) => prop_assert_eq!(unmasked, v4.octets()),
                IpAddr::V6(v6) => prop_assert_eq!(unmasked, v6.octets()),
            }
            prop_assert_eq!(bytes.len(), 20 + usize::from(bytes[3]));
        }
    }
}
