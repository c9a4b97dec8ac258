use proptest::prelude::*;

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
    fn plain_json_is_read_as_itself(value in any_json()) {
        prop_assert_eq!(json(&value.to_string()), value);
    }
}
