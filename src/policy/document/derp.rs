//! `derpMap`: relays of the tailnet's own.

use std::collections::{BTreeMap, BTreeSet};

use super::super::hujson::{Kind, Value};
use super::decode::{Decoder, Fields};
use crate::tailcfg::{DerpMap, DerpNode, DerpRegion};
use crate::types::RegionId;

/// Relays that a policy adds to the map of relays, or takes from it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct DerpRegions {
    /// The regions of the replicas are left out.
    pub omit_default: bool,
    /// Regions by number; absent ones are left out of the map.
    pub regions: BTreeMap<RegionId, Option<DerpRegion>>,
}

impl DerpRegions {
    /// Adds the regions to a map, in place of those with the same numbers.
    pub fn merge_into(&self, map: &mut DerpMap) {
        let regions = map.regions.get_or_insert_default();
        if self.omit_default {
            regions.clear();
        }
        for (id, region) in &self.regions {
            match region {
                Some(region) => regions.insert(*id, region.clone()),
                None => regions.remove(id),
            };
        }
        let scores = map.home_params.as_mut();
        if let Some(scores) = scores.and_then(|params| params.region_score.as_mut()) {
            // What is known of a replica says nothing of a region that took its place.
            scores.retain(|id, _| regions.contains_key(id) && !self.regions.contains_key(id));
        }
    }
}

const REGION: [&str; 8] = [
    "RegionID",
    "RegionCode",
    "RegionName",
    "Latitude",
    "Longitude",
    "Avoid",
    "NoMeasureNoHome",
    "Nodes",
];
const NODE: [&str; 12] = [
    "Name",
    "RegionID",
    "HostName",
    "CertName",
    "IPv4",
    "IPv6",
    "STUNPort",
    "STUNOnly",
    "DERPPort",
    "InsecureForTests",
    "STUNTestIP",
    "CanPort80",
];

impl Decoder<'_> {
    pub(super) fn derp_map(&mut self, value: &Value) -> DerpRegions {
        let fields = self.fields(value, &["OmitDefaultRegions", "Regions"]);
        let mut map = DerpRegions {
            omit_default: self.flag(&fields, "OmitDefaultRegions"),
            regions: BTreeMap::new(),
        };
        let mut names = BTreeSet::new();
        for member in fields.get("Regions").map_or(&[][..], |v| self.members(v)) {
            let id = member.key.parse().ok().filter(|id| *id > 0);
            let Some(id) = id.map(RegionId) else {
                let message = format!(
                    "derpMap: region {:?} must be a number from 1 to 65535",
                    member.key
                );
                self.error(member.at, message);
                continue;
            };
            let region = (member.value.kind != Kind::Null)
                .then(|| self.region(id, &member.value, &mut names));
            map.regions.insert(id, region);
        }
        map
    }

    fn region(&mut self, id: RegionId, value: &Value, names: &mut BTreeSet<String>) -> DerpRegion {
        let fields = self.fields(value, &REGION);
        self.same_region(id, &fields);
        let nodes = match fields.get("Nodes") {
            Some(value) => self.each(value, |decoder, value| Some(decoder.relay(id, value))),
            None => Vec::new(),
        };
        if nodes.is_empty() {
            self.error(value.at, format!("derpMap: region {id} has no nodes"));
        }
        for node in &nodes {
            if node.name.is_empty() || !names.insert(node.name.clone()) {
                let message = format!(
                    "derpMap: region {id}: each node needs a name of its own, got: {:?}",
                    node.name
                );
                self.error(value.at, message);
            }
        }
        DerpRegion {
            region_id: id,
            region_code: self.plain(&fields, "RegionCode"),
            region_name: self.plain(&fields, "RegionName"),
            latitude: self.degrees(&fields, "Latitude", 90.0),
            longitude: self.degrees(&fields, "Longitude", 180.0),
            // Clients take the older name for the same.
            no_measure_no_home: self.flag(&fields, "NoMeasureNoHome") | self.flag(&fields, "Avoid"),
            nodes,
        }
    }

    fn relay(&mut self, region: RegionId, value: &Value) -> DerpNode {
        let fields = self.fields(value, &NODE);
        self.same_region(region, &fields);
        let host_name = self.plain(&fields, "HostName");
        if host_name.is_empty() {
            self.error(value.at, "derpMap: a node needs a HostName");
        }
        let stun_port = self.integer(&fields, "STUNPort", -1).unwrap_or_default();
        let derp_port = self.integer(&fields, "DERPPort", 0).unwrap_or_default();
        DerpNode {
            name: self.plain(&fields, "Name"),
            region_id: region,
            host_name,
            cert_name: self.plain(&fields, "CertName"),
            ipv4: self.address::<std::net::Ipv4Addr>(&fields, "IPv4"),
            ipv6: self.address::<std::net::Ipv6Addr>(&fields, "IPv6"),
            stun_port,
            stun_only: self.flag(&fields, "STUNOnly"),
            derp_port: u16::try_from(derp_port).unwrap_or_default(),
            insecure_for_tests: self.flag(&fields, "InsecureForTests"),
            stun_test_ip: self.address::<std::net::IpAddr>(&fields, "STUNTestIP"),
            can_port_80: self.flag(&fields, "CanPort80"),
        }
    }

    /// A number that is said again must be the same.
    fn same_region(&mut self, id: RegionId, fields: &Fields<'_>) {
        let said = self.integer(fields, "RegionID", 1);
        let at = fields.get("RegionID").map(|value| value.at);
        if let Some((said, at)) = said.zip(at).filter(|(said, _)| *said != i32::from(id.0)) {
            let message = format!("derpMap: RegionID {said} stands in region {id}");
            self.error(at, message);
        }
    }

    fn plain(&mut self, fields: &Fields<'_>, name: &str) -> String {
        self.string(fields, name)
            .map_or_else(String::new, |text| text.text)
    }

    /// A whole number from `least` to 65535, in digits or in quotes.
    fn integer(&mut self, fields: &Fields<'_>, name: &str, least: i32) -> Option<i32> {
        let value = fields.get(name)?;
        let number = match &value.kind {
            Kind::Number(text) => text.parse().ok(),
            Kind::Null | Kind::Bool(_) | Kind::String(_) | Kind::Array(_) | Kind::Object(_) => None,
        };
        let number = number.filter(|number| (least..=i32::from(u16::MAX)).contains(number));
        if number.is_none() {
            let message = format!("derpMap: {name} must be a number from {least} to 65535");
            self.error(value.at, message);
        }
        number
    }

    fn degrees(&mut self, fields: &Fields<'_>, name: &str, most: f64) -> f64 {
        let Some(value) = fields.get(name) else {
            return 0.0;
        };
        let number = match &value.kind {
            Kind::Number(text) => text.parse::<f64>().ok(),
            Kind::Null | Kind::Bool(_) | Kind::String(_) | Kind::Array(_) | Kind::Object(_) => None,
        };
        let number = number.filter(|number| number.abs() <= most);
        if number.is_none() {
            let message = format!("derpMap: {name} must be a number from -{most} to {most}");
            self.error(value.at, message);
        }
        number.unwrap_or_default()
    }

    /// An address of one family, empty for DNS, `none` for off.
    fn address<A: std::str::FromStr>(&mut self, fields: &Fields<'_>, name: &str) -> String {
        let Some(text) = self.string(fields, name) else {
            return String::new();
        };
        let is_fine = matches!(text.text.as_str(), "" | "none") || text.text.parse::<A>().is_ok();
        if !is_fine {
            let message = format!("derpMap: {:?} is no address for {name}", text.text);
            self.error(text.at, message);
        }
        text.text
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::facts::Facts;
    use super::super::Document;
    use super::*;
    use crate::tailcfg::DerpHomeParams;

    fn read(regions: &str) -> Result<DerpRegions, String> {
        let text = format!(r#"{{"derpMap": {{{regions}}}}}"#);
        let document = Document::parse(&text, &Facts::default());
        document
            .map(|document| document.derp_map.unwrap())
            .map_err(|errors| errors.to_string())
    }

    fn replicas() -> DerpMap {
        let region = |id| DerpRegion {
            region_id: RegionId(id),
            ..DerpRegion::default()
        };
        let ids = [900, 901];
        DerpMap {
            home_params: Some(DerpHomeParams {
                region_score: Some(ids.map(|id| (RegionId(id), 1.0)).into()),
            }),
            regions: Some(ids.map(|id| (RegionId(id), region(id))).into()),
            omit_default_regions: true,
        }
    }

    #[test]
    fn regions_are_added_replaced_and_taken_away() {
        let policy = read(
            r#""Regions": {
                "1": {"RegionID": 1, "RegionCode": "own", "RegionName": "Own", "Nodes": [
                    {"name": "1a", "RegionID": 1, "HostName": "derp.example.com", "IPv6": "none",
                     "IPv4": "192.0.2.1", "STUNPort": -1, "DERPPort": 8443, "CanPort80": true}]},
                "900": null,
                "901": {"Nodes": [{"Name": "901x", "HostName": "other.example.com"}]},
            }"#,
        )
        .unwrap();
        let mut map = replicas();
        policy.merge_into(&mut map);
        let shown = serde_json::to_string(&map).unwrap();
        assert_eq!(
            shown,
            concat!(
                r#"{"HomeParams":{"RegionScore":{}},"Regions":{"1":{"RegionID":1,"#,
                r#""RegionCode":"own","RegionName":"Own","Nodes":[{"Name":"1a","RegionID":1,"#,
                r#""HostName":"derp.example.com","IPv4":"192.0.2.1","IPv6":"none","#,
                r#""STUNPort":-1,"DERPPort":8443,"CanPort80":true}]},"901":{"RegionID":901,"#,
                r#""RegionCode":"","RegionName":"","Nodes":[{"Name":"901x","RegionID":901,"#,
                r#""HostName":"other.example.com"}]}},"omitDefaultRegions":true}"#
            )
        );
    }

    #[test]
    fn the_replicas_regions_can_be_left_out() {
        let policy = read(
            r#""OmitDefaultRegions": true,
            "Regions": {"5": {"Nodes": [{"Name": "a", "HostName": "b"}]}}"#,
        );
        let mut map = replicas();
        policy.unwrap().merge_into(&mut map);
        assert_eq!(
            map.regions.unwrap().into_keys().collect::<Vec<_>>(),
            [RegionId(5)]
        );
    }

    #[test]
    fn what_no_client_could_use_is_refused() {
        let refused = |nodes: &str| {
            read(&format!(r#""Regions": {{"5": {{"Nodes": [{nodes}]}}}}"#)).unwrap_err()
        };
        assert!(refused("").contains("region 5 has no nodes"));
        assert!(refused(r#"{"Name": "a"}"#).contains("needs a HostName"));
        assert!(refused(r#"{"HostName": "a"}"#).contains("a name of its own"));
        let twice = r#"{"Name": "a", "HostName": "b"}, {"Name": "a", "HostName": "c"}"#;
        assert!(refused(twice).contains("a name of its own"));
        let node = |rest: &str| refused(&format!(r#"{{"Name": "a", "HostName": "b", {rest}}}"#));
        assert!(node(r#""IPv4": "::1""#).contains("no address for IPv4"));
        assert!(node(r#""DERPPort": 65536"#).contains("DERPPort must be a number from 0"));
        assert!(node(r#""STUNPort": -2"#).contains("STUNPort must be a number from -1"));
        assert!(node(r#""RegionID": 6"#).contains("RegionID 6 stands in region 5"));
        assert!(node(r#""Shoe": 6"#).contains("unknown field: \"Shoe\""));
        assert!(
            read(r#""Regions": {"0": null}"#)
                .unwrap_err()
                .contains("from 1 to 65535")
        );
    }
}
