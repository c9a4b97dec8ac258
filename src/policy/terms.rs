//! What the terms of a plan stand for in a tailnet.

mod index;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, OnceLock};

use self::index::{Index, named_postures};
use super::address_set::AddressSet;
use super::document::Names;
use super::meaning::{Extent, everything, internet, tailnet_addresses, without_others};
use super::node_set::NodeSet;
use super::plan::TermNo;
use super::roster::{Member, Moved, Roster};
use super::selector::{Autogroup, Selector};
use crate::types::UserId;

/// A selector, or something else that rules lead to.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Term {
    /// Of its nodes those that meet one of the postures; without postures all.
    Named(Selector, Vec<String>),
    /// Every subnet route: as a source `*` stands for these, too. Without the addresses of nodes that
    /// meet none of the postures.
    Subnets(Vec<String>),
    /// The exit nodes, whatever they are called.
    ExitNodes,
}

/// The addresses of a term that are the same in every tailnet; none for terms that name nodes.
pub(super) fn fixed_addresses(term: &Term, names: &Names) -> Option<AddressSet> {
    let Term::Named(selector, _) = term else {
        return None;
    };
    match selector {
        Selector::Any => Some(tailnet_addresses().clone()),
        Selector::Auto(Autogroup::Internet) => Some(internet().clone()),
        Selector::Auto(Autogroup::DangerAll) => Some(everything().clone()),
        Selector::IpSet(name) => names.ipsets.get(name).cloned(),
        Selector::Host(name) => names.hosts.get(name).map(|host| AddressSet::of([*host])),
        Selector::Prefix(prefix) => Some(AddressSet::of([*prefix])),
        Selector::User(_)
        | Selector::Domain(_)
        | Selector::Group(_)
        | Selector::Tag(_)
        | Selector::Auto(
            Autogroup::Member
            | Autogroup::Tagged
            | Autogroup::Role(_)
            | Autogroup::SelfNodes
            | Autogroup::Nonroot
            | Autogroup::Shared,
        ) => None,
    }
}

/// What a term stands for.
#[derive(Debug, Default)]
pub(super) struct Standing {
    pub(super) extent: Extent,
    /// Nodes with one of its addresses.
    by_address: NodeSet,
    /// Nodes with a subnet route that leads to an address of it.
    routers: NodeSet,
    /// Routes with an address that is its, too.
    pub(super) routes: NodeSet,
    /// What filters name it by, where that is not its addresses.
    shown: Vec<String>,
    texts: OnceLock<Arc<[String]>>,
}

impl Standing {
    /// Whether a node is named, or has an address that is.
    pub(super) fn has(&self, place: usize) -> bool {
        self.extent.nodes.contains(place) || self.by_address.contains(place)
    }

    /// Whether it is a node that has something of the term, or leads there.
    pub(super) fn touches(&self, place: usize) -> bool {
        self.has(place) || self.routers.contains(place)
    }

    /// The nodes that are named, or have an address that is.
    pub(super) fn members(&self) -> impl Iterator<Item = &NodeSet> {
        [&self.extent.nodes, &self.by_address].into_iter()
    }

    /// The members, and the nodes that lead there.
    pub(super) fn touched(&self) -> impl Iterator<Item = &NodeSet> {
        self.members().chain([&self.routers])
    }

    /// All its addresses as filters name them.
    pub(super) fn texts(&self, roster: &Roster) -> &Arc<[String]> {
        self.texts.get_or_init(|| {
            let mut texts = self.shown.clone();
            if texts.is_empty() {
                texts = self.extent.texts(roster);
            }
            texts.sort_unstable();
            texts.into()
        })
    }

    fn is_like(&self, other: &Self) -> bool {
        self.extent == other.extent
            && self.by_address == other.by_address
            && self.routers == other.routers
            && self.routes == other.routes
            && self.shown == other.shown
    }
}

/// All terms of a plan, for a roster.
#[derive(Clone, Debug, Default)]
pub(super) struct Terms {
    index: Arc<Index>,
    standings: Vec<Arc<Standing>>,
}

impl Terms {
    /// Works out what the terms stand for.
    pub(super) fn of(terms: &[Term], names: &Names, roster: &Roster) -> Self {
        Self::with(terms, names, roster, |_| None)
    }

    /// The same, but for some terms it is known what they stand for.
    pub(super) fn with(
        terms: &[Term],
        names: &Names,
        roster: &Roster,
        known: impl Fn(&Term) -> Option<Arc<Standing>>,
    ) -> Self {
        let index = Arc::new(Index::of(terms, names, &roster.facts));
        let known: Vec<_> = terms.iter().map(known).collect();
        let mut named = vec![NodeSet::default(); terms.len()];
        if known.iter().any(Option::is_none) {
            for (place, member) in roster.members() {
                for term in index.naming(member) {
                    if let Some(nodes) = named.get_mut(term) {
                        nodes.insert(place);
                    }
                }
            }
        }
        let mut conforming: BTreeMap<&[String], NodeSet> = BTreeMap::new();
        for (term, postures) in terms.iter().zip(&index.postures) {
            if let Some(postures) = postures {
                let nodes = conforming.entry(named_postures(term));
                nodes.or_insert_with(|| roster.conforming(postures));
            }
        }
        let all = terms.iter().zip(&index.addresses).zip(named).zip(known);
        let standings = all.map(|(((term, addresses), nodes), known)| {
            let counting = conforming.get(named_postures(term));
            known.unwrap_or_else(|| Arc::new(stand(term, addresses, nodes, counting, roster)))
        });
        Self {
            standings: standings.collect(),
            index: Arc::clone(&index),
        }
    }

    /// The same terms for other users, and the users whose nodes other terms name then: what the
    /// terms stand for is yet to follow (`after`).
    pub(super) fn renamed(
        &self,
        terms: &[Term],
        names: &Names,
        roster: &Roster,
    ) -> (Self, BTreeSet<UserId>) {
        let index = Index::of(terms, names, &roster.facts);
        let users = self.index.users_apart(&index);
        let renamed = Self {
            index: Arc::new(index),
            standings: self.standings.clone(),
        };
        (renamed, users)
    }

    /// The same terms after nodes have moved and the offers have not: only what changes is made
    /// anew. `None` when a move changes more than its own node.
    pub(super) fn after(&self, moved: &[Moved], roster: &Roster) -> Option<Self> {
        if self.index.is_shifting {
            return None;
        }
        let mut next = self.clone();
        for moved in moved {
            // Where routes lead does not change with a node whose move leaves the offers alone.
            let had = |standing: &Standing, addresses: &AddressSet| {
                standing.extent.nodes.contains(moved.place)
                    || (!addresses.is_empty() && standing.by_address.contains(moved.place))
            };
            let all = self.standings.iter().zip(&self.index.addresses).enumerate();
            let had = all.filter(|(_, (standing, addresses))| had(standing, addresses));
            let mut changed = NodeSet::of(had.map(|(term, _)| term));
            if let Some(member) = &moved.new {
                changed.add(&NodeSet::of(self.index.naming(member)));
                let addressed = self.index.addresses.iter().enumerate();
                let addressed = addressed.filter(|(_, set)| holds(set, member));
                changed.add(&NodeSet::of(addressed.map(|(term, _)| term)));
            }
            for term in changed.iter() {
                next.follow(term, moved, roster)?;
            }
        }
        Some(next)
    }

    /// Puts a node where it belongs in a term.
    fn follow(&mut self, term: TermNo, moved: &Moved, roster: &Roster) -> Option<()> {
        let place = moved.place;
        let new = moved.new.as_deref();
        let is_named = new.is_some_and(|member| self.index.names(term, member, roster));
        let addresses = self.index.addresses.get(term)?;
        let is_addressed = new.is_some_and(|member| holds(addresses, member));
        let standing = self.standings.get_mut(term)?;
        let addresses = |member: &Option<Arc<Member>>| member.as_ref().map(|m| m.addresses.clone());
        let is_same = standing.extent.nodes.contains(place) == is_named
            && standing.by_address.contains(place) == is_addressed
            && addresses(&moved.old) == addresses(&moved.new);
        if is_same {
            return Some(());
        }
        let mut extent = standing.extent.clone();
        extent.nodes.set(place, is_named);
        let mut by_address = standing.by_address.clone();
        by_address.set(place, is_addressed);
        let routes = roster.offers.overlapping(&extent, roster);
        if routes != standing.routes {
            return None;
        }
        *standing = Arc::new(Standing {
            extent,
            by_address,
            routers: standing.routers.clone(),
            routes,
            shown: standing.shown.clone(),
            texts: OnceLock::new(),
        });
        Some(())
    }

    /// Takes over from earlier terms what is the same there, so that it is known to be.
    pub(super) fn share(&mut self, earlier: impl Fn(TermNo) -> Option<Arc<Standing>>) {
        for (term, standing) in self.standings.iter_mut().enumerate() {
            if let Some(same) = earlier(term).filter(|earlier| earlier.is_like(standing)) {
                *standing = same;
            }
        }
    }

    /// The terms that others made from these stand for something else in.
    pub(super) fn changed(&self, later: &Self) -> NodeSet {
        let pairs = self.standings.iter().zip(&later.standings).enumerate();
        let changed = pairs.filter(|(_, (one, other))| !Arc::ptr_eq(one, other));
        NodeSet::of(changed.map(|(term, _)| term))
    }

    pub(super) fn standing(&self, term: TermNo) -> Option<&Arc<Standing>> {
        self.standings.get(term)
    }

    /// What these terms stand for, in order.
    pub(super) fn each<'a>(
        &'a self,
        terms: &'a [TermNo],
    ) -> impl Iterator<Item = &'a Arc<Standing>> + Clone {
        terms.iter().filter_map(|term| self.standings.get(*term))
    }

    /// What these terms stand for together.
    pub(super) fn union(&self, terms: &[TermNo]) -> Extent {
        Extent::union_of(self.each(terms).map(|standing| &standing.extent))
    }

    /// Whether a node is named by one of the terms, or has an address that is.
    pub(super) fn have(&self, terms: &[TermNo], place: usize) -> bool {
        self.each(terms).any(|standing| standing.has(place))
    }

    /// The members of the terms, and the nodes that lead there.
    pub(super) fn touched(&self, terms: &[TermNo]) -> NodeSet {
        let mut touched = NodeSet::default();
        for set in self.each(terms).flat_map(|standing| standing.touched()) {
            touched.add(set);
        }
        touched
    }

    /// The nodes that one of the terms names, or that have an address that is.
    pub(super) fn members(&self, terms: &[TermNo]) -> NodeSet {
        let mut members = NodeSet::default();
        for set in self.each(terms).flat_map(|standing| standing.members()) {
            members.add(set);
        }
        members
    }
}

fn holds(addresses: &AddressSet, member: &Member) -> bool {
    let mut own = member.addresses.iter();
    own.any(|address| addresses.contains(*address))
}

/// Works out what a term stands for; `nodes` are those that it names, and of these `counting` count.
fn stand(
    term: &Term,
    addresses: &AddressSet,
    nodes: NodeSet,
    counting: Option<&NodeSet>,
    roster: &Roster,
) -> Standing {
    let offers = &roster.offers;
    let mut shown = Vec::new();
    let extent = match term {
        Term::ExitNodes => {
            return Standing {
                routers: offers.exit_nodes.clone(),
                ..Standing::default()
            };
        }
        Term::Named(..) => {
            let addresses = addresses.clone();
            let extent = Extent { nodes, addresses };
            counting
                .map(|counting| extent.only(roster, counting))
                .unwrap_or(extent)
        }
        Term::Subnets(_) => {
            let routes = offers.subnet_routes().map(|route| AddressSet::of([*route]));
            let routes: Vec<AddressSet> = match counting {
                Some(counting) => routes
                    .map(|route| without_others(&route, roster, counting))
                    .collect(),
                None => routes.collect(),
            };
            // Each route shows by itself.
            shown = routes.iter().flat_map(AddressSet::texts).collect();
            let prefixes = routes.iter().flat_map(AddressSet::prefixes);
            Extent {
                nodes: NodeSet::default(),
                addresses: AddressSet::of(prefixes),
            }
        }
    };
    let routes = offers.overlapping(&extent, roster);
    Standing {
        by_address: roster.with_address_in(&extent.addresses),
        routers: offers.routers_of(&routes),
        routes,
        extent,
        shown,
        texts: OnceLock::new(),
    }
}

/// What a selector stands for that need not be in any plan.
pub(super) fn resolve(term: Term, names: &Names, roster: &Roster) -> Arc<Standing> {
    let mut terms = Terms::of(&[term], names, roster);
    terms.standings.pop().unwrap_or_default()
}
