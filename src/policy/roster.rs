//! The nodes as a policy sees them: who they are, and which addresses and routes they have.
//!
//! Every node has a place, and the bits of all sets of nodes follow the places. Places follow ids, and
//! a node keeps its place: new nodes come behind the others, since ids only grow, and a node that goes
//! leaves its place empty. Parts are shared with the roster that one came from.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use imbl::{OrdMap, Vector};
use ipnet::IpNet;

use super::address_set::{AddressSet, Range};
use super::facts::Facts;
use super::meaning::tailnet_addresses;
use super::node_set::NodeSet;
use super::offers::Offers;
use super::posture::{Attributes, Device, Posture};
use super::selector::Role;
use crate::state::{Change, Node, NodeChange, State};
use crate::types::{NodeId, UserId};

/// Empty places that any roster may have; beyond that as many as nodes, then places are given anew.
const GONE_MAX: usize = 64;

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
    /// Told of nodes with routes only: of the others nobody asks.
    pub(super) is_online: bool,
    /// Told only where the policy asks what devices are like.
    pub(super) device: Device,
}

impl Member {
    fn of(node: &Node, state: &State, looks_at_devices: bool) -> Self {
        let advertised = &node.hostinfo.routable_ips;
        let routes = node
            .approved_routes
            .iter()
            .filter(|route| advertised.contains(route));
        let (exits, subnets): (Vec<_>, Vec<_>) = routes.partition(|route| route.prefix_len() == 0);
        let v4 = node.ipv4.map(IpAddr::from);
        let is_online = !(exits.is_empty() && subnets.is_empty()) && state.is_online(node.id);
        Self {
            id: node.id,
            owner: node.user_id.filter(|_| node.tags.is_empty()),
            tags: node.tags.clone(),
            addresses: v4.into_iter().chain(node.ipv6.map(IpAddr::from)).collect(),
            subnets,
            exits,
            is_online,
            device: if looks_at_devices {
                Device::of(&node.hostinfo)
            } else {
                Device::default()
            },
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

    /// Whether its device meets one of the postures.
    pub(super) fn meets(&self, postures: &[Posture], supposed: Option<&Attributes>) -> bool {
        let attribute = |name: &str| match supposed {
            Some(supposed) => supposed.get(name).cloned(),
            None => self.device.attribute(name),
        };
        postures.iter().any(|posture| posture.holds(attribute))
    }

    /// Whether it offers routes.
    pub(super) fn is_carrier(&self) -> bool {
        !self.subnets.is_empty() || !self.exits.is_empty()
    }
}

/// All nodes.
#[derive(Clone, Debug, Default)]
pub(super) struct Roster {
    pub(super) facts: Arc<Facts>,
    /// Whether any user is an administrator.
    pub(super) has_admin: bool,
    /// By place, those of nodes that are gone among them.
    ids: Arc<Vec<NodeId>>,
    /// By place; absent where a node is gone.
    members: Vector<Option<Arc<Member>>>,
    gone: usize,
    owned: OrdMap<UserId, Arc<Vec<usize>>>,
    addresses: OrdMap<IpAddr, NodeId>,
    /// What nodes with routes offer.
    pub(super) offers: Arc<Offers>,
    looks_at_devices: bool,
    /// What all devices are like, in place of what they say: the policy's own tests suppose it.
    pub(super) supposed: Option<Arc<Attributes>>,
}

/// A node that another roster knew otherwise, or not at all.
#[derive(Clone)]
pub(super) struct Moved {
    pub(super) place: usize,
    pub(super) old: Option<Arc<Member>>,
    pub(super) new: Option<Arc<Member>>,
}

/// A new node has no place behind the others.
struct OutOfOrder;

impl Roster {
    pub(super) fn of(state: &State, looks_at_devices: bool) -> Self {
        let members = state.nodes();
        let members = members.map(|node| Member::of(node, state, looks_at_devices));
        let mut roster = Self {
            looks_at_devices,
            ..Self::empty(Facts::of(state))
        };
        roster.addresses = state.addresses().clone();
        roster.fill(members);
        roster
    }

    /// `members` are in id order.
    #[cfg(test)]
    pub(super) fn new(members: Vec<Member>, facts: Facts) -> Self {
        let mut roster = Self::empty(facts);
        let addresses = members
            .iter()
            .flat_map(|member| member.addresses.iter().map(|address| (*address, member.id)));
        roster.addresses = addresses.collect();
        roster.fill(members.into_iter());
        roster
    }

    fn empty(facts: Facts) -> Self {
        Self {
            has_admin: has_admin(&facts),
            facts: Arc::new(facts),
            ..Self::default()
        }
    }

    fn fill(&mut self, members: impl Iterator<Item = Member>) {
        let mut ids = Vec::new();
        let mut owned: BTreeMap<UserId, Vec<usize>> = BTreeMap::new();
        for (place, member) in members.enumerate() {
            ids.push(member.id);
            if let Some(owner) = member.owner {
                owned.entry(owner).or_default().push(place);
            }
            self.members.push_back(Some(Arc::new(member)));
        }
        self.ids = Arc::new(ids);
        let owned = owned.into_iter();
        self.owned = owned
            .map(|(owner, places)| (owner, Arc::new(places)))
            .collect();
        let carriers = self.members().filter(|(_, member)| member.is_carrier());
        let carriers = NodeSet::of(carriers.map(|(place, _)| place));
        self.offers = Arc::new(Offers::of(carriers, self));
    }

    /// The roster of a later state, and the nodes that it knows otherwise; `None` when places must be
    /// given anew.
    pub(super) fn follow(&self, state: &State, change: &Change) -> Option<(Self, Vec<Moved>)> {
        let mut next = self.clone();
        let mut moved = Vec::new();
        for (id, node) in &change.nodes {
            if concerns(node) || (self.looks_at_devices && node.hostinfo) {
                moved.extend(next.take(*id, state).ok()?);
            }
        }
        if !change.users.is_empty() {
            next.facts = Arc::new(Facts::of(state));
            next.has_admin = has_admin(&next.facts);
        }
        if moved.is_empty() {
            return Some((next, moved));
        }
        next.addresses = state.addresses().clone();
        if moved.iter().any(|moved| self.offers.are_moved_by(moved)) {
            next.offers = Arc::new(Offers::after(&self.offers, &moved, &next));
        }
        let is_sparse = next.gone > GONE_MAX && next.gone * 2 > next.size();
        (!is_sparse).then_some((next, moved))
    }

    /// Takes over a node as the state has it: nothing if it is as it was.
    fn take(&mut self, id: NodeId, state: &State) -> Result<Option<Moved>, OutOfOrder> {
        let new = state.node(id);
        let new = new.map(|node| Arc::new(Member::of(node, state, self.looks_at_devices)));
        let place = match self.place_of(id) {
            Some(place) => place,
            None if new.is_none() => return Ok(None),
            None if self.ids.last().is_some_and(|last| *last > id) => return Err(OutOfOrder),
            None => {
                Arc::make_mut(&mut self.ids).push(id);
                self.members.push_back(None);
                self.gone += 1;
                self.members.len() - 1
            }
        };
        let old = self.members.get(place).cloned().flatten();
        if old == new {
            return Ok(None);
        }
        self.gone = self.gone + usize::from(new.is_none()) - usize::from(old.is_none());
        self.members.set(place, new.clone());
        let owner = |member: &Option<Arc<Member>>| member.as_ref().and_then(|member| member.owner);
        if owner(&old) != owner(&new) {
            self.disown(owner(&old), place);
            self.own(owner(&new), place);
        }
        Ok(Some(Moved { place, old, new }))
    }

    fn disown(&mut self, owner: Option<UserId>, place: usize) {
        let Some(owner) = owner else { return };
        let owned = self.owned(owner).iter().copied();
        let left: Vec<usize> = owned.filter(|other| *other != place).collect();
        if left.is_empty() {
            self.owned.remove(&owner);
        } else {
            self.owned.insert(owner, Arc::new(left));
        }
    }

    fn own(&mut self, owner: Option<UserId>, place: usize) {
        let Some(owner) = owner else { return };
        let mut owned = self.owned(owner).to_vec();
        owned.push(place);
        owned.sort_unstable();
        self.owned.insert(owner, Arc::new(owned));
    }

    /// How many places there are.
    pub(super) fn size(&self) -> usize {
        self.ids.len()
    }

    /// The ids by place, those of nodes that are gone among them.
    pub(super) fn ids(&self) -> &[NodeId] {
        &self.ids
    }

    fn place_of(&self, id: NodeId) -> Option<usize> {
        self.ids.binary_search(&id).ok()
    }

    pub(super) fn place(&self, id: NodeId) -> Option<usize> {
        self.place_of(id)
            .filter(|place| self.member(*place).is_some())
    }

    pub(super) fn member(&self, place: usize) -> Option<&Member> {
        self.members.get(place)?.as_deref()
    }

    /// All nodes with their places, in order.
    pub(super) fn members(&self) -> impl Iterator<Item = (usize, &Member)> {
        let members = self.members.iter().enumerate();
        members.filter_map(|(place, member)| Some((place, member.as_deref()?)))
    }

    /// The places of all nodes.
    pub(super) fn all(&self) -> NodeSet {
        NodeSet::of(self.members().map(|(place, _)| place))
    }

    /// The places where this and another roster, with equal places, differ.
    pub(super) fn differing(&self, other: &Self) -> NodeSet {
        let missing = std::iter::repeat(&None);
        let longer = self.members.len().max(other.members.len());
        let own = self.members.iter().chain(missing.clone()).take(longer);
        let others = other.members.iter().chain(missing);
        let is_same = |one: &Option<Arc<Member>>, other: &Option<Arc<Member>>| match (one, other) {
            (Some(one), Some(other)) => Arc::ptr_eq(one, other) || one == other,
            (None, None) => true,
            (Some(_), None) | (None, Some(_)) => false,
        };
        let pairs = own.zip(others).enumerate();
        NodeSet::of(
            pairs
                .filter(|(_, (one, other))| !is_same(one, other))
                .map(|(place, _)| place),
        )
    }

    /// The nodes at these places, in order.
    pub(super) fn places(&self, nodes: &NodeSet) -> impl Iterator<Item = &Member> {
        nodes.iter().filter_map(|place| self.member(place))
    }

    /// The nodes of these users, as they are.
    pub(super) fn unmoved(&self, owners: &BTreeSet<UserId>) -> impl Iterator<Item = Moved> {
        let places = owners.iter().flat_map(|owner| self.owned(*owner));
        places.map(|place| {
            let member = self.members.get(*place).cloned().flatten();
            Moved {
                place: *place,
                old: member.clone(),
                new: member,
            }
        })
    }

    /// The places of the nodes of this owner, in order.
    pub(super) fn owned(&self, owner: UserId) -> &[usize] {
        self.owned.get(&owner).map_or(&[], |owned| owned.as_slice())
    }

    /// The nodes with an address in the set.
    pub(super) fn with_address_in(&self, set: &AddressSet) -> NodeSet {
        if set.covers(tailnet_addresses()) {
            let inside = |member: &Member| member.addresses.iter().any(|ip| set.contains(*ip));
            let inside = self.members().filter(|(_, member)| inside(member));
            return NodeSet::of(inside.map(|(place, _)| place));
        }
        let inside = set.ranges().flat_map(|range| {
            let (first, last) = range.ends();
            self.addresses.range(first..=last)
        });
        NodeSet::of(inside.filter_map(|(_, id)| self.place_of(*id)))
    }

    /// The nodes whose device meets one of the postures.
    pub(super) fn conforming(&self, postures: &[Posture]) -> NodeSet {
        // Many devices are alike.
        let mut known: BTreeMap<&Device, bool> = BTreeMap::new();
        let mut conforming = NodeSet::default();
        for (place, member) in self.members() {
            let meets = known.entry(&member.device);
            if *meets.or_insert_with(|| member.meets(postures, self.supposed.as_deref())) {
                conforming.insert(place);
            }
        }
        conforming
    }

    /// The node with this address.
    pub(super) fn with_address(&self, address: IpAddr) -> Option<usize> {
        self.addresses
            .get(&address)
            .and_then(|id| self.place_of(*id))
    }
}

/// Whether it may change what a policy sees of a node.
const fn concerns(node: &NodeChange) -> bool {
    node.added || node.removed || node.full || node.routes || node.online
}

fn has_admin(facts: &Facts) -> bool {
    facts.users.iter().any(|user| Role::Admin.is_of(user))
}
