//! YAML policies, as headscale took them up to 0.22, read into the values of HuJSON.

use std::collections::BTreeSet;

use serde_saphyr::{Location, Spanned};

use super::error::{PolicyError, Position};
use super::hujson::{Kind, Member, TEXT_BYTES_MAX, Value};
use crate::yaml::{Raw, written};

/// Values that stand for others (`*alias`) and are copied: a small text could otherwise grow into
/// more than there is memory.
const ALIASED_MAX: usize = 10_000;
/// Deepest nesting: old policies need five levels, and each costs more stack than in HuJSON.
const DEPTH_MAX: usize = 32;

/// Reads a text; one that is no mapping is no policy in YAML.
pub(super) fn parse(text: &str) -> Result<Option<Value>, PolicyError> {
    if text.len() > TEXT_BYTES_MAX {
        return Ok(None);
    }
    let options = serde_saphyr::options! {
        strict_booleans: true,
        budget: serde_saphyr::budget! { max_depth: DEPTH_MAX },
        alias_limits: serde_saphyr::alias_limits! {
            max_total_replayed_events: ALIASED_MAX,
        },
    };
    let read: Result<Spanned<Raw>, _> = serde_saphyr::from_str_with_options(text, options);
    let raw = read.map_err(|error| {
        let error = error.without_snippet();
        let at = error.location().map(position).unwrap_or_default();
        let words: Vec<String> = error
            .to_string()
            .split_whitespace()
            .map(str::to_owned)
            .collect();
        let message = format!("parsing YAML: {}", words.join(" "));
        PolicyError { at, message }
    })?;
    let value = build(raw, text)?;
    Ok(matches!(value.kind, Kind::Object(_)).then_some(value))
}

fn position(location: Location) -> Position {
    let count = |count: u64| u32::try_from(count).unwrap_or(u32::MAX);
    Position {
        line: count(location.line()),
        column: count(location.column()),
    }
}

fn build(raw: Spanned<Raw>, source: &str) -> Result<Value, PolicyError> {
    let at = position(raw.referenced);
    let kind = match raw.value {
        Raw::Null => Kind::Null,
        Raw::Bool(flag) => Kind::Bool(flag),
        Raw::Number(shown) => number(written(source, &raw.defined).unwrap_or(shown)),
        Raw::Text(text) => Kind::String(text),
        Raw::List(items) => {
            let items = items.into_iter().map(|item| build(item, source));
            Kind::Array(items.collect::<Result<_, _>>()?)
        }
        Raw::Map(pairs) => Kind::Object(members(pairs, source)?),
    };
    Ok(Value { at, kind })
}

fn members(
    pairs: Vec<(Spanned<String>, Spanned<Raw>)>,
    source: &str,
) -> Result<Vec<Member>, PolicyError> {
    let mut seen = BTreeSet::new();
    let mut members = Vec::with_capacity(pairs.len());
    for (key, value) in pairs {
        let at = position(key.referenced);
        if !seen.insert(key.value.clone()) {
            let message = format!("parsing YAML: duplicate object key {:?}", key.value);
            return Err(PolicyError { at, message });
        }
        members.push(Member {
            at,
            key: key.value,
            value: build(value, source)?,
        });
    }
    Ok(members)
}

/// YAML has numbers that JSON cannot write (`0x1f`, `1.`, `1_000`); whoever wants a text gets them as
/// they are.
fn number(text: String) -> Kind {
    match serde_json::from_str::<serde_json::Number>(&text) {
        Ok(_) => Kind::Number(text),
        Err(_) => Kind::String(text),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn json(text: &str) -> serde_json::Value {
        parse(text).unwrap().unwrap().to_json()
    }

    #[test]
    fn yaml_is_read_to_the_values_of_json() {
        let text = "# rules\ngroups:\n  group:a: [alice, 'bob']\n  group:none:\nacls:\n- \
                    action: accept\n  proto: 6\n  src: ['*']\n  dst:\n  - \"*:*\"\n\
                    randomizeClientPort: true\nx: yes\n";
        assert_eq!(
            json(text),
            serde_json::json!({
                "groups": {"group:a": ["alice", "bob"], "group:none": null},
                "acls": [{"action": "accept", "proto": 6, "src": ["*"], "dst": ["*:*"]}],
                "randomizeClientPort": true,
                "x": "yes",
            })
        );
    }

    #[test]
    fn numbers_that_json_cannot_write_are_texts() {
        let read = json("a: [1.10, 0x1f, 1., 007, 1_000]\n");
        let wanted = serde_json::json!({"a": [1.10, "0x1f", "1.", "007", "1_000"]});
        assert_eq!(read, wanted);
    }

    #[test]
    fn values_know_their_line_and_column() {
        let value = parse("acls:\n  - action: nope\n").unwrap().unwrap();
        let Kind::Object(members) = value.kind else {
            panic!("not an object");
        };
        assert_eq!(members[0].at, Position { line: 1, column: 1 });
        let Kind::Array(items) = &members[0].value.kind else {
            panic!("not an array");
        };
        let Kind::Object(rule) = &items[0].kind else {
            panic!("not an object");
        };
        assert_eq!(
            rule[0].value.at,
            Position {
                line: 2,
                column: 13
            }
        );
    }

    #[test]
    fn what_is_wrong_is_said_with_its_place() {
        let error = parse("a: 1\na: 2\n").unwrap_err();
        assert!(error.message.starts_with("parsing YAML: "), "{error}");
        assert_eq!(error.at.line, 2);
        assert_eq!(parse("- a\n- b\n").unwrap(), None);
        assert_eq!(parse("no policy at all").unwrap(), None);
    }

    #[test]
    fn small_texts_do_not_grow_large() {
        let mut bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n".to_owned();
        for level in 1..9 {
            let before = format!("*a{}", level - 1);
            let list = vec![before; 9].join(", ");
            bomb += &format!("a{level}: &a{level} [{list}]\n");
        }
        assert!(parse(&bomb).is_err());
        let deep = |levels| format!("a: {}{}", "[".repeat(levels), "]".repeat(levels));
        assert!(parse(&deep(DEPTH_MAX)).is_err());
        assert!(parse(&deep(DEPTH_MAX - 2)).is_ok());
        assert!(parse(&deep(5_000)).is_err());
    }

    proptest! {
        #[test]
        fn no_text_panics_the_reader(text in any::<String>()) {
            let _ = parse(&text);
        }

        #[test]
        fn no_tokens_panic_the_reader(text in "([a-c:&*!|>%@'\"#\\[\\]{},-]|: |\n  |\n- |- ){0,40}") {
            let _ = parse(&text);
        }
    }
}
