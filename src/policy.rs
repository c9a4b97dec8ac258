//! The policy: who sees whom, and what each node is told about access.
//!
//! Pure. The netmap asks the questions of [`Policy`] and nothing else. [`Engine`] answers them as a
//! policy file says; [`AllowAll`] lets everybody do everything. The way of a file: `hujson` reads
//! it, [`Document`] is what it says, `compile` makes it the rules of the tailnet for a roster of
//! nodes, and `filter`, `visibility`, `routing`, `login`, `attributes` and `probe` answer from
//! those. Invariants and decisions: `DESIGN.md` in the folder of the same name.

mod address_set;
mod attributes;
mod check;
mod compile;
mod document;
mod engine;
mod error;
mod facts;
mod filter;
mod hujson;
mod login;
mod meaning;
mod node_set;
mod ports;
mod probe;
mod roster;
mod routing;
mod selector;
mod visibility;

#[cfg(test)]
mod conformance;

pub use self::check::{Warnings, check};
pub use self::document::{
    Acl, AutoApprovers, Document, Grant, IpEntry, Names, NodeAttr, SshRule, SshTest, Test, Text,
};
pub use self::engine::Engine;
pub use self::error::{PolicyError, PolicyErrors, Position};
pub use self::facts::Facts;
pub use self::selector::{Autogroup, Role, Selector, Spot};

use serde_json::Value;

use crate::state::{Node, State};
use crate::tailcfg::{CapMap, FilterRule, SshPolicy};

/// The rules of a tailnet.
pub trait Policy: Send + Sync + 'static {
    /// Nodes of one visibility class see the same peers, themselves left out, and are told the same
    /// about them; what is encoded for one of them serves all.
    fn class(&self, state: &State, viewer: &Node) -> u64;

    /// Whether `viewer` may know that `peer` exists.
    fn can_see(&self, state: &State, viewer: &Node, peer: &Node) -> bool;

    /// What may reach `node` (`tailcfg.MapResponse.PacketFilters["base"]`).
    fn packet_filter(&self, state: &State, node: &Node) -> Vec<FilterRule>;

    /// Who may log in to `node` by SSH (`tailcfg.MapResponse.SSHPolicy`).
    fn ssh_policy(&self, state: &State, node: &Node) -> SshPolicy;

    /// Attributes of `node` beside those that the configuration gives (`tailcfg.Node.CapMap`).
    fn capabilities(&self, state: &State, node: &Node) -> CapMap;
}

/// Everybody sees and reaches everybody; nobody logs in by SSH.
#[derive(Clone, Copy, Debug, Default)]
pub struct AllowAll;

impl Policy for AllowAll {
    fn class(&self, _state: &State, _viewer: &Node) -> u64 {
        0
    }

    fn can_see(&self, _state: &State, _viewer: &Node, _peer: &Node) -> bool {
        true
    }

    fn packet_filter(&self, _state: &State, _node: &Node) -> Vec<FilterRule> {
        vec![FilterRule::allow_all()]
    }

    fn ssh_policy(&self, _state: &State, _node: &Node) -> SshPolicy {
        SshPolicy::default()
    }

    fn capabilities(&self, _state: &State, _node: &Node) -> CapMap {
        // headscale treats every node's user as an administrator of its own tailnet.
        CapMap::from([(
            "https://tailscale.com/cap/is-admin".to_owned(),
            Vec::<Value>::new(),
        )])
    }
}
