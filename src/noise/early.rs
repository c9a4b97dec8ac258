//! What the server may say before HTTP/2 (`tailcfg.EarlyNoise`, capver 49).
//!
//! ```text
//! ff ff ff 54 53 | u32be n | n bytes of JSON {"nodeKeyChallenge":"chalpub:<64 hex>"}
//! ```
//!
//! The magic is no legal HTTP/2 frame header, so a client tells the two apart by nine bytes. The
//! official Rust client refuses more than 1024 bytes of JSON.

#![deny(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::cast_possible_truncation
)]

use data_encoding::HEXLOWER;

/// The first capability version that understands the payload.
pub const CAPVER_MIN: u16 = 49;
/// Most JSON that every client accepts, in bytes.
pub const JSON_LEN_MAX: usize = 1024;

const MAGIC: [u8; 5] = [0xff, 0xff, 0xff, b'T', b'S'];

/// The payload's plaintext; `challenge` is the public half of a Curve25519 key made for this
/// connection alone.
pub fn build_early_payload(challenge: &[u8; 32]) -> Vec<u8> {
    let json = format!(
        r#"{{"nodeKeyChallenge":"chalpub:{}"}}"#,
        HEXLOWER.encode(challenge)
    );
    let len = u32::try_from(json.len()).expect("the JSON has a fixed length of 97 bytes");
    let mut payload = Vec::with_capacity(MAGIC.len().saturating_add(4).saturating_add(json.len()));
    payload.extend_from_slice(&MAGIC);
    payload.extend_from_slice(&len.to_be_bytes());
    payload.extend_from_slice(json.as_bytes());
    payload
}

#[cfg(test)]
#[allow(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "tests may panic"
)]
mod tests {
    use super::*;

    #[test]
    fn payload_has_magic_length_and_json_below_the_limit() {
        let payload = build_early_payload(&[0xab; 32]);
        assert_eq!(payload[..5], MAGIC);
        let len = u32::from_be_bytes(payload[5..9].try_into().unwrap()) as usize;
        assert_eq!(payload.len(), 9 + len);
        assert!(len <= JSON_LEN_MAX);
        let json: serde_json::Value = serde_json::from_slice(&payload[9..]).unwrap();
        assert_eq!(
            json["nodeKeyChallenge"],
            format!("chalpub:{}", "ab".repeat(32))
        );
    }
}
