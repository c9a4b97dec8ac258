//! Grants that lead through certain routers.

use super::tailnet::Tailnet;
use crate::types::NodeId;

#[test]
fn a_router_lets_in_what_is_for_the_addresses_that_it_routes_and_no_others() {
    let mut tailnet = Tailnet::of(&["u1"]);
    tailnet.node(1, "u1");
    tailnet.node(2, "u1");
    let router = tailnet.node(3, "u1");
    router.subnets = vec!["100.64.0.0/30".parse().unwrap()];
    tailnet.tag(2, &["tag:web"]);
    tailnet.tag(3, &["tag:router"]);
    let engine = tailnet.engine(
        r#"{"tagOwners":{"tag:web":[],"tag:router":[]},
            "grants":[{"src":["u1@"],"dst":["tag:web"],"ip":["tcp:80"],"via":["tag:router"]}]}"#,
    );
    let filter = engine.filter(NodeId(3));
    let ports = filter
        .iter()
        .flat_map(|rule| rule.dst_ports.iter().flatten());
    let named: Vec<&str> = ports.map(|entry| entry.ip.as_str()).collect();
    assert_eq!(named, ["100.64.0.2"]);
}
