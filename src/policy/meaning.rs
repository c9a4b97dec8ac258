//! What selectors stand for in a tailnet.

use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock};

use ipnet::IpNet;

use super::address_set::AddressSet;
use super::document::Names;
use super::node_set::NodeSet;
use super::roster::Roster;
use super::selector::{Autogroup, Selector};

/// The tailnet's addresses: 100.64.0.0/10 without ChromeOS' virtual machines, and Tailscale's ULA.
pub(super) fn tailnet_addresses() -> &'static AddressSet {
    static SET: LazyLock<AddressSet> = LazyLock::new(|| {
        let all = fixed(&["100.64.0.0/10", "fd7a:115c:a1e0::/48"]);
        all.minus(&fixed(&["100.115.92.0/23"]))
    });
    &SET
}

/// What `autogroup:internet` stands for.
pub(super) fn internet() -> &'static AddressSet {
    static SET: LazyLock<AddressSet> = LazyLock::new(|| {
        fixed(&["0.0.0.0/0", "2000::/3"]).minus(&fixed(&[
            "10.0.0.0/8",
            "172.16.0.0/12",
            "192.168.0.0/16",
            "169.254.0.0/16",
            "100.64.0.0/10",
            "fc00::/7",
            "fe80::/10",
            "fd7a:115c:a1e0::/48",
        ]))
    });
    &SET
}

/// Every address.
pub(super) fn everything() -> &'static AddressSet {
    static SET: LazyLock<AddressSet> = LazyLock::new(|| fixed(&["0.0.0.0/0", "::/0"]));
    &SET
}

fn fixed(prefixes: &[&str]) -> AddressSet {
    AddressSet::of(
        prefixes
            .iter()
            .filter_map(|text| text.parse::<IpNet>().ok()),
    )
}

/// Nodes with all their addresses, and addresses that are named as such.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Extent {
    pub(super) nodes: NodeSet,
    pub(super) addresses: AddressSet,
}

impl Extent {
    pub(super) fn nodes(nodes: NodeSet) -> Self {
        Self {
            nodes,
            addresses: AddressSet::default(),
        }
    }

    pub(super) fn addresses(roster: &Roster, addresses: AddressSet) -> Self {
        Self {
            nodes: roster.none(),
            addresses,
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.nodes.is_empty() && self.addresses.is_empty()
    }

    pub(super) fn add(&mut self, other: &Self) {
        self.nodes.add(&other.nodes);
        if !other.addresses.is_empty() {
            self.addresses = self.addresses.union(&other.addresses);
        }
    }

    /// The nodes with an address in it.
    pub(super) fn members(&self, roster: &Roster) -> NodeSet {
        let mut members = roster.with_address_in(&self.addresses);
        members.add(&self.nodes);
        members
    }

    /// The members, and the nodes with a subnet route that overlaps it.
    pub(super) fn touching(&self, roster: &Roster) -> NodeSet {
        let mut touching = self.members(roster);
        for (place, inside) in &roster.routers {
            let subnets = roster.members.get(*place).map(|member| &member.subnets);
            let mut subnets = subnets.into_iter().flatten();
            if inside.meets(&self.nodes) || subnets.any(|route| self.addresses.overlaps(route)) {
                touching.insert(*place);
            }
        }
        touching
    }

    /// Whether an address of the route is in it.
    pub(super) fn overlaps(&self, roster: &Roster, route: &IpNet) -> bool {
        let inside = |address: &std::net::IpAddr| route.contains(address);
        self.addresses.overlaps(route)
            || roster
                .places(&self.nodes)
                .any(|member| member.addresses.iter().any(inside))
    }

    /// Whether it is the whole internet, of either family or of both.
    pub(super) fn covers_internet(&self) -> bool {
        let prefixes = self.addresses.prefixes();
        prefixes.iter().any(|prefix| prefix.prefix_len() == 0) || self.addresses.covers(internet())
    }

    /// What is left of it when of all nodes only some count. Addresses that no node of the tailnet
    /// can have stay: nothing is known of the devices behind subnet routers.
    pub(super) fn only(&self, roster: &Roster, counting: &NodeSet) -> Self {
        let mut nodes = self.nodes.intersection(counting);
        let mut single = Vec::new();
        let named = roster.with_address_in(&self.addresses);
        for place in named.intersection(counting).iter() {
            let addresses = roster.members.get(place).map(|member| &member.addresses);
            let addresses = addresses.into_iter().flatten().copied();
            let (inside, outside): (Vec<_>, Vec<_>) =
                addresses.partition(|address| self.addresses.contains(*address));
            if outside.is_empty() {
                nodes.insert(place);
            } else {
                single.extend(inside.into_iter().map(IpNet::from));
            }
        }
        let others = self.addresses.minus(tailnet_addresses());
        let others = without_others(&others, roster, counting);
        Self {
            nodes,
            addresses: others.union(&AddressSet::of(single)),
        }
    }

    /// All its addresses as prefixes, sorted; those of nodes each by itself.
    pub(super) fn prefixes(&self, roster: &Roster) -> Vec<IpNet> {
        let mut prefixes = self.addresses.prefixes();
        for member in roster.places(&self.nodes) {
            let outside = member.addresses.iter().copied();
            let outside = outside.filter(|address| !self.addresses.contains(*address));
            prefixes.extend(outside.map(IpNet::from));
        }
        prefixes.sort_unstable();
        prefixes
    }

    /// All its addresses as filters name them; those of nodes each by itself, so that one more
    /// node adds its own and changes no other.
    pub(super) fn texts(&self, roster: &Roster) -> Vec<String> {
        let mut texts = self.addresses.texts();
        for member in roster.places(&self.nodes) {
            let outside = member.addresses.iter();
            let outside = outside.filter(|address| !self.addresses.contains(**address));
            texts.extend(outside.map(ToString::to_string));
        }
        texts
    }
}

/// A set of addresses without those of nodes that do not count.
pub(super) fn without_others(
    addresses: &AddressSet,
    roster: &Roster,
    counting: &NodeSet,
) -> AddressSet {
    let named = roster.with_address_in(addresses);
    let others = named.iter().filter(|place| !counting.contains(*place));
    let others = others.filter_map(|place| roster.members.get(place));
    let others = others.flat_map(|member| member.addresses.iter().copied());
    addresses.minus(&AddressSet::of(others.map(IpNet::from)))
}

/// What each selector stands for, worked out once.
pub(super) struct Resolver<'a> {
    pub(super) roster: &'a Roster,
    names: &'a Names,
    known: BTreeMap<Selector, Arc<Extent>>,
    conforming: BTreeMap<Vec<String>, Arc<NodeSet>>,
}

impl<'a> Resolver<'a> {
    pub(super) fn new(roster: &'a Roster, names: &'a Names) -> Self {
        Self {
            roster,
            names,
            known: BTreeMap::new(),
            conforming: BTreeMap::new(),
        }
    }

    pub(super) fn resolve(&mut self, selector: &Selector) -> Arc<Extent> {
        if let Some(known) = self.known.get(selector) {
            return Arc::clone(known);
        }
        let extent = Arc::new(self.extent(selector));
        self.known.insert(selector.clone(), Arc::clone(&extent));
        extent
    }

    /// What a selector stands for on the side of the sources: of its nodes those that meet one of
    /// the postures.
    pub(super) fn source(&mut self, selector: &Selector, postures: &[String]) -> Arc<Extent> {
        let extent = self.resolve(selector);
        match self.conforming(postures) {
            Some(conforming) => Arc::new(extent.only(self.roster, &conforming)),
            None => extent,
        }
    }

    /// The nodes that meet one of the postures; absent: there are none to meet.
    pub(super) fn conforming(&mut self, postures: &[String]) -> Option<Arc<NodeSet>> {
        if postures.is_empty() {
            return None;
        }
        if let Some(known) = self.conforming.get(postures) {
            return Some(Arc::clone(known));
        }
        let named = postures.iter();
        let named: Vec<_> = named
            .filter_map(|name| self.names.postures.get(name))
            .collect();
        let conforming = Arc::new(self.roster.conforming(&named));
        let known = self.conforming.entry(postures.to_vec());
        Some(Arc::clone(known.or_insert(conforming)))
    }

    fn extent(&self, selector: &Selector) -> Extent {
        let roster = self.roster;
        match selector {
            Selector::Any => Extent {
                nodes: roster.outside.clone(),
                addresses: tailnet_addresses().clone(),
            },
            Selector::User(token) => Extent::nodes(self.of_user(token)),
            Selector::Domain(domain) => {
                let users = roster.facts.of_domain(domain).map(|user| user.id);
                Extent::nodes(self.of_users(users))
            }
            Selector::Group(name) => {
                let mut nodes = roster.none();
                for user in self.names.groups.get(name).into_iter().flatten() {
                    nodes.add(&self.of_user(&user.text));
                }
                Extent::nodes(nodes)
            }
            Selector::Tag(tag) => {
                let nodes = roster.by_tag.get(tag).cloned();
                Extent::nodes(nodes.unwrap_or_else(|| roster.none()))
            }
            Selector::Auto(autogroup) => self.autogroup(*autogroup),
            Selector::IpSet(name) => {
                let set = self.names.ipsets.get(name).cloned();
                Extent::addresses(roster, set.unwrap_or_default())
            }
            Selector::Host(name) => {
                let prefix = self.names.hosts.get(name).copied();
                Extent::addresses(roster, AddressSet::of(prefix))
            }
            Selector::Prefix(prefix) => Extent::addresses(roster, AddressSet::of([*prefix])),
        }
    }

    /// `autogroup:self` is not the same for all nodes, and is nothing here.
    fn autogroup(&self, autogroup: Autogroup) -> Extent {
        let roster = self.roster;
        match autogroup {
            Autogroup::Member => Extent::nodes(roster.untagged.clone()),
            Autogroup::Tagged => Extent::nodes(roster.tagged.clone()),
            Autogroup::Internet => Extent::addresses(roster, internet().clone()),
            Autogroup::DangerAll => Extent::addresses(roster, everything().clone()),
            Autogroup::Role(role) => {
                let users = roster.facts.users.iter();
                let users = users.filter(|user| role.is_of(user)).map(|user| user.id);
                Extent::nodes(self.of_users(users))
            }
            Autogroup::SelfNodes | Autogroup::Nonroot | Autogroup::Shared => {
                Extent::nodes(roster.none())
            }
        }
    }

    /// A name that means nobody, or more than one, stands for nothing.
    fn of_user(&self, token: &str) -> NodeSet {
        match self.roster.facts.named(token).as_slice() {
            [user] => self.of_users(std::iter::once(user.id)),
            _ => self.roster.none(),
        }
    }

    fn of_users(&self, users: impl Iterator<Item = crate::types::UserId>) -> NodeSet {
        let mut nodes = self.roster.none();
        for user in users {
            if let Some(owned) = self.roster.by_owner.get(&user) {
                nodes.add(owned);
            }
        }
        nodes
    }
}
