//! Logins that need a check: which rule decides, and for how long.

use std::sync::Arc;
use std::time::Duration;

use super::super::login::{LoginVerdict, permits};
use super::tailnet::Tailnet;
use crate::policy::Engine;
use crate::types::NodeId;

/// Ada's 1 and 2, bob's 3, web's 4.
fn tailnet() -> Tailnet {
    let mut tailnet = Tailnet::of(&["ada", "bob"]);
    for user in &mut tailnet.users {
        let user = Arc::make_mut(user);
        user.email = format!("{}.x@example.com", user.name);
    }
    for (id, owner) in [(1, "ada"), (2, "ada"), (3, "bob"), (4, "")] {
        tailnet.node(id, owner);
    }
    tailnet.tag(4, &["tag:web"]);
    tailnet
}

fn engine(rules: &str) -> Engine {
    let policy = format!(
        r#"{{"tagOwners": {{"tag:web": ["ada@"], "tag:rec": []}}, "acls": [], "ssh": [{rules}]}}"#
    );
    tailnet().engine(&policy)
}

/// `refused`, `open`, or how many seconds a check counts.
fn told(engine: &Engine, (src, dst): (u64, u64), user: &str) -> String {
    match engine.login(NodeId(src), NodeId(dst), user) {
        LoginVerdict::Refused(_) => "refused".to_owned(),
        LoginVerdict::Allowed {
            action,
            check_period,
        } => {
            assert!(action.accept && action.hold_and_delegate.is_empty());
            let seconds = |period: Duration| period.as_secs().to_string();
            check_period.map_or_else(|| "open".to_owned(), seconds)
        }
    }
}

fn claim(rules: &str, claims: &[((u64, u64), &str, &str)]) {
    let engine = engine(rules);
    for (pair, user, wanted) in claims {
        assert_eq!(told(&engine, *pair, user), *wanted, "{pair:?} as {user}");
    }
}

#[test]
fn a_check_counts_for_twelve_hours_unless_the_rule_says_otherwise() {
    let rule = |period: &str| {
        format!(
            r#"{{"action": "check", "src": ["ada@"], "dst": ["tag:web"], "users": ["root"]{period}}}"#
        )
    };
    for (period, wanted) in [
        ("", "43200"),
        (r#", "checkPeriod": "1h30m""#, "5400"),
        (r#", "checkPeriod": "always""#, "0"),
    ] {
        claim(&rule(period), &[((1, 4), "root", wanted)]);
    }
}

#[test]
fn the_first_rule_that_lets_in_the_user_decides_and_checks_come_first() {
    claim(
        r#"{"action": "accept", "src": ["ada@"], "dst": ["tag:web"], "users": ["root", "deploy"]},
           {"action": "check", "src": ["ada@"], "dst": ["tag:web"], "users": ["root"],
            "checkPeriod": "1m"},
           {"action": "check", "src": ["autogroup:member"], "dst": ["tag:web"],
            "users": ["autogroup:nonroot", "root"], "checkPeriod": "2m"}"#,
        &[
            ((1, 4), "root", "60"),
            ((1, 4), "deploy", "120"),
            ((3, 4), "root", "120"),
            ((4, 4), "root", "refused"),
            ((1, 3), "root", "refused"),
            ((1, 99), "root", "refused"),
            ((1, 4), "", "refused"),
        ],
    );
}

#[test]
fn a_login_that_another_rule_opens_needs_no_check() {
    claim(
        r#"{"action": "check", "src": ["ada@"], "dst": ["tag:web"], "users": ["root"]},
           {"action": "accept", "src": ["ada@"], "dst": ["tag:web"], "users": ["autogroup:nonroot"]}"#,
        &[
            ((1, 4), "root", "43200"),
            ((1, 4), "deploy", "open"),
            ((3, 4), "deploy", "refused"),
        ],
    );
}

#[test]
fn self_rules_check_only_between_nodes_of_one_owner() {
    claim(
        r#"{"action": "check", "src": ["autogroup:member"], "dst": ["autogroup:self"],
            "users": ["autogroup:nonroot"]}"#,
        &[
            ((1, 2), "ada", "43200"),
            ((1, 2), "root", "refused"),
            ((1, 3), "ada", "refused"),
            ((1, 4), "ada", "refused"),
        ],
    );
}

#[test]
fn a_user_is_checked_under_the_name_of_the_own_mail_address_only() {
    claim(
        r#"{"action": "check", "src": ["autogroup:member"], "dst": ["tag:web"],
            "users": ["localpart:*@example.com"], "checkPeriod": "2m"},
           {"action": "check", "src": ["autogroup:member"], "dst": ["tag:web"],
            "users": ["deploy"], "checkPeriod": "1m"}"#,
        &[
            ((1, 4), "ada.x", "120"),
            ((3, 4), "bob.x", "120"),
            ((1, 4), "bob.x", "60"),
            ((1, 4), "ada", "60"),
        ],
    );
}

#[test]
fn a_login_told_by_the_name_of_the_account_is_checked_most_strictly_not_refused() {
    claim(
        r#"{"action": "check", "src": ["ada@"], "dst": ["tag:web"], "users": ["deploy"],
            "checkPeriod": "2m"},
           {"action": "check", "src": ["ada@"], "dst": ["tag:web"], "users": ["admin"],
            "checkPeriod": "always"},
           {"action": "accept", "src": ["bob@"], "dst": ["tag:web"], "users": ["deploy"]}"#,
        &[
            ((1, 4), "deploy", "120"),
            ((1, 4), "DEPLOY", "0"),
            ((1, 4), "root", "refused"),
            ((1, 4), "", "refused"),
            ((3, 4), "DEPLOY", "refused"),
            ((1, 3), "DEPLOY", "refused"),
        ],
    );
}

#[test]
fn what_must_be_recorded_and_cannot_be_is_refused_with_the_reason() {
    let engine = engine(
        r#"{"action": "check", "src": ["ada@"], "dst": ["tag:web"], "users": ["deploy"],
            "recorder": ["tag:rec"], "enforceRecorder": true}"#,
    );
    // Clients refuse before they look at the user.
    for user in ["deploy", "root"] {
        let verdict = engine.login(NodeId(1), NodeId(4), user);
        assert!(
            matches!(&verdict, LoginVerdict::Refused(message) if message.contains("recorded")),
            "{verdict:?}"
        );
    }
}

/// What a client at the destination does by the rules that it is sent.
fn as_the_client(engine: &Engine, src: u64, dst: u64, user: &str) -> &'static str {
    let address = format!("100.64.0.{src}");
    let mut otherwise = "refused";
    for rule in engine.logins(NodeId(dst)).rules {
        let mut principals = rule.principals.iter();
        if !principals.any(|principal| principal.node_ip == address) {
            continue;
        }
        let action = rule.action.clone().unwrap();
        if action.reject {
            return "refused";
        }
        if permits(&rule, user) {
            return if action.accept { "open" } else { "check" };
        }
        if !action.accept && user != "root" {
            // It asks for a name that is let in, and tells this one.
            otherwise = "check";
        }
    }
    otherwise
}

#[test]
fn the_server_decides_by_the_rule_that_made_the_client_ask() {
    let engine = engine(
        r#"{"action": "accept", "src": ["bob@"], "dst": ["tag:web"], "users": ["root"]},
           {"action": "check", "src": ["autogroup:member"], "dst": ["autogroup:self", "tag:web"],
            "users": ["localpart:*@example.com", "deploy"]},
           {"action": "check", "src": ["autogroup:tagged"], "dst": ["tag:web"], "users": ["root"]},
           {"action": "accept", "src": ["ada@"], "dst": ["ada@"], "users": ["autogroup:nonroot"]},
           {"action": "accept", "src": ["autogroup:member", "autogroup:tagged"],
            "dst": ["tag:web"], "users": ["localpart:*@example.com", "guest"]}"#,
    );
    for src in 1..=4 {
        for dst in 1..=4 {
            for user in ["root", "deploy", "guest", "ada.x", "bob.x", "other"] {
                let told = told(&engine, (src, dst), user);
                let told = told.replace("43200", "check");
                let wanted = as_the_client(&engine, src, dst, user);
                assert_eq!(told, wanted, "{src} -> {dst} as {user}");
            }
        }
    }
}
