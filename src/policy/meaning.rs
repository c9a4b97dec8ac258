//! What selectors stand for: nodes and addresses.

use std::sync::LazyLock;

use ipnet::IpNet;

use super::address_set::AddressSet;
use super::node_set::NodeSet;
use super::roster::Roster;

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

/// Whether addresses are the whole internet, of either family or of both.
pub(super) fn covers_internet(addresses: &AddressSet) -> bool {
    let prefixes = addresses.prefixes();
    prefixes.iter().any(|prefix| prefix.prefix_len() == 0) || addresses.covers(internet())
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

    pub(super) fn is_empty(&self) -> bool {
        self.nodes.is_empty() && self.addresses.is_empty()
    }

    pub(super) fn union_of<'a>(all: impl Iterator<Item = &'a Self> + Clone) -> Self {
        let mut nodes = NodeSet::default();
        all.clone().for_each(|extent| nodes.add(&extent.nodes));
        let addresses = AddressSet::union_of(all.map(|extent| &extent.addresses));
        Self { nodes, addresses }
    }

    /// The nodes that are named, or have an address that is.
    pub(super) fn members(&self, roster: &Roster) -> NodeSet {
        let mut members = roster.with_address_in(&self.addresses);
        members.add(&self.nodes);
        members
    }

    /// Whether an address of the route is in it.
    pub(super) fn overlaps(&self, roster: &Roster, route: &IpNet) -> bool {
        if self.addresses.overlaps(route) {
            return true;
        }
        if route.prefix_len() == route.max_prefix_len() {
            let place = roster.with_address(route.addr());
            return place.is_some_and(|place| self.nodes.contains(place));
        }
        let inside = roster.with_address_in(&AddressSet::of([*route]));
        inside.meets(&self.nodes)
    }

    /// What is left of it when of all nodes only some count. Addresses that no node of the tailnet
    /// can have stay: nothing is known of the devices behind subnet routers.
    pub(super) fn only(&self, roster: &Roster, counting: &NodeSet) -> Self {
        let mut nodes = self.nodes.intersection(counting);
        let mut single = Vec::new();
        let named = roster.with_address_in(&self.addresses);
        for place in named.intersection(counting).iter() {
            let addresses = roster.member(place).map(|member| &member.addresses);
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
    let others = roster.with_address_in(addresses).without(counting);
    let others = roster.places(&others);
    let others = others.flat_map(|member| member.addresses.iter().copied());
    addresses.minus(&AddressSet::of(others.map(IpNet::from)))
}
