//! Attributes of nodes (`nodeAttrs` and the switches of the whole tailnet).

use serde_json::Value;

use super::document::Document;
use super::meaning::{Extent, Resolver};
use super::node_set::NodeSet;
use super::roster::Roster;
use crate::state::{User, UserRole};
use crate::tailcfg::CapMap;

/// An administrator's node: its client may show what only administrators may change.
const IS_ADMIN: &str = "https://tailscale.com/cap/is-admin";
/// A node of the tailnet's owner.
const IS_OWNER: &str = "https://tailscale.com/cap/is-owner";

/// Clients may suggest the node as an exit node.
const SUGGEST_EXIT_NODE: &str = "suggest-exit-node";
/// The node has no IPv4 address as far as any node is told.
const DISABLE_IPV4: &str = "disable-ipv4";

/// Attributes that go to the same nodes.
pub(super) struct Given {
    nodes: NodeSet,
    attributes: CapMap,
}

/// The attributes of a document.
pub(super) fn compile(document: &Document, roster: &Roster) -> Vec<Given> {
    let mut resolver = Resolver::new(roster, &document.names);
    let mut all = Vec::new();
    for entry in &document.node_attrs {
        let mut extent = Extent::nodes(roster.none());
        for spot in &entry.target {
            extent.add(&resolver.resolve(&spot.selector));
        }
        let bare = entry.attr.iter().map(|name| (name.clone(), Vec::new()));
        let mut attributes: CapMap = bare.collect();
        attributes.extend(entry.app.clone());
        all.push(Given {
            nodes: extent.members(roster),
            attributes,
        });
    }
    let mut everybody = roster.tagged.clone();
    everybody.add(&roster.untagged);
    all.push(Given {
        nodes: everybody,
        attributes: of_tailnet(document),
    });
    all
}

fn of_tailnet(document: &Document) -> CapMap {
    let one_cgnat = document.one_cgnat_route.map(|always| match always {
        true => "one-cgnat?v=true",
        false => "one-cgnat?v=false",
    });
    let randomize = document.randomize_client_port;
    let switches = [
        randomize.then_some("randomize-client-port"),
        document.disable_ipv4.then_some(DISABLE_IPV4),
        one_cgnat,
    ];
    let names = switches.into_iter().flatten();
    names
        .map(|name| (name.to_owned(), Vec::<Value>::new()))
        .collect()
}

/// The attributes of the node at this place (`tailcfg.Node.CapMap`).
pub(super) fn of_node(given: &[Given], roster: &Roster, place: usize) -> CapMap {
    let mut attributes = by_role(roster, place);
    for given in given.iter().filter(|given| given.nodes.contains(place)) {
        attributes.extend(given.attributes.clone());
    }
    attributes
}

/// Of a node's attributes those that its peers are told (`tailcfg.Node.CapMap` of a peer): they
/// only matter there if the node can serve as an exit node.
pub(super) fn for_peers(given: &[Given], roster: &Roster, place: usize) -> CapMap {
    if !roster.exit_nodes.contains(place) {
        return CapMap::new();
    }
    let mut attributes = of_node(given, roster, place);
    attributes.retain(|name, _| name == SUGGEST_EXIT_NODE);
    attributes
}

/// The nodes whose IPv4 address nobody is told.
pub(super) fn without_ipv4(given: &[Given], roster: &Roster) -> NodeSet {
    let mut nodes = roster.none();
    let mut hiding = given.iter();
    let hides = |given: &&Given| given.attributes.contains_key(DISABLE_IPV4);
    while let Some(given) = hiding.find(hides) {
        nodes.add(&given.nodes);
    }
    nodes
}

/// Where nobody has a role, everybody is an administrator, as in headscale.
fn by_role(roster: &Roster, place: usize) -> CapMap {
    let is_admin = |user: &User| matches!(user.role, UserRole::Owner | UserRole::Admin);
    let owner = roster.members.get(place).and_then(|member| member.owner);
    let user = owner.and_then(|owner| roster.facts.user(owner));
    let names: &[&str] = if !roster.facts.users.iter().any(|user| is_admin(user)) {
        &[IS_ADMIN]
    } else if user.is_some_and(|user| user.role == UserRole::Owner) {
        &[IS_OWNER, IS_ADMIN]
    } else if user.is_some_and(is_admin) {
        &[IS_ADMIN]
    } else {
        &[]
    };
    let caps = names.iter().map(|name| ((*name).to_owned(), Vec::new()));
    caps.collect()
}
