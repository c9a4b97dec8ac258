//! The map of relays: `tailcfg.DERPMap`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::is_default;
use crate::types::RegionId;

/// `tailcfg.DERPMap`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct DerpMap {
    /// How clients weigh regions when they choose a home (capver 65).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub home_params: Option<DerpHomeParams>,
    /// All regions; always written, `null` keeps the regions that the client has.
    pub regions: Option<BTreeMap<RegionId, DerpRegion>>,
    /// Clients forget the regions built into them.
    #[serde(rename = "omitDefaultRegions", skip_serializing_if = "is_default")]
    pub omit_default_regions: bool,
}

/// `tailcfg.DERPHomeParams`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct DerpHomeParams {
    /// Factor on a region's latency: below 1 attracts, above 1 repels. `None` keeps, empty resets.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub region_score: Option<BTreeMap<RegionId, f64>>,
}

/// `tailcfg.DERPRegion`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct DerpRegion {
    /// At least 1; 900 to 999 for self-hosted regions.
    #[serde(rename = "RegionID")]
    pub region_id: RegionId,
    /// Short name.
    pub region_code: String,
    /// Long name.
    pub region_name: String,
    /// Degrees.
    #[serde(skip_serializing_if = "is_default")]
    pub latitude: f64,
    /// Degrees.
    #[serde(skip_serializing_if = "is_default")]
    pub longitude: f64,
    /// Clients neither measure the region nor choose it as home (capver 115).
    #[serde(skip_serializing_if = "is_default")]
    pub no_measure_no_home: bool,
    /// Relays in the order in which clients try them.
    pub nodes: Vec<DerpNode>,
}

/// `tailcfg.DERPNode`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct DerpNode {
    /// Unique over all regions.
    pub name: String,
    /// The region that it belongs to.
    #[serde(rename = "RegionID")]
    pub region_id: RegionId,
    /// Name or address that clients dial.
    pub host_name: String,
    /// Expected certificate name, or `sha256-raw:<hex>` to pin one.
    #[serde(skip_serializing_if = "is_default")]
    pub cert_name: String,
    /// Literal address, empty for DNS, `none` for off.
    #[serde(rename = "IPv4", skip_serializing_if = "is_default")]
    pub ipv4: String,
    /// Literal address, empty for DNS, `none` for off.
    #[serde(rename = "IPv6", skip_serializing_if = "is_default")]
    pub ipv6: String,
    /// 0 means 3478, -1 means off.
    #[serde(rename = "STUNPort", skip_serializing_if = "is_default")]
    pub stun_port: i32,
    /// Answers STUN but does not relay.
    #[serde(rename = "STUNOnly", skip_serializing_if = "is_default")]
    pub stun_only: bool,
    /// 0 means 443.
    #[serde(rename = "DERPPort", skip_serializing_if = "is_default")]
    pub derp_port: u16,
    /// Clients skip certificate checks.
    #[serde(skip_serializing_if = "is_default")]
    pub insecure_for_tests: bool,
    /// Address for STUN in tests.
    #[serde(rename = "STUNTestIP", skip_serializing_if = "is_default")]
    pub stun_test_ip: String,
    /// `/generate_204` answers on port 80.
    #[serde(rename = "CanPort80", skip_serializing_if = "is_default")]
    pub can_port_80: bool,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tailcfg::decode;

    #[test]
    fn regions_are_keyed_by_number_as_text_and_always_written() {
        let json = r#"{"Regions":{"900":{"RegionID":900,"RegionCode":"r1","RegionName":"Replica 1","Nodes":[{"Name":"900a","RegionID":900,"HostName":"192.0.2.1","IPv6":"none","STUNPort":-1,"DERPPort":8443}]}},"omitDefaultRegions":true}"#;
        let map: DerpMap = decode(json.as_bytes()).unwrap();
        assert_eq!(serde_json::to_string(&map).unwrap(), json);
        assert_eq!(
            serde_json::to_string(&DerpMap::default()).unwrap(),
            r#"{"Regions":null}"#
        );
    }
}
