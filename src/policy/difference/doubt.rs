//! Whose filters may differ.

use std::collections::BTreeSet;

use super::super::engine::Engine;
use super::super::node_set::NodeSet;
use super::super::plan::{Rule, SourceNo};
use super::Suspects;
use super::pair::{Pair, is_own};

/// Nodes whose filters may differ, while they are gathered.
pub(super) struct Doubt<'a> {
    pair: &'a Pair<'a>,
    nodes: NodeSet,
    /// Sources and protocols by which rules are merged that may now stand elsewhere: before, after.
    merged: [BTreeSet<(SourceNo, Option<u8>)>; 2],
}

impl<'a> Doubt<'a> {
    /// Nodes with routes let in what is for others: they are few, and always in doubt.
    pub(super) fn new(pair: &'a Pair<'a>) -> Self {
        let mut nodes = pair.moved.clone();
        for engine in pair.both() {
            nodes.add(&engine.roster.offers.carriers);
        }
        if pair.both().iter().any(|engine| !engine.plan.own.is_empty()) {
            nodes.add(&pair.owned_with(&pair.moved));
        }
        Self {
            pair,
            nodes,
            merged: Default::default(),
        }
    }

    /// A rule that one of both does not have, or not with these sources.
    pub(super) fn rule(&mut self, engine: &Engine, rule: &Rule) {
        self.nodes.add(&engine.terms.touched(&rule.terms()));
        if rule.has_any_target() {
            self.nodes.add(&engine.roster.all());
        }
        if let Rule::Ports { connections, .. } = rule {
            let key = (engine.sources.same(rule.source()), connections.protocol);
            let is_after = std::ptr::eq(engine, self.pair.after);
            let [before, after] = &mut self.merged;
            if is_after { after } else { before }.insert(key);
        }
    }

    /// A rule of the earlier plan that the later one has, too, as `later`: do its terms stand for the
    /// same?
    pub(super) fn terms_of(&mut self, rule: &Rule, later: &Rule) {
        let pair = self.pair;
        let plan = &pair.before.plan;
        let source = plan.sources.get(rule.source());
        let source = source
            .map(|source| source.terms.as_slice())
            .unwrap_or_default();
        let terms = rule.terms();
        // Where `*` is among the sources each route shows by itself.
        let shows_same = pair.has_same_routes || !pair.shows_routes(rule);
        let is_same = pair.are_same(source) && shows_same;
        if is_own(rule) {
            if !is_same {
                let turned = pair.turned(source);
                self.nodes.add(&pair.owned_with(&turned));
            }
            return;
        }
        if is_same && pair.are_same(&terms) {
            return;
        }
        if is_same && !terms.iter().any(|term| pair.appears(*term)) {
            self.nodes.add(&pair.turned(&terms));
            return;
        }
        self.rule(pair.before, rule);
        self.rule(pair.after, later);
    }

    pub(super) fn finish(mut self) -> Suspects {
        for (engine, merged) in self.pair.both().into_iter().zip(&self.merged) {
            for rule in engine.plan.rules.iter().filter(|_| !merged.is_empty()) {
                if let Rule::Ports { connections, .. } = rule {
                    let key = (engine.sources.same(rule.source()), connections.protocol);
                    if merged.contains(&key) {
                        self.nodes.add(&engine.terms.touched(&rule.terms()));
                        if rule.has_any_target() {
                            self.nodes.add(&engine.roster.all());
                        }
                    }
                }
            }
            for (source, _) in merged.iter().filter(|_| !engine.plan.own.is_empty()) {
                self.nodes.add(&own_receivers(engine, *source));
            }
        }
        Suspects::These(self.nodes)
    }
}

/// The nodes on which rules of their own may have just these sources, and are merged where rules of
/// the sources stand that do not concern the nodes otherwise: those of the one owner of them all.
fn own_receivers(engine: &Engine, source: SourceNo) -> NodeSet {
    let source = engine.plan.sources.get(source);
    let terms = source.map(|source| source.terms.as_slice());
    let members = engine.terms.members(terms.unwrap_or_default());
    let mut owners = engine.roster.places(&members).map(|member| member.owner);
    let owner = owners.next().flatten();
    let owned = owner.filter(|owner| owners.all(|other| other == Some(*owner)));
    let owned = owned.map_or(&[][..], |owner| engine.roster.owned(owner));
    NodeSet::of(owned.iter().copied())
}
