//! `tailcfg.Hostinfo`: what a client says about itself, stored and partly passed on to peers.

use std::collections::BTreeMap;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::is_default;
use crate::types::RegionId;

/// `tailcfg.Hostinfo`. Every field is omitted when empty.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Hostinfo {
    /// Version of the client, `1.84.0-t…-g…`.
    #[serde(rename = "IPNVersion", skip_serializing_if = "is_default")]
    pub ipn_version: String,
    /// Log id of the user interface.
    #[serde(rename = "FrontendLogID", skip_serializing_if = "is_default")]
    pub frontend_log_id: String,
    /// Log id of the daemon.
    #[serde(rename = "BackendLogID", skip_serializing_if = "is_default")]
    pub backend_log_id: String,
    /// `linux`, `macOS`, `windows`, …
    #[serde(rename = "OS", skip_serializing_if = "is_default")]
    pub os: String,
    /// Version of the operating system.
    #[serde(rename = "OSVersion", skip_serializing_if = "is_default")]
    pub os_version: String,
    /// Whether it runs in a container, if it knows.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub container: Option<bool>,
    /// Kind of hosting environment.
    #[serde(skip_serializing_if = "is_default")]
    pub env: String,
    /// Linux distribution.
    #[serde(skip_serializing_if = "is_default")]
    pub distro: String,
    /// Its version.
    #[serde(skip_serializing_if = "is_default")]
    pub distro_version: String,
    /// Its code name.
    #[serde(skip_serializing_if = "is_default")]
    pub distro_code_name: String,
    /// Program that embeds the client.
    #[serde(skip_serializing_if = "is_default")]
    pub app: String,
    /// Whether a desktop was detected, if it knows.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub desktop: Option<bool>,
    /// How the client was packaged.
    #[serde(skip_serializing_if = "is_default")]
    pub package: String,
    /// Model of a phone or appliance.
    #[serde(skip_serializing_if = "is_default")]
    pub device_model: String,
    /// Token for push notifications.
    #[serde(skip_serializing_if = "is_default")]
    pub push_device_token: String,
    /// Host name as the client sees it.
    #[serde(skip_serializing_if = "is_default")]
    pub hostname: String,
    /// The client blocks inbound connections.
    #[serde(skip_serializing_if = "is_default")]
    pub shields_up: bool,
    /// The node exists in this netmap only because something is shared with it.
    #[serde(skip_serializing_if = "is_default")]
    pub sharee_node: bool,
    /// The client was started without logs.
    #[serde(skip_serializing_if = "is_default")]
    pub no_logs_no_support: bool,
    /// The client allows remote changes of its configuration.
    #[serde(skip_serializing_if = "is_default")]
    pub remote_config: bool,
    /// The client would like Funnel wired up.
    #[serde(skip_serializing_if = "is_default")]
    pub wire_ingress: bool,
    /// Funnel is on (capver 113).
    #[serde(skip_serializing_if = "is_default")]
    pub ingress_enabled: bool,
    /// The administrator of the node allows remote updates.
    #[serde(skip_serializing_if = "is_default")]
    pub allows_update: bool,
    /// Machine type, `x86_64`.
    #[serde(skip_serializing_if = "is_default")]
    pub machine: String,
    /// `GOARCH`.
    #[serde(skip_serializing_if = "is_default")]
    pub go_arch: String,
    /// `GOARM`, `GOAMD64`, …
    #[serde(skip_serializing_if = "is_default")]
    pub go_arch_var: String,
    /// Version of Go that built the client.
    #[serde(skip_serializing_if = "is_default")]
    pub go_version: String,
    /// Advertised routes, exit routes among them.
    #[serde(rename = "RoutableIPs", skip_serializing_if = "is_default")]
    pub routable_ips: Vec<IpNet>,
    /// Tags that the node asks for.
    #[serde(skip_serializing_if = "is_default")]
    pub request_tags: Vec<String>,
    /// MAC addresses for wake-on-LAN.
    #[serde(rename = "WoLMACs", skip_serializing_if = "is_default")]
    pub wol_macs: Vec<String>,
    /// Ports on which the node listens, the peer API's among them.
    #[serde(skip_serializing_if = "is_default")]
    pub services: Vec<Service>,
    /// What the last network check found.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub net_info: Option<NetInfo>,
    /// Present when Tailscale SSH is on.
    #[serde(rename = "sshHostKeys", skip_serializing_if = "is_default")]
    pub ssh_host_keys: Vec<String>,
    /// Cloud provider.
    #[serde(skip_serializing_if = "is_default")]
    pub cloud: String,
    /// Netstack instead of a TUN device, if it knows.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub userspace: Option<bool>,
    /// Netstack for subnet routes, if it knows.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub userspace_router: Option<bool>,
    /// The node offers to be an app connector, if it knows.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub app_connector: Option<bool>,
    /// Changes when the node's VIP services change.
    #[serde(skip_serializing_if = "is_default")]
    pub services_hash: String,
    /// The node offers to relay for its peers.
    #[serde(skip_serializing_if = "is_default")]
    pub peer_relay: bool,
    /// Stable id of the exit node in use.
    #[serde(rename = "ExitNodeID", skip_serializing_if = "is_default")]
    pub exit_node_id: String,
    /// Where the node is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub location: Option<Location>,
    /// Its trusted platform module.
    #[serde(rename = "TPM", skip_serializing_if = "Option::is_none")]
    pub tpm: Option<TpmInfo>,
    /// Whether the client's state file is encrypted, if it knows.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state_encrypted: Option<bool>,
}

/// `tailcfg.NetInfo`. Every field is omitted when empty.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct NetInfo {
    /// The NAT maps differently per destination.
    #[serde(
        rename = "MappingVariesByDestIP",
        skip_serializing_if = "Option::is_none"
    )]
    pub mapping_varies_by_dest_ip: Option<bool>,
    /// IPv6 works.
    #[serde(rename = "WorkingIPv6", skip_serializing_if = "Option::is_none")]
    pub working_ipv6: Option<bool>,
    /// The operating system has IPv6.
    #[serde(rename = "OSHasIPv6", skip_serializing_if = "Option::is_none")]
    pub os_has_ipv6: Option<bool>,
    /// UDP works.
    #[serde(rename = "WorkingUDP", skip_serializing_if = "Option::is_none")]
    pub working_udp: Option<bool>,
    /// ICMPv4 works.
    #[serde(rename = "WorkingICMPv4", skip_serializing_if = "Option::is_none")]
    pub working_icmpv4: Option<bool>,
    /// A port mapping is held.
    #[serde(skip_serializing_if = "is_default")]
    pub have_port_map: bool,
    /// UPnP was seen.
    #[serde(rename = "UPnP", skip_serializing_if = "Option::is_none")]
    pub upnp: Option<bool>,
    /// NAT-PMP was seen.
    #[serde(rename = "PMP", skip_serializing_if = "Option::is_none")]
    pub pmp: Option<bool>,
    /// PCP was seen.
    #[serde(rename = "PCP", skip_serializing_if = "Option::is_none")]
    pub pcp: Option<bool>,
    /// Home relay; 0 = none.
    #[serde(rename = "PreferredDERP", skip_serializing_if = "is_default")]
    pub preferred_derp: i64,
    /// `wired`, `wifi`, `mobile`.
    #[serde(skip_serializing_if = "is_default")]
    pub link_type: String,
    /// `<region>-v4` or `-v6` to seconds.
    #[serde(rename = "DERPLatency", skip_serializing_if = "is_default")]
    pub derp_latency: BTreeMap<String, f64>,
    /// Which Linux firewall the client drives.
    #[serde(skip_serializing_if = "is_default")]
    pub firewall_mode: String,
}

impl NetInfo {
    /// The home relay; `None` when there is none or the number is no region.
    pub fn home_derp(&self) -> Option<RegionId> {
        u16::try_from(self.preferred_derp)
            .ok()
            .filter(|id| *id != 0)
            .map(RegionId)
    }
}

/// `tailcfg.Service`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Service {
    /// `tcp`, `udp`, `peerapi4`, `peerapi6` or `peerapi-dns-proxy`.
    pub proto: String,
    /// Port; 1 for `peerapi-dns-proxy`.
    pub port: u16,
    /// Name of the process, or empty.
    #[serde(skip_serializing_if = "is_default")]
    pub description: String,
}

/// `tailcfg.Location`. Every field is omitted when empty.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Location {
    /// Name of the country.
    #[serde(skip_serializing_if = "is_default")]
    pub country: String,
    /// ISO 3166-1 alpha-2.
    #[serde(skip_serializing_if = "is_default")]
    pub country_code: String,
    /// Name of the city.
    #[serde(skip_serializing_if = "is_default")]
    pub city: String,
    /// Code that tells cities of one name apart.
    #[serde(skip_serializing_if = "is_default")]
    pub city_code: String,
    /// Degrees.
    #[serde(skip_serializing_if = "is_default")]
    pub latitude: f64,
    /// Degrees.
    #[serde(skip_serializing_if = "is_default")]
    pub longitude: f64,
    /// Higher is preferred.
    #[serde(skip_serializing_if = "is_default")]
    pub priority: i64,
}

/// `tailcfg.TPMInfo`. Every field is omitted when empty.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct TpmInfo {
    /// Four-letter code of the maker.
    #[serde(skip_serializing_if = "is_default")]
    pub manufacturer: String,
    /// Name of the vendor.
    #[serde(skip_serializing_if = "is_default")]
    pub vendor: String,
    /// Model number.
    #[serde(skip_serializing_if = "is_default")]
    pub model: i64,
    /// Firmware version.
    #[serde(skip_serializing_if = "is_default")]
    pub firmware_version: u64,
    /// Revision of the specification.
    #[serde(skip_serializing_if = "is_default")]
    pub spec_revision: i64,
    /// Family, `2.0`.
    #[serde(skip_serializing_if = "is_default")]
    pub family_indicator: String,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tailcfg::decode;

    #[test]
    fn go_json_round_trips_byte_for_byte() {
        let json = concat!(
            r#"{"IPNVersion":"1.84.0","BackendLogID":"b","OS":"linux","OSVersion":"6.1","#,
            r#""Container":true,"Hostname":"laptop","ShieldsUp":true,"GoArch":"amd64","#,
            r#""RoutableIPs":["10.0.0.0/8","::/0"],"RequestTags":["tag:web"],"WoLMACs":["00:11"],"#,
            r#""Services":[{"Proto":"peerapi4","Port":39999}],"#,
            r#""NetInfo":{"MappingVariesByDestIP":false,"WorkingUDP":true,"HavePortMap":true,"#,
            r#""UPnP":false,"PreferredDERP":900,"DERPLatency":{"900-v4":0.012,"901-V6":1.5}},"#,
            r#""sshHostKeys":["ssh-ed25519 AAAA"],"ExitNodeID":"7","#,
            r#""Location":{"CountryCode":"DE","Latitude":52.5},"TPM":{"Manufacturer":"INTC","Model":3},"#,
            r#""StateEncrypted":false}"#
        );
        let hostinfo: Hostinfo = decode(json.as_bytes()).unwrap();
        assert_eq!(serde_json::to_string(&hostinfo).unwrap(), json);
    }

    #[test]
    fn an_empty_hostinfo_is_an_empty_object() {
        assert_eq!(serde_json::to_string(&Hostinfo::default()).unwrap(), "{}");
        assert_eq!(decode::<Hostinfo>(b"null").unwrap(), Hostinfo::default());
    }

    #[test]
    fn a_home_relay_outside_the_range_is_no_home_relay() {
        for (wire, expected) in [
            (0, None),
            (-1, None),
            (70_000, None),
            (900, Some(RegionId(900))),
        ] {
            let net = NetInfo {
                preferred_derp: wire,
                ..NetInfo::default()
            };
            assert_eq!(net.home_derp(), expected);
        }
    }
}
