//! Who sees whom, by classes: nodes that are in the same terms see the same.

use std::collections::HashMap;
use std::sync::Arc;

use super::node_set::NodeSet;
use super::plan::{Plan, Way};
use super::roster::{Moved, Roster};
use super::terms::{Standing, Term, Terms};

/// Place of a class in [`Classes::classes`].
type ClassNo = u32;
/// The class of a place without a node.
const NONE: ClassNo = ClassNo::MAX;
const BITS: usize = 64;
/// Classes that may come, beside as many as there were, until those without nodes are looked for.
const CLASSES_SPARE: usize = 64;

/// Nodes that are in the same of the terms that tell nodes apart. What they see of their owners'
/// other nodes (`autogroup:self`) is beside it.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Class {
    /// The terms that they are in, and behind these the ways that they are routers of.
    signature: NodeSet,
    /// The terms that rules join those with.
    links: NodeSet,
    /// Of these, what they may use the routes of.
    ends: NodeSet,
    /// Everybody whom they see; the viewer itself may be among them.
    pub(super) peers: NodeSet,
    /// The routes that they may use, by number.
    pub(super) routes: NodeSet,
}

/// The classes of a tailnet and the class of each node.
#[derive(Clone, Debug, Default)]
pub(super) struct Classes {
    pub(super) classes: Vec<Arc<Class>>,
    /// By place.
    of: Vec<ClassNo>,
    /// By way its routers.
    routers: Arc<[NodeSet]>,
    /// How many classes there were when all were worked out.
    settled: usize,
}

/// What classes are worked out from.
#[derive(Clone, Copy)]
pub(super) struct Ground<'a> {
    pub(super) plan: &'a Plan,
    pub(super) terms: &'a Terms,
    pub(super) roster: &'a Roster,
}

impl Classes {
    /// Works out all classes. Those that an earlier one has with equal parts are taken from there.
    pub(super) fn of(ground: Ground<'_>, earlier: Option<&Self>) -> Self {
        let ways = ground.plan.ways.iter();
        let mut classes = Self {
            classes: Vec::new(),
            of: Vec::with_capacity(ground.roster.size()),
            routers: ways.map(|way| routers(way, ground)).collect(),
            settled: 0,
        };
        let (signatures, width) = classes.signatures(ground);
        let mut known: HashMap<&[u64], ClassNo> = HashMap::new();
        let mut signatures = signatures.chunks_exact(width);
        for (place, signature) in (0..ground.roster.size()).zip(&mut signatures) {
            if ground.roster.member(place).is_none() {
                classes.of.push(NONE);
                continue;
            }
            let class = *known.entry(signature).or_insert_with(|| {
                let signature = NodeSet::of_words(signature.to_vec());
                let earlier = earlier.and_then(|earlier| earlier.class(place));
                classes.add(signature, earlier, ground)
            });
            classes.of.push(class);
        }
        classes.settled = classes.classes.len();
        classes
    }

    /// The signatures of all places one after the other, and how long each is.
    fn signatures(&self, ground: Ground<'_>) -> (Vec<u64>, usize) {
        let terms = ground.plan.terms.len();
        let width = (terms + self.routers.len()).div_ceil(BITS).max(1);
        let mut words = vec![0; width * ground.roster.size()];
        let mut sign = |nodes: &NodeSet, number: usize| {
            for place in nodes.iter() {
                if let Some(word) = words.get_mut(place * width + number / BITS) {
                    *word |= 1 << (number % BITS);
                }
            }
        };
        for term in ground.plan.signing.iter() {
            let standing = ground.terms.standing(term).into_iter();
            for nodes in standing.flat_map(|standing| standing.touched()) {
                sign(nodes, term);
            }
        }
        for (number, routers) in self.routers.iter().enumerate() {
            sign(routers, terms + number);
        }
        (words, width)
    }

    fn add(
        &mut self,
        signature: NodeSet,
        earlier: Option<&Arc<Class>>,
        ground: Ground<'_>,
    ) -> ClassNo {
        let class = self.work_out(signature, ground);
        let same = earlier.filter(|earlier| ***earlier == class);
        self.classes
            .push(same.cloned().unwrap_or_else(|| Arc::new(class)));
        ClassNo::try_from(self.classes.len() - 1).unwrap_or(NONE)
    }

    fn work_out(&self, signature: NodeSet, ground: Ground<'_>) -> Class {
        let (links, ends) = links(&signature, ground.plan);
        let mut peers = NodeSet::default();
        for standing in standings(&links, ground.terms) {
            standing.touched().for_each(|nodes| peers.add(nodes));
        }
        let mut routes = NodeSet::default();
        for standing in standings(&ends, ground.terms) {
            routes.add(&standing.routes);
        }
        let ways = ground.plan.ways.iter().zip(&*self.routers);
        for (number, (way, routers)) in ways.enumerate() {
            let is_router = signature.contains(ground.plan.terms.len() + number);
            let only = (!is_router).then_some(routers);
            add_way(way, &signature, only, ground, &mut peers);
            if is_router {
                add_way_routes(way, &signature, ground, &mut routes);
            }
        }
        Class {
            signature,
            links,
            ends,
            peers,
            routes,
        }
    }

    /// The same after nodes have moved and, apart from these nodes themselves, terms stand for what
    /// they did. `None` when more than that is to be done.
    pub(super) fn after(&self, moved: &[Moved], ground: Ground<'_>) -> Option<Self> {
        if !ground.plan.ways.is_empty() {
            return None;
        }
        let mut next = self.clone();
        next.of.resize(ground.roster.size(), NONE);
        for moved in moved {
            let place = moved.place;
            let signature = NodeSet::of(ground.plan.signing.iter().filter(|term| {
                let standing = ground.terms.standing(*term);
                standing.is_some_and(|standing| standing.touches(place))
            }));
            for class in &mut next.classes {
                let sees = class.links.meets(&signature);
                if class.peers.contains(place) != sees {
                    Arc::make_mut(class).peers.set(place, sees);
                }
            }
            let class = match &moved.new {
                None => NONE,
                Some(_) => next.class_with(signature, ground),
            };
            if let Some(of) = next.of.get_mut(place) {
                *of = class;
            }
        }
        // Classes that nobody is in any more go when all are worked out.
        (next.classes.len() <= next.settled * 2 + CLASSES_SPARE).then_some(next)
    }

    fn class_with(&mut self, signature: NodeSet, ground: Ground<'_>) -> ClassNo {
        let mut classes = self.classes.iter();
        let found = classes.position(|class| class.signature == signature);
        let found = found.and_then(|found| ClassNo::try_from(found).ok());
        found.unwrap_or_else(|| self.add(signature, None, ground))
    }

    /// The same when rules link terms in another way, but all terms are the same, and no rule leads
    /// through routers.
    pub(super) fn relinked(&self, ground: Ground<'_>) -> Self {
        let relinked = |class: &Arc<Class>| {
            if links(&class.signature, ground.plan) == (class.links.clone(), class.ends.clone()) {
                return Arc::clone(class);
            }
            let new = self.work_out(class.signature.clone(), ground);
            if **class == new {
                return Arc::clone(class);
            }
            Arc::new(new)
        };
        let of = self.of.iter().enumerate();
        let of = of.map(|(place, class)| match ground.roster.member(place) {
            Some(_) => *class,
            None => NONE,
        });
        Self {
            classes: self.classes.iter().map(relinked).collect(),
            of: of.collect(),
            ..self.clone()
        }
    }

    pub(super) fn number(&self, place: usize) -> Option<u32> {
        self.of.get(place).copied().filter(|class| *class != NONE)
    }

    pub(super) fn class(&self, place: usize) -> Option<&Arc<Class>> {
        let number = usize::try_from(self.number(place)?).ok()?;
        self.classes.get(number)
    }

    /// Classes that some node is in.
    pub(super) fn count(&self) -> usize {
        let used = NodeSet::of(self.of.iter().filter(|c| **c != NONE).map(|c| *c as usize));
        used.iter().count()
    }
}

/// The terms that rules join those of a signature with, and those that it may use the routes of: to
/// be an exit node gives no routes.
fn links(signature: &NodeSet, plan: &Plan) -> (NodeSet, NodeSet) {
    let mut links = NodeSet::default();
    let mut ends = NodeSet::default();
    for term in signature.iter() {
        let Some(linked) = plan.links.get(term) else {
            continue;
        };
        links.add(linked);
        if plan.terms.get(term) != Some(&Term::ExitNodes) {
            ends.add(linked);
        }
    }
    (links, ends)
}

fn standings<'a>(
    numbers: &'a NodeSet,
    terms: &'a Terms,
) -> impl Iterator<Item = &'a Arc<Standing>> {
    numbers.iter().filter_map(|term| terms.standing(term))
}

/// The routers of a way: those that lead to one of its targets.
fn routers(way: &Way, ground: Ground<'_>) -> NodeSet {
    let carriers = ground.roster.offers.carriers.iter();
    NodeSet::of(carriers.filter(|place| is_router(way, *place, ground)))
}

fn is_router(way: &Way, place: usize, ground: Ground<'_>) -> bool {
    let member = ground.roster.member(place);
    member.is_some_and(|member| {
        let mut targets = ground.terms.each(&way.targets);
        member.has_tag(&way.via)
            && targets.any(|target| super::routing::leads_to(ground.roster, member, target))
    })
}

/// Adds whom a node with this signature sees by a way; only routers, unless it is one.
fn add_way(
    way: &Way,
    signature: &NodeSet,
    only: Option<&NodeSet>,
    ground: Ground<'_>,
    peers: &mut NodeSet,
) {
    let is_in = |terms: &[usize]| terms.iter().any(|term| signature.contains(*term));
    for (own, others) in [(&way.from, &way.to), (&way.to, &way.from)] {
        if !is_in(own) {
            continue;
        }
        for nodes in ground.terms.each(others).flat_map(|other| other.touched()) {
            match only {
                Some(only) => peers.add_both(nodes, only),
                None => peers.add(nodes),
            }
        }
    }
}

fn add_way_routes(way: &Way, signature: &NodeSet, ground: Ground<'_>, routes: &mut NodeSet) {
    let is_in = |terms: &[usize]| terms.iter().any(|term| signature.contains(*term));
    for (own, others) in [(&way.from, &way.to), (&way.targets, &way.from)] {
        if is_in(own) {
            for other in ground.terms.each(others) {
                routes.add(&other.routes);
            }
        }
    }
}
