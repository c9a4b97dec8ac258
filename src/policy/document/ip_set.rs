//! `ipsets`: named sets of addresses.

use super::selector::Spot;
use super::text::Position;

/// A set of addresses, made step by step from the empty set.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct IpSet {
    /// Where its key stands.
    pub at: Position,
    /// In the order of the file.
    pub steps: Vec<IpSetStep>,
}

/// One entry of an ipset.
#[derive(Clone, Debug, PartialEq)]
pub struct IpSetStep {
    /// What is done with the target.
    pub change: IpSetChange,
    /// [`super::Selector::Prefix`], [`super::Selector::Host`], [`super::Selector::IpSet`] or
    /// `autogroup:internet`.
    pub target: Spot,
}

/// What a step does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IpSetChange {
    /// `add T`, or `T` alone.
    Add,
    /// `remove T`
    Remove,
}
