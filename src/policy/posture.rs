//! Device posture: what a device must be like for a rule to take it as a source.
//!
//! What devices say of themselves (`node:…`) is known. Nothing here sets other attributes: they are
//! not set on any device, so that conditions on them hold for none.

mod device;
mod parse;
mod version;

pub(super) use self::device::Device;

use std::cmp::Ordering;
use std::collections::BTreeMap;

use super::error::Position;

/// Attributes of a device by name.
pub(super) type Attributes = BTreeMap<String, Literal>;

/// Conditions that must all hold.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Posture {
    /// In the order of the file.
    pub conditions: Vec<Condition>,
}

/// One condition, `node:tsVersion >= '1.40'`.
#[derive(Clone, Debug, PartialEq)]
pub struct Condition {
    /// Where it begins.
    pub at: Position,
    /// With its namespace: `node:os`, `ip:country`, `custom:tier`.
    pub attribute: String,
    /// What must hold of it.
    pub comparison: Comparison,
}

/// How an attribute is compared.
#[derive(Clone, Debug, PartialEq)]
pub enum Comparison {
    /// `==`
    Is(Literal),
    /// `!=`
    IsNot(Literal),
    /// `<`
    Below(Literal),
    /// `<=`
    AtMost(Literal),
    /// `>`
    Above(Literal),
    /// `>=`
    AtLeast(Literal),
    /// `IN [..]`
    In(Vec<Literal>),
    /// `NOT IN [..]`
    NotIn(Vec<Literal>),
    /// `IS SET`
    IsSet,
    /// `NOT SET`
    NotSet,
}

/// A value of an attribute.
#[derive(Clone, Debug, PartialEq)]
pub enum Literal {
    /// In quotes.
    Text(String),
    /// Digits, with or without a sign or a fraction.
    Number(f64),
    /// `true` or `false`.
    Bool(bool),
}

/// What the values of an attribute are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Text,
    Version,
    Bool,
    /// Not ours to say.
    Any,
}

/// What is known of the attributes that devices report.
const REPORTED: [(&str, Kind); 6] = [
    ("node:os", Kind::Text),
    ("node:osVersion", Kind::Version),
    ("node:tsVersion", Kind::Version),
    ("node:tsReleaseTrack", Kind::Text),
    ("node:tsAutoUpdate", Kind::Bool),
    ("node:tsStateEncrypted", Kind::Bool),
];

/// The kind of an attribute; absent: there is no such attribute.
fn kind(attribute: &str) -> Option<Kind> {
    if !attribute.starts_with("node:") {
        return Some(Kind::Any);
    }
    let known = REPORTED.iter().find(|(name, _)| *name == attribute);
    known.map(|(_, kind)| *kind)
}

impl Posture {
    /// Whether a device meets it, given how to find an attribute of the device.
    pub(super) fn holds(&self, attribute: impl Fn(&str) -> Option<Literal>) -> bool {
        let holds = |condition: &Condition| condition.holds(attribute(&condition.attribute));
        self.conditions.iter().all(holds)
    }
}

impl Condition {
    /// Whether the attribute is one that devices report.
    pub(super) fn is_reported(&self) -> bool {
        kind(&self.attribute).is_some_and(|kind| kind != Kind::Any)
    }

    /// Of an attribute that is not set nothing holds but that it is not.
    fn holds(&self, value: Option<Literal>) -> bool {
        use Comparison::{Above, AtLeast, AtMost, Below, In, Is, IsNot, IsSet, NotIn, NotSet};
        let Some(value) = value else {
            return self.comparison == NotSet;
        };
        let order = |literal: &Literal| self.order(&value, literal);
        let equals = |literal: &Literal| order(literal) == Some(Ordering::Equal);
        match &self.comparison {
            Is(literal) => equals(literal),
            IsNot(literal) => !equals(literal),
            Below(literal) => order(literal).is_some_and(Ordering::is_lt),
            AtMost(literal) => order(literal).is_some_and(Ordering::is_le),
            Above(literal) => order(literal).is_some_and(Ordering::is_gt),
            AtLeast(literal) => order(literal).is_some_and(Ordering::is_ge),
            In(literals) => literals.iter().any(equals),
            NotIn(literals) => !literals.iter().any(equals),
            IsSet => true,
            NotSet => false,
        }
    }

    /// Values of different types have no order.
    fn order(&self, value: &Literal, literal: &Literal) -> Option<Ordering> {
        match (value, literal) {
            (Literal::Text(value), Literal::Text(literal)) => Some(match kind(&self.attribute) {
                Some(Kind::Version) => version::compare(value, literal),
                _ => value.cmp(literal),
            }),
            (Literal::Number(value), Literal::Number(literal)) => value.partial_cmp(literal),
            (Literal::Bool(value), Literal::Bool(literal)) => Some(value.cmp(literal)),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holds(condition: &str, value: Option<Literal>) -> bool {
        let condition = Condition::parse(condition, Position::default()).unwrap();
        condition.holds(value)
    }

    fn text(value: &str) -> Option<Literal> {
        Some(Literal::Text(value.to_owned()))
    }

    #[test]
    fn nothing_holds_of_what_is_not_set_but_that_it_is_not() {
        for condition in [
            "node:os != 'linux'",
            "node:os NOT IN ['linux']",
            "node:os IS SET",
        ] {
            assert!(!holds(condition, None), "{condition}");
        }
        assert!(holds("node:os NOT SET", None));
        assert!(!holds("node:os NOT SET", text("linux")));
        assert!(holds("node:os IS SET", text("linux")));
    }

    #[test]
    fn versions_are_compared_as_versions_and_texts_as_texts() {
        assert!(holds("node:tsVersion >= '1.40'", text("1.40.0")));
        assert!(holds("node:tsVersion > '1.9'", text("1.10.2")));
        assert!(!holds("node:tsVersion < '1.9'", text("1.10.2")));
        assert!(holds("node:osVersion <= '13.4.0'", text("13.4.0")));
        assert!(holds("node:os IN ['macos', \"linux\"]", text("linux")));
        assert!(!holds("node:os == 'Linux'", text("linux")));
    }

    #[test]
    fn values_of_different_types_are_neither_equal_nor_ordered() {
        assert!(!holds("custom:tier == 3", text("3")));
        assert!(holds("custom:tier != 3", text("3")));
        assert!(!holds("custom:tier < 3", text("1")));
        assert!(holds("custom:tier > 2.5", Some(Literal::Number(3.0))));
    }
}
