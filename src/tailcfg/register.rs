//! `/machine/register`: `tailcfg.RegisterRequest` and `tailcfg.RegisterResponse`.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::{Base64, Hostinfo, Login, User, absent, is_default};
use crate::types::{NodeKey, Timestamp};

/// `tailcfg.RegisterRequest`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct RegisterRequest {
    /// Capability version of the client.
    pub version: u32,
    /// The key to register; zero is not a key.
    pub node_key: NodeKey,
    /// An earlier key of this node; clients keep sending it long after the rotation.
    #[serde(with = "absent")]
    pub old_node_key: Option<NodeKey>,
    /// Tailnet-lock key, `nlpub:…`.
    #[serde(rename = "NLKey")]
    pub nl_key: String,
    /// How the client proves that it may join.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub auth: Option<RegisterAuth>,
    /// Unix second 123 means logout; other values ask for an earlier expiry.
    #[serde(with = "absent")]
    pub expiry: Option<Timestamp>,
    /// The `AuthURL` that the client waits for, or empty.
    pub followup: String,
    /// What the client says about itself.
    pub hostinfo: Option<Hostinfo>,
    /// The node asks to be deleted once it is gone.
    #[serde(skip_serializing_if = "is_default")]
    pub ephemeral: bool,
    /// Tailnet-lock signature of the node key.
    pub node_key_signature: Option<Base64>,
    /// Only sent with device certificates, but always stamped by Go clients.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timestamp: Option<Timestamp>,
    /// Which tailnet the client's policy asks for.
    #[serde(skip_serializing_if = "is_default")]
    pub tailnet: String,
}

impl RegisterRequest {
    /// The presented auth key, if there is one.
    pub fn auth_key(&self) -> Option<&AuthSecret> {
        self.auth
            .as_ref()
            .map(|auth| &auth.auth_key)
            .filter(|key| !key.is_empty())
    }
}

/// `tailcfg.RegisterResponseAuth`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct RegisterAuth {
    /// A pre-auth key, or empty.
    #[serde(skip_serializing_if = "AuthSecret::is_empty")]
    pub auth_key: AuthSecret,
}

/// The text of a presented auth key; shows nothing of it when printed.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct AuthSecret(String);

impl AuthSecret {
    /// Wraps the text.
    pub const fn new(text: String) -> Self {
        Self(text)
    }

    /// The text; handle with care.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// Whether the client sent none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Debug for AuthSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AuthSecret(redacted)")
    }
}

impl Serialize for AuthSecret {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for AuthSecret {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(Self)
    }
}

/// `tailcfg.RegisterResponse`: every field is always written.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct RegisterResponse {
    /// Owner of the node.
    pub user: User,
    /// Identity behind the login.
    pub login: Login,
    /// The client must make a new node key and register again.
    pub node_key_expired: bool,
    /// tailscale-rs takes false for failure.
    pub machine_authorized: bool,
    /// Where the user logs in; empty once authorised.
    #[serde(rename = "AuthURL")]
    pub auth_url: String,
    /// Tailnet lock only.
    pub node_key_signature: Option<Base64>,
    /// Shown to the user verbatim.
    pub error: String,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tailcfg::decode;

    #[test]
    fn a_response_always_writes_every_field() {
        let json = serde_json::to_string(&RegisterResponse::default()).unwrap();
        assert_eq!(
            json,
            r#"{"User":{"ID":0,"DisplayName":""},"Login":{"ID":0,"Provider":"","LoginName":"","DisplayName":""},"NodeKeyExpired":false,"MachineAuthorized":false,"AuthURL":"","NodeKeySignature":null,"Error":""}"#
        );
    }

    #[test]
    fn a_go_clients_first_request_has_zero_values_that_mean_absent() {
        let zeros = "0".repeat(64);
        let json = format!(
            r#"{{"Version":145,"NodeKey":"nodekey:{}","OldNodeKey":"nodekey:{zeros}",
            "NLKey":"nlpub:{zeros}","Auth":{{"AuthKey":"secret"}},"Expiry":"0001-01-01T00:00:00Z",
            "Followup":"","Hostinfo":{{"OS":"linux"}},"NodeKeySignature":null,
            "SignatureType":"signature-v2","Timestamp":"2026-11-21T02:00:00.123456789+01:00"}}"#,
            "a".repeat(64)
        );
        let request: RegisterRequest = decode(json.as_bytes()).unwrap();
        assert_eq!((request.old_node_key, request.expiry), (None, None));
        assert_eq!(request.auth_key().map(AuthSecret::expose), Some("secret"));
        assert!(!format!("{request:?}").contains("secret"));
        let written = serde_json::to_string(&request).unwrap();
        assert!(
            written.contains(&format!(r#""OldNodeKey":"nodekey:{zeros}""#)),
            "{written}"
        );
        assert!(
            written.contains(r#""Expiry":"0001-01-01T00:00:00Z""#),
            "{written}"
        );
    }

    #[test]
    fn tailscale_rs_spellings_and_missing_fields_decode() {
        let json = format!(
            r#"{{"Version":130,"NodeKey":"nodekey:{}","SignatureType":0,
            "Hostinfo":{{"IpnVersion":"x","Os":"linux","RoutableIps":["10.0.0.0/8"],
            "NetInfo":{{"PreferredDerp":900,"DerpLatency":{{"900-v4":0.01}},"WorkingUdp":true}}}}}}"#,
            "b".repeat(64)
        );
        let request: RegisterRequest = decode(json.as_bytes()).unwrap();
        let hostinfo = request.hostinfo.unwrap();
        assert_eq!(
            (hostinfo.ipn_version.as_str(), hostinfo.os.as_str()),
            ("x", "linux")
        );
        let net = hostinfo.net_info.unwrap();
        assert_eq!((net.preferred_derp, net.working_udp), (900, Some(true)));
        assert_eq!(net.derp_latency["900-v4"], 0.01);
    }

    #[test]
    fn logout_is_recognised_in_any_offset() {
        let request: RegisterRequest =
            decode(br#"{"Expiry":"1970-01-01T09:02:03+09:00"}"#).unwrap();
        assert_eq!(request.expiry, Some(Timestamp::from_unix_ms(123_000)));
    }
}
