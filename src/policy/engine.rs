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
use super::node_set::NodeSet;
use super::owner::Owner;
use super::roster::{Member, Roster};
use super::visibility::{Classes, classify};
use super::{probe, rights, routing};
use crate::state::{Change, NodeChange, State};
use crate::tailcfg::{CapMap, FilterRule, SshPolicy};
use crate::types::NodeId;

/// The class of a node that the engine does not know.
const UNKNOWN: u64 = u64::MAX;

/// Answers for all nodes of the state that it was made from. A node that came later sees nobody and
/// is reached by nobody until the engine has followed the state.
pub struct Engine {
    document: Arc<Document>,
    /// Why the text in force is not the document: it is no policy for this version.
    fault: Option<PolicyErrors>,
    roster: Roster,
    rules: Rules,
    classes: Classes,
    logins: Vec<LoginRule>,
    attributes: Vec<Given>,
    without_ipv4: NodeSet,
}

impl Engine {
    /// Compiles a document for a state.
    pub fn new(document: Arc<Document>, state: &State) -> Self {
        Self::with_roster(document, Roster::of(state))
    }

    /// Compiles the policy in force in a state. It was checked when it was set; that a user or a
    /// mail domain has gone since then breaks nothing. A text that is no policy all the same lets
    /// nobody do anything, and is told by [`Self::fault`].
    pub fn of(state: &State) -> Self {
        let text = state.policy().map_or("", |policy| policy.text.as_str());
        match Document::parse(text, &Facts::default()) {
            Ok(document) => Self::new(Arc::new(document), state),
            Err(errors) => Self {
                fault: Some(errors),
                ..Self::new(Arc::new(Document::closed()), state)
            },
        }
    }

    /// The engine for a later state, itself if nothing of the change concerns it.
    pub fn follow(self: &Arc<Self>, state: &State, change: &Change) -> Arc<Self> {
        if change.policy {
            return Arc::new(Self::of(state));
        }
        let concerns = |node: &NodeChange| {
            let elects = node.online && self.rules.has_via;
            let conforms = node.hostinfo && self.document.needs_hostinfo();
            node.added || node.removed || node.full || node.routes || elects || conforms
        };
        if change.users.is_empty() && !change.nodes.values().any(concerns) {
            return Arc::clone(self);
        }
        let mut next = Self::new(Arc::clone(&self.document), state);
        next.fault.clone_from(&self.fault);
        Arc::new(next)
    }

    /// Why the text in force is not what the engine answers by.
    pub const fn fault(&self) -> Option<&PolicyErrors> {
        self.fault.as_ref()
    }

    pub(super) fn with_roster(document: Arc<Document>, roster: Roster) -> Self {
        let rules = compile::compile(&document, &roster);
        let classes = classify(&rules, &roster);
        let logins = login::compile(&document, &roster);
        let attributes = attributes::compile(&document, &roster);
        let without_ipv4 = attributes::without_ipv4(&attributes, &roster);
        Self {
            document,
            fault: None,
            roster,
            rules,
            classes,
            logins,
            attributes,
            without_ipv4,
        }
    }

    pub(super) const fn roster(&self) -> &Roster {
        &self.roster
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

    /// The class of a node: nodes of one class see the same peers, themselves left out, and are told
    /// the same about them, so that what is encoded for one of them serves all. Classes of different
    /// engines have nothing to do with each other.
    pub fn class(&self, viewer: NodeId) -> u64 {
        let class = self.class_of(viewer);
        class.map_or(UNKNOWN, |class| class as u64)
    }

    /// The nodes that `viewer` may know of, in id order and without itself.
    pub fn peers(&self, viewer: NodeId) -> impl Iterator<Item = NodeId> {
        self.class_peers(viewer).filter(move |id| *id != viewer)
    }

    /// The nodes that somebody in the class of `viewer` may know of, in id order: all see the same of
    /// them, but nobody itself.
    pub fn class_peers(&self, viewer: NodeId) -> impl Iterator<Item = NodeId> {
        let class = self.class_of(viewer);
        let class = class.and_then(|class| self.classes.classes.get(class));
        let peers = class.into_iter().flat_map(|class| class.peers.iter());
        let members = peers.filter_map(|place| self.roster.members.get(place));
        members.map(|member| member.id)
    }

    /// The nodes whose IPv4 address nobody is told, in id order (`disable-ipv4`).
    pub fn without_ipv4(&self) -> impl Iterator<Item = NodeId> {
        let members = self.roster.places(&self.without_ipv4);
        members.map(|member| member.id)
    }

    /// Whether nobody is told a node's IPv4 address.
    pub fn hides_ipv4(&self, node: NodeId) -> bool {
        let place = self.roster.place(node);
        place.is_some_and(|place| self.without_ipv4.contains(place))
    }

    /// The nodes that others reach more through than the nodes themselves, in id order.
    pub fn carriers(&self) -> impl Iterator<Item = NodeId> {
        let members = self.roster.members.iter();
        let carries = |member: &&Member| !member.subnets.is_empty() || !member.exits.is_empty();
        members.filter(carries).map(|member| member.id)
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
        let Some(member) = place.and_then(|place| self.roster.members.get(place)) else {
            return Vec::new();
        };
        let facts = &self.roster.facts;
        let owner = match member.owner.and_then(|id| facts.user(id)) {
            Some(user) => Owner::User(user),
            None => Owner::Tags(&member.tags),
        };
        rights::approved_routes(&self.document, facts, owner, wanted)
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
