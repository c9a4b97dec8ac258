//! The nodes as a policy sees them: who they are, and which addresses and routes they have.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use super::address_set::{AddressSet, Range};
use super::facts::Facts;
use super::meaning::tailnet_addresses;
use super::node_set::NodeSet;
use super::posture::{Attributes, Device, Posture};
use crate::state::{Node, State};
use crate::types::{NodeId, UserId};

/// A node as a policy sees it.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Member {
    pub(super) id: NodeId,
    /// A tagged node has none.
    pub(super) owner: Option<UserId>,
    /// Sorted.
    pub(super) tags: Vec<String>,
    /// IPv4 before IPv6.
    pub(super) addresses: Vec<IpAddr>,
    /// Subnet routes that it advertises and that are approved.
    pub(super) subnets: Vec<IpNet>,
    /// Exit routes that it advertises and that are approved.
    pub(super) exits: Vec<IpNet>,
    pub(super) is_online: bool,
    pub(super) device: Device,
}

impl Member {
    pub(super) fn of(node: &Node, is_online: bool) -> Self {
        let advertised = &node.hostinfo.routable_ips;
        let routes = node
            .approved_routes
            .iter()
            .filter(|route| advertised.contains(route));
        let (exits, subnets) = routes.partition(|route| route.prefix_len() == 0);
        let v4 = node.ipv4.map(IpAddr::from);
        Self {
            id: node.id,
            owner: node.user_id.filter(|_| node.tags.is_empty()),
            tags: node.tags.clone(),
            addresses: v4.into_iter().chain(node.ipv6.map(IpAddr::from)).collect(),
            subnets,
            exits,
            is_online,
            device: Device::of(&node.hostinfo),
        }
    }

    pub(super) fn is_tagged(&self) -> bool {
        !self.tags.is_empty()
    }

    /// Whether it has one of these tags.
    pub(super) fn has_tag(&self, tags: &[String]) -> bool {
        tags.iter().any(|tag| self.tags.contains(tag))
    }

    /// Whether it has an address in the range.
    pub(super) fn is_in(&self, range: &Range) -> bool {
        self.addresses
            .iter()
            .any(|address| range.contains(*address))
    }
}

/// All nodes, with what the rules are resolved by.
#[derive(Clone, Debug, Default)]
pub(super) struct Roster {
    pub(super) facts: Facts,
    /// What all devices are like, in place of what they say: the policy's own tests suppose it.
    pub(super) supposed: Option<Arc<Attributes>>,
    /// In id order.
    pub(super) members: Vec<Member>,
    pub(super) by_owner: BTreeMap<UserId, NodeSet>,
    pub(super) by_tag: BTreeMap<String, NodeSet>,
    pub(super) tagged: NodeSet,
    pub(super) untagged: NodeSet,
    /// Nodes with subnet routes, and the nodes whose addresses those contain.
    pub(super) routers: BTreeMap<usize, NodeSet>,
    /// Nodes with an address that is not among Tailscale's: `*` stands for them, too.
    pub(super) outside: NodeSet,
    /// Nodes with exit routes.
    pub(super) exit_nodes: NodeSet,
    /// Subnet routes of all nodes.
    pub(super) subnets: BTreeSet<IpNet>,
    addresses: BTreeMap<IpAddr, usize>,
}

impl Roster {
    pub(super) fn of(state: &State) -> Self {
        let members = state
            .nodes()
            .map(|node| Member::of(node, state.is_online(node.id)));
        Self::new(members.collect(), Facts::of(state))
    }

    /// `members` are in id order.
    pub(super) fn new(members: Vec<Member>, facts: Facts) -> Self {
        let size = members.len();
        let mut roster = Self {
            facts,
            tagged: NodeSet::empty(size),
            untagged: NodeSet::empty(size),
            outside: NodeSet::empty(size),
            exit_nodes: NodeSet::empty(size),
            ..Self::default()
        };
        for (place, member) in members.iter().enumerate() {
            roster.enter(place, member, size);
        }
        for (place, member) in members.iter().enumerate() {
            if !member.subnets.is_empty() {
                let inside = AddressSet::of(member.subnets.iter().copied());
                let inside = roster.in_addresses(&inside, size);
                roster.routers.insert(place, inside);
            }
        }
        roster.members = members;
        roster
    }

    fn enter(&mut self, place: usize, member: &Member, size: usize) {
        if member.is_tagged() {
            self.tagged.insert(place);
        } else {
            self.untagged.insert(place);
        }
        let empty = || NodeSet::empty(size);
        if let Some(owner) = member.owner {
            let nodes = self.by_owner.entry(owner).or_insert_with(empty);
            nodes.insert(place);
        }
        for tag in &member.tags {
            let nodes = self.by_tag.entry(tag.clone()).or_insert_with(empty);
            nodes.insert(place);
        }
        let mut addresses = member.addresses.iter();
        if addresses.any(|address| !tailnet_addresses().contains(*address)) {
            self.outside.insert(place);
        }
        if !member.exits.is_empty() {
            self.exit_nodes.insert(place);
        }
        self.subnets.extend(&member.subnets);
        for address in &member.addresses {
            self.addresses.insert(*address, place);
        }
    }

    pub(super) fn size(&self) -> usize {
        self.members.len()
    }

    pub(super) fn none(&self) -> NodeSet {
        NodeSet::empty(self.size())
    }

    pub(super) fn place(&self, id: NodeId) -> Option<usize> {
        self.members
            .binary_search_by_key(&id, |member| member.id)
            .ok()
    }

    pub(super) fn places(&self, nodes: &NodeSet) -> impl Iterator<Item = &Member> {
        nodes.iter().filter_map(|place| self.members.get(place))
    }

    /// The nodes with an address in the set.
    pub(super) fn with_address_in(&self, set: &AddressSet) -> NodeSet {
        self.in_addresses(set, self.size())
    }

    /// The nodes whose device meets one of the postures.
    pub(super) fn conforming(&self, postures: &[&Posture]) -> NodeSet {
        let mut conforming = self.none();
        // Many devices are alike.
        let mut known: BTreeMap<&Device, bool> = BTreeMap::new();
        for (place, member) in self.members.iter().enumerate() {
            let meets = *known.entry(&member.device).or_insert_with(|| {
                let attribute = |name: &str| match &self.supposed {
                    Some(supposed) => supposed.get(name).cloned(),
                    None => member.device.attribute(name),
                };
                postures.iter().any(|posture| posture.holds(attribute))
            });
            if meets {
                conforming.insert(place);
            }
        }
        conforming
    }

    fn in_addresses(&self, set: &AddressSet, size: usize) -> NodeSet {
        let inside = set.ranges().flat_map(|range| {
            let (first, last) = range.ends();
            self.addresses.range(first..=last)
        });
        NodeSet::of(size, inside.map(|(_, place)| *place))
    }
}
