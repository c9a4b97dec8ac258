//! Recorded logins.

use super::tailnet::Tailnet;
use crate::tailcfg::SshAction;
use crate::types::NodeId;

fn tailnet(recorders: u64) -> Tailnet {
    let mut tailnet = Tailnet::of(&["ada"]);
    tailnet.node(1, "ada");
    tailnet.node(2, "");
    tailnet.tag(2, &["tag:web"]);
    for id in 8..8 + recorders {
        tailnet.node(id, "");
        tailnet.tag(id, &["tag:rec"]);
    }
    tailnet
}

fn policy(action: &str, dst: &str, rest: &str) -> String {
    format!(
        r#"{{
            "tagOwners": {{"tag:web": ["ada@"], "tag:rec": ["ada@"]}},
            "acls": [],
            "ssh": [{{"action": "{action}", "src": ["ada@"], "dst": ["{dst}"],
                "users": ["root"], {rest}}}],
        }}"#
    )
}

fn action(tailnet: &Tailnet, policy: &str) -> SshAction {
    let logins = tailnet.engine(policy).logins(NodeId(2));
    logins.rules[0].action.clone().unwrap()
}

#[test]
fn sessions_go_to_the_recorders_lowest_address_first() {
    let tailnet = tailnet(2);
    let wanted = [
        "100.64.0.8:80",
        "100.64.0.9:80",
        "[fd7a:115c:a1e0::8]:80",
        "[fd7a:115c:a1e0::9]:80",
    ];
    let open = action(
        &tailnet,
        &policy("accept", "tag:web", r#""recorder": ["tag:rec"]"#),
    );
    assert_eq!(open.recorders, wanted);
    assert!(open.accept && open.on_recording_failure.is_none());
    let enforced = r#""recorder": ["tag:rec"], "enforceRecorder": true"#;
    let checked = action(&tailnet, &policy("check", "tag:web", enforced));
    assert_eq!(checked.recorders, wanted);
    assert!(!checked.hold_and_delegate.is_empty());
    let failure = checked.on_recording_failure.unwrap();
    assert!(!failure.reject_session_with_message.is_empty());
    assert!(!failure.terminate_session_with_message.is_empty());
}

#[test]
fn without_a_recorder_a_session_that_must_be_recorded_is_refused() {
    let tailnet = tailnet(0);
    let enforced = r#""recorder": ["tag:rec"], "enforceRecorder": true"#;
    let text = policy("accept", "tag:web", enforced);
    let refused = action(&tailnet, &text);
    assert!(refused.reject && !refused.accept && !refused.message.is_empty());
    let tests = r#""sshTests": [{"src": "ada@", "dst": ["tag:web"], "accept": ["root"]}]}"#;
    let tested = text.trim_end().strip_suffix('}').unwrap().to_owned() + tests;
    assert!(tailnet.try_engine(&tested).is_err());
    let free = action(
        &tailnet,
        &policy("accept", "tag:web", r#""recorder": ["tag:rec"]"#),
    );
    assert!(free.accept && free.recorders.is_empty());
}

#[test]
fn servers_reach_their_recorders_and_nothing_else() {
    let tailnet = tailnet(1);
    let engine = tailnet.engine(&policy("accept", "tag:web", r#""recorder": ["tag:rec"]"#));
    assert!(tailnet.reaches(&engine, 2, 8, 80) && !tailnet.reaches(&engine, 2, 8, 443));
    assert!(!tailnet.reaches(&engine, 1, 8, 80));
    assert!(engine.sees(NodeId(2), NodeId(8)) && !engine.sees(NodeId(1), NodeId(8)));
    let own = tailnet.engine(&policy(
        "check",
        "autogroup:self",
        r#""recorder": ["tag:rec"]"#,
    ));
    assert!(tailnet.reaches(&own, 1, 8, 80) && !tailnet.reaches(&own, 2, 8, 80));
}

#[test]
fn only_tags_record() {
    let tailnet = tailnet(0);
    let refused = |rest| {
        let text = policy("accept", "tag:web", rest);
        tailnet.try_engine(&text).err().unwrap()
    };
    assert!(refused(r#""recorder": ["ada@"]"#).contains("recorder must be a tag"));
    assert!(refused(r#""recorder": ["tag:none"]"#).contains("tag not found: \"tag:none\""));
    assert!(refused(r#""enforceRecorder": true"#).contains("needs a recorder"));
}
