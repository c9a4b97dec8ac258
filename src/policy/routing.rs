//! Which routes of a peer a viewer is told of.

use std::collections::BTreeSet;

use ipnet::IpNet;

use super::meaning::covers_internet;
use super::plan::Steer;
use super::roster::{Member, Roster};
use super::terms::{Standing, Terms};
use super::visibility::{Class, Ground};

/// Whether a router's routes lead to a destination.
pub(super) fn leads_to(roster: &Roster, member: &Member, target: &Standing) -> bool {
    let subnets = member.subnets.iter();
    let mut numbers = subnets.filter_map(|route| roster.offers.number(route));
    numbers.any(|number| target.routes.contains(number))
        || (!member.exits.is_empty() && covers_internet(&target.extent.addresses))
}

/// The routes of a peer beside its addresses: those that lead somewhere the viewer may go, steered
/// by the grants that lead through certain routers. `primary` are the routes for which the peer is
/// the primary of the tailnet, `class` is the viewer's.
pub(super) fn routes_of(
    ground: Ground<'_>,
    (viewer, peer): (usize, usize),
    primary: &[IpNet],
    class: &Class,
) -> BTreeSet<IpNet> {
    let roster = ground.roster;
    let (Some(own), Some(other)) = (roster.member(viewer), roster.member(peer)) else {
        return BTreeSet::new();
    };
    if !other.is_carrier() {
        return BTreeSet::new();
    }
    let steered = Steered::of(ground, viewer, peer, other);
    let visible = |route: &IpNet| {
        let number = roster.offers.number(route);
        number.is_some_and(|number| class.routes.contains(number))
    };
    let carried = primary.iter().chain(&other.exits).copied();
    let mut routes: BTreeSet<IpNet> = carried
        .filter(|route| visible(route) && !steered.exclude.contains(route))
        .collect();
    let included = steered.include.into_iter();
    routes.extend(
        included.filter(|route| primary.contains(route) || !steered.use_primary.contains(route)),
    );
    // Who carries a route as well keeps to the primary for it.
    let shared = primary.iter().filter(|route| own.subnets.contains(route));
    routes.extend(shared);
    routes
}

/// What the grants that lead through certain routers make of a peer's routes.
#[derive(Default)]
struct Steered {
    include: BTreeSet<IpNet>,
    exclude: BTreeSet<IpNet>,
    use_primary: BTreeSet<IpNet>,
}

impl Steered {
    fn of(ground: Ground<'_>, viewer: usize, peer: usize, other: &Member) -> Self {
        let mut steered = Self::default();
        if !ground.plan.has_via {
            return steered;
        }
        let (terms, roster) = (ground.terms, ground.roster);
        let concerns = |steer: &&Steer| {
            let source = ground.plan.sources.get(steer.from);
            source.is_some_and(|source| terms.have(&source.terms, viewer))
        };
        let grants: Vec<&Steer> = ground.plan.steering.iter().filter(concerns).collect();
        for steer in grants.iter().filter(|steer| !steer.via.is_empty()) {
            let matched = matched(steer, terms, roster, other);
            if !other.has_tag(&steer.via) {
                steered.exclude.extend(matched);
                continue;
            }
            for route in matched {
                if elected(steer, roster, &route) == Some(peer) {
                    steered.include.insert(route);
                } else {
                    steered.exclude.insert(route);
                }
            }
        }
        for steer in grants.iter().filter(|steer| steer.via.is_empty()) {
            for route in matched(steer, terms, roster, other) {
                steered.exclude.remove(&route);
                if steered.include.contains(&route) {
                    steered.use_primary.insert(route);
                }
            }
        }
        steered
    }
}

/// The routes of a router that lead to the destinations of a grant.
fn matched(steer: &Steer, terms: &Terms, roster: &Roster, router: &Member) -> Vec<IpNet> {
    let leads = |route: &&IpNet| {
        let number = roster.offers.number(route);
        let mut dst = terms.each(&steer.dst);
        number.is_some_and(|number| dst.any(|standing| standing.routes.contains(number)))
    };
    let subnets = router.subnets.iter().filter(leads);
    let exits = router.exits.iter().filter(|_| steer.is_internet);
    subnets.chain(exits).copied().collect()
}

/// Of the routers with a tag of the grant and this route the one that is used: the first that is
/// online, or the first when none is. Exit routes have no such election: clients choose.
fn elected(steer: &Steer, roster: &Roster, route: &IpNet) -> Option<usize> {
    let carriers = roster.offers.carriers_of(route).iter();
    let carriers = carriers.filter_map(|place| Some((*place, roster.member(*place)?)));
    let candidates = carriers.filter(|(_, member)| member.has_tag(&steer.via));
    let best = candidates.min_by_key(|(place, member)| (!member.is_online, *place));
    best.map(|(place, _)| place)
}
