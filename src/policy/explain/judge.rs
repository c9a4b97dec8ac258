//! One rule and one pair: whether the rule lets the connection through, and if not, what it lacks.
//!
//! The judgement is that of the packet filter of the node at the end (`filter`), which is sent to
//! it and not looked at here; tests hold the two equal.

use std::net::IpAddr;

use super::super::filter::{keeps, routes_to};
use super::super::meaning::{Extent, covers_internet};
use super::super::ports::{DEFAULT_PROTOCOLS, SCTP, TCP, UDP};
use super::super::roster::{Member, Roster};
use super::super::selector::{Autogroup, Selector};
use super::end::End;
use super::question::Wanted;
use super::rules::{Destination, Named, Opening, Rule};
use crate::tailcfg::PortRange;

/// What a rule comes to, the closest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Verdict {
    /// It lets the connection through.
    Allows,
    /// It does so on a router that the source is not told to use.
    NotRouted,
    /// All matches but the port.
    OtherPort,
    /// All matches but the protocol.
    OtherProtocol,
    /// Both ends match, and it grants capabilities only.
    OnlyCapabilities,
    /// Both ends match, but not in one address family.
    OtherFamily,
    /// All matches, but the source's device meets none of the postures.
    OtherPosture,
    /// All matches but the source.
    OtherSource,
    /// It leads through routers, and this is not one of them.
    OtherRouter,
    /// All matches but the destination.
    OtherDestination,
    /// It has nothing to do with the connection.
    Unrelated,
}

/// Address families as bits.
pub(super) type Families = u8;
pub(super) const V4: Families = 1;
pub(super) const V6: Families = 2;

/// What a rule comes to, and by which of its entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Outcome {
    pub(super) verdict: Verdict,
    /// The source that matches, by its place in the rule.
    pub(super) src: usize,
    /// The destination that is judged.
    pub(super) dst: usize,
    /// Those in which it is allowed.
    pub(super) families: Families,
}

impl Outcome {
    pub(super) const UNRELATED: Self = Self {
        verdict: Verdict::Unrelated,
        src: 0,
        dst: 0,
        families: 0,
    };

    /// The closer one; of two that allow, what either allows.
    pub(super) fn or(self, other: Self) -> Self {
        let families = self.families | other.families;
        let closer = if other.verdict < self.verdict {
            other
        } else {
            self
        };
        Self { families, ..closer }
    }
}

/// A pair of ends; the filter that counts is that of the node at `keeper`.
#[derive(Clone, Copy)]
pub(super) struct Pair<'a> {
    pub(super) src: &'a End,
    pub(super) dst: &'a End,
    pub(super) keeper: usize,
}

/// Where a rule matches the ends of a connection.
struct Ends {
    /// The source, by its place in the rule.
    src: usize,
    from: Families,
    to: Families,
}

/// Judges rules for a roster.
#[derive(Clone, Copy)]
pub(super) struct Judge<'a> {
    pub(super) roster: &'a Roster,
    pub(super) wanted: Wanted,
}

impl Judge<'_> {
    pub(super) fn outcome(&self, rule: &Rule<'_>, pair: Pair<'_>) -> Outcome {
        let Some(keeper) = self.roster.member(pair.keeper) else {
            return Outcome::UNRELATED;
        };
        let mut best = Outcome::UNRELATED;
        for (number, destination) in rule.dst.iter().enumerate() {
            let ends = self.ends(rule, destination, pair, keeper, true);
            let mut verdict = self.weigh(rule, destination, pair, &ends);
            if verdict == Verdict::OtherSource && rule.conforming.is_some() {
                let named = self.ends(rule, destination, pair, keeper, false);
                if named.from & named.to != 0 {
                    verdict = Verdict::OtherPosture;
                }
            }
            let is_allowed = verdict == Verdict::Allows;
            best = best.or(Outcome {
                verdict,
                src: ends.src,
                dst: number,
                families: if is_allowed { ends.from & ends.to } else { 0 },
            });
        }
        best
    }

    /// Where a rule and one of its destinations match the ends; `conforming`: only by sources whose
    /// device meets the postures.
    fn ends(
        &self,
        rule: &Rule<'_>,
        destination: &Destination<'_>,
        pair: Pair<'_>,
        keeper: &Member,
        conforming: bool,
    ) -> Ends {
        if destination.is_self() {
            return self.own(rule, pair, keeper, conforming);
        }
        let (src, from) = self.source(rule, pair, conforming);
        let to = self.destination(rule, destination, pair, keeper);
        Ends { src, from, to }
    }

    /// From where the ends match, and whether the connection is opened, to a verdict.
    fn weigh(
        &self,
        rule: &Rule<'_>,
        destination: &Destination<'_>,
        pair: Pair<'_>,
        ends: &Ends,
    ) -> Verdict {
        let opens = destination.opens(self.wanted);
        if ends.from & ends.to != 0 {
            return opens;
        }
        if opens != Verdict::Allows {
            return Verdict::Unrelated;
        }
        let is_named = |ip| holds(&destination.named.extent, pair.dst.place, ip);
        let misses_router = || !rule.via.is_empty() && families(&pair.dst.addresses, is_named) != 0;
        match (ends.from != 0, ends.to != 0) {
            (true, true) => Verdict::OtherFamily,
            (false, true) => Verdict::OtherSource,
            (true, false) if misses_router() => Verdict::OtherRouter,
            (true, false) => Verdict::OtherDestination,
            (false, false) => Verdict::Unrelated,
        }
    }

    /// The first source that matches, and the families in which any does.
    fn source(&self, rule: &Rule<'_>, pair: Pair<'_>, conforming: bool) -> (usize, Families) {
        // Beside the wildcard a rule that leads through routers knows no other source.
        let only_any = !rule.via.is_empty() && rule.src.iter().any(Named::is_any);
        let mut found = (None, 0);
        for (number, named) in rule.src.iter().enumerate() {
            if only_any && !named.is_any() {
                continue;
            }
            let matching = families(&pair.src.addresses, |ip| {
                self.is_source(rule, named, pair.src.place, ip, conforming)
            });
            if matching != 0 {
                found.0 = found.0.or(Some(number));
                found.1 |= matching;
            }
        }
        (found.0.unwrap_or(0), found.1)
    }

    /// `*` stands for what is behind subnet routers, too.
    fn is_source(
        &self,
        rule: &Rule<'_>,
        named: &Named<'_>,
        place: Option<usize>,
        ip: IpAddr,
        conforming: bool,
    ) -> bool {
        let nodes = rule.conforming.as_ref().filter(|_| conforming);
        let conforms = || match (nodes, place) {
            (Some(nodes), Some(place)) => nodes.contains(place),
            (None, _) | (_, None) => true,
        };
        let routed = || {
            let mut subnets = self.roster.offers.subnet_routes();
            named.is_any() && subnets.any(|route| route.contains(&ip))
        };
        let extent = if conforming {
            &named.conforming
        } else {
            &named.extent
        };
        holds(extent, place, ip) || (routed() && conforms())
    }

    /// `autogroup:self`: a source that matches by any of its addresses does so by all.
    fn own(&self, rule: &Rule<'_>, pair: Pair<'_>, keeper: &Member, conforming: bool) -> Ends {
        let source = pair.src.place.and_then(|n| self.roster.member(n));
        let is_member = |named: &Named<'_>| {
            let mut addresses = source.into_iter().flat_map(|member| &member.addresses);
            addresses.any(|ip| self.is_source(rule, named, pair.src.place, *ip, conforming))
        };
        let src = rule.src.iter().position(is_member);
        let owner = source.and_then(|member| member.owner);
        let is_own = owner.is_some() && owner == keeper.owner && rule.via.is_empty();
        let is_there = |ip| is_own && keeper.addresses.contains(&ip);
        Ends {
            src: src.unwrap_or(0),
            from: src.map_or(0, |_| families(&pair.src.addresses, |_| true)),
            to: families(&pair.dst.addresses, is_there),
        }
    }

    /// The families in which the keeper's filter has the destination.
    fn destination(
        &self,
        rule: &Rule<'_>,
        destination: &Destination<'_>,
        pair: Pair<'_>,
        keeper: &Member,
    ) -> Families {
        let extent = &destination.named.extent;
        if !rule.via.is_empty() {
            let leads = |other: &Destination<'_>| self.leads_to(keeper, &other.named.extent);
            if !keeper.has_tag(rule.via) || !rule.dst.iter().any(leads) {
                return 0;
            }
            return families(&pair.dst.addresses, |ip| {
                Self::is_behind(keeper, pair.keeper, extent, ip)
            });
        }
        if destination.named.is_any() {
            return families(&pair.dst.addresses, |_| true);
        }
        families(&pair.dst.addresses, |ip| {
            Self::is_kept(keeper, pair.keeper, extent, ip)
        })
    }

    /// Whether a router's routes lead to a destination.
    fn leads_to(&self, keeper: &Member, extent: &Extent) -> bool {
        let mut subnets = keeper.subnets.iter();
        subnets.any(|route| extent.overlaps(self.roster, route))
            || (!keeper.exits.is_empty() && covers_internet(&extent.addresses))
    }

    /// Whether the filter of a node has an address because of these destinations. Addresses of other
    /// nodes are not asked about: packets for them go there.
    fn is_kept(keeper: &Member, place: usize, extent: &Extent, ip: IpAddr) -> bool {
        let mut ranges = extent.addresses.ranges();
        ranges.any(|range| range.contains(ip) && keeps(keeper, range))
            || (extent.nodes.contains(place) && keeper.addresses.contains(&ip))
    }

    /// The same for a grant that leads through the node.
    fn is_behind(keeper: &Member, place: usize, extent: &Extent, ip: IpAddr) -> bool {
        let exits = !keeper.exits.is_empty() && covers_internet(&extent.addresses);
        let is_routed = || keeper.subnets.iter().any(|route| route.contains(&ip));
        let mut ranges = extent.addresses.ranges();
        ranges.any(|range| range.contains(ip) && (routes_to(keeper, range) || exits))
            || (extent.nodes.contains(place) && keeper.addresses.contains(&ip) && is_routed())
    }
}

impl Named<'_> {
    pub(super) fn is_any(&self) -> bool {
        *self.selector == Selector::Any
    }
}

impl Destination<'_> {
    pub(super) fn is_self(&self) -> bool {
        *self.named.selector == Selector::Auto(Autogroup::SelfNodes)
    }

    /// Whether it opens what is wanted.
    fn opens(&self, wanted: Wanted) -> Verdict {
        if self.opens.is_empty() {
            return Verdict::OnlyCapabilities;
        }
        if wanted.is_icmp() {
            return Verdict::Allows;
        }
        let mut verdict = Verdict::OtherProtocol;
        for opening in self.opens.iter().filter(|opening| opening.speaks(wanted)) {
            if opening.has_port(wanted) {
                return Verdict::Allows;
            }
            verdict = Verdict::OtherPort;
        }
        verdict
    }
}

impl Opening<'_> {
    /// Whether it is about a protocol that is wanted.
    pub(super) fn speaks(&self, wanted: Wanted) -> bool {
        match (self.protocol, wanted.protocol) {
            (None, Some(wanted)) => DEFAULT_PROTOCOLS.contains(&wanted.into()),
            (Some(own), Some(wanted)) => own == wanted,
            // Who names a port and no protocol means one of these two.
            (Some(own), None) => wanted.port.is_none() || [TCP, UDP].contains(&own),
            (None, None) => true,
        }
    }

    /// Clients let protocols without ports in only where all ports are open.
    fn has_port(&self, wanted: Wanted) -> bool {
        let has_ports = |protocol: u8| [TCP, UDP, SCTP].contains(&protocol);
        match (wanted.port, wanted.protocol.or(self.protocol)) {
            (Some(port), _) => {
                let mut ports = self.ports.iter();
                ports.any(|range| (range.first..=range.last).contains(&port))
            }
            (None, Some(protocol)) if !has_ports(protocol) => self.ports.contains(&PortRange::ANY),
            (None, _) => !self.ports.is_empty(),
        }
    }
}

/// Whether an address is in an extent, by itself or as its node's.
pub(super) fn holds(extent: &Extent, place: Option<usize>, ip: IpAddr) -> bool {
    place.is_some_and(|place| extent.nodes.contains(place)) || extent.addresses.contains(ip)
}

/// The families of the addresses that something holds of.
pub(super) fn families(addresses: &[IpAddr], is_so: impl Fn(IpAddr) -> bool) -> Families {
    let found = addresses.iter().filter(|ip| is_so(**ip));
    found.fold(0, |bits, ip| bits | if ip.is_ipv4() { V4 } else { V6 })
}
