//! Lists of sources as filters name them, and which lists come to the same.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::meaning::Extent;
use super::node_set::NodeSet;
use super::plan::{Form, Plan, Rule, Source, SourceNo, Target};
use super::roster::Roster;
use super::terms::Terms;

/// Which lists of sources come to the same in a tailnet: rules of these are merged.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Sources {
    /// By source.
    prints: Vec<u64>,
    /// The first list that comes to the same, by source.
    same: Vec<SourceNo>,
    /// Where in the list of rules a pair of sources and protocol appears first for all nodes: there
    /// its rules are merged, even on a node that keeps nothing of that first one.
    first: BTreeMap<(SourceNo, Option<u8>), usize>,
}

/// What a list comes to: equal exactly if filters name it alike.
#[derive(PartialEq, Eq, Hash)]
enum Meaning {
    /// Nodes with all their addresses, and nothing else.
    Nodes(NodeSet),
    Texts(Vec<String>),
}

impl Sources {
    pub(super) fn of(plan: &Plan, terms: &Terms, roster: &Roster) -> Self {
        let all = plan.sources.iter();
        let prints = all.map(|source| print(&meaning(source, terms, roster)));
        Self::grouped(prints.collect(), plan, terms, roster)
    }

    /// The same after some terms have changed.
    pub(super) fn after(
        &self,
        changed: &NodeSet,
        plan: &Plan,
        terms: &Terms,
        roster: &Roster,
    ) -> Self {
        let mut prints = self.prints.clone();
        for (print_of, source) in prints.iter_mut().zip(&plan.sources) {
            if source.terms.iter().any(|term| changed.contains(*term)) {
                *print_of = print(&meaning(source, terms, roster));
            }
        }
        Self::grouped(prints, plan, terms, roster)
    }

    fn grouped(prints: Vec<u64>, plan: &Plan, terms: &Terms, roster: &Roster) -> Self {
        let mut order: Vec<(u64, SourceNo)> = prints.iter().copied().zip(0..).collect();
        order.sort_unstable();
        let mut same: Vec<SourceNo> = (0..prints.len()).collect();
        for alike in order.chunk_by(|one, next| one.0 == next.0) {
            // Equal prints are as good as a proof, but not one.
            let meanings = alike.iter().filter_map(|(_, number)| {
                let source = plan.sources.get(*number).filter(|_| alike.len() > 1)?;
                Some((*number, meaning(source, terms, roster)))
            });
            let mut known: Vec<(SourceNo, Meaning)> = Vec::new();
            for (number, meaning) in meanings {
                match known.iter().find(|(_, known)| *known == meaning) {
                    Some((first, _)) => {
                        if let Some(same) = same.get_mut(number) {
                            *same = *first;
                        }
                    }
                    None => known.push((number, meaning)),
                }
            }
        }
        let mut sources = Self {
            prints,
            same,
            first: BTreeMap::new(),
        };
        sources.first = sources.firsts(plan, terms);
        sources
    }

    fn firsts(&self, plan: &Plan, terms: &Terms) -> BTreeMap<(SourceNo, Option<u8>), usize> {
        let mut first = BTreeMap::new();
        for (number, rule) in plan.rules.iter().enumerate() {
            let Rule::Ports {
                source,
                connections,
                targets,
            } = rule
            else {
                continue;
            };
            if has_anything(plan, terms, *source, targets) {
                let key = (self.same(*source), connections.protocol);
                first.entry(key).or_insert(number);
            }
        }
        first
    }

    /// The list that stands for this one and all that come to the same.
    pub(super) fn same(&self, source: SourceNo) -> SourceNo {
        self.same.get(source).copied().unwrap_or(source)
    }

    /// The list that comes to these nodes.
    pub(super) fn of_nodes(
        &self,
        nodes: &NodeSet,
        plan: &Plan,
        terms: &Terms,
        roster: &Roster,
    ) -> Option<SourceNo> {
        let wanted = Meaning::Nodes(nodes.clone());
        let print = print(&wanted);
        let alike = self.prints.iter().enumerate();
        let mut alike = alike.filter(|(_, other)| **other == print);
        let found = alike.find(|(number, _)| {
            let source = plan.sources.get(*number);
            source.is_some_and(|source| meaning(source, terms, roster) == wanted)
        });
        found.map(|(number, _)| self.same(number))
    }

    /// Where rules of these sources and this protocol are merged.
    pub(super) fn first(&self, source: SourceNo, protocol: Option<u8>) -> Option<usize> {
        self.first.get(&(source, protocol)).copied()
    }
}

/// Whether a list stands for anything: rules without sources are as if they were not there.
pub(super) fn is_empty(plan: &Plan, terms: &Terms, source: SourceNo) -> bool {
    let source = plan
        .sources
        .get(source)
        .map(|source| source.terms.as_slice());
    let mut terms = terms.each(source.unwrap_or_default());
    terms.all(|standing| standing.extent.is_empty())
}

/// Whether a rule has sources and destinations.
fn has_anything(plan: &Plan, terms: &Terms, source: SourceNo, targets: &[Target]) -> bool {
    let exists = |target: &Target| match target {
        Target::Any => true,
        Target::These(term) => {
            let standing = terms.standing(*term);
            standing.is_some_and(|standing| !standing.extent.is_empty())
        }
    };
    targets.iter().any(exists) && !is_empty(plan, terms, source)
}

/// A number that lists have in common that come to the same.
fn print(meaning: &Meaning) -> u64 {
    use std::hash::{DefaultHasher, Hash, Hasher};
    let mut hasher = DefaultHasher::new();
    match meaning {
        Meaning::Nodes(nodes) => {
            // Faster than the hasher, over what is long.
            let mix = |print: u64, word: &u64| {
                (print ^ word)
                    .wrapping_mul(0x9e37_79b9_7f4a_7c15)
                    .rotate_left(29)
            };
            nodes.words().iter().fold(0, mix).hash(&mut hasher);
        }
        Meaning::Texts(texts) => texts.hash(&mut hasher),
    }
    hasher.finish()
}

fn meaning(source: &Source, terms: &Terms, roster: &Roster) -> Meaning {
    if source.form == Form::Union {
        let union = terms.union(&source.terms);
        if let Some(nodes) = all_nodes(union, roster) {
            return Meaning::Nodes(nodes);
        }
    }
    Meaning::Texts(texts(source, terms, roster))
}

/// The nodes that an extent is, if it is whole nodes and nothing else.
fn all_nodes(extent: Extent, roster: &Roster) -> Option<NodeSet> {
    if extent.addresses.is_empty() {
        return Some(extent.nodes);
    }
    let mut nodes = extent.nodes;
    for range in extent.addresses.ranges() {
        let (first, last) = range.ends();
        let place = roster.with_address(first).filter(|_| first == last)?;
        let member = roster.member(place)?;
        let mut addresses = member.addresses.iter();
        if !addresses.all(|address| extent.addresses.contains(*address)) && !nodes.contains(place) {
            return None;
        }
        nodes.insert(place);
    }
    Some(nodes)
}

/// A list as filters name it, sorted.
pub(super) fn texts(source: &Source, terms: &Terms, roster: &Roster) -> Vec<String> {
    match source.form {
        Form::Everything => vec!["*".to_owned()],
        Form::Apart => {
            let mut texts: BTreeSet<String> = BTreeSet::new();
            for standing in terms.each(&source.terms) {
                texts.extend(standing.texts(roster).iter().cloned());
            }
            texts.into_iter().collect()
        }
        Form::Union => {
            let mut all = terms.each(&source.terms);
            let has_addresses = |s: &Arc<super::terms::Standing>| !s.extent.addresses.is_empty();
            let mut texts: Vec<String> = if all.clone().any(has_addresses) {
                terms.union(&source.terms).texts(roster)
            } else if let [term] = source.terms.as_slice() {
                let texts = terms.standing(*term).map(|standing| standing.texts(roster));
                return texts.map(|texts| texts.to_vec()).unwrap_or_default();
            } else {
                let texts = all.by_ref().flat_map(|s| s.texts(roster).iter().cloned());
                texts.collect()
            };
            texts.sort_unstable();
            texts.dedup();
            texts
        }
    }
}
