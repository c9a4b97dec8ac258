//! What a text may not do to whoever reads it.

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
