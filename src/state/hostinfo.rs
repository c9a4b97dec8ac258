//! What the state does with a client's Hostinfo: it keeps the JSON as it came, and the NetInfo of
//! before when a new one lacks it.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::value::RawValue;

use super::Node;
use super::convert::FieldError;
use crate::tailcfg::{self, Hostinfo};

/// The longest Hostinfo that is stored: real ones take 1 to 4 KiB, those of hosts with many
/// services some more.
pub(crate) const MAX_HOSTINFO_BYTES: usize = 64 * 1024;

/// A Hostinfo as stored and as understood.
#[derive(Clone, Debug)]
pub(super) struct Known {
    pub(super) json: Arc<[u8]>,
    pub(super) decoded: Arc<Hostinfo>,
}

/// Reads a client's Hostinfo; an empty text stands for an empty one.
///
/// # Errors
/// It is too long or not a Hostinfo.
pub(super) fn read(json: &[u8]) -> Result<Known, FieldError> {
    if json.len() > MAX_HOSTINFO_BYTES {
        return Err(FieldError(format!(
            "Hostinfo of {} bytes is longer than the allowed {MAX_HOSTINFO_BYTES}",
            json.len()
        )));
    }
    let json = if matches!(json.trim_ascii(), b"" | b"null") {
        b"{}"
    } else {
        json
    };
    if json.trim_ascii_start().first() != Some(&b'{') {
        return Err(FieldError("Hostinfo is not a JSON object".into()));
    }
    let decoded = tailcfg::decode(json)
        .map_err(|error| FieldError(format!("Hostinfo is not understood: {error}")))?;
    Ok(Known {
        json: json.into(),
        decoded: Arc::new(decoded),
    })
}

/// Reads a client's Hostinfo that takes the place of the node's. Clients leave out a NetInfo that
/// they reported before (from 1.66 on), and registrations never carry one: the node keeps its own
/// as long as both fit.
///
/// # Errors
/// It is too long or not a Hostinfo.
pub(super) fn read_successor(json: &[u8], node: &Node) -> Result<Known, FieldError> {
    let known = read(json)?;
    if known.decoded.net_info.is_some() || node.hostinfo.net_info.is_none() {
        return Ok(known);
    }
    let joined = with_net_info(&known.json, &node.hostinfo_json);
    match joined.filter(|json| json.len() <= MAX_HOSTINFO_BYTES) {
        Some(json) => read(&json),
        None => Ok(known),
    }
}

/// Reads a stored Hostinfo: an empty one where the JSON is not understood.
pub(super) fn decode_or_default(json: &[u8]) -> Hostinfo {
    tailcfg::decode(json).unwrap_or_default()
}

/// The JSON of `new` with the member `NetInfo` of `old`, every value byte for byte as it was.
fn with_net_info(new: &[u8], old: &[u8]) -> Option<Vec<u8>> {
    let old: BTreeMap<String, &RawValue> = serde_json::from_slice(old).ok()?;
    let (_, net_info) = old.into_iter().find(|(name, _)| is_net_info(name))?;
    let mut members: BTreeMap<String, &RawValue> = serde_json::from_slice(new).ok()?;
    members.retain(|name, _| !is_net_info(name));
    members.insert("NetInfo".to_owned(), net_info);
    serde_json::to_vec(&members).ok()
}

fn is_net_info(name: &str) -> bool {
    name.eq_ignore_ascii_case("NetInfo")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::testing;

    fn node(json: &str) -> Node {
        let known = read(json.as_bytes()).unwrap();
        Node {
            hostinfo_json: known.json,
            hostinfo: known.decoded,
            ..testing::node()
        }
    }

    #[test]
    fn a_successor_without_net_info_keeps_the_old_one_and_unknown_members() {
        let old = node(r#"{"OS":"linux","NetInfo":{"PreferredDERP":900,"New":[1.50]}}"#);
        let new = read_successor(br#"{"OS":"macOS","Future":{"a":1e3}}"#, &old).unwrap();
        assert_eq!(
            std::str::from_utf8(&new.json).unwrap(),
            r#"{"Future":{"a":1e3},"NetInfo":{"PreferredDERP":900,"New":[1.50]},"OS":"macOS"}"#
        );
        assert_eq!(*new.decoded, decode_or_default(&new.json));
    }

    #[test]
    fn a_successor_with_net_info_stays_byte_for_byte() {
        let old = node(r#"{"NetInfo":{"PreferredDERP":900}}"#);
        let json = br#"{ "NetInfo": {"PreferredDERP":901} }"#;
        assert_eq!(*read_successor(json, &old).unwrap().json, *json);
    }

    #[test]
    fn a_successor_that_leaves_no_room_for_the_old_net_info_is_taken_without() {
        let old = node(r#"{"NetInfo":{"PreferredDERP":900}}"#);
        let json = format!(r#"{{"OS":"{}"}}"#, "x".repeat(MAX_HOSTINFO_BYTES - 10));
        let new = read_successor(json.as_bytes(), &old).unwrap();
        assert_eq!(*new.json, *json.as_bytes());
    }

    #[test]
    fn null_and_nothing_are_empty() {
        assert_eq!(*read(b"").unwrap().decoded, Hostinfo::default());
        assert_eq!(*read(b"null").unwrap().decoded, Hostinfo::default());
    }

    #[test]
    fn nonsense_and_too_much_are_refused() {
        assert!(read(b"{").is_err());
        assert!(read(b"[]").is_err());
        let long = format!(r#"{{"OS":"{}"}}"#, "x".repeat(MAX_HOSTINFO_BYTES));
        assert!(
            read(long.as_bytes())
                .unwrap_err()
                .to_string()
                .contains("65536")
        );
    }
}
