//! `tailcfg.Node` and `tailcfg.PeerChange`.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Base64, Hostinfo, Resolver, absent, is_default};
use crate::types::{DiscoKey, MachineKey, NodeId, NodeKey, RegionId, Timestamp, UserId};

/// Node capability to its values (`tailcfg.NodeCapMap`).
pub type CapMap = BTreeMap<String, Vec<Value>>;

/// `tailcfg.Node`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Node {
    /// Never reused.
    #[serde(rename = "ID")]
    pub id: NodeId,
    /// Opaque and stable: the decimal id.
    #[serde(rename = "StableID")]
    pub stable_id: String,
    /// FQDN with its trailing dot; the part behind the first label is the MagicDNS suffix.
    pub name: String,
    /// Owner; a pseudo user for tagged nodes.
    pub user: UserId,
    /// Who shared the node into this tailnet.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sharer: Option<UserId>,
    /// WireGuard key.
    pub key: NodeKey,
    /// When that key ceases to be valid; absent = never.
    #[serde(with = "absent", skip_serializing_if = "Option::is_none")]
    pub key_expiry: Option<Timestamp>,
    /// Tailnet-lock signature of the key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key_signature: Option<Base64>,
    /// Noise key; written for the node itself.
    #[serde(with = "absent", skip_serializing_if = "Option::is_none")]
    pub machine: Option<MachineKey>,
    /// Path discovery key; without it the node is reached by relay only.
    #[serde(with = "absent", skip_serializing_if = "Option::is_none")]
    pub disco_key: Option<DiscoKey>,
    /// Own addresses, IPv4 first.
    pub addresses: Vec<IpNet>,
    /// What the node may send and receive; absent = its addresses (capver 112).
    #[serde(rename = "AllowedIPs", skip_serializing_if = "Option::is_none")]
    pub allowed_ips: Option<Vec<IpNet>>,
    /// Where it may be reached; in a delta, `Some([])` clears.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub endpoints: Option<Vec<SocketAddr>>,
    /// Home relay (capver 111); 0 = none.
    #[serde(rename = "HomeDERP", skip_serializing_if = "is_default")]
    pub home_derp: RegionId,
    /// What it says about itself, reduced for peers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hostinfo: Option<Hostinfo>,
    /// When it first registered.
    #[serde(with = "absent", skip_serializing_if = "Option::is_none")]
    pub created: Option<Timestamp>,
    /// Capability version of the node's client.
    #[serde(skip_serializing_if = "is_default")]
    pub cap: u16,
    /// `tag:…`.
    #[serde(skip_serializing_if = "is_default")]
    pub tags: Vec<String>,
    /// Subnet routes for which it is primary, without exit routes.
    #[serde(skip_serializing_if = "is_default")]
    pub primary_routes: Vec<IpNet>,
    /// Only while offline.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_seen: Option<Timestamp>,
    /// Absent = not known; a change from absent is lost on clients, so it is always sent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub online: Option<bool>,
    /// The node may use the tailnet.
    #[serde(skip_serializing_if = "is_default")]
    pub machine_authorized: bool,
    /// Node capabilities; every message with a node carries all of them.
    #[serde(skip_serializing_if = "is_default")]
    pub cap_map: CapMap,
    /// The peer is reached for its peer API only and is not checked by tailnet lock.
    #[serde(rename = "UnsignedPeerAPIOnly", skip_serializing_if = "is_default")]
    pub unsigned_peer_api_only: bool,
    /// Switches flow logs on together with the domain's id.
    #[serde(rename = "DataPlaneAuditLogID", skip_serializing_if = "is_default")]
    pub data_plane_audit_log_id: String,
    /// The key has expired.
    #[serde(skip_serializing_if = "is_default")]
    pub expired: bool,
    /// The receiver appears to this peer under this address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub self_node_v4_masq_addr_for_this_peer: Option<IpAddr>,
    /// The receiver appears to this peer under this address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub self_node_v6_masq_addr_for_this_peer: Option<IpAddr>,
    /// A plain WireGuard peer.
    #[serde(skip_serializing_if = "is_default")]
    pub is_wire_guard_only: bool,
    /// May be contacted but may not initiate.
    #[serde(skip_serializing_if = "is_default")]
    pub is_jailed: bool,
    /// Resolvers of a plain WireGuard exit node.
    #[serde(rename = "ExitNodeDNSResolvers", skip_serializing_if = "is_default")]
    pub exit_node_dns_resolvers: Vec<Resolver>,
}

/// `tailcfg.PeerChange`: the fields of a known peer that changed.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct PeerChange {
    /// Whose fields; never 0.
    #[serde(rename = "NodeID")]
    pub node_id: NodeId,
    /// 0 = unchanged.
    #[serde(rename = "DERPRegion", skip_serializing_if = "is_default")]
    pub derp_region: RegionId,
    /// 0 = unchanged.
    #[serde(skip_serializing_if = "is_default")]
    pub cap: u16,
    /// Replaces all capabilities; empty clears.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cap_map: Option<CapMap>,
    /// Replaces all endpoints; empty clears.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub endpoints: Option<Vec<SocketAddr>>,
    /// A new WireGuard key.
    #[serde(with = "absent", skip_serializing_if = "Option::is_none")]
    pub key: Option<NodeKey>,
    /// Its signature; empty clears.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key_signature: Option<Base64>,
    /// A new path discovery key.
    #[serde(with = "absent", skip_serializing_if = "Option::is_none")]
    pub disco_key: Option<DiscoKey>,
    /// Connected to the control plane or not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub online: Option<bool>,
    /// When the node went offline.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_seen: Option<Timestamp>,
    /// A new expiry; [`Timestamp::GO_ZERO`] = never.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key_expiry: Option<Timestamp>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tailcfg::decode;

    #[test]
    fn a_node_of_the_reference_round_trips() {
        let json = format!(
            r#"{{"ID":1,"StableID":"1","Name":"laptop.example.net.","User":1,"Key":"nodekey:{key}","Machine":"mkey:{key}","DiscoKey":"discokey:{key}","Addresses":["100.64.0.1/32","fd7a:115c:a1e0::1/128"],"AllowedIPs":["100.64.0.1/32","fd7a:115c:a1e0::1/128"],"Endpoints":["192.0.2.1:41641","[2001:db8::1]:41641"],"HomeDERP":900,"Created":"2026-11-20T10:00:00Z","Cap":145,"Online":true,"MachineAuthorized":true,"CapMap":{{"default-auto-update":[false],"https://tailscale.com/cap/ssh":[]}}}}"#,
            key = "1".repeat(64)
        );
        let node: Node = decode(json.as_bytes()).unwrap();
        assert_eq!(serde_json::to_string(&node).unwrap(), json);
    }

    #[test]
    fn an_empty_list_of_endpoints_is_written_and_an_absent_one_is_not() {
        let change = PeerChange {
            node_id: NodeId(2),
            endpoints: Some(vec![]),
            ..Default::default()
        };
        assert_eq!(
            serde_json::to_string(&change).unwrap(),
            r#"{"NodeID":2,"Endpoints":[]}"#
        );
    }

    #[test]
    fn a_patch_to_no_expiry_is_the_zero_time() {
        let change = PeerChange {
            node_id: NodeId(2),
            key_expiry: Some(Timestamp::GO_ZERO),
            ..Default::default()
        };
        let json = serde_json::to_string(&change).unwrap();
        assert_eq!(json, r#"{"NodeID":2,"KeyExpiry":"0001-01-01T00:00:00Z"}"#);
        assert_eq!(decode::<PeerChange>(json.as_bytes()).unwrap(), change);
    }
}
