//! The packet filter of a node: the tailnet's rules reduced to what concerns the node.

use std::collections::BTreeMap;
use std::sync::Arc;

use ipnet::IpNet;

use super::address_set::{Range, prefix_text};
use super::compile::{Body, Caps, Connections, Rules, SourceId, Target};
use super::meaning::{Extent, internet};
use super::roster::{Member, Roster};
use crate::tailcfg::{CapGrant, FilterRule, NetPortRange};

/// The rules of the node at this place (`tailcfg.MapResponse.PacketFilters["base"]`).
pub(super) fn reduce(rules: &Rules, roster: &Roster, place: usize) -> Vec<FilterRule> {
    let Some(member) = roster.members.get(place) else {
        return Vec::new();
    };
    let node = Subject {
        roster,
        place,
        member,
    };
    let mut filter = Filter::default();
    for (number, rule) in rules.rules.iter().enumerate() {
        if rule.nodes.contains(place) {
            filter.take(number, &rule.body, &node, rules);
        }
    }
    filter.finish(rules)
}

/// The node that a filter is for.
struct Subject<'a> {
    roster: &'a Roster,
    place: usize,
    member: &'a Member,
}

/// Rules with equal sources and protocol are merged where the first of them stands.
#[derive(Default)]
struct Filter {
    merged: BTreeMap<(SourceId, Option<u8>), (usize, Vec<NetPortRange>)>,
    grants: BTreeMap<usize, (SourceId, Vec<CapGrant>)>,
}

impl Filter {
    fn take(&mut self, number: usize, body: &Body, node: &Subject<'_>, rules: &Rules) {
        match body {
            Body::Ports {
                source,
                connections,
                targets,
            } => {
                let targets = targets.iter();
                let ports = targets.flat_map(|target| node.ports(target, connections));
                self.merge(number, *source, connections, ports.collect(), rules);
            }
            Body::Via {
                source,
                connections,
                targets,
            } => {
                let targets = targets.iter();
                let ports = targets.flat_map(|target| node.via_ports(target, connections));
                self.merge(number, *source, connections, ports.collect(), rules);
            }
            Body::OwnPorts {
                sources,
                connections,
            } => {
                let owner = node.member.owner;
                if let Some(source) = owner.and_then(|owner| sources.get(&owner)) {
                    let ports = node.own_ports(connections);
                    self.merge(number, *source, connections, ports, rules);
                }
            }
            Body::Caps { source, grants } => {
                let grants = grants.iter();
                let grants = grants.filter_map(|(extent, caps)| node.grant(extent, caps));
                self.grant(number, *source, grants.collect());
            }
            Body::OwnCaps { sources, caps } => {
                let owner = node.member.owner;
                if let Some(source) = owner.and_then(|owner| sources.get(&owner)) {
                    let dsts = node.own_prefixes();
                    self.grant(number, *source, cap_grant(dsts, caps).into_iter().collect());
                }
            }
        }
    }

    fn merge(
        &mut self,
        number: usize,
        source: SourceId,
        connections: &Connections,
        ports: Vec<NetPortRange>,
        rules: &Rules,
    ) {
        if ports.is_empty() {
            return;
        }
        let key = (source, connections.protocol);
        let first = rules.first.get(&key).copied().unwrap_or(number);
        let entry = self.merged.entry(key).or_insert((first, Vec::new()));
        entry.0 = entry.0.min(number);
        entry.1.extend(ports);
    }

    fn grant(&mut self, number: usize, source: SourceId, grants: Vec<CapGrant>) {
        if !grants.is_empty() {
            self.grants.insert(number, (source, grants));
        }
    }

    fn finish(self, rules: &Rules) -> Vec<FilterRule> {
        let texts = |source: SourceId| {
            let texts = rules.sources.get(source);
            texts.map(|texts| texts.to_vec()).unwrap_or_default()
        };
        let merged = self.merged.into_iter();
        let merged = merged.map(|((source, protocol), (number, ports))| {
            let mut rule = FilterRule::ports(texts(source), ports);
            rule.ip_proto = protocol.map(i32::from).into_iter().collect();
            (number, rule)
        });
        let grants = self.grants.into_iter();
        let grants = grants
            .map(|(number, (source, grants))| (number, FilterRule::grant(texts(source), grants)));
        let mut all: Vec<_> = merged.chain(grants).collect();
        all.sort_by_key(|(number, _)| *number);
        all.into_iter().map(|(_, rule)| rule).collect()
    }
}

fn spread<'a>(
    texts: impl Iterator<Item = String> + 'a,
    connections: &'a Connections,
) -> impl Iterator<Item = NetPortRange> + 'a {
    texts.flat_map(|ip| {
        connections.ports.iter().map(move |ports| NetPortRange {
            ip: ip.clone(),
            ports: *ports,
        })
    })
}

/// Whether addresses named by a rule concern a node: they are its own, its subnet routes lead to
/// them, or it is an exit node and they are the internet's.
pub(super) fn keeps(member: &Member, range: &Range) -> bool {
    member.is_in(range)
        || routes_to(member, range)
        || (!member.exits.is_empty() && internet().covers_range(range))
}

/// Whether subnet routes of the node lead to the addresses.
pub(super) fn routes_to(member: &Member, range: &Range) -> bool {
    let mut subnets = member.subnets.iter();
    subnets.any(|route| range.overlaps_prefix(route))
}

fn cap_grant(dsts: Vec<IpNet>, caps: &Arc<Caps>) -> Option<CapGrant> {
    (!dsts.is_empty()).then(|| CapGrant {
        dsts,
        cap_map: (**caps).clone(),
    })
}

impl Subject<'_> {
    fn ports(&self, target: &Target, connections: &Connections) -> Vec<NetPortRange> {
        let texts = match target {
            Target::Any => vec!["*".to_owned()],
            Target::These(extent) => self.kept(extent),
        };
        spread(texts.into_iter(), connections).collect()
    }

    /// What of a destination concerns the node: its own addresses, what its subnet routes lead to,
    /// and the internet on an exit node.
    fn kept(&self, extent: &Extent) -> Vec<String> {
        let ranges = extent.addresses.ranges();
        let ranges = ranges.filter(|range| keeps(self.member, range));
        let ranges = ranges.map(Range::text);
        let own = self.named_addresses(extent);
        ranges.chain(own.iter().map(prefix_text)).collect()
    }

    /// Its own addresses if it is named as a node, and those of named nodes that it routes to.
    fn named_addresses(&self, extent: &Extent) -> Vec<IpNet> {
        let mut found = Vec::new();
        if extent.nodes.contains(self.place) {
            found.extend(&self.member.addresses);
        }
        if let Some(inside) = self.roster.routers.get(&self.place) {
            let mut others = extent.nodes.intersection(inside);
            others.remove(self.place);
            let others = self.roster.places(&others);
            let others = others.flat_map(|member| &member.addresses);
            let routed = |address: &&std::net::IpAddr| {
                let mut subnets = self.member.subnets.iter();
                subnets.any(|route| route.contains(*address))
            };
            found.extend(others.filter(routed));
        }
        let found = found.into_iter();
        let found = found.filter(|address| !extent.addresses.contains(*address));
        found.map(IpNet::from).collect()
    }

    fn via_ports(&self, target: &Extent, connections: &Connections) -> Vec<NetPortRange> {
        let exits = !self.member.exits.is_empty() && target.covers_internet();
        let ranges = target.addresses.ranges();
        let ranges = ranges.filter(|range| routes_to(self.member, range) || exits);
        let texts = ranges.map(Range::text);
        let routed = self.roster.routers.get(&self.place);
        let nodes = routed.map(|inside| Extent::nodes(target.nodes.intersection(inside)));
        let nodes = nodes.map(|extent| extent.texts(self.roster));
        let texts = texts.chain(nodes.into_iter().flatten());
        spread(texts, connections).collect()
    }

    fn own_ports(&self, connections: &Connections) -> Vec<NetPortRange> {
        let ports = connections.ports.iter();
        let entry = |ports: &crate::tailcfg::PortRange| {
            let ports = *ports;
            let addresses = self.member.addresses.iter();
            addresses.map(move |address| NetPortRange {
                ip: address.to_string(),
                ports,
            })
        };
        ports.flat_map(entry).collect()
    }

    fn own_prefixes(&self) -> Vec<IpNet> {
        let addresses = self.member.addresses.iter().copied();
        addresses.map(IpNet::from).collect()
    }

    /// Destinations of a grant narrowed to the node's own addresses; what its subnet routes lead
    /// to stays as it is.
    fn grant(&self, extent: &Extent, caps: &Arc<Caps>) -> Option<CapGrant> {
        let mut dsts = self.named_addresses(extent);
        for prefix in extent.addresses.prefixes() {
            let own = self.member.addresses.iter().copied();
            dsts.extend(own.filter(|own| prefix.contains(own)).map(IpNet::from));
            let mut subnets = self.member.subnets.iter();
            let overlaps =
                |route: &IpNet| route.contains(&prefix.addr()) || prefix.contains(&route.addr());
            if subnets.any(overlaps) {
                dsts.push(prefix);
            }
        }
        dsts.sort_unstable();
        dsts.dedup();
        cap_grant(dsts, caps)
    }
}
