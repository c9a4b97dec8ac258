//! The packet filter of a node: the tailnet's rules reduced to what concerns the node.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use super::address_set::{Range, prefix_text};
use super::meaning::{Extent, covers_internet, internet};
use super::node_set::NodeSet;
use super::plan::{Caps, Plan, Rule, SourceNo, Target};
use super::roster::{Member, Roster};
use super::sources::{Sources, is_empty, texts};
use super::terms::{Standing, Terms};
use super::unit::Connections;
use crate::tailcfg::{CapGrant, FilterRule, NetPortRange};

/// What filters are made from.
#[derive(Clone, Copy)]
pub(super) struct Ground<'a> {
    pub(super) plan: &'a Plan,
    pub(super) terms: &'a Terms,
    pub(super) sources: &'a Sources,
    pub(super) roster: &'a Roster,
}

/// The rules of the node at this place (`tailcfg.MapResponse.PacketFilters["base"]`).
pub(super) fn reduce(ground: Ground<'_>, place: usize) -> Vec<FilterRule> {
    let Some(member) = ground.roster.member(place) else {
        return Vec::new();
    };
    let node = Subject {
        ground,
        place,
        member,
    };
    let mut filter = Filter {
        ground,
        merged: BTreeMap::new(),
        grants: BTreeMap::new(),
    };
    for (number, rule) in ground.plan.rules.iter().enumerate() {
        filter.take(number, rule, &node);
    }
    filter.finish()
}

/// The node that a filter is for.
struct Subject<'a> {
    ground: Ground<'a>,
    place: usize,
    member: &'a Member,
}

/// Who may do what a rule says.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum From {
    Source(SourceNo),
    /// Nodes of the receiver's owner.
    Own(NodeSet),
}

/// Rules with equal sources and protocol are merged where the first of them stands.
struct Filter<'a> {
    ground: Ground<'a>,
    merged: BTreeMap<(From, Option<u8>), (usize, Vec<NetPortRange>)>,
    grants: BTreeMap<usize, (From, Vec<CapGrant>)>,
}

impl Filter<'_> {
    fn take(&mut self, number: usize, rule: &Rule, node: &Subject<'_>) {
        match rule {
            Rule::Ports {
                source,
                connections,
                targets,
            } => {
                let targets = targets.iter();
                let ports = targets.flat_map(|target| node.ports(target, connections));
                self.merge(number, *source, connections, ports.collect());
            }
            Rule::Via {
                source,
                connections,
                targets,
                via,
            } => {
                if node.member.has_tag(via) {
                    let targets = self.ground.terms.each(targets);
                    let ports = targets.flat_map(|target| node.via_ports(target, connections));
                    self.merge(number, *source, connections, ports.collect());
                }
            }
            Rule::OwnPorts {
                source,
                connections,
            } => {
                if let Some((from, _)) = node.own(*source) {
                    let from = self.sources_of(from);
                    self.merge_from(number, from, connections, node.own_ports(connections));
                }
            }
            Rule::Caps {
                source,
                targets,
                caps,
            } => {
                let grants = targets.iter();
                let grants = grants.filter_map(|terms| node.grant(terms, caps));
                self.grant(number, From::Source(*source), grants.collect());
            }
            Rule::OwnCaps { source, caps } => {
                if let Some((from, _)) = node.own(*source) {
                    let grant = cap_grant(node.own_prefixes(), caps);
                    self.grant(number, From::Own(from), grant.into_iter().collect());
                }
            }
            Rule::OwnCompanion { source, caps } => {
                if let Some((from, owned)) = node.own(*source)
                    && from.contains(node.place)
                {
                    let grant = cap_grant(node.own_prefixes(), caps);
                    self.grant(number, From::Own(owned), grant.into_iter().collect());
                }
            }
        }
    }

    /// The list of sources that comes to these nodes, or the nodes themselves.
    fn sources_of(&self, nodes: NodeSet) -> From {
        let Ground {
            plan,
            terms,
            sources,
            roster,
        } = self.ground;
        let source = sources.of_nodes(&nodes, plan, terms, roster);
        source.map_or(From::Own(nodes), From::Source)
    }

    fn merge(
        &mut self,
        number: usize,
        source: SourceNo,
        connections: &Connections,
        ports: Vec<NetPortRange>,
    ) {
        let Ground { plan, terms, .. } = self.ground;
        if !ports.is_empty() && !is_empty(plan, terms, source) {
            let from = From::Source(self.ground.sources.same(source));
            self.merge_from(number, from, connections, ports);
        }
    }

    fn merge_from(
        &mut self,
        number: usize,
        from: From,
        connections: &Connections,
        ports: Vec<NetPortRange>,
    ) {
        if ports.is_empty() {
            return;
        }
        let first = match &from {
            From::Source(source) => self.ground.sources.first(*source, connections.protocol),
            From::Own(_) => None,
        };
        let first = first.unwrap_or(number);
        let key = (from, connections.protocol);
        let entry = self.merged.entry(key).or_insert((first, Vec::new()));
        entry.0 = entry.0.min(number);
        entry.1.extend(ports);
    }

    fn grant(&mut self, number: usize, from: From, grants: Vec<CapGrant>) {
        if !grants.is_empty() {
            self.grants.insert(number, (from, grants));
        }
    }

    fn finish(self) -> Vec<FilterRule> {
        let Ground {
            plan,
            terms,
            roster,
            ..
        } = self.ground;
        let texts = |from: From| match from {
            From::Source(source) => {
                let source = plan.sources.get(source);
                source
                    .map(|source| texts(source, terms, roster))
                    .unwrap_or_default()
            }
            From::Own(nodes) => {
                let mut texts = Extent::nodes(nodes).texts(roster);
                texts.sort_unstable();
                texts
            }
        };
        let merged = self.merged.into_iter();
        let merged = merged.map(|((from, protocol), (number, ports))| {
            let mut rule = FilterRule::ports(texts(from), ports);
            rule.ip_proto = protocol.map(i32::from).into_iter().collect();
            (number, rule)
        });
        let grants = self.grants.into_iter();
        let grants =
            grants.map(|(number, (from, grants))| (number, FilterRule::grant(texts(from), grants)));
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
            Target::These(term) => {
                let standing = self.ground.terms.standing(*term);
                let standing = standing.filter(|standing| self.may_keep(standing));
                standing
                    .map(|standing| self.kept(&standing.extent))
                    .unwrap_or_default()
            }
        };
        spread(texts.into_iter(), connections).collect()
    }

    /// Whether anything of a term may concern the node; most do not.
    fn may_keep(&self, standing: &Standing) -> bool {
        standing.touches(self.place) || !self.member.exits.is_empty()
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
        let mut found = self.routed_addresses(&extent.nodes);
        if extent.nodes.contains(self.place) {
            let own = &self.member.addresses;
            found.retain(|address| !own.contains(address));
            found.splice(0..0, own.iter().copied());
        }
        found.retain(|address| !extent.addresses.contains(*address));
        found.into_iter().map(IpNet::from).collect()
    }

    /// The addresses of nodes that its subnet routes lead to.
    fn routed_addresses(&self, nodes: &NodeSet) -> Vec<IpAddr> {
        let subnets = &self.member.subnets;
        if subnets.is_empty() {
            return Vec::new();
        }
        let roster = self.ground.roster;
        let behind = nodes.intersection(&roster.offers.behind(self.member));
        let behind = roster.places(&behind);
        let addresses = behind.flat_map(|member| member.addresses.iter().copied());
        let is_routed = |address: &IpAddr| subnets.iter().any(|route| route.contains(address));
        addresses.filter(is_routed).collect()
    }

    fn via_ports(&self, target: &Standing, connections: &Connections) -> Vec<NetPortRange> {
        let extent = &target.extent;
        let exits = !self.member.exits.is_empty() && covers_internet(&extent.addresses);
        let ranges = extent.addresses.ranges();
        let ranges = ranges.filter(|range| routes_to(self.member, range) || exits);
        let texts = ranges.map(Range::text);
        let routed = self.routed_addresses(&extent.nodes);
        let routed = routed.iter().map(ToString::to_string);
        spread(texts.chain(routed), connections).collect()
    }

    /// Of the owner's nodes those among the sources, and all; absent where there are no such sources.
    fn own(&self, source: SourceNo) -> Option<(NodeSet, NodeSet)> {
        let owned = self.ground.roster.owned(self.member.owner?);
        let source = self.ground.plan.sources.get(source)?;
        let is_source = |place: &usize| self.ground.terms.have(&source.terms, *place);
        let from = NodeSet::of(owned.iter().copied().filter(is_source));
        (!from.is_empty()).then(|| (from, NodeSet::of(owned.iter().copied())))
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
    fn grant(&self, terms: &[usize], caps: &Arc<Caps>) -> Option<CapGrant> {
        let mut standings = self.ground.terms.each(terms);
        if !standings.any(|standing| self.may_keep(standing)) {
            return None;
        }
        let extent = self.ground.terms.union(terms);
        let mut dsts = self.named_addresses(&extent);
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
