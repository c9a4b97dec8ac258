//! From a document to the plan of its rules, in which selectors are numbers of terms.
//!
//! A plan knows no node: what its terms stand for is worked out for a roster (`terms`), so that a
//! node that comes, goes or is tagged leaves the plan alone. The list of rules is the service's:
//! grants before acls, each in file order, a rule of `acls` cut into one unit per destination. What a
//! node is sent is that list reduced to what concerns the node (`filter`), and who sees whom follows
//! from what links the terms (`visibility`).

mod rule;

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::Value;

use super::address_set::AddressSet;
use super::attributes::{self, Given};
use super::document::{Document, Names};
use super::login::{self, LoginRule};
use super::meaning::covers_internet;
use super::node_set::NodeSet;
use super::selector::{Autogroup, Selector, Spot};
use super::terms::{Term, fixed_addresses};
use super::unit::{Unit, units};

pub(super) use self::rule::{Rule, Target};

/// Number of a term: [`Plan::terms`].
pub(super) type TermNo = usize;
/// Number of a list of sources: [`Plan::sources`].
pub(super) type SourceNo = usize;
/// Peer capabilities with their values (`tailcfg.CapGrant.CapMap`).
pub(super) type Caps = BTreeMap<String, Vec<Value>>;

/// Whoever is granted the first capability on a node has the second one granted to that node.
const COMPANIONS: [(&str, &str); 2] = [
    ("tailscale.com/cap/drive", "tailscale.com/cap/drive-sharer"),
    ("tailscale.com/cap/relay", "tailscale.com/cap/relay-target"),
];

/// A list of sources.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Source {
    pub(super) terms: Vec<TermNo>,
    pub(super) form: Form,
}

/// How filters name sources.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Form {
    /// `*`
    Everything,
    /// The list has the wildcard: each term and each route shows beside it.
    Apart,
    /// The addresses of all terms as one set.
    Union,
}

/// Who may reach what by one rule, but only through routers with these tags: other than for links,
/// one of a pair must be such a router.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Way {
    pub(super) from: Vec<TermNo>,
    pub(super) to: Vec<TermNo>,
    /// Of [`Self::to`] what may be behind a router.
    pub(super) targets: Vec<TermNo>,
    pub(super) via: Arc<[String]>,
}

/// What a unit says of the routers that lead to its destinations.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Steer {
    pub(super) from: SourceNo,
    pub(super) dst: Vec<TermNo>,
    pub(super) is_internet: bool,
    pub(super) via: Arc<[String]>,
}

/// All that a document says, by number.
#[derive(Debug, Default)]
pub(super) struct Plan {
    pub(super) terms: Vec<Term>,
    pub(super) sources: Vec<Source>,
    pub(super) rules: Vec<Rule>,
    /// For each term those that a rule joins it with, as source or as destination: whoever may reach
    /// a node sees it, and is seen.
    pub(super) links: Vec<NodeSet>,
    pub(super) ways: Vec<Way>,
    /// The sources of rules with `autogroup:self`.
    pub(super) own: Vec<SourceNo>,
    /// None where no grant leads through routers.
    pub(super) steering: Vec<Steer>,
    pub(super) has_via: bool,
    /// The terms that tell nodes apart: who is in the same of these sees the same.
    pub(super) signing: NodeSet,
    pub(super) logins: Vec<LoginRule>,
    pub(super) given: Vec<Given>,
}

impl Plan {
    pub(super) fn of(document: &Document) -> Self {
        let mut planner = Planner {
            names: &document.names,
            numbers: BTreeMap::new(),
            source_numbers: BTreeMap::new(),
            plan: Self::default(),
        };
        let units = units(document);
        planner.plan.has_via = units.iter().any(|unit| !unit.via.is_empty());
        for unit in &units {
            planner.unit(unit);
        }
        planner.plan.logins = login::plan(document, &mut planner);
        planner.plan.given = attributes::plan(document, &mut planner);
        planner.finish()
    }

    /// The numbers of the terms.
    pub(super) fn numbers(&self) -> BTreeMap<&Term, TermNo> {
        self.terms.iter().zip(0..).collect()
    }
}

/// A plan under construction.
pub(super) struct Planner<'a> {
    names: &'a Names,
    numbers: BTreeMap<Term, TermNo>,
    source_numbers: BTreeMap<Source, SourceNo>,
    plan: Plan,
}

impl Planner<'_> {
    fn finish(self) -> Plan {
        let mut plan = self.plan;
        let linked = plan.links.iter().enumerate();
        let linked = linked.filter(|(_, links)| !links.is_empty());
        let mut signing = NodeSet::of(linked.map(|(term, _)| term));
        let ways = plan
            .ways
            .iter()
            .flat_map(|way| way.from.iter().chain(&way.to));
        signing.add(&NodeSet::of(ways.copied()));
        let steering = plan.steering.iter().map(|steer| &steer.from);
        let sources = plan.own.iter().chain(steering);
        let sources = sources.filter_map(|source| plan.sources.get(*source));
        let terms = sources.flat_map(|source| source.terms.iter().copied());
        signing.add(&NodeSet::of(terms));
        plan.signing = signing;
        plan
    }

    fn term(&mut self, term: Term) -> TermNo {
        if let Some(number) = self.numbers.get(&term) {
            return *number;
        }
        let number = self.plan.terms.len();
        self.plan.terms.push(term.clone());
        self.plan.links.push(NodeSet::default());
        self.numbers.insert(term, number);
        number
    }

    fn selector(&mut self, selector: &Selector) -> TermNo {
        self.term(Term::Named(selector.clone(), Vec::new()))
    }

    fn selectors(&mut self, selectors: &[&Selector]) -> Vec<TermNo> {
        let terms = selectors.iter().map(|selector| self.selector(selector));
        terms.collect()
    }

    /// What stands in a list of the file.
    pub(super) fn spots(&mut self, spots: &[Spot]) -> Vec<TermNo> {
        let terms = spots.iter().map(|spot| self.selector(&spot.selector));
        terms.collect()
    }

    /// Selectors on the side of the sources: of their nodes those that meet one of the postures.
    fn narrowed<'s>(
        &mut self,
        selectors: impl Iterator<Item = &'s Selector>,
        postures: &[String],
    ) -> Vec<TermNo> {
        let named = selectors.map(|selector| Term::Named(selector.clone(), postures.to_vec()));
        named.map(|term| self.term(term)).collect()
    }

    /// The sources of a rule of the file.
    pub(super) fn narrowed_spots(&mut self, spots: &[Spot], postures: &[String]) -> Vec<TermNo> {
        self.narrowed(spots.iter().map(|spot| &spot.selector), postures)
    }

    fn source(&mut self, selectors: &[&Selector], postures: &[String]) -> SourceNo {
        let mut terms = self.narrowed(selectors.iter().copied(), postures);
        let danger_all = Selector::Auto(Autogroup::DangerAll);
        let form = if selectors.contains(&&danger_all) && postures.is_empty() {
            Form::Everything
        } else if selectors.contains(&&Selector::Any) {
            terms.push(self.term(Term::Subnets(postures.to_vec())));
            Form::Apart
        } else {
            Form::Union
        };
        let source = Source { terms, form };
        if let Some(number) = self.source_numbers.get(&source) {
            return *number;
        }
        let number = self.plan.sources.len();
        self.plan.sources.push(source.clone());
        self.source_numbers.insert(source, number);
        number
    }

    fn terms_of(&self, source: SourceNo) -> Vec<TermNo> {
        let source = self.plan.sources.get(source);
        source
            .map(|source| source.terms.clone())
            .unwrap_or_default()
    }

    fn unit(&mut self, unit: &Unit<'_>) {
        if unit.src.is_empty() || unit.dst.is_empty() {
            return;
        }
        let source = self.source(&unit.src, unit.src_posture);
        if self.plan.has_via {
            self.steer(unit, source);
        }
        if !unit.via.is_empty() {
            self.via(unit, source);
            return;
        }
        let own = Selector::Auto(Autogroup::SelfNodes);
        let dst: Vec<&Selector> = unit
            .dst
            .iter()
            .copied()
            .filter(|dst| **dst != own)
            .collect();
        if !dst.is_empty() {
            self.ports(unit, &dst, source);
            self.caps(unit, &dst, source);
        }
        if dst.len() < unit.dst.len() {
            self.own(unit, source);
        }
    }

    fn ports(&mut self, unit: &Unit<'_>, dst: &[&Selector], source: SourceNo) {
        if unit.ip.is_empty() {
            return;
        }
        let mut reached = Vec::new();
        let mut targets = Vec::new();
        for dst in dst {
            let is_any = **dst == Selector::Any;
            let everything = Selector::Auto(Autogroup::DangerAll);
            let term = self.selector(if is_any { &everything } else { dst });
            reached.push(term);
            targets.push(if is_any {
                Target::Any
            } else {
                Target::These(term)
            });
        }
        for connections in &unit.ip {
            self.plan.rules.push(Rule::Ports {
                source,
                connections: connections.clone(),
                targets: targets.clone(),
            });
        }
        self.link(source, reached);
    }

    /// Whoever may reach the internet may reach exit nodes.
    fn with_exits(&mut self, mut terms: Vec<TermNo>) -> Vec<TermNo> {
        let named = terms.iter().filter_map(|term| self.plan.terms.get(*term));
        let addresses = named.filter_map(|term| fixed_addresses(term, self.names));
        let addresses: Vec<AddressSet> = addresses.collect();
        if covers_internet(&AddressSet::union_of(&addresses)) {
            terms.push(self.term(Term::ExitNodes));
        }
        terms
    }

    fn link(&mut self, source: SourceNo, reached: Vec<TermNo>) {
        let reached = self.with_exits(reached);
        for from in self.terms_of(source) {
            for to in &reached {
                if let Some(links) = self.plan.links.get_mut(from) {
                    links.insert(*to);
                }
                if let Some(links) = self.plan.links.get_mut(*to) {
                    links.insert(from);
                }
            }
        }
    }

    fn caps(&mut self, unit: &Unit<'_>, dst: &[&Selector], source: SourceNo) {
        let Some(app) = unit.app.filter(|app| !app.is_empty()) else {
            return;
        };
        let reached = self.selectors(dst);
        self.plan.rules.push(Rule::Caps {
            source,
            targets: reached.iter().map(|term| vec![*term]).collect(),
            caps: Arc::new(app.clone()),
        });
        self.link(source, reached);
        for caps in companions(app) {
            // The reverse of a grant: its destinations are granted something by its sources.
            let source = self.source(dst, &[]);
            let reached = self.narrowed(unit.src.iter().copied(), unit.src_posture);
            self.plan.rules.push(Rule::Caps {
                source,
                targets: vec![reached.clone()],
                caps: Arc::new(caps),
            });
            self.link(source, reached);
        }
    }

    /// `autogroup:self` among the destinations.
    fn own(&mut self, unit: &Unit<'_>, source: SourceNo) {
        self.plan.own.push(source);
        for connections in &unit.ip {
            let connections = connections.clone();
            let rule = Rule::OwnPorts {
                source,
                connections,
            };
            self.plan.rules.push(rule);
        }
        let Some(app) = unit.app.filter(|app| !app.is_empty()) else {
            return;
        };
        let caps = Arc::new(app.clone());
        self.plan.rules.push(Rule::OwnCaps { source, caps });
        for caps in companions(app) {
            let caps = Arc::new(caps);
            self.plan.rules.push(Rule::OwnCompanion { source, caps });
        }
    }

    /// A grant that leads through certain routers exists on these alone.
    fn via(&mut self, unit: &Unit<'_>, source: SourceNo) {
        let targets = self.selectors(&unit.dst);
        // Unlike elsewhere nothing but routes shows beside the wildcard.
        let shown = if unit.src.contains(&&Selector::Any) {
            self.source(&[&Selector::Any], unit.src_posture)
        } else {
            source
        };
        let via: Arc<[String]> = unit.via.into();
        for connections in &unit.ip {
            self.plan.rules.push(Rule::Via {
                source: shown,
                connections: connections.clone(),
                targets: targets.clone(),
                via: Arc::clone(&via),
            });
        }
        let way = Way {
            from: self.terms_of(source),
            to: self.with_exits(targets.clone()),
            targets,
            via,
        };
        self.plan.ways.push(way);
    }

    fn steer(&mut self, unit: &Unit<'_>, source: SourceNo) {
        let net = Selector::Auto(Autogroup::Internet);
        let others: Vec<&Selector> = unit
            .dst
            .iter()
            .copied()
            .filter(|dst| **dst != net)
            .collect();
        let dst = self.selectors(&others);
        self.plan.steering.push(Steer {
            from: source,
            dst,
            is_internet: others.len() < unit.dst.len(),
            via: unit.via.into(),
        });
    }
}

fn companions(app: &Caps) -> impl Iterator<Item = Caps> {
    let granted = COMPANIONS.iter().filter(|(cap, _)| app.contains_key(*cap));
    granted.map(|(_, companion)| Caps::from([((*companion).to_owned(), Vec::new())]))
}
