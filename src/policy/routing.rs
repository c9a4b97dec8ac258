//! Which routes of a peer a viewer is told of.

use std::collections::BTreeSet;

use ipnet::IpNet;

use super::compile::{Rules, Steer};
use super::roster::{Member, Roster};

/// The routes of a peer beside its addresses: those that lead somewhere the viewer may go, steered
/// by the grants that lead through certain routers. `primary` are the routes for which the peer is
/// the primary of the tailnet, `visible` those that the viewer may use at all.
pub(super) fn routes_of(
    rules: &Rules,
    roster: &Roster,
    (viewer, peer): (usize, usize),
    primary: &[IpNet],
    visible: &BTreeSet<IpNet>,
) -> BTreeSet<IpNet> {
    let (Some(own), Some(other)) = (roster.members.get(viewer), roster.members.get(peer)) else {
        return BTreeSet::new();
    };
    let steered = Steered::of(rules, roster, viewer, peer, other);
    let carried = primary.iter().chain(&other.exits).copied();
    let mut routes: BTreeSet<IpNet> = carried
        .filter(|route| visible.contains(route) && !steered.exclude.contains(route))
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
    fn of(rules: &Rules, roster: &Roster, viewer: usize, peer: usize, other: &Member) -> Self {
        let mut steered = Self::default();
        let is_router = !other.subnets.is_empty() || !other.exits.is_empty();
        if !rules.has_via || !is_router {
            return steered;
        }
        let concerns = |steer: &&Steer| steer.from.contains(viewer);
        let grants: Vec<&Steer> = rules.steering.iter().filter(concerns).collect();
        for steer in grants.iter().filter(|steer| !steer.via.is_empty()) {
            let matched = matched(steer, roster, other);
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
            for route in matched(steer, roster, other) {
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
fn matched(steer: &Steer, roster: &Roster, router: &Member) -> Vec<IpNet> {
    let subnets = router.subnets.iter();
    let subnets = subnets.filter(|route| steer.dst.overlaps(roster, route));
    let exits = router.exits.iter().filter(|_| steer.is_internet);
    subnets.chain(exits).copied().collect()
}

/// Of the routers with a tag of the grant and this route the one that is used: the first that is
/// online, or the first when none is. Exit routes have no such election: clients choose.
fn elected(steer: &Steer, roster: &Roster, route: &IpNet) -> Option<usize> {
    let carries = |member: &Member| {
        member.has_tag(&steer.via)
            && (member.subnets.contains(route) || member.exits.contains(route))
    };
    let members = roster.members.iter().enumerate();
    let candidates = members.filter(|(_, member)| carries(member));
    let best = candidates.min_by_key(|(place, member)| (!member.is_online, *place));
    best.map(|(place, _)| place)
}
