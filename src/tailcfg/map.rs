//! `tailcfg.MapResponse`: one message of a map stream.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{
    ClientVersion, ControlDialPlan, Debug, DerpMap, DisplayMessage, DnsConfig, FilterRule, Node,
    PeerChange, PingRequest, SshPolicy, UserProfile, is_default,
};
use crate::types::{NodeId, Timestamp};

/// `tailcfg.MapResponse`. `None` leaves a field out, which means "unchanged" after the first
/// message of a stream.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct MapResponse {
    /// Nothing but a sign of life; everything about nodes is ignored by clients.
    #[serde(skip_serializing_if = "is_default")]
    pub keep_alive: bool,
    /// A ping to answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ping_request: Option<PingRequest>,
    /// A URL to open.
    #[serde(rename = "PopBrowserURL", skip_serializing_if = "is_default")]
    pub pop_browser_url: String,
    /// The receiver itself; required in the first message.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node: Option<Node>,
    /// Relays.
    #[serde(rename = "DERPMap", skip_serializing_if = "Option::is_none")]
    pub derp_map: Option<DerpMap>,
    /// All peers, sorted by id. Empty clears nothing in Go, but everything in tailscale-rs.
    #[serde(skip_serializing_if = "is_default")]
    pub peers: Vec<Node>,
    /// Peers that are new or changed as a whole, sorted by id.
    #[serde(skip_serializing_if = "is_default")]
    pub peers_changed: Vec<Node>,
    /// Peers that are gone.
    #[serde(skip_serializing_if = "is_default")]
    pub peers_removed: Vec<NodeId>,
    /// Changed fields of known peers.
    #[serde(skip_serializing_if = "is_default")]
    pub peers_changed_patch: Vec<PeerChange>,
    /// true sets `LastSeen` to now, false clears it.
    #[serde(skip_serializing_if = "is_default")]
    pub peer_seen_change: BTreeMap<NodeId, bool>,
    /// Sets `Online`.
    #[serde(skip_serializing_if = "is_default")]
    pub online_change: BTreeMap<NodeId, bool>,
    /// DNS; replaces everything.
    #[serde(rename = "DNSConfig", skip_serializing_if = "Option::is_none")]
    pub dns_config: Option<DnsConfig>,
    /// Identity of the tailnet; clients key their profiles on it.
    #[serde(skip_serializing_if = "is_default")]
    pub domain: String,
    /// Whether the client lists its services in its Hostinfo.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub collect_services: Option<bool>,
    /// The chunk `base` of the filter; empty blocks everything.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub packet_filter: Option<Vec<FilterRule>>,
    /// Named chunks of the filter (capver 81); `None` deletes a chunk, `*` means all.
    #[serde(skip_serializing_if = "is_default")]
    pub packet_filters: BTreeMap<String, Option<Vec<FilterRule>>>,
    /// Owners of nodes, before or with the first node that names them.
    #[serde(skip_serializing_if = "is_default")]
    pub user_profiles: Vec<UserProfile>,
    /// Health problems (before capver 117); empty = healthy.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub health: Option<Vec<String>>,
    /// Health messages (capver 117); `None` deletes one, `*` means all.
    #[serde(skip_serializing_if = "is_default")]
    pub display_messages: BTreeMap<String, Option<DisplayMessage>>,
    /// SSH logins to the receiver.
    #[serde(rename = "SSHPolicy", skip_serializing_if = "Option::is_none")]
    pub ssh_policy: Option<SshPolicy>,
    /// The control plane's clock.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub control_time: Option<Timestamp>,
    /// State of tailnet lock.
    #[serde(rename = "TKAInfo", skip_serializing_if = "Option::is_none")]
    pub tka_info: Option<TkaInfo>,
    /// Switches flow logs on together with the node's id.
    #[serde(
        rename = "DomainDataPlaneAuditLogID",
        skip_serializing_if = "is_default"
    )]
    pub domain_data_plane_audit_log_id: String,
    /// Settings for debugging and log upload.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub debug: Option<Debug>,
    /// How to reach the control plane next time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub control_dial_plan: Option<ControlDialPlan>,
    /// Hints about updates.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_version: Option<ClientVersion>,
}

/// `tailcfg.TKAInfo`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct TkaInfo {
    /// Hash of the newest update, base32.
    #[serde(skip_serializing_if = "is_default")]
    pub head: String,
    /// Lock was switched off.
    #[serde(skip_serializing_if = "is_default")]
    pub disabled: bool,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tailcfg::decode;

    #[test]
    fn a_keep_alive_has_the_exact_bytes_that_clients_remember() {
        let message = MapResponse {
            keep_alive: true,
            ..MapResponse::default()
        };
        assert_eq!(
            serde_json::to_string(&message).unwrap(),
            r#"{"KeepAlive":true}"#
        );
    }

    #[test]
    fn emptiness_that_means_something_is_written() {
        let message = MapResponse {
            packet_filters: [("base".to_owned(), Some(vec![])), ("*".to_owned(), None)].into(),
            health: Some(vec![]),
            collect_services: Some(false),
            dns_config: Some(DnsConfig::default()),
            ..MapResponse::default()
        };
        let json = serde_json::to_string(&message).unwrap();
        assert_eq!(
            json,
            r#"{"DNSConfig":{},"CollectServices":false,"PacketFilters":{"*":null,"base":[]},"Health":[]}"#
        );
        assert_eq!(decode::<MapResponse>(json.as_bytes()).unwrap(), message);
    }

    #[test]
    fn maps_keyed_by_node_have_decimal_text_as_keys() {
        let json = r#"{"OnlineChange":{"7":true}}"#;
        let message: MapResponse = decode(json.as_bytes()).unwrap();
        assert_eq!(message.online_change, [(NodeId(7), true)].into());
        assert_eq!(serde_json::to_string(&message).unwrap(), json);
    }
}
