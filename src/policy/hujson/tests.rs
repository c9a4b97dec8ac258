use proptest::prelude::*;

use super::print::{canonical, loose};
use super::*;

fn json(text: &str) -> serde_json::Value {
    parse(text).unwrap().unwrap().to_json()
}

#[test]
fn comments_and_trailing_commas_are_allowed() {
    let text = "// first\n{\"a\": [1, /* two */ -2.5e1,], // more\n \"b\": {\"c\": null,},}\n";
    assert_eq!(
        json(text),
        serde_json::json!({"a": [1, -25.0], "b": {"c": null}})
    );
}

#[test]
fn values_know_their_line_and_column() {
    let value = parse("{\n  \"ключ\": [true]}").unwrap().unwrap();
    let Kind::Object(members) = value.kind else {
        panic!("not an object");
    };
    assert_eq!(members[0].at, Position { line: 2, column: 3 });
    assert_eq!(
        members[0].value.at,
        Position {
            line: 2,
            column: 11
        }
    );
}

#[test]
fn nothing_is_no_document() {
    assert_eq!(parse("").unwrap(), None);
    assert_eq!(parse(" // nothing\n/* at all */").unwrap(), None);
}

#[test]
fn what_is_wrong_is_said_with_its_place() {
    let shown = |text: &str| parse(text).unwrap_err().to_string();
    assert_eq!(
        shown("{\"a\":1,\n \"a\":2}"),
        "line 2, column 2: parsing HuJSON: duplicate object key \"a\""
    );
    assert!(shown("[1 2]").contains("expected ',' or ']'"));
    assert!(shown("{a:1}").contains("expected a key in double quotes"));
    assert!(shown("[,]").contains("unexpected character ','"));
    assert!(shown("[01]").contains("invalid number"));
    assert!(shown("{} x").contains("unexpected text after the policy"));
    assert!(shown("/*").contains("comment without an end"));
    assert!(shown("\"\\ud800\"").contains("invalid escape"));
}

#[test]
fn deep_and_large_texts_are_refused() {
    let deep = "[".repeat(DEPTH_MAX + 1);
    assert!(parse(&deep).unwrap_err().message.contains("nested deeper"));
    let large = " ".repeat(TEXT_BYTES_MAX + 1);
    assert!(parse(&large).unwrap_err().message.contains("bytes"));
}

#[test]
fn escapes_are_resolved() {
    assert_eq!(json(r#""\ud83d\ude80\n\u0041\/""#), "🚀\nA/");
}

/// A value that a text can be read to.
fn any_value() -> impl Strategy<Value = Value> {
    let at = Position::default();
    let value = move |kind| Value { at, kind };
    let number = "-?(0|[1-9][0-9]{0,20})([.][0-9]{1,4})?([eE][+-]?[0-9]{1,2})?";
    let leaf = prop_oneof![
        Just(Kind::Null),
        any::<bool>().prop_map(Kind::Bool),
        number.prop_map(Kind::Number),
        any::<String>().prop_map(Kind::String),
    ];
    leaf.prop_map(value).prop_recursive(4, 32, 4, move |inner| {
        let members = prop::collection::btree_map(any::<String>(), inner.clone(), 0..4);
        prop_oneof![
            prop::collection::vec(inner, 0..4).prop_map(Kind::Array),
            members.prop_map(move |members| {
                let member = |(key, value)| Member { at, key, value };
                Kind::Object(members.into_iter().map(member).collect())
            }),
        ]
        .prop_map(value)
    })
}

/// The same value as if it stood nowhere.
fn placeless(mut value: Value) -> Value {
    value.at = Position::default();
    match &mut value.kind {
        Kind::Array(items) => {
            *items = std::mem::take(items).into_iter().map(placeless).collect();
        }
        Kind::Object(members) => {
            for member in members {
                member.at = Position::default();
                member.value = placeless(member.value.clone());
            }
        }
        Kind::Null | Kind::Bool(_) | Kind::Number(_) | Kind::String(_) => {}
    }
    value
}

/// What may stand between tokens.
const FILLERS: [&str; 6] = ["", " ", "\r\n\t", "// a \"note\" }\n", "/* * / ] */", ""];

fn any_json() -> impl Strategy<Value = serde_json::Value> {
    let leaf = prop_oneof![
        Just(serde_json::Value::Null),
        any::<bool>().prop_map(Into::into),
        any::<i64>().prop_map(Into::into),
        any::<String>().prop_map(Into::into),
    ];
    leaf.prop_recursive(4, 32, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Into::into),
            prop::collection::btree_map(any::<String>(), inner, 0..4)
                .prop_map(|map| { serde_json::Value::Object(map.into_iter().collect()) }),
        ]
    })
}

proptest! {
    #[test]
    fn no_text_panics_the_reader(text in any::<String>()) {
        let _ = parse(&text);
    }

    #[test]
    fn no_tokens_panic_the_reader(text in r#"[\[\]{},:"/* \\u0-9a-eltrunf\n-]{0,60}"#) {
        let _ = parse(&text);
    }

    #[test]
    fn what_was_printed_is_read_as_the_same_value(value in any_value()) {
        let text = canonical(&value);
        let read = parse(&text).unwrap().unwrap();
        prop_assert_eq!(canonical(&read), text);
        prop_assert_eq!(placeless(read), value);
    }

    #[test]
    fn comments_and_commas_change_no_value(
        value in any_value(),
        picks in prop::collection::vec(0..FILLERS.len(), 1..32),
    ) {
        let mut picks = picks.iter().cycle();
        let text = loose(&value, &mut || picks.next().map_or("", |pick| FILLERS[*pick]));
        prop_assert_eq!(placeless(parse(&text).unwrap().unwrap()), value);
    }

    #[test]
    fn plain_json_is_read_as_itself(value in any_json()) {
        prop_assert_eq!(json(&value.to_string()), value);
    }
}
