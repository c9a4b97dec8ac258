//! YAML policies, as headscale took them up to 0.22, read into the values of HuJSON.

use std::fmt;

use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_saphyr::{Location, Spanned};

use super::error::{PolicyError, Position};
use super::hujson::{Kind, Member, TEXT_BYTES_MAX, Value};

/// Values that stand for others (`*alias`) and are copied: a small text could otherwise grow into
/// more than there is memory.
const ALIASED_MAX: usize = 10_000;

/// Reads a text; one that is no mapping is no policy in YAML.
pub(super) fn parse(text: &str) -> Result<Option<Value>, PolicyError> {
    if text.len() > TEXT_BYTES_MAX {
        return Ok(None);
    }
    let options = serde_saphyr::options! {
        strict_booleans: true,
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
    let value = build(raw, text);
    Ok(matches!(value.kind, Kind::Object(_)).then_some(value))
}

fn position(location: Location) -> Position {
    let count = |count: u64| u32::try_from(count).unwrap_or(u32::MAX);
    Position {
        line: count(location.line()),
        column: count(location.column()),
    }
}

/// What serde sees.
enum Raw {
    Null,
    Bool(bool),
    /// As serde shows it; the span has it as written.
    Number(String),
    Text(String),
    List(Vec<Spanned<Self>>),
    Map(Vec<(Spanned<String>, Spanned<Self>)>),
}

fn build(raw: Spanned<Raw>, source: &str) -> Value {
    let at = position(raw.referenced);
    let kind = match raw.value {
        Raw::Null => Kind::Null,
        Raw::Bool(flag) => Kind::Bool(flag),
        Raw::Number(shown) => number(written(source, &raw.defined).unwrap_or(shown)),
        Raw::Text(text) => Kind::String(text),
        Raw::List(items) => {
            let items = items.into_iter();
            Kind::Array(items.map(|item| build(item, source)).collect())
        }
        Raw::Map(pairs) => {
            let member = |(key, value): (Spanned<String>, Spanned<Raw>)| Member {
                at: position(key.referenced),
                key: key.value,
                value: build(value, source),
            };
            Kind::Object(pairs.into_iter().map(member).collect())
        }
    };
    Value { at, kind }
}

/// YAML has numbers that JSON cannot write (`0x1f`, `1.`, `1_000`); whoever wants a text gets them as
/// they are.
fn number(text: String) -> Kind {
    match serde_json::from_str::<serde_json::Number>(&text) {
        Ok(_) => Kind::Number(text),
        Err(_) => Kind::String(text),
    }
}

/// The scalar as it was written, when the span leads to it.
fn written(source: &str, location: &Location) -> Option<String> {
    let span = location.span();
    let start = usize::try_from(span.byte_offset()?).ok()?;
    let length = usize::try_from(span.byte_len()?).ok()?;
    let text = source.get(start..start.checked_add(length)?)?.trim();
    (!text.is_empty()).then(|| text.to_owned())
}

impl<'de> Deserialize<'de> for Raw {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(RawVisitor)
    }
}

struct RawVisitor;

impl<'de> Visitor<'de> for RawVisitor {
    type Value = Raw;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a YAML value")
    }

    fn visit_unit<E>(self) -> Result<Raw, E> {
        Ok(Raw::Null)
    }

    fn visit_none<E>(self) -> Result<Raw, E> {
        Ok(Raw::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Raw, E> {
        Ok(Raw::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Raw, E> {
        Ok(Raw::Number(value.to_string()))
    }

    fn visit_i128<E>(self, value: i128) -> Result<Raw, E> {
        Ok(Raw::Number(value.to_string()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Raw, E> {
        Ok(Raw::Number(value.to_string()))
    }

    fn visit_u128<E>(self, value: u128) -> Result<Raw, E> {
        Ok(Raw::Number(value.to_string()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Raw, E> {
        Ok(Raw::Number(value.to_string()))
    }

    fn visit_str<E>(self, value: &str) -> Result<Raw, E> {
        Ok(Raw::Text(value.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Raw, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = access.next_element()? {
            items.push(item);
        }
        Ok(Raw::List(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Raw, A::Error> {
        let mut pairs: Vec<(Spanned<String>, Spanned<Raw>)> = Vec::new();
        let mut seen = std::collections::BTreeSet::new();
        while let Some((key, value)) = access.next_entry::<Spanned<String>, _>()? {
            if !seen.insert(key.value.clone()) {
                let message = format!("duplicate object key {:?}", key.value);
                return Err(A::Error::custom(message));
            }
            pairs.push((key, value));
        }
        Ok(Raw::Map(pairs))
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
        let deep = format!("a: {}", "[".repeat(5_000));
        assert!(parse(&deep).is_err());
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
