//! The Hostinfo of a request as the client wrote it.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde_json::value::RawValue;

/// The member `Hostinfo` of a request, name in any case, its text unchanged; empty when it is
/// absent or null, or when the request is no object.
///
/// The state stores it like this, so that fields of newer clients reach their peers.
pub(super) fn raw_member(request: &[u8]) -> Bytes {
    let Ok(members) = serde_json::from_slice::<BTreeMap<String, &RawValue>>(request) else {
        return Bytes::new();
    };
    let hostinfo = members
        .into_iter()
        .find(|(name, _)| name.eq_ignore_ascii_case("Hostinfo"));
    match hostinfo {
        Some((_, value)) if value.get() != "null" => Bytes::copy_from_slice(value.get().as_bytes()),
        Some(_) | None => Bytes::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_is_unchanged_whatever_the_case_of_the_name() {
        let body = br#"{"Version":130,"HostInfo":{ "OS" : "linux","Future":[1.50]},"X":1}"#;
        assert_eq!(
            raw_member(body),
            br#"{ "OS" : "linux","Future":[1.50]}"#.as_slice()
        );
    }

    #[test]
    fn absent_null_and_nonsense_are_empty() {
        for body in ["{}", r#"{"Hostinfo":null}"#, "[]", "", "{\"Hostinfo\":"] {
            assert!(raw_member(body.as_bytes()).is_empty(), "{body}");
        }
    }
}
