//! HuJSON: JSON with `//` and `/* */` comments and trailing commas, read into values that know where
//! they stand. Keys of an object are unique and in file order.

#[cfg(test)]
pub(super) mod print;
mod reader;
#[cfg(test)]
mod tests;

use super::error::{PolicyError, Position};

/// Text beyond this is refused before it is read: the largest policy that is stored has half.
pub(super) const TEXT_BYTES_MAX: usize = 1024 * 1024;
/// Deepest nesting: a policy needs five levels and the values of capabilities a few more; each
/// level costs stack.
const DEPTH_MAX: usize = 64;

/// A value and where it begins.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Value {
    pub(super) at: Position,
    pub(super) kind: Kind,
}

/// What a value is.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Kind {
    Null,
    Bool(bool),
    /// As written.
    Number(String),
    String(String),
    Array(Vec<Value>),
    Object(Vec<Member>),
}

/// A key with its value.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Member {
    pub(super) at: Position,
    pub(super) key: String,
    pub(super) value: Value,
}

/// Whether a text begins as a policy in HuJSON does, or has nothing in it.
pub(super) fn begins(text: &str) -> bool {
    let reader = reader::Reader::new(text);
    reader.map_or(true, |mut reader| reader.begins())
}

/// Reads a text; a text of nothing but white space and comments is `None`.
pub(super) fn parse(text: &str) -> Result<Option<Value>, PolicyError> {
    reader::Reader::new(text)?.document()
}

impl Value {
    /// What it is, for messages.
    pub(super) fn noun(&self) -> &'static str {
        match self.kind {
            Kind::Null => "null",
            Kind::Bool(_) => "bool",
            Kind::Number(_) => "number",
            Kind::String(_) => "string",
            Kind::Array(_) => "array",
            Kind::Object(_) => "object",
        }
    }

    /// The same as plain JSON; numbers that no number type carries become strings.
    pub(super) fn to_json(&self) -> serde_json::Value {
        match &self.kind {
            Kind::Null => serde_json::Value::Null,
            Kind::Bool(value) => (*value).into(),
            Kind::Number(text) => {
                serde_json::from_str(text).unwrap_or_else(|_| text.clone().into())
            }
            Kind::String(text) => text.clone().into(),
            Kind::Array(items) => items.iter().map(Self::to_json).collect(),
            Kind::Object(members) => members
                .iter()
                .map(|member| (member.key.clone(), member.value.to_json()))
                .collect::<serde_json::Map<_, _>>()
                .into(),
        }
    }
}
