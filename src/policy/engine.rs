//! A policy compiled for one state of the tailnet.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;

use super::attributes::{self, Given};
use super::compile::{self, Rules};
use super::document::Document;
use super::error::PolicyErrors;
use super::facts::Facts;
use super::login::{self, LoginRule};
use super::roster::Roster;
use super::visibility::{Classes, classify};
use super::{Policy, probe, routing};
use crate::state::{Node, State};
use crate::tailcfg::{CapMap, FilterRule, SshPolicy};
use crate::types::NodeId;

/// The class of a node that the engine does not know.
const UNKNOWN: u64 = u64::MAX;

/// Answers for all nodes of the state that it was made from. A node that came later sees nobody and
/// is reached by nobody until the engine is made anew.
pub struct Engine {
    document: Arc<Document>,
    roster: Roster,
    rules: Rules,
    classes: Classes,
    logins: Vec<LoginRule>,
    attributes: Vec<Given>,
}

impl Engine {
    /// Compiles a document for a state.
    pub fn new(document: Arc<Document>, state: &State) -> Self {
        Self::with_roster(document, Roster::of(state))
    }

    /// Compiles the policy in force in a state. It was checked when it was set; that a user or a
    /// mail domain has gone since then breaks nothing.
    ///
    /// # Errors
    /// The text is not a policy.
    pub fn of(state: &State) -> Result<Self, PolicyErrors> {
        let text = state.policy().map_or("", |policy| policy.text.as_str());
        let document = Document::parse(text, &Facts::default())?;
        Ok(Self::new(Arc::new(document), state))
    }

    pub(super) fn with_roster(document: Arc<Document>, roster: Roster) -> Self {
        let rules = compile::compile(&document, &roster);
        let classes = classify(&rules, &roster);
        let logins = login::compile(&document, &roster);
        let attributes = attributes::compile(&document, &roster);
        Self {
            document,
            roster,
            rules,
            classes,
            logins,
            attributes,
        }
    }

    /// The document that it was compiled from.
    pub fn document(&self) -> &Arc<Document> {
        &self.document
    }

    /// Runs the policy's own tests.
    pub(super) fn probe(&self, errors: &mut PolicyErrors) {
        probe::run(
            &self.document,
            &self.roster,
            &self.rules,
            &self.logins,
            errors,
        );
    }

    /// Whether `viewer` may know that `peer` exists.
    pub fn sees(&self, viewer: NodeId, peer: NodeId) -> bool {
        let peer = self.roster.place(peer);
        let class = self.class_of(viewer);
        class.zip(peer).is_some_and(|(class, peer)| {
            let class = self.classes.classes.get(class);
            class.is_some_and(|class| class.peers.contains(peer))
        })
    }

    /// The routes of a peer that a viewer is told of beside the peer's addresses
    /// (`tailcfg.Node.AllowedIPs`), sorted; `primary` are those for which the peer is the primary.
    pub fn routes(&self, viewer: NodeId, peer: NodeId, primary: &[IpNet]) -> BTreeSet<IpNet> {
        let places = self.roster.place(viewer).zip(self.roster.place(peer));
        let class = self.class_of(viewer);
        let class = class.and_then(|class| self.classes.classes.get(class));
        let Some((places, class)) = places.zip(class) else {
            return BTreeSet::new();
        };
        routing::routes_of(&self.rules, &self.roster, places, primary, &class.routes)
    }

    /// The routes of the wanted ones that the policy approves without an administrator, sorted.
    pub fn approved_routes(&self, node: NodeId, wanted: &[IpNet]) -> Vec<IpNet> {
        let place = self.roster.place(node);
        place.map_or_else(Vec::new, |place| {
            routing::approved(&self.document, &self.roster, place, wanted)
        })
    }

    /// How long a check of a login from one node to another lasts; absent if no rule asks for one.
    pub fn check_period(&self, src: NodeId, dst: NodeId) -> Option<Duration> {
        let (src, dst) = self.roster.place(src).zip(self.roster.place(dst))?;
        let mut rules = self.logins.iter();
        let rule =
            rules.find(|rule| rule.check_period.is_some() && rule.joins(src, dst, &self.roster));
        rule.and_then(|rule| rule.check_period)
    }

    fn class_of(&self, node: NodeId) -> Option<usize> {
        let place = self.roster.place(node)?;
        self.classes.of.get(place).copied()
    }

    /// What may reach a node.
    pub fn filter(&self, node: NodeId) -> Vec<FilterRule> {
        let place = self.roster.place(node);
        place.map_or_else(Vec::new, |place| {
            super::filter::reduce(&self.rules, &self.roster, place)
        })
    }

    /// Who may log in to a node.
    pub fn logins(&self, node: NodeId) -> SshPolicy {
        let place = self.roster.place(node);
        place.map_or_else(SshPolicy::default, |place| {
            login::policy(&self.logins, &self.roster, place)
        })
    }

    /// The attributes of a node that its peers are told.
    pub fn peer_attributes(&self, node: NodeId) -> CapMap {
        let place = self.roster.place(node);
        place.map_or_else(CapMap::new, |place| {
            attributes::for_peers(&self.attributes, &self.roster, place)
        })
    }

    /// The attributes of a node.
    pub fn attributes(&self, node: NodeId) -> CapMap {
        let place = self.roster.place(node);
        place.map_or_else(CapMap::new, |place| {
            attributes::of_node(&self.attributes, &self.roster, place)
        })
    }
}

impl Policy for Engine {
    fn class(&self, _state: &State, viewer: &Node) -> u64 {
        let class = self.class_of(viewer.id);
        class.map_or(UNKNOWN, |class| class as u64)
    }

    fn can_see(&self, _state: &State, viewer: &Node, peer: &Node) -> bool {
        self.sees(viewer.id, peer.id)
    }

    fn packet_filter(&self, _state: &State, node: &Node) -> Vec<FilterRule> {
        self.filter(node.id)
    }

    fn ssh_policy(&self, _state: &State, node: &Node) -> SshPolicy {
        self.logins(node.id)
    }

    fn capabilities(&self, _state: &State, node: &Node) -> CapMap {
        self.attributes(node.id)
    }
}
