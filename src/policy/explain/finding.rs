//! What is found for a pair of ends.

use std::collections::BTreeSet;

use ipnet::IpNet;

use super::Explainer;
use super::end::End;
use super::judge::{Families, Judge, Outcome, Pair, Verdict, families};
use super::question::Wanted;
use super::rules::{Login, Rule};

/// Routers of one address that are judged: each is tried against every rule.
const ROUTERS_MAX: usize = 16;
/// Pairs, rules and routers that one answer names of each kind: more is not read.
const SHOWN_MAX: usize = 5;

/// What is found for a pair; pairs with equal findings share an answer.
#[derive(PartialEq)]
pub(super) struct Finding {
    pub(super) allowed: bool,
    pub(super) families: Families,
    /// Families that both ends have.
    pub(super) common: Families,
    pub(super) allows: Listed<(usize, Outcome)>,
    pub(super) close: Listed<(usize, Outcome)>,
    pub(super) logins: Listed<usize>,
    pub(super) visible: Option<bool>,
    pub(super) reverse: Option<(usize, Outcome)>,
    pub(super) routers: Listed<Router>,
    /// Routers in use that were not judged, being too many.
    pub(super) unjudged_routers: usize,
}

/// The first of a list, and how many more there are.
#[derive(PartialEq)]
pub(super) struct Listed<T> {
    pub(super) shown: Vec<T>,
    pub(super) more: usize,
}

impl<T> Listed<T> {
    pub(super) fn of(all: impl IntoIterator<Item = T>) -> Self {
        let mut all = all.into_iter();
        let shown = all.by_ref().take(SHOWN_MAX).collect();
        let more = all.count();
        Self { shown, more }
    }
}

#[derive(Clone, PartialEq)]
pub(super) struct Router {
    pub(super) place: usize,
    pub(super) route: IpNet,
    pub(super) is_used: bool,
}

impl Explainer<'_> {
    pub(super) fn finding(&self, src: &End, dst: &End) -> Finding {
        let routers = self.routers(src, dst);
        let used = routers.iter().filter(|router| router.is_used).count();
        let judge = Judge {
            roster: self.roster,
            wanted: self.question.wanted,
        };
        let outcomes = self.rules.iter().enumerate();
        let outcomes = outcomes.map(|(number, rule)| {
            let outcome = outcome_on(&judge, rule, src, dst, &routers);
            (number, outcome)
        });
        let (allows, mut others): (Vec<_>, Vec<_>) =
            outcomes.partition(|(_, outcome)| outcome.verdict == Verdict::Allows);
        // Where it is allowed, rules for other destinations say nothing.
        let farthest = if allows.is_empty() {
            Verdict::OtherDestination
        } else {
            Verdict::OtherRouter
        };
        let is_ssh = |number: usize| {
            self.rules
                .get(number)
                .is_some_and(|rule| rule.ssh.is_some())
        };
        others.retain(|(number, outcome)| outcome.verdict <= farthest && !is_ssh(*number));
        others.sort_by_key(|(_, outcome)| outcome.verdict);
        let nodes = src.place.zip(dst.place);
        let reverse = nodes.filter(|_| allows.is_empty());
        Finding {
            allowed: !allows.is_empty(),
            families: allows.iter().fold(0, |all, (_, one)| all | one.families),
            common: families(&src.addresses, |_| true) & families(&dst.addresses, |_| true),
            allows: Listed::of(allows),
            close: Listed::of(others),
            logins: Listed::of(self.logins(nodes)),
            visible: nodes.and_then(|(src, dst)| self.sees(src, dst)),
            reverse: reverse.and_then(|(src, dst)| self.reverse(src, dst)),
            unjudged_routers: used.saturating_sub(ROUTERS_MAX),
            routers: Listed::of(routers),
        }
    }

    fn sees(&self, viewer: usize, peer: usize) -> Option<bool> {
        let viewer = self.roster.member(viewer)?.id;
        let peer = self.roster.member(peer)?.id;
        Some(self.tailnet.engine.sees(viewer, peer))
    }

    /// A rule by which the destination reaches anything of the source.
    fn reverse(&self, src: usize, dst: usize) -> Option<(usize, Outcome)> {
        let judge = Judge {
            roster: self.roster,
            wanted: Wanted::default(),
        };
        let (from, to) = (
            End::of_node(self.roster, dst),
            End::of_node(self.roster, src),
        );
        let outcomes = self.rules.iter().enumerate().map(|(number, rule)| {
            let outcome = outcome_on(&judge, rule, &from, &to, &[]);
            (number, outcome)
        });
        let reaches = [Verdict::Allows, Verdict::OnlyCapabilities];
        let mut reaching = outcomes.filter(|(_, outcome)| reaches.contains(&outcome.verdict));
        reaching.next()
    }

    /// The rules of `ssh` that let one node log in at the other, if that is asked.
    fn logins(&self, nodes: Option<(usize, usize)>) -> Vec<usize> {
        let Some((src, dst)) = nodes.filter(|_| self.question.wanted.is_ssh()) else {
            return Vec::new();
        };
        let owner = |place: usize| self.roster.member(place).and_then(|m| m.owner);
        let same_owner = owner(src).is_some() && owner(src) == owner(dst);
        let joins = |login: &&Login<'_>| {
            login.src.contains(src) && (login.dst.contains(dst) || (login.is_self && same_owner))
        };
        let logins = self.logins.iter().enumerate();
        let logins = logins.filter(|(_, login)| joins(login));
        logins.map(|(number, _)| number).collect()
    }

    /// The nodes that carry an address that is no node's, those first that the source uses.
    fn routers(&self, src: &End, dst: &End) -> Vec<Router> {
        let (None, Some(address)) = (dst.place, dst.addresses.first()) else {
            return Vec::new();
        };
        let mut places: BTreeSet<usize> = self.roster.offers.carriers.iter().collect();
        src.place.map(|own| places.remove(&own));
        let mut routers: Vec<Router> = Vec::new();
        for place in places {
            let Some(member) = self.roster.member(place) else {
                continue;
            };
            let routes = member.subnets.iter().chain(&member.exits);
            let routes = routes.filter(|route| route.contains(address));
            let Some(route) = routes.max_by_key(|route| route.prefix_len()).copied() else {
                continue;
            };
            let is_used = src.place.is_none_or(|src| self.is_told(src, place, route));
            routers.push(Router {
                place,
                route,
                is_used,
            });
        }
        // Clients take the most specific route.
        let used = routers.iter().filter(|router| router.is_used);
        let best = used.map(|router| router.route.prefix_len()).max();
        for router in &mut routers {
            router.is_used &= Some(router.route.prefix_len()) == best;
        }
        routers.sort_by_key(|router| (!router.is_used, router.place));
        routers
    }

    /// Whether a node is told to send to another what is in a route.
    fn is_told(&self, src: usize, router: usize, route: IpNet) -> bool {
        let (src, router) = (self.roster.member(src), self.roster.member(router));
        let Some((src, router)) = src.zip(router) else {
            return false;
        };
        let engine = self.tailnet.engine;
        let primary = (self.tailnet.primary)(router.id);
        engine.sees(src.id, router.id)
            && engine.routes(src.id, router.id, &primary).contains(&route)
    }
}

/// What a rule comes to on the node that is the destination, or on the routers that lead there.
fn outcome_on(
    judge: &Judge<'_>,
    rule: &Rule<'_>,
    src: &End,
    dst: &End,
    routers: &[Router],
) -> Outcome {
    if let Some(keeper) = dst.place {
        return judge.outcome(rule, Pair { src, dst, keeper });
    }
    let is_routed = routers.iter().any(|router| router.is_used);
    let counting = routers.iter().filter(|router| router.is_used == is_routed);
    let mut best = Outcome::UNRELATED;
    for router in counting.take(ROUTERS_MAX) {
        let keeper = router.place;
        best = best.or(judge.outcome(rule, Pair { src, dst, keeper }));
    }
    if !is_routed && best.verdict == Verdict::Allows {
        best.verdict = Verdict::NotRouted;
    }
    best
}
