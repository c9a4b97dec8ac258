//! Whose answers may differ between two engines.
//!
//! Nearly everybody's stay the same from one state to the next, and to know that must cost less than
//! to work the answers out. So this is about who need not be asked: a node that is not named here has
//! equal answers, of one that is named they may still be equal.

mod doubt;
mod pair;

use std::collections::BTreeSet;
use std::sync::Arc;

use self::pair::Pair;
use super::engine::Engine;
use super::node_set::NodeSet;
use crate::types::NodeId;

/// Nodes whose answers may differ.
#[derive(Debug)]
enum Suspects {
    Everybody,
    /// By place.
    These(NodeSet),
}

/// How two engines may differ.
#[derive(Debug)]
pub struct Difference {
    filters: Suspects,
    logins: Suspects,
    attributes: Suspects,
    /// Nodes of which all who see them are told otherwise.
    told: BTreeSet<NodeId>,
}

/// What comes into sight and what goes out of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sight {
    /// Peers that could not be seen before.
    pub came: BTreeSet<NodeId>,
    /// Peers that cannot be seen any more.
    pub went: BTreeSet<NodeId>,
}

impl Difference {
    /// Compares an engine with a later one.
    pub fn of(before: &Engine, after: &Engine) -> Self {
        let told = told(before, after);
        let Some(pair) = Pair::of(before, after) else {
            return Self {
                filters: Suspects::Everybody,
                logins: Suspects::Everybody,
                attributes: Suspects::Everybody,
                told,
            };
        };
        Self {
            filters: pair.filters(),
            logins: pair.logins(),
            attributes: pair.attributes(),
            told,
        }
    }

    /// Whether the filter of a node may differ.
    pub fn may_change_filter(&self, after: &Engine, node: NodeId) -> bool {
        self.filters.have(after, node)
    }

    /// Whether it may differ who logs in to a node.
    pub fn may_change_logins(&self, after: &Engine, node: NodeId) -> bool {
        self.logins.have(after, node)
    }

    /// Whether the attributes of a node may differ.
    pub fn may_change_attributes(&self, after: &Engine, node: NodeId) -> bool {
        self.attributes.have(after, node)
    }

    /// Whether a viewer may be told of other routes of peers that it sees as before, while the same
    /// nodes carry them.
    pub fn may_change_routes(&self, before: &Engine, after: &Engine, viewer: NodeId) -> bool {
        let places = before.roster.place(viewer).zip(after.roster.place(viewer));
        let Some((old, new)) = places else {
            return true;
        };
        let has_via = before.plan.has_via || after.plan.has_via;
        let subnets = |engine: &Engine, place| {
            let member = engine.roster.member(place);
            member.map(|member| member.subnets.clone())
        };
        let routes = |engine: &Engine, place| {
            let class = engine.classes.class(place);
            class.map(|class| class.routes.clone())
        };
        has_via
            || !offer_same(before, after)
            || subnets(before, old) != subnets(after, new)
            || routes(before, old) != routes(after, new)
    }

    /// The nodes of whose attributes, or IPv4 address, all who see them are told otherwise.
    pub const fn told(&self) -> &BTreeSet<NodeId> {
        &self.told
    }
}

impl Sight {
    /// What differs for everybody in the classes of `viewer`; the viewer itself may be in it.
    pub fn of(before: &Engine, after: &Engine, viewer: NodeId) -> Self {
        let places = before.roster.place(viewer).zip(after.roster.place(viewer));
        if let Some((old, new)) = places.filter(|_| have_equal_places(before, after)) {
            let (old, new) = (before.peers_at(old), after.peers_at(new));
            let ids = |engine: &Engine, places: &NodeSet| {
                let ids = engine.roster.ids();
                places
                    .iter()
                    .filter_map(|place| ids.get(place).copied())
                    .collect()
            };
            return Self {
                came: ids(after, &new.without(&old)),
                went: ids(before, &old.without(&new)),
            };
        }
        let old: BTreeSet<NodeId> = before.class_peers(viewer).collect();
        let new: BTreeSet<NodeId> = after.class_peers(viewer).collect();
        Self {
            came: new.difference(&old).copied().collect(),
            went: old.difference(&new).copied().collect(),
        }
    }
}

impl Suspects {
    fn have(&self, engine: &Engine, node: NodeId) -> bool {
        match self {
            Self::Everybody => true,
            Self::These(places) => {
                let place = engine.roster.place(node);
                place.is_none_or(|place| places.contains(place))
            }
        }
    }
}

/// Whether the nodes offer the same routes in both.
fn offer_same(one: &Engine, other: &Engine) -> bool {
    let (one, other) = (&one.roster.offers, &other.roster.offers);
    Arc::ptr_eq(one, other) || one == other
}

/// Whether what both know has the same places in both.
fn have_equal_places(one: &Engine, other: &Engine) -> bool {
    let (one, other) = (one.roster.ids(), other.roster.ids());
    let both = one.len().min(other.len());
    one.get(..both) == other.get(..both)
}

fn told(before: &Engine, after: &Engine) -> BTreeSet<NodeId> {
    let carriers = before.carriers().chain(after.carriers());
    let differ = |id: &NodeId| before.peer_attributes(*id) != after.peer_attributes(*id);
    let mut told: BTreeSet<NodeId> = carriers.filter(differ).collect();
    let hidden = |engine: &Engine| engine.without_ipv4().collect::<BTreeSet<NodeId>>();
    told.extend(hidden(before).symmetric_difference(&hidden(after)));
    told
}
