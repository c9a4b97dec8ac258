//! Two engines, and what differs between them.

use std::sync::Arc;

use super::super::attributes::Given;
use super::super::engine::Engine;
use super::super::login::LoginRule;
use super::super::node_set::NodeSet;
use super::super::plan::{Form, Plan, Rule, SourceNo, TermNo};
use super::doubt::Doubt;
use super::{Suspects, have_equal_places, offer_same};
use crate::state::User;

/// Two engines that agree about places, and what differs between them.
pub(super) struct Pair<'a> {
    pub(super) before: &'a Engine,
    pub(super) after: &'a Engine,
    /// Nodes that differ.
    pub(super) moved: NodeSet,
    /// Whether all offer the same routes.
    pub(super) has_same_routes: bool,
    /// By term of the earlier plan the same one of the later, and the other way round.
    later: Vec<Option<TermNo>>,
    earlier: Vec<Option<TermNo>>,
}

impl<'a> Pair<'a> {
    pub(super) fn of(before: &'a Engine, after: &'a Engine) -> Option<Self> {
        have_equal_places(before, after).then(|| Self {
            before,
            after,
            moved: before.roster.differing(&after.roster),
            has_same_routes: offer_same(before, after),
            later: numbers(&before.plan, &after.plan),
            earlier: numbers(&after.plan, &before.plan),
        })
    }

    pub(super) fn both(&self) -> [&'a Engine; 2] {
        [self.before, self.after]
    }

    /// Whether a term of the earlier plan stands for the same in both.
    pub(super) fn is_same(&self, term: TermNo) -> bool {
        let later = self.later.get(term).copied().flatten();
        let later = later.and_then(|later| self.after.terms.standing(later));
        let earlier = self.before.terms.standing(term);
        earlier
            .zip(later)
            .is_some_and(|(one, other)| Arc::ptr_eq(one, other))
    }

    pub(super) fn are_same(&self, terms: &[TermNo]) -> bool {
        terms.iter().all(|term| self.is_same(*term))
    }

    /// Whether a term stands for nothing in one of both, and for something in the other.
    pub(super) fn appears(&self, term: TermNo) -> bool {
        let later = self.later.get(term).copied().flatten();
        let later = later.and_then(|later| self.after.terms.standing(later));
        let earlier = self.before.terms.standing(term);
        let pair = earlier.zip(later);
        pair.is_none_or(|(one, other)| one.extent.is_empty() != other.extent.is_empty())
    }

    /// The nodes that one of these terms names, or that lead there, in one of both only. Term by term,
    /// and both ways apart: a node may go from one term to another, or from leading to a place to
    /// being there.
    pub(super) fn turned(&self, terms: &[TermNo]) -> NodeSet {
        let mut turned = NodeSet::default();
        for term in terms.iter().filter(|term| !self.is_same(**term)) {
            let later = self.later.get(*term).copied().flatten();
            let (old, new) = (&[*term][..], later.as_slice());
            let (before, after) = (&self.before.terms, &self.after.terms);
            for (old, new) in [
                (before.touched(old), after.touched(new)),
                (before.members(old), after.members(new)),
            ] {
                turned.add(&old.without(&new));
                turned.add(&new.without(&old));
            }
        }
        turned
    }

    /// The nodes of users who differ by something.
    fn owned_by_those<T: PartialEq>(&self, of: impl Fn(&User) -> T) -> NodeSet {
        let mut nodes = NodeSet::default();
        let (old, new) = (&self.before.roster.facts, &self.after.roster.facts);
        if Arc::ptr_eq(old, new) {
            return nodes;
        }
        for user in &new.users {
            if old.user(user.id).map(&of) == Some(of(user)) {
                continue;
            }
            for engine in self.both() {
                nodes.add(&NodeSet::of(engine.roster.owned(user.id).iter().copied()));
            }
        }
        nodes
    }

    /// With these nodes all of their owners.
    pub(super) fn owned_with(&self, nodes: &NodeSet) -> NodeSet {
        let mut all = NodeSet::default();
        for engine in self.both() {
            for owner in engine
                .roster
                .places(nodes)
                .filter_map(|member| member.owner)
            {
                all.add(&NodeSet::of(engine.roster.owned(owner).iter().copied()));
            }
        }
        all
    }

    /// Whether filters name routes by this rule of the earlier plan.
    pub(super) fn shows_routes(&self, rule: &Rule) -> bool {
        let source = self.before.plan.sources.get(rule.source());
        source.is_some_and(|source| source.form == Form::Apart)
    }

    pub(super) fn has_same_plan(&self) -> bool {
        Arc::ptr_eq(&self.before.plan, &self.after.plan)
    }

    pub(super) fn filters(&self) -> Suspects {
        let (old, new) = (&self.before.plan.rules, &self.after.plan.rules);
        let mut doubt = Doubt::new(self);
        let alike = |pair: &(&Rule, &Rule)| self.is_alike(pair.0, pair.1);
        let head = old.iter().zip(new).take_while(alike).count();
        let (old, new) = (old.get(head..), new.get(head..));
        let (old, new) = (old.unwrap_or_default(), new.unwrap_or_default());
        let tail = old
            .iter()
            .rev()
            .zip(new.iter().rev())
            .take_while(alike)
            .count();
        let changed = [
            (self.before, old.get(..old.len() - tail)),
            (self.after, new.get(..new.len() - tail)),
        ];
        for (engine, rules) in changed {
            for rule in rules.unwrap_or_default() {
                if is_own(rule) {
                    return Suspects::Everybody;
                }
                doubt.rule(engine, rule);
            }
        }
        let (old, new) = (&self.before.plan.rules, &self.after.plan.rules);
        let first = old.iter().zip(new).take(head);
        let last = old.iter().rev().zip(new.iter().rev()).take(tail);
        for (rule, later) in first.chain(last) {
            doubt.terms_of(rule, later);
        }
        doubt.finish()
    }

    /// Whether two rules are the same, whatever their terms stand for.
    pub(super) fn is_alike(&self, old: &Rule, new: &Rule) -> bool {
        if self.has_same_plan() {
            return true;
        }
        let source = |plan: &Plan, source: SourceNo| plan.sources.get(source).cloned();
        let old_source = source(&self.before.plan, old.source());
        let new_source = source(&self.after.plan, new.source());
        let Some((old_source, mut new_source)) = old_source.zip(new_source) else {
            return false;
        };
        let mut new = new.clone();
        *new.source_mut() = old.source();
        let earlier = |term: &mut TermNo| {
            *term = self
                .earlier
                .get(*term)
                .copied()
                .flatten()
                .unwrap_or(TermNo::MAX);
        };
        new_source.terms.iter_mut().for_each(earlier);
        new.terms_mut().for_each(earlier);
        old_source == new_source && *old == new
    }

    pub(super) fn logins(&self) -> Suspects {
        let (old, new) = (&self.before.plan.logins, &self.after.plan.logins);
        if old.is_empty() && new.is_empty() {
            return Suspects::These(NodeSet::default());
        }
        if !self.has_same_plan() {
            return Suspects::Everybody;
        }
        let mut doubt = self.moved.clone();
        let readdressed = self.owned_by_those(|user| user.email.clone());
        for rule in old {
            self.doubt_login(rule, &readdressed, &mut doubt);
        }
        Suspects::These(doubt)
    }

    /// `readdressed` are the nodes of users with other mail addresses.
    fn doubt_login(&self, rule: &LoginRule, readdressed: &NodeSet, doubt: &mut NodeSet) {
        doubt.add(&self.turned(&rule.dst));
        let mut moved = self.moved.clone();
        moved.add(&self.turned(&rule.src));
        if rule.has_localparts() {
            moved.add(readdressed);
        }
        let engines = self.both().into_iter();
        let named = rule.src.iter().chain(&rule.recorder).copied();
        let named: Vec<TermNo> = named.collect();
        let mut sources = engines.map(|engine| engine.terms.members(&named));
        if self.are_same(&rule.src)
            && self.are_same(&rule.recorder)
            && !sources.any(|nodes| nodes.meets(&moved))
        {
            return;
        }
        for engine in self.both() {
            doubt.add(&engine.terms.members(&rule.dst));
            if rule.has_localparts() {
                doubt.add(&engine.terms.members(&rule.src));
            }
        }
        if rule.is_self {
            // Another recorder concerns all to whom the rule leads: the sources' own nodes.
            if !self.are_same(&rule.recorder) {
                for engine in self.both() {
                    moved.add(&engine.terms.members(&rule.src));
                }
            }
            doubt.add(&self.owned_with(&moved));
        }
    }

    pub(super) fn attributes(&self) -> Suspects {
        let has_same_admins = self.before.roster.has_admin == self.after.roster.has_admin;
        let (old, new) = (&self.before.plan.given, &self.after.plan.given);
        let are_alike = |(old, new): (&Given, &Given)| {
            let to = |to: &Option<Vec<TermNo>>| to.clone();
            let later = |term: TermNo| self.later.get(term).copied().flatten();
            let moved = old
                .to
                .as_ref()
                .map(|to| to.iter().map(|term| later(*term)).collect());
            let wanted = to(&new.to).map(|to| to.into_iter().map(Some).collect::<Vec<_>>());
            old.attributes == new.attributes && moved == wanted
        };
        let is_same = old.len() == new.len() && old.iter().zip(new).all(are_alike);
        if !is_same || !has_same_admins {
            return Suspects::Everybody;
        }
        let mut doubt = self.moved.clone();
        doubt.add(&self.owned_by_those(|user| user.role));
        for given in old {
            doubt.add(&self.turned(given.to.as_deref().unwrap_or_default()));
        }
        Suspects::These(doubt)
    }
}

/// For each term of a plan its number in another one.
fn numbers(plan: &Plan, other: &Plan) -> Vec<Option<TermNo>> {
    if std::ptr::eq(plan, other) || plan.terms == other.terms {
        return (0..plan.terms.len()).map(Some).collect();
    }
    let numbers = other.numbers();
    let terms = plan.terms.iter();
    terms.map(|term| numbers.get(term).copied()).collect()
}

pub(super) const fn is_own(rule: &Rule) -> bool {
    matches!(
        rule,
        Rule::OwnPorts { .. } | Rule::OwnCaps { .. } | Rule::OwnCompanion { .. }
    )
}
