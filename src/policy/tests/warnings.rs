//! What is said of a policy that may be set.

use super::tailnet::Tailnet;

#[test]
fn a_rule_with_a_check_is_no_warning() {
    let mut tailnet = Tailnet::of(&["ada"]);
    tailnet.node(1, "ada");
    let policy = r#"{"ssh": [{"action": "check", "src": ["ada@"], "dst": ["autogroup:self"],
        "users": ["root"]}]}"#;
    assert_eq!(tailnet.warnings(policy), "");
}

#[test]
fn a_map_without_relays_is_a_warning() {
    let tailnet = Tailnet::of(&["ada"]);
    let none = r#"{"derpMap": {"OmitDefaultRegions": true, "Regions": {"900": null}}}"#;
    assert!(tailnet.warnings(none).contains("derpMap leaves no relay"));
    let own = r#"{"derpMap": {"OmitDefaultRegions": true,
        "Regions": {"1": {"Nodes": [{"Name": "a", "HostName": "relay.example.com"}]}}}}"#;
    assert_eq!(tailnet.warnings(own), "");
}
