//! Decoding with the habits of Go's encoding/json.
//!
//! The text is parsed into a tree that keeps the order of members; the tree then feeds serde. Where
//! serde asks for a struct it names the struct's fields, so the members can be matched to them in
//! any case; where it asks for a map (`DERPLatency`) the keys stay as they are.

mod tree;

use serde::de::DeserializeOwned;

use tree::Tree;

/// The longest request body that is decoded: real ones take a few KiB, and a bound keeps a hostile
/// client from buying much memory with one request.
pub const MAX_REQUEST_BYTES: usize = 1 << 20;

/// Why a message was not understood.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    /// The message is longer than [`MAX_REQUEST_BYTES`].
    #[error("message of {0} bytes is longer than the allowed {MAX_REQUEST_BYTES}")]
    TooLong(usize),
    /// The message is not JSON, or a field has the wrong type or form.
    #[error("message is not understood: {0}")]
    Json(#[from] serde_json::Error),
}

/// Decodes one message: names in any case, unknown ones ignored, the last duplicate wins, `null` is
/// the empty value.
///
/// # Errors
/// When the message is too long, is not JSON, or a field has the wrong type; the text names the
/// field.
pub fn decode<T: DeserializeOwned>(json: &[u8]) -> Result<T, DecodeError> {
    if json.len() > MAX_REQUEST_BYTES {
        return Err(DecodeError::TooLong(json.len()));
    }
    let tree: Tree = serde_json::from_slice(json)?;
    Ok(T::deserialize(tree)?)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;
    use serde::Deserialize;

    use super::*;
    use crate::tailcfg::{MapRequest, MapResponse, RegisterRequest};
    use crate::types::RegionId;

    #[derive(Debug, Default, PartialEq, Deserialize)]
    #[serde(rename_all = "PascalCase", default)]
    struct Sample {
        #[serde(rename = "IPNVersion")]
        version: String,
        latency: BTreeMap<String, f64>,
        scores: BTreeMap<RegionId, f64>,
        inner: Option<Box<Self>>,
        many: Vec<Self>,
        count: u32,
        flag: Option<bool>,
    }

    fn sample(json: &str) -> Sample {
        decode(json.as_bytes()).unwrap()
    }

    #[test]
    fn names_match_in_any_case_at_every_depth_but_map_keys_stay() {
        let got = sample(
            r#"{"ipnversion":"1","Latency":{"1-V4":0.5,"1-v4":1},"INNER":{"IpnVersion":"2"},
                "many":[{"COUNT":3}],"scores":{"900":2}}"#,
        );
        assert_eq!(got.version, "1");
        assert_eq!(got.latency.len(), 2);
        assert_eq!(got.inner.unwrap().version, "2");
        assert_eq!(got.many[0].count, 3);
        assert_eq!(got.scores[&RegionId(900)], 2.0);
    }

    #[test]
    fn the_last_duplicate_wins_whatever_its_case() {
        assert_eq!(sample(r#"{"Count":1,"count":2}"#).count, 2);
        assert_eq!(sample(r#"{"count":2,"Count":1}"#).count, 1);
        assert_eq!(sample(r#"{"flag":true,"Flag":null}"#).flag, None);
    }

    #[test]
    fn null_is_the_empty_value_everywhere() {
        let json = r#"{"IPNVersion":null,"Latency":null,"Scores":{"1":null},"Inner":null,
            "Many":[null],"Count":null,"Flag":null}"#;
        let got = sample(json);
        assert_eq!(got.scores[&RegionId(1)], 0.0);
        assert_eq!(got.many, [Sample::default()]);
        assert_eq!(sample("null"), Sample::default());
    }

    #[test]
    fn an_error_names_the_field() {
        let error = decode::<Sample>(br#"{"Inner":{"Many":[{"Count":"x"}]}}"#).unwrap_err();
        assert!(
            error.to_string().contains("Inner: Many: Count: "),
            "{error}"
        );
    }

    #[test]
    fn a_message_over_the_limit_is_refused_unread() {
        let long = vec![b' '; MAX_REQUEST_BYTES + 1];
        assert!(matches!(
            decode::<Sample>(&long),
            Err(DecodeError::TooLong(_))
        ));
    }

    #[test]
    fn deep_nesting_is_an_error_not_a_stack_overflow() {
        let json = "[".repeat(100_000);
        assert!(decode::<Sample>(json.as_bytes()).is_err());
        let json = r#"{"inner":"#.repeat(50_000);
        assert!(decode::<Sample>(json.as_bytes()).is_err());
    }

    /// JSON-like noise around the names that the messages use.
    fn arb_json() -> impl Strategy<Value = String> {
        let leaf = prop_oneof![
            Just("null".to_owned()),
            any::<bool>().prop_map(|b| b.to_string()),
            any::<i64>().prop_map(|n| n.to_string()),
            any::<f64>()
                .prop_filter("finite", |f| f.is_finite())
                .prop_map(|f| f.to_string()),
            "[ -~]{0,12}".prop_map(|s| serde_json::Value::from(s).to_string()),
            Just("\"nodekey:00\"".to_owned()),
            Just("\"0001-01-01T00:00:00Z\"".to_owned()),
        ];
        let name = prop_oneof![
            Just("Hostinfo"),
            Just("HostInfo"),
            Just("NetInfo"),
            Just("NodeKey"),
            Just("Version"),
            Just("Endpoints"),
            Just("Expiry"),
            Just("Peers"),
            Just("Node"),
            Just("DERPMap"),
            Just("Regions"),
            Just("Auth"),
            Just("RoutableIPs"),
            Just("Services"),
            Just("CapMap"),
            Just("PacketFilters"),
            Just("SignatureType"),
            Just("PreferredDERP"),
        ];
        leaf.prop_recursive(5, 64, 6, move |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..6)
                    .prop_map(|v| format!("[{}]", v.join(","))),
                prop::collection::vec((name.clone(), inner), 0..6).prop_map(|members| {
                    let members: Vec<_> = members
                        .iter()
                        .map(|(name, value)| format!("\"{name}\":{value}"))
                        .collect();
                    format!("{{{}}}", members.join(","))
                }),
            ]
        })
    }

    proptest! {
        #[test]
        fn no_bytes_panic_the_decoder(bytes in prop::collection::vec(any::<u8>(), 0..512)) {
            let _ = decode::<MapRequest>(&bytes);
            let _ = decode::<RegisterRequest>(&bytes);
        }

        #[test]
        fn no_json_panics_the_decoder(json in arb_json()) {
            let _ = decode::<MapRequest>(json.as_bytes());
            let _ = decode::<RegisterRequest>(json.as_bytes());
            let _ = decode::<MapResponse>(json.as_bytes());
        }
    }
}
