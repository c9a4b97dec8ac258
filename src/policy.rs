//! The policy: who sees whom, and what each node is told about access.
//!
//! Pure. Netmaps ask [`Engine`], which answers as a policy file says; without one everybody reaches
//! everybody. The way of a file: `hujson` reads it, [`Document`] is what it says, `plan` makes it
//! rules over terms, `terms` and `visibility` work out what these come to for a roster of nodes, and
//! `filter`, `routing`, `login`, `attributes` and `probe` answer from that. Invariants and decisions:
//! `DESIGN.md` in the folder of the same name.

mod address_set;
mod attributes;
mod check;
mod difference;
mod document;
mod engine;
mod error;
pub mod explain;
mod facts;
mod filter;
mod hujson;
mod login;
mod meaning;
mod node_set;
mod offers;
mod owner;
mod plan;
mod ports;
mod posture;
mod probe;
mod reading;
mod resolver;
mod rights;
mod roster;
mod routing;
mod selector;
mod sources;
mod terms;
mod unit;
mod visibility;
mod yaml;

#[cfg(test)]
mod conformance;
#[cfg(test)]
mod following;
#[cfg(test)]
mod tests;

pub use self::check::{Warnings, check};
pub use self::difference::{Difference, Sight};
pub use self::document::{
    Acl, AutoApprovers, DerpRegions, Document, Grant, IpEntry, Names, NodeAttr, SshRule, SshTest,
    Test, Text,
};
pub use self::engine::Engine;
pub use self::error::{PolicyError, PolicyErrors, Position};
pub use self::facts::Facts;
pub use self::login::{LoginVerdict, SSH_CHECK_URL};
pub use self::owner::Owner;
pub use self::posture::{Comparison, Condition, Literal, Posture};
pub use self::reading::Reading;
pub use self::rights::Rights;
pub use self::selector::{Autogroup, Role, Selector, Spot};
