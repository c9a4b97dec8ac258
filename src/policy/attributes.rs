//! Attributes of nodes (`nodeAttrs` and the switches of the whole tailnet).

use serde_json::Value;

use super::document::Document;
use super::node_set::NodeSet;
use super::plan::{Planner, TermNo};
use super::roster::Roster;
use super::selector::Role;
use super::terms::Terms;
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
#[derive(Debug, PartialEq)]
pub(super) struct Given {
    /// Absent: everybody.
    pub(super) to: Option<Vec<TermNo>>,
    pub(super) attributes: CapMap,
}

impl Given {
    fn is_for(&self, terms: &Terms, place: usize) -> bool {
        let to = self.to.as_ref();
        to.is_none_or(|to| terms.have(to, place))
    }

    fn hides_ipv4(&self) -> bool {
        self.attributes.contains_key(DISABLE_IPV4)
    }
}

/// The attributes of a document.
pub(super) fn plan(document: &Document, planner: &mut Planner<'_>) -> Vec<Given> {
    let mut all = Vec::new();
    for entry in &document.node_attrs {
        let bare = entry.attr.iter().map(|name| (name.clone(), Vec::new()));
        let mut attributes: CapMap = bare.collect();
        attributes.extend(entry.app.clone());
        all.push(Given {
            to: Some(planner.spots(&entry.target)),
            attributes,
        });
    }
    all.push(Given {
        to: None,
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
pub(super) fn of_node(given: &[Given], terms: &Terms, roster: &Roster, place: usize) -> CapMap {
    if roster.member(place).is_none() {
        return CapMap::new();
    }
    let mut attributes = by_role(roster, place);
    for given in given.iter().filter(|given| given.is_for(terms, place)) {
        attributes.extend(given.attributes.clone());
    }
    attributes
}

/// Of a node's attributes those that its peers are told (`tailcfg.Node.CapMap` of a peer): they
/// only matter there if the node can serve as an exit node.
pub(super) fn for_peers(given: &[Given], terms: &Terms, roster: &Roster, place: usize) -> CapMap {
    if !roster.offers.exit_nodes.contains(place) {
        return CapMap::new();
    }
    let mut attributes = of_node(given, terms, roster, place);
    attributes.retain(|name, _| name == SUGGEST_EXIT_NODE);
    attributes
}

/// The nodes whose IPv4 address nobody is told.
pub(super) fn without_ipv4(given: &[Given], terms: &Terms, roster: &Roster) -> NodeSet {
    let mut nodes = NodeSet::default();
    for given in given.iter().filter(|given| given.hides_ipv4()) {
        match &given.to {
            Some(to) => nodes.add(&terms.members(to)),
            None => nodes.add(&roster.all()),
        }
    }
    nodes
}

/// Whether nobody is told the IPv4 address of the node at this place.
pub(super) fn hides_ipv4(given: &[Given], terms: &Terms, place: usize) -> bool {
    let mut hiding = given.iter().filter(|given| given.hides_ipv4());
    hiding.any(|given| given.is_for(terms, place))
}

/// Where nobody has a role, everybody is an administrator, as in headscale.
fn by_role(roster: &Roster, place: usize) -> CapMap {
    let owner = roster.member(place).and_then(|member| member.owner);
    let user = owner.and_then(|owner| roster.facts.user(owner));
    let names: &[&str] = if !roster.has_admin {
        &[IS_ADMIN]
    } else if user.is_some_and(|user| Role::Owner.is_of(user)) {
        &[IS_OWNER, IS_ADMIN]
    } else if user.is_some_and(|user| Role::Admin.is_of(user)) {
        &[IS_ADMIN]
    } else {
        &[]
    };
    let caps = names.iter().map(|name| ((*name).to_owned(), Vec::new()));
    caps.collect()
}
