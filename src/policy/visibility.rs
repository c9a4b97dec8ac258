//! Who sees whom, by classes: nodes that take part in the same rules in the same way see the same.

use std::collections::{BTreeMap, BTreeSet};

use ipnet::IpNet;

use super::compile::{Edge, Rules};
use super::node_set::NodeSet;
use super::roster::Roster;

/// Nodes that see the same peers and the same routes of them.
pub(super) struct Class {
    /// Everybody whom they see; the viewer itself may be among them.
    pub(super) peers: NodeSet,
    /// The routes that they may use.
    pub(super) routes: BTreeSet<IpNet>,
}

/// The classes of a tailnet and the class of each node.
#[derive(Default)]
pub(super) struct Classes {
    pub(super) classes: Vec<Class>,
    pub(super) of: Vec<usize>,
}

/// How a node takes part: numbers of rules and roles in them.
type Signature = Vec<usize>;

/// Roles of a node in an edge, as steps between the numbers of a signature.
const ROLES: usize = 4;

pub(super) fn classify(rules: &Rules, roster: &Roster) -> Classes {
    let mut signatures: Vec<Signature> = vec![Vec::new(); roster.size()];
    sign_edges(rules, &mut signatures);
    let base = rules.edges.len() * ROLES;
    sign_own(rules, base, &mut signatures);
    let base = base + rules.own_edges.len() * 2;
    if rules.has_via {
        for (number, steer) in rules.steering.iter().enumerate() {
            sign(&mut signatures, &steer.from, base + number);
        }
    }
    let base = base + rules.steering.len();
    // Routers are told apart: a router also sees the routes that it shares with others.
    for place in roster.routers.keys().copied() {
        if let Some(signature) = signatures.get_mut(place) {
            signature.push(base + place);
        }
    }
    let mut known: BTreeMap<Signature, usize> = BTreeMap::new();
    let mut classes = Classes::default();
    let routes = all_routes(roster);
    let overlaps = Overlaps::of(rules, roster, &routes);
    for (place, signature) in signatures.into_iter().enumerate() {
        let class = *known.entry(signature).or_insert_with(|| {
            let peers = peers(rules, roster, place);
            let routes = overlaps.visible(rules, &routes, place);
            classes.classes.push(Class { peers, routes });
            classes.classes.len() - 1
        });
        classes.of.push(class);
    }
    classes
}

fn sign(signatures: &mut [Signature], nodes: &NodeSet, mark: usize) {
    for place in nodes.iter() {
        if let Some(signature) = signatures.get_mut(place) {
            signature.push(mark);
        }
    }
}

fn sign_edges(rules: &Rules, signatures: &mut [Signature]) {
    for (number, edge) in rules.edges.iter().enumerate() {
        let mark = number * ROLES;
        sign(signatures, &edge.from, mark);
        sign(signatures, &edge.to, mark + 1);
        if edge.to_or_exit != edge.to {
            sign(signatures, &edge.to_or_exit, mark + 2);
        }
        if let Some(only) = &edge.only {
            sign(signatures, only, mark + 3);
        }
    }
}

fn sign_own(rules: &Rules, base: usize, signatures: &mut [Signature]) {
    for (number, edge) in rules.own_edges.iter().enumerate() {
        sign(signatures, &edge.from, base + number * 2);
        sign(signatures, &edge.to, base + number * 2 + 1);
    }
}

/// Either may reach the other.
fn peers(rules: &Rules, roster: &Roster, place: usize) -> NodeSet {
    let mut peers = roster.none();
    for edge in &rules.edges {
        let everywhere = edge.only.as_ref().is_none_or(|only| only.contains(place));
        let mut add = |others: &NodeSet| match &edge.only {
            Some(only) if !everywhere => peers.add_both(others, only),
            _ => peers.add(others),
        };
        if edge.from.contains(place) {
            add(&edge.to_or_exit);
        }
        if edge.to_or_exit.contains(place) {
            add(&edge.from);
        }
    }
    for edge in &rules.own_edges {
        if edge.from.contains(place) {
            peers.add(&edge.to);
        }
        if edge.to.contains(place) {
            peers.add(&edge.from);
        }
    }
    peers
}

/// All routes that any node offers.
fn all_routes(roster: &Roster) -> Vec<IpNet> {
    let routes = roster.members.iter();
    let routes = routes.flat_map(|member| member.subnets.iter().chain(&member.exits));
    let routes: BTreeSet<IpNet> = routes.copied().collect();
    routes.into_iter().collect()
}

/// For each edge the routes (by place in a list) that its sources and destinations overlap.
struct Overlaps(Vec<(NodeSet, NodeSet)>);

impl Overlaps {
    fn of(rules: &Rules, roster: &Roster, routes: &[IpNet]) -> Self {
        let found = |extent: &super::meaning::Extent| {
            let overlapping = routes.iter().enumerate();
            let overlapping = overlapping.filter(|(_, route)| extent.overlaps(roster, route));
            NodeSet::of(routes.len(), overlapping.map(|(number, _)| number))
        };
        let each = |edge: &Edge| (found(&edge.src), found(&edge.dst));
        Self(rules.edges.iter().map(each).collect())
    }

    fn visible(&self, rules: &Rules, routes: &[IpNet], place: usize) -> BTreeSet<IpNet> {
        let mut seen = NodeSet::empty(routes.len());
        for (edge, (src, dst)) in rules.edges.iter().zip(&self.0) {
            if edge.only.as_ref().is_some_and(|only| !only.contains(place)) {
                continue;
            }
            if edge.from.contains(place) {
                seen.add(dst);
            }
            if edge.to.contains(place) {
                seen.add(src);
            }
        }
        seen.iter().filter_map(|n| routes.get(n)).copied().collect()
    }
}
