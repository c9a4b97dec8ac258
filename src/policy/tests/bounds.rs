//! What a text may not do to whoever reads it.

use super::tailnet::Tailnet;
use crate::policy::{Document, Facts};

fn refused(text: &str) -> String {
    let read = Document::parse(text, &Facts::default());
    read.map(drop).unwrap_err().to_string()
}

#[test]
fn a_rule_of_very_many_pairs_is_refused_before_it_is_compiled() {
    let many = vec!["\"*\""; 1_001].join(",");
    let text = format!(r#"{{"grants":[{{"src":["*"],"dst":[{many}],"ip":[{many}]}}]}}"#);
    let why = refused(&text);
    assert!(why.contains("at most 1000000 are allowed"), "{why}");
}

#[test]
fn ipsets_that_name_a_large_one_again_and_again_are_refused() {
    let lines: Vec<String> = (0..2_000_u32)
        .map(|n| format!("\"10.{}.{}.1\"", n / 250, n % 250))
        .collect();
    let mut sets = vec![format!(r#""ipset:large":[{}]"#, lines.join(","))];
    sets.extend((0..100).map(|n| format!(r#""ipset:{n}":["ipset:large"]"#)));
    let why = refused(&format!(r#"{{"ipsets":{{{}}}}}"#, sets.join(",")));
    assert!(why.contains("more than 100000 ranges"), "{why}");
}

#[test]
fn a_byte_order_mark_does_not_make_a_policy_an_old_one() {
    let why = refused(
        "\u{feff}{\"acls\":[{\"action\":\"accept\",\"src\":[\"tag:x\"],\"dst\":[\"*:*\"]}]}",
    );
    assert!(why.contains("tag:x"), "{why}");
}

#[test]
fn nothing_names_no_user() {
    let nameless = crate::state::User {
        id: crate::types::UserId(1),
        name: "u1".to_owned(),
        display_name: String::new(),
        email: String::new(),
        provider_id: String::new(),
        provider: String::new(),
        picture_url: String::new(),
        created_at: crate::types::Timestamp::default(),
        role: crate::state::UserRole::Member,
    };
    let facts = Facts {
        users: vec![nameless.into()],
        domains: None,
    };
    assert!(facts.named("@").is_empty() && facts.named("").is_empty());
    assert_eq!(facts.named("u1@").len(), 1);
}

/// In steps of one by one these lines would cost a hundred million ranges.
#[test]
fn an_ipset_of_very_many_lines_is_worked_out_at_once() {
    let line = |n: u32| {
        let address = format!("10.{}.{}.{}", n >> 15 & 255, n >> 7 & 255, n << 1 & 255);
        format!("\"add {address}/31\",\"remove {address}\"")
    };
    let lines: Vec<String> = (0..9_000).map(line).collect();
    let text = format!(
        r#"{{"ipsets":{{"ipset:many":[{}]}},"acls":[{{"action":"accept","src":["*"],"dst":["ipset:many:1"]}}]}}"#,
        lines.join(",")
    );
    let document = Document::parse(&text, &Facts::default()).unwrap();
    let set = &document.names.ipsets["ipset:many"];
    assert_eq!(set.ranges().count(), 9_000);
    assert!(set.contains([10, 0, 0, 1].into()) && !set.contains([10, 0, 0, 0].into()));
}

#[test]
fn lines_that_name_a_large_ipset_again_and_again_are_refused() {
    let large: Vec<String> = (0..2_000_u32)
        .map(|n| format!("\"10.{}.{}.1\"", n / 250, n % 250))
        .collect();
    let again = vec!["\"ipset:large\""; 1_000].join(",");
    let why = refused(&format!(
        r#"{{"ipsets":{{"ipset:large":[{}],"ipset:z":[{again}]}}}}"#,
        large.join(",")
    ));
    assert!(why.contains("ranges of addresses in all"), "{why}");
}

#[test]
fn the_last_line_of_an_ipset_that_names_an_address_decides() {
    let set = |lines: &str| {
        let text = format!(r#"{{"ipsets":{{"ipset:a":[{lines}]}}}}"#);
        let document = Document::parse(&text, &Facts::default()).unwrap();
        document.names.ipsets["ipset:a"].texts().join(" ")
    };
    let lines = r#""add 10.0.0.0/30","remove 10.0.0.0/31","add 10.0.0.0","remove 10.0.0.3""#;
    assert_eq!(set(lines), "10.0.0.0 10.0.0.2");
    assert_eq!(set(r#""remove 10.0.0.0/8","add 10.0.0.1""#), "10.0.0.1");
    assert_eq!(
        set(r#""add 10.0.0.1","add 10.0.0.3","remove 10.0.0.0/8""#),
        ""
    );
}

#[test]
fn a_policy_with_very_many_tests_is_not_tried() {
    let tailnet = Tailnet::of(&["u1"]);
    let ends = vec![r#""u1@:22""#; 101].join(",");
    let test = format!(r#"{{"src":"u1@","accept":[{ends}]}}"#);
    let tests = vec![test; 100].join(",");
    let why = tailnet.try_engine(&format!(r#"{{"tests":[{tests}]}}"#));
    let why = why.map(drop).unwrap_err();
    assert!(
        why.contains("more than 10000 connections and logins"),
        "{why}"
    );
    assert_eq!(why.lines().count(), 1);
}

#[test]
fn warnings_that_nobody_reads_are_counted() {
    let users: Vec<String> = (0..103).map(|n| format!("\"gone{n}@\"")).collect();
    let text = format!(r#"{{"groups":{{"group:a":[{}]}}}}"#, users.join(","));
    let warnings = Tailnet::of(&["u1"]).warnings(&text);
    assert_eq!(warnings.lines().count(), 101);
    assert!(warnings.ends_with("\nand 3 more warnings"), "{warnings}");
}
