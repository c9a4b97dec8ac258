//! The routes that nodes offer.

use ipnet::IpNet;

use super::address_set::AddressSet;
use super::meaning::Extent;
use super::node_set::NodeSet;
use super::roster::{Member, Moved, Roster};

/// The routes of all nodes, each once, by number.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Offers {
    /// Sorted.
    routes: Vec<Offer>,
    /// Nodes with routes.
    pub(super) carriers: NodeSet,
    /// Nodes with subnet routes.
    pub(super) routers: NodeSet,
    /// Nodes with exit routes.
    pub(super) exit_nodes: NodeSet,
    /// Everywhere that subnet routes lead to.
    pub(super) subnets: AddressSet,
}

/// A route and who offers it.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Offer {
    pub(super) route: IpNet,
    /// In order.
    pub(super) carriers: Vec<usize>,
    /// Of a subnet route the nodes with an address in it.
    inside: NodeSet,
}

impl Offer {
    fn is_exit(&self) -> bool {
        self.route.prefix_len() == 0
    }
}

impl Offers {
    /// What the carriers offer.
    pub(super) fn of(carriers: NodeSet, roster: &Roster) -> Self {
        let mut all = Vec::new();
        let mut routers = NodeSet::default();
        let mut exit_nodes = NodeSet::default();
        for place in carriers.iter() {
            let Some(member) = roster.member(place) else {
                continue;
            };
            if !member.subnets.is_empty() {
                routers.insert(place);
            }
            if !member.exits.is_empty() {
                exit_nodes.insert(place);
            }
            let routes = member.subnets.iter().chain(&member.exits);
            all.extend(routes.map(|route| (*route, place)));
        }
        all.sort_unstable();
        let routes: Vec<Offer> = all
            .chunk_by(|one, next| one.0 == next.0)
            .filter_map(|offers| {
                let (route, _) = *offers.first()?;
                Some(Offer {
                    route,
                    carriers: offers.iter().map(|(_, place)| *place).collect(),
                    inside: if route.prefix_len() == 0 {
                        NodeSet::default()
                    } else {
                        roster.with_address_in(&AddressSet::of([route]))
                    },
                })
            })
            .collect();
        let subnets = routes.iter().filter(|offer| !offer.is_exit());
        let subnets = AddressSet::of(subnets.map(|offer| offer.route));
        Self {
            routes,
            carriers,
            routers,
            exit_nodes,
            subnets,
        }
    }

    /// Whether a node that moved offers other routes, or has come to or gone from where they lead.
    pub(super) fn are_moved_by(&self, moved: &Moved) -> bool {
        let routes = |member: &Member| (member.subnets.clone(), member.exits.clone());
        let (old, new) = (moved.old.as_deref(), moved.new.as_deref());
        let addresses = |member: Option<&Member>| {
            let addresses = member.into_iter().flat_map(|member| &member.addresses);
            let inside = addresses.filter(|address| self.subnets.contains(**address));
            inside.copied().collect::<Vec<_>>()
        };
        let offered = |member: Option<&Member>| member.filter(|m| m.is_carrier()).map(routes);
        offered(old) != offered(new) || addresses(old) != addresses(new)
    }

    /// What is offered after some nodes have moved.
    pub(super) fn after(&self, moved: &[Moved], roster: &Roster) -> Self {
        let mut carriers = self.carriers.clone();
        for moved in moved {
            let is_carrier = moved.new.as_ref().is_some_and(|member| member.is_carrier());
            carriers.set(moved.place, is_carrier);
        }
        Self::of(carriers, roster)
    }

    /// The routes that lead to subnets.
    pub(super) fn subnet_routes(&self) -> impl Iterator<Item = &IpNet> {
        let subnets = self.routes.iter().filter(|offer| !offer.is_exit());
        subnets.map(|offer| &offer.route)
    }

    pub(super) fn number(&self, route: &IpNet) -> Option<usize> {
        let found = self.routes.binary_search_by_key(route, |offer| offer.route);
        found.ok()
    }

    /// Who offers a route, in order.
    pub(super) fn carriers_of(&self, route: &IpNet) -> &[usize] {
        let offer = self
            .number(route)
            .and_then(|number| self.routes.get(number));
        offer.map_or(&[], |offer| offer.carriers.as_slice())
    }

    /// The routes with an address that is in the extent, too.
    pub(super) fn overlapping(&self, extent: &Extent, roster: &Roster) -> NodeSet {
        let routes = self.routes.iter().enumerate();
        let overlapping = routes.filter(|(_, offer)| {
            extent.addresses.overlaps(&offer.route)
                || offer.inside.meets(&extent.nodes)
                || (offer.is_exit() && has_family(extent, roster, &offer.route))
        });
        NodeSet::of(overlapping.map(|(number, _)| number))
    }

    /// The nodes with one of these routes as a subnet route.
    pub(super) fn routers_of(&self, routes: &NodeSet) -> NodeSet {
        let offers = routes.iter().filter_map(|number| self.routes.get(number));
        let subnets = offers.filter(|offer| !offer.is_exit());
        NodeSet::of(subnets.flat_map(|offer| offer.carriers.iter().copied()))
    }

    /// The nodes with an address in a subnet route of this node.
    pub(super) fn behind(&self, member: &Member) -> NodeSet {
        let mut inside = NodeSet::default();
        for number in member.subnets.iter().filter_map(|route| self.number(route)) {
            if let Some(offer) = self.routes.get(number) {
                inside.add(&offer.inside);
            }
        }
        inside
    }
}

/// Whether a node of the extent has an address of the route's family.
fn has_family(extent: &Extent, roster: &Roster, route: &IpNet) -> bool {
    roster.places(&extent.nodes).any(|member| {
        member
            .addresses
            .iter()
            .any(|address| route.contains(address))
    })
}
