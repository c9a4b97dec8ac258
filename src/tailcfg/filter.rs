//! Packet filters: `tailcfg.FilterRule` lists what may reach a node.

use std::collections::BTreeMap;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::is_default;

/// `tailcfg.FilterRule`. Has either destination ports or grants: tailscale-rs refuses a rule with
/// both or neither, so rules are made by [`FilterRule::ports`] and [`FilterRule::grant`].
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct FilterRule {
    /// Address, masked CIDR, `a-b`, `*` or `cap:<node capability>` (capver 109).
    #[serde(rename = "SrcIPs")]
    pub src_ips: Vec<String>,
    /// Where the sources may connect to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dst_ports: Option<Vec<NetPortRange>>,
    /// IP protocol numbers; none = TCP, UDP and ICMP.
    #[serde(rename = "IPProto", skip_serializing_if = "is_default")]
    pub ip_proto: Vec<i32>,
    /// What the sources may do on the destinations.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cap_grant: Option<Vec<CapGrant>>,
}

impl FilterRule {
    /// A rule that lets packets in.
    pub fn ports(src_ips: Vec<String>, dst_ports: Vec<NetPortRange>) -> Self {
        Self {
            src_ips,
            dst_ports: Some(dst_ports),
            ..Self::default()
        }
    }

    /// A rule that grants peer capabilities.
    pub fn grant(src_ips: Vec<String>, cap_grant: Vec<CapGrant>) -> Self {
        Self {
            src_ips,
            cap_grant: Some(cap_grant),
            ..Self::default()
        }
    }

    /// The rule that lets everything in.
    pub fn allow_all() -> Self {
        let everywhere = NetPortRange {
            ip: "*".to_owned(),
            ports: PortRange::ANY,
        };
        Self::ports(vec!["*".to_owned()], vec![everywhere])
    }
}

/// `tailcfg.NetPortRange`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct NetPortRange {
    /// Address, masked CIDR, `a-b` or `*`.
    #[serde(rename = "IP")]
    pub ip: String,
    /// Ports on it.
    pub ports: PortRange,
}

/// `tailcfg.PortRange`, both ends included.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct PortRange {
    /// Lowest port.
    pub first: u16,
    /// Highest port.
    pub last: u16,
}

impl PortRange {
    /// Every port.
    pub const ANY: Self = Self {
        first: 0,
        last: u16::MAX,
    };
}

/// `tailcfg.CapGrant`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct CapGrant {
    /// Addresses of the receiver that the grant is about.
    pub dsts: Vec<IpNet>,
    /// Peer capability to its values.
    #[serde(skip_serializing_if = "is_default")]
    pub cap_map: BTreeMap<String, Vec<Value>>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rule_that_allows_everything_has_the_wire_form_that_clients_know() {
        assert_eq!(
            serde_json::to_string(&FilterRule::allow_all()).unwrap(),
            r#"{"SrcIPs":["*"],"DstPorts":[{"IP":"*","Ports":{"First":0,"Last":65535}}]}"#
        );
    }

    #[test]
    fn a_rule_writes_ports_or_grants_never_both() {
        let grant = FilterRule::grant(vec!["100.64.0.1".into()], Vec::new());
        assert_eq!(
            serde_json::to_string(&grant).unwrap(),
            r#"{"SrcIPs":["100.64.0.1"],"CapGrant":[]}"#
        );
    }
}
