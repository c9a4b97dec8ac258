//! `postures`: what a device must be like.

use super::text::Position;

/// Conditions that must all hold.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Posture {
    /// Where its key stands.
    pub at: Position,
    /// In the order of the file.
    pub conditions: Vec<Condition>,
}

/// One condition, `node:tsVersion >= '1.40'`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Condition {
    /// Where it begins.
    pub at: Position,
    /// With its namespace: `node:os`, `ip:country`, `custom:tier`.
    pub attribute: String,
    /// What must hold of it.
    pub test: Comparison,
}

/// How an attribute is tested.
#[derive(Clone, Debug, PartialEq, Eq)]
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

/// A value that an attribute is compared with.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Literal {
    /// In quotes.
    Text(String),
    /// Digits, with or without a sign or a fraction; as written.
    Number(String),
    /// `true` or `false`.
    Bool(bool),
}
