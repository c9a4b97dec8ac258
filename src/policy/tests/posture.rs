//! Rules that look at devices.

use super::tailnet::{Tailnet, device};
use crate::types::NodeId;

/// Two nodes of a user, one on macOS and one on Linux, and a third that is tagged.
fn tailnet() -> Tailnet {
    let mut tailnet = Tailnet::of(&["ada"]);
    tailnet.node(1, "ada").device = device("macOS", "1.84.0-t1-g2");
    tailnet.node(2, "ada").device = device("linux", "1.85.1-t1-g2");
    tailnet.node(3, "");
    tailnet.tag(3, &["tag:web"]);
    tailnet
}

fn policy(rest: &str) -> String {
    format!(
        r#"{{
            "tagOwners": {{"tag:web": ["ada@"]}},
            "postures": {{
                "posture:mac": ["node:os == 'macos'"],
                "posture:stable": ["node:tsReleaseTrack == 'stable'", "node:tsVersion >= '1.80'"],
                "posture:linux": ["node:os IN ['linux']"],
            }},
            {rest}
        }}"#
    )
}

#[test]
fn only_devices_that_meet_a_posture_are_sources() {
    let tailnet = tailnet();
    for src in [
        "ada@",
        "*",
        "autogroup:member",
        "autogroup:danger-all",
        "100.64.0.0/24",
    ] {
        let text = policy(&format!(
            r#""acls": [{{"action": "accept", "src": ["{src}"], "dst": ["tag:web:22"],
                "srcPosture": ["posture:mac", "posture:stable"]}}]"#
        ));
        let engine = tailnet.engine(&text);
        assert!(engine.document().needs_hostinfo());
        assert!(tailnet.reaches(&engine, 1, 3, 22), "{src}");
        assert!(!tailnet.reaches(&engine, 2, 3, 22), "{src}");
        assert!(engine.sees(NodeId(3), NodeId(1)) && !engine.sees(NodeId(3), NodeId(2)));
    }
}

#[test]
fn the_default_stands_for_rules_that_name_no_posture() {
    let tailnet = tailnet();
    let text = policy(
        r#""defaultSrcPosture": ["posture:mac"],
        "grants": [
            {"src": ["ada@"], "dst": ["tag:web"], "ip": ["80"]},
            {"src": ["ada@"], "dst": ["tag:web"], "ip": ["443"], "srcPosture": ["posture:linux"]},
        ]"#,
    );
    let engine = tailnet.engine(&text);
    assert!(tailnet.reaches(&engine, 1, 3, 80) && !tailnet.reaches(&engine, 2, 3, 80));
    assert!(!tailnet.reaches(&engine, 1, 3, 443) && tailnet.reaches(&engine, 2, 3, 443));
    let open = tailnet.engine(&policy(r#""defaultSrcPosture": ["posture:mac"]"#));
    assert!(tailnet.reaches(&open, 1, 3, 80) && !tailnet.reaches(&open, 2, 3, 80));
}

#[test]
fn devices_behind_subnet_routers_are_not_asked_for_a_posture() {
    let mut tailnet = tailnet();
    tailnet.node(4, "ada").subnets = vec!["10.0.0.0/16".parse().unwrap()];
    let text = policy(
        r#""acls": [{"action": "accept", "src": ["*"], "dst": ["tag:web:22"],
            "srcPosture": ["posture:mac"]}]"#,
    );
    let engine = tailnet.engine(&text);
    let filter = engine.filter(NodeId(3));
    let sources: Vec<&str> = filter[0].src_ips.iter().map(String::as_str).collect();
    assert_eq!(sources, ["10.0.0.0/16", "100.64.0.1", "fd7a:115c:a1e0::1"]);
}

#[test]
fn an_address_alone_does_not_let_in_the_devices_other_address() {
    let tailnet = tailnet();
    let text = policy(
        r#""acls": [{"action": "accept", "src": ["100.64.0.1", "100.64.0.2"], "dst": ["*:*"],
            "srcPosture": ["posture:mac"]}]"#,
    );
    let filter = tailnet.engine(&text).filter(NodeId(3));
    assert_eq!(filter[0].src_ips, ["100.64.0.1"]);
}

#[test]
fn logins_ask_for_a_posture_too() {
    let tailnet = tailnet();
    let text = policy(
        r#""ssh": [{"action": "accept", "src": ["ada@"], "dst": ["tag:web"], "users": ["root"],
            "srcPosture": ["posture:mac"]}]"#,
    );
    let logins = tailnet.engine(&text).logins(NodeId(3));
    let principals = logins.rules[0].principals.iter();
    let addresses: Vec<&str> = principals.map(|one| one.node_ip.as_str()).collect();
    assert_eq!(addresses, ["100.64.0.1", "fd7a:115c:a1e0::1"]);
}

#[test]
fn tests_suppose_the_device_and_look_at_none() {
    let tailnet = tailnet();
    let rule = r#""acls": [{"action": "accept", "src": ["ada@"], "dst": ["tag:web:22"],
        "srcPosture": ["posture:mac"]}],
        "ssh": [{"action": "accept", "src": ["ada@"], "dst": ["tag:web"], "users": ["root"],
        "srcPosture": ["posture:mac"]}],"#;
    let tried = |tests: &str| tailnet.try_engine(&policy(&format!("{rule} {tests}")));
    let passing = r#""tests": [
            {"src": "ada@", "srcPostureAttrs": {"node:os": "macos"}, "accept": ["tag:web:22"]},
            {"src": "ada@", "srcPostureAttrs": {"node:os": "linux"}, "deny": ["tag:web:22"]},
            {"src": "ada@", "deny": ["tag:web:22"]},
        ],
        "sshTests": [
            {"src": "ada@", "dst": ["tag:web"], "accept": ["root"],
                "srcPostureAttrs": {"node:os": "macos"}},
            {"src": "ada@", "dst": ["tag:web"], "deny": ["root"]},
        ]"#;
    assert!(tried(passing).is_ok());
    let failing = r#""tests": [{"src": "ada@", "accept": ["tag:web:22"]}]"#;
    assert!(tried(failing).err().unwrap().contains("test(s) failed"));
}

#[test]
fn what_postures_say_wrong_is_refused_with_its_place() {
    let tailnet = tailnet();
    let refused = |rest: &str| tailnet.try_engine(&policy(rest)).err().unwrap();
    let unknown = r#""acls": [{"action": "accept", "src": ["*"], "dst": ["*:*"],
        "srcPosture": ["posture:none"]}]"#;
    assert!(refused(unknown).contains("posture not found: \"posture:none\""));
    assert!(refused(r#""defaultSrcPosture": ["posture:none"]"#).contains("posture not found"));
    let text = r#"{"postures": {"mac": [], "posture:x": ["node:os"]}}"#;
    let errors = tailnet.try_engine(text).err().unwrap();
    assert!(errors.contains("line 1, column 15: posture must start with 'posture:'"));
    assert!(errors.contains("at least one condition"));
    assert!(errors.contains("posture condition \"node:os\": expected one of =="));
}

#[test]
fn a_condition_that_no_device_meets_is_a_warning() {
    let text = r#"{"postures": {"posture:x": ["custom:tier == 'prod'"]}}"#;
    assert!(
        tailnet()
            .warnings(text)
            .contains("\"custom:tier\" is not set on any device")
    );
}
