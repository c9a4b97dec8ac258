//! Users named without `@`, as up to headscale 0.22.

use super::tailnet::Tailnet;
use crate::policy::{Document, Facts};
use crate::types::NodeId;

fn tailnet() -> Tailnet {
    let mut tailnet = Tailnet::of(&["alice", "bob"]);
    tailnet.node(1, "alice");
    tailnet.node(2, "bob");
    tailnet
}

#[test]
fn bare_names_are_users_in_every_place() {
    let tailnet = tailnet();
    let policy = r#"{
        "groups": {"group:a": ["alice"]},
        "tagOwners": {"tag:web": ["bob"]},
        "hosts": {"bobs": "100.64.0.2"},
        "acls": [
            {"action": "accept", "src": ["group:a"], "dst": ["bob:22"]},
            {"action": "accept", "src": ["alice"], "dst": ["bobs:80"]},
        ],
        "ssh": [{"action": "accept", "src": ["bob"], "dst": ["bob"], "users": ["root"]}],
        "autoApprovers": {"exitNode": ["alice"]},
        "nodeAttrs": [{"target": ["bob"], "attr": ["drive:share"]}],
        "tests": [{"src": "alice", "accept": ["bob:22", "bobs:80"], "deny": ["bob:23"]}],
        "sshTests": [{"src": "bob", "dst": ["bob"], "accept": ["root"]}],
    }"#;
    let engine = tailnet.engine(policy);
    assert!(tailnet.reaches(&engine, 1, 2, 22) && tailnet.reaches(&engine, 1, 2, 80));
    assert!(!tailnet.reaches(&engine, 2, 1, 22));
    assert_eq!(
        engine
            .approved_routes(NodeId(1), &["0.0.0.0/0".parse().unwrap()])
            .len(),
        1
    );
    assert!(engine.attributes(NodeId(2)).contains_key("drive:share"));
    assert_eq!(engine.logins(NodeId(2)).rules.len(), 1);
}

#[test]
fn a_host_comes_before_a_user_of_the_same_name() {
    let tailnet = tailnet();
    let policy = r#"{"hosts": {"alice": "100.64.0.9"},
        "acls": [{"action": "accept", "src": ["alice"], "dst": ["*:*"]}]}"#;
    let filter = tailnet.engine(policy).filter(NodeId(2));
    assert_eq!(filter[0].src_ips, ["100.64.0.9"]);
}

#[test]
fn a_bare_name_that_nothing_has_is_a_host_that_is_missing() {
    let tailnet = tailnet();
    let policy = r#"{"acls": [{"action": "accept", "src": ["carol"], "dst": ["*:*"]}]}"#;
    let errors = tailnet.try_engine(policy).err().unwrap();
    assert!(errors.contains("host not defined in policy: \"carol\""));
    // In force it stays, whoever has gone.
    assert!(Document::parse(policy, &Facts::default()).is_ok());
    let named = r#"{"groups": {"group:a": ["carol"]},
        "acls": [{"action": "accept", "src": ["carol"], "dst": ["*:*"]}]}"#;
    assert!(
        tailnet
            .warnings(named)
            .contains("user \"carol\" does not exist")
    );
}

#[test]
fn yaml_and_json_of_one_policy_mean_the_same() {
    let tailnet = tailnet();
    let json = r#"{"groups": {"group:a": ["alice", "7"]}, "hosts": {"srv": "100.64.0.2"},
        "acls": [{"action": "accept", "proto": "6", "src": ["group:a"], "dst": ["srv:22,80-90"]}],
        "tests": [{"src": "alice", "accept": ["srv:22"]}]}"#;
    let yaml = "---\n# as it was\nGroups:\n  group:a:\n  - alice\n  - 7\nHosts:\n  srv: 100.64.0.2\n\
                ACLs:\n- action: accept\n  proto: 6\n  src: [group:a]\n  dst: [\"srv:22,80-90\"]\n\
                Tests:\n- src: alice\n  accept: [\"srv:22\"]\n";
    let filter = |policy: &str| tailnet.engine(policy).filter(NodeId(2));
    assert_eq!(filter(yaml), filter(json));
    assert_eq!(filter(yaml).len(), 1);
}

#[test]
fn what_is_wrong_in_yaml_is_said_with_its_place() {
    let tailnet = tailnet();
    let refused = |text: &str| tailnet.try_engine(text).err().unwrap();
    let errors = refused("acls:\n  - action: deny\n    src: ['*']\n    dst: ['group:b:*']\n");
    assert!(
        errors.contains("line 2, column 13: action=\"deny\" is not supported"),
        "{errors}"
    );
    assert!(
        errors.contains("group not defined in policy: \"group:b\""),
        "{errors}"
    );
    assert!(refused("not a policy").contains("parsing HuJSON:"));
    assert!(refused("acls: [").contains("parsing YAML:"));
}
