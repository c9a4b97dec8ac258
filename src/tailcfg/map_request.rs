//! `/machine/map`: `tailcfg.MapRequest`.

use serde::{Deserialize, Serialize};

use super::{Base64, Hostinfo, absent, is_default};
use crate::types::{DiscoKey, NodeKey};

/// `tailcfg.MapRequest`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct MapRequest {
    /// Capability version of the client.
    pub version: u32,
    /// `zstd`, or empty for plain JSON frames.
    #[serde(skip_serializing_if = "is_default")]
    pub compress: String,
    /// The client would like keep-alives.
    #[serde(skip_serializing_if = "is_default")]
    pub keep_alive: bool,
    /// Which node asks; checked against the machine key of the session.
    pub node_key: NodeKey,
    /// New at every client start.
    #[serde(with = "absent")]
    pub disco_key: Option<DiscoKey>,
    /// Hardware key, `hwattestpub:…` (capver 130).
    #[serde(skip_serializing_if = "is_default")]
    pub hardware_attestation_key: String,
    /// Signature by that key.
    #[serde(skip_serializing_if = "Base64::is_empty")]
    pub hardware_attestation_key_signature: Base64,
    /// A long poll.
    #[serde(skip_serializing_if = "is_default")]
    pub stream: bool,
    /// What the client says about itself.
    pub hostinfo: Option<Hostinfo>,
    /// Part of `tailcfg`, sent by no known client.
    #[serde(skip_serializing_if = "is_default")]
    pub map_session_handle: String,
    /// Part of `tailcfg`, sent by no known client.
    #[serde(skip_serializing_if = "is_default")]
    pub map_session_seq: i64,
    /// `ip:port` as the client wrote them: one that is not understood spoils only itself.
    #[serde(skip_serializing_if = "is_default")]
    pub endpoints: Vec<String>,
    /// `tailcfg.EndpointType` of each.
    #[serde(skip_serializing_if = "is_default")]
    pub endpoint_types: Vec<i64>,
    /// Head of the client's tailnet-lock chain.
    #[serde(rename = "TKAHead", skip_serializing_if = "is_default")]
    pub tka_head: String,
    /// Nothing in the request is stored (clients before capver 68).
    #[serde(skip_serializing_if = "is_default")]
    pub read_only: bool,
    /// The answer needs no peers; with `stream` unset, the answer is ignored.
    #[serde(skip_serializing_if = "is_default")]
    pub omit_peers: bool,
    /// Health flags of the client.
    #[serde(skip_serializing_if = "is_default")]
    pub debug_flags: Vec<String>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tailcfg::decode;
    use crate::types::RegionId;

    #[test]
    fn a_zero_disco_key_is_absent() {
        let json = format!(r#"{{"DiscoKey":"discokey:{}"}}"#, "0".repeat(64));
        assert_eq!(
            decode::<MapRequest>(json.as_bytes()).unwrap().disco_key,
            None
        );
    }

    #[test]
    fn tailscale_rs_writes_host_info_and_its_home_relay_is_understood() {
        let json =
            r#"{"HostInfo":{"NetInfo":{"PreferredDerp":901}},"Stream":true,"OmitPeers":false}"#;
        let request: MapRequest = decode(json.as_bytes()).unwrap();
        let home = request.hostinfo.unwrap().net_info.unwrap().home_derp();
        assert_eq!((request.stream, home), (true, Some(RegionId(901))));
    }
}
