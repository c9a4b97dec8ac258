//! A policy compiled for one state of the tailnet.

mod follow;

use std::collections::BTreeSet;
use std::sync::Arc;

use ipnet::IpNet;

use super::document::Document;
use super::error::PolicyErrors;
use super::facts::Facts;
use super::login::LoginVerdict;
use super::node_set::NodeSet;
use super::plan::Plan;
use super::roster::Roster;
use super::sources::Sources;
use super::terms::Terms;
use super::visibility::{Class, Classes, Ground};
use super::{attributes, filter, login, probe, routing};
use crate::state::State;
use crate::tailcfg::{CapMap, FilterRule, SshPolicy};
use crate::types::NodeId;

/// The class of a node that the engine does not know.
const UNKNOWN: u64 = u64::MAX;
/// In a class number: one node alone, not all of an owner.
const ALONE: u64 = 1 << 31;

/// Answers for all nodes of the state that it was made from. A node that came later sees nobody and
/// is reached by nobody until the engine has followed the state.
#[derive(Clone)]
pub struct Engine {
    document: Arc<Document>,
    /// Why the text in force is not the document: it is no policy for this version.
    fault: Option<Arc<PolicyErrors>>,
    pub(super) plan: Arc<Plan>,
    pub(super) roster: Roster,
    pub(super) terms: Terms,
    pub(super) sources: Sources,
    pub(super) classes: Classes,
}

impl Engine {
    /// Compiles a document for a state.
    pub fn new(document: Arc<Document>, state: &State) -> Self {
        let roster = Roster::of(state, document.needs_hostinfo());
        Self::with_roster(document, roster)
    }

    /// Compiles the policy in force in a state. It was checked when it was set; that a user or a
    /// mail domain has gone since then breaks nothing. A text that is no policy all the same lets
    /// nobody do anything, and is told by [`Self::fault`].
    pub fn of(state: &State) -> Self {
        let (document, fault) = in_force(state);
        Self {
            fault,
            ..Self::new(document, state)
        }
    }

    pub(super) fn with_roster(document: Arc<Document>, roster: Roster) -> Self {
        let plan = Arc::new(Plan::of(&document));
        let terms = Terms::of(&plan.terms, &document.names, &roster);
        Self::assembled(document, plan, roster, terms, None)
    }

    fn assembled(
        document: Arc<Document>,
        plan: Arc<Plan>,
        roster: Roster,
        terms: Terms,
        earlier: Option<&Self>,
    ) -> Self {
        let ground = Ground {
            plan: &plan,
            terms: &terms,
            roster: &roster,
        };
        let classes = match earlier.filter(|earlier| earlier.has_signatures_of(ground)) {
            Some(earlier) => earlier.classes.relinked(ground),
            None => Classes::of(ground, earlier.map(|earlier| &earlier.classes)),
        };
        let earlier = earlier.filter(|earlier| earlier.plan.sources == plan.sources);
        let changed = earlier.map(|earlier| earlier.terms.changed(&terms));
        let sources = match (earlier, changed) {
            (Some(earlier), Some(changed)) if earlier.plan.terms == plan.terms => {
                earlier.sources.after(&changed, &plan, &terms, &roster)
            }
            _ => Sources::of(&plan, &terms, &roster),
        };
        Self {
            sources,
            document,
            fault: None,
            plan,
            roster,
            terms,
            classes,
        }
    }

    /// Whether every node is in the same of the terms that tell nodes apart.
    fn has_signatures_of(&self, ground: Ground<'_>) -> bool {
        let is_same = |term| {
            let terms = self.terms.standing(term).zip(ground.terms.standing(term));
            terms.is_some_and(|(one, other)| Arc::ptr_eq(one, other))
        };
        self.plan.terms == ground.plan.terms
            && self.plan.signing == ground.plan.signing
            && self.plan.ways.is_empty()
            && ground.plan.ways.is_empty()
            && self.roster.size() == ground.roster.size()
            && (0..self.plan.terms.len()).all(is_same)
    }

    /// Why the text in force is not what the engine answers by.
    pub fn fault(&self) -> Option<&PolicyErrors> {
        self.fault.as_deref()
    }

    pub(super) const fn roster(&self) -> &Roster {
        &self.roster
    }

    /// The document that it was compiled from.
    pub const fn document(&self) -> &Arc<Document> {
        &self.document
    }

    /// How many sets of peers there are for all nodes together.
    pub fn class_count(&self) -> usize {
        self.classes.count()
    }

    /// Runs the policy's own tests.
    pub(super) fn probe(&self, errors: &mut PolicyErrors) {
        probe::run(
            &self.document,
            &self.plan,
            &self.terms,
            &self.roster,
            errors,
        );
    }

    fn ground(&self) -> Ground<'_> {
        Ground {
            plan: &self.plan,
            terms: &self.terms,
            roster: &self.roster,
        }
    }

    /// The class of a node: nodes of one class see the same peers, themselves left out, and are told
    /// the same about them, so that what is encoded for one of them serves all. Classes of different
    /// engines have nothing to do with each other.
    pub fn class(&self, viewer: NodeId) -> u64 {
        let class = self.route_class(viewer);
        let place = self.roster.place(viewer);
        // A router has a class of its own, and so has a node that nobody knows.
        let place = place.filter(|_| class & u64::from(u32::MAX) == 0);
        let owner = place.and_then(|place| self.roster.member(place)?.owner);
        let owner = owner.filter(|_| !self.plan.own.is_empty());
        let first = owner.and_then(|owner| self.roster.owned(owner).first());
        first.map_or(class, |first| class | (*first as u64 + 1))
    }

    /// The class of a node, whoever owns it: nodes of one such class may use the same routes of any
    /// peer, but where owners see their own nodes (`autogroup:self`) they may see different peers.
    pub fn route_class(&self, viewer: NodeId) -> u64 {
        let place = self.roster.place(viewer);
        let class = place.and_then(|place| Some((place, self.classes.number(place)?)));
        let Some((place, class)) = class else {
            return UNKNOWN;
        };
        // A router also sees the routes that it shares with others.
        let member = self.roster.member(place);
        let is_router = member.is_some_and(|member| !member.subnets.is_empty());
        let beside = if is_router { place as u64 | ALONE } else { 0 };
        u64::from(class) << 32 | beside
    }

    /// The nodes that `viewer` may know of, in id order and without itself.
    pub fn peers(&self, viewer: NodeId) -> impl Iterator<Item = NodeId> {
        self.class_peers(viewer).filter(move |id| *id != viewer)
    }

    /// The nodes that somebody in the class of `viewer` may know of, in id order: all see the same of
    /// them, but nobody itself.
    pub fn class_peers(&self, viewer: NodeId) -> impl Iterator<Item = NodeId> {
        let place = self.roster.place(viewer);
        let peers = place.map(|place| self.peers_at(place)).unwrap_or_default();
        let ids = self.roster.ids();
        let places = peers.iter().collect::<Vec<_>>().into_iter();
        places.filter_map(|place| ids.get(place).copied())
    }

    /// Everybody whom the node at this place sees, with itself where others of its class see it.
    pub(super) fn peers_at(&self, place: usize) -> NodeSet {
        let class = self.classes.class(place);
        let mut peers = class.map(|class| class.peers.clone()).unwrap_or_default();
        for peer in self.owned_with(place) {
            if self.is_own_peer(place, *peer) {
                peers.insert(*peer);
            }
        }
        peers
    }

    /// The nodes of the same owner, where a rule makes these see each other.
    fn owned_with(&self, place: usize) -> &[usize] {
        let member = self
            .roster
            .member(place)
            .filter(|_| !self.plan.own.is_empty());
        let owner = member.and_then(|member| member.owner);
        owner.map_or(&[], |owner| self.roster.owned(owner))
    }

    /// Whether `autogroup:self` joins two nodes of one owner.
    fn is_own_peer(&self, viewer: usize, peer: usize) -> bool {
        let mut sources = self.plan.own.iter();
        sources.any(|source| {
            let source = self.plan.sources.get(*source);
            source.is_some_and(|source| {
                self.terms.have(&source.terms, viewer) || self.terms.have(&source.terms, peer)
            })
        })
    }

    /// The nodes whose IPv4 address nobody is told, in id order (`disable-ipv4`).
    pub fn without_ipv4(&self) -> impl Iterator<Item = NodeId> {
        let nodes = attributes::without_ipv4(&self.plan.given, &self.terms, &self.roster);
        let ids: Vec<NodeId> = self.roster.places(&nodes).map(|member| member.id).collect();
        ids.into_iter()
    }

    /// Whether nobody is told a node's IPv4 address.
    pub fn hides_ipv4(&self, node: NodeId) -> bool {
        let place = self.roster.place(node);
        place.is_some_and(|place| attributes::hides_ipv4(&self.plan.given, &self.terms, place))
    }

    /// The nodes that others reach more through than the nodes themselves, in id order.
    pub fn carriers(&self) -> impl Iterator<Item = NodeId> {
        let carriers = self.roster.places(&self.roster.offers.carriers);
        carriers.map(|member| member.id)
    }

    /// Whether `viewer` may know that `peer` exists.
    pub fn sees(&self, viewer: NodeId, peer: NodeId) -> bool {
        let places = self.roster.place(viewer).zip(self.roster.place(peer));
        places.is_some_and(|(viewer, peer)| self.sees_at(viewer, peer))
    }

    pub(super) fn sees_at(&self, viewer: usize, peer: usize) -> bool {
        let class = self.classes.class(viewer);
        let is_owned = || self.owned_with(viewer).binary_search(&peer).is_ok();
        class.is_some_and(|class| class.peers.contains(peer))
            || (is_owned() && self.is_own_peer(viewer, peer))
    }

    /// The routes of a peer that a viewer is told of beside the peer's addresses
    /// (`tailcfg.Node.AllowedIPs`), sorted; `primary` are those for which the peer is the primary.
    pub fn routes(&self, viewer: NodeId, peer: NodeId, primary: &[IpNet]) -> BTreeSet<IpNet> {
        let places = self.roster.place(viewer).zip(self.roster.place(peer));
        places.map_or_else(BTreeSet::new, |(viewer, peer)| {
            self.routes_at(viewer, peer, primary)
        })
    }

    pub(super) fn routes_at(
        &self,
        viewer: usize,
        peer: usize,
        primary: &[IpNet],
    ) -> BTreeSet<IpNet> {
        let nothing = Class::default();
        let class = self.classes.class(viewer).map_or(&nothing, |class| class);
        routing::routes_of(self.ground(), (viewer, peer), primary, class)
    }

    /// What becomes of a login over SSH from one node at another as this local user.
    pub fn login(&self, src: NodeId, dst: NodeId, user: &str) -> LoginVerdict {
        let places = self.roster.place(src).zip(self.roster.place(dst));
        places.map_or_else(LoginVerdict::unmatched, |places| {
            login::verdict(&self.plan.logins, &self.terms, &self.roster, places, user)
        })
    }

    /// What may reach a node.
    pub fn filter(&self, node: NodeId) -> Vec<FilterRule> {
        let ground = filter::Ground {
            plan: &self.plan,
            terms: &self.terms,
            sources: &self.sources,
            roster: &self.roster,
        };
        let place = self.roster.place(node);
        place.map_or_else(Vec::new, |place| filter::reduce(ground, place))
    }

    /// Who may log in to a node.
    pub fn logins(&self, node: NodeId) -> SshPolicy {
        let place = self.roster.place(node);
        place.map_or_else(SshPolicy::default, |place| {
            login::policy(&self.plan.logins, &self.terms, &self.roster, place)
        })
    }

    /// The attributes of a node that its peers are told.
    pub fn peer_attributes(&self, node: NodeId) -> CapMap {
        let place = self.roster.place(node);
        place.map_or_else(CapMap::new, |place| {
            attributes::for_peers(&self.plan.given, &self.terms, &self.roster, place)
        })
    }

    /// The attributes of a node.
    pub fn attributes(&self, node: NodeId) -> CapMap {
        let place = self.roster.place(node);
        place.map_or_else(CapMap::new, |place| {
            attributes::of_node(&self.plan.given, &self.terms, &self.roster, place)
        })
    }
}

/// The policy in force, and why it is not, if it is no policy for this version.
fn in_force(state: &State) -> (Arc<Document>, Option<Arc<PolicyErrors>>) {
    let text = state.policy().map_or("", |policy| policy.text.as_str());
    match Document::parse(text, &Facts::default()) {
        Ok(document) => (Arc::new(document), None),
        Err(errors) => (Arc::new(Document::closed()), Some(Arc::new(errors))),
    }
}
