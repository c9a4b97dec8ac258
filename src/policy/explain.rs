//! Why a connection is allowed or not: which rules allow it, and which come close.
//!
//! Rules are tried one by one as the file has them, for each pair of a source and a destination.
//! The verdict is that of the packet filter of the node at the end, or, for an address that is no
//! node's, of the routers that the source is told to use. Nothing is decided here: what nodes are
//! sent comes from `filter`, `visibility` and `routing`, and tests hold the answers equal.

mod answer;
mod end;
mod finding;
mod judge;
mod question;
mod report;
mod rules;
#[cfg(test)]
mod tests;
mod words;

use std::collections::BTreeMap;

use ipnet::IpNet;

use self::end::{End, Finder};
use self::finding::Finding;
use self::rules::{Login, Rule};
use super::Engine;
use super::ports::protocol_name;
use super::resolver::Resolver;
use super::roster::Roster;
use crate::state::State;
use crate::types::NodeId;

pub use self::question::{ExplainError, Fault, Part, Question, Wanted};
pub use self::report::{
    Answer, EndReport, Explanation, Overall, PairReport, RouterReport, RuleKind, RuleReport,
};

/// Pairs that are judged: each is tried against every rule.
const PAIRS_MAX: usize = 256;
/// Different answers that are told; more is not read.
const ANSWERS_MAX: usize = 8;

/// What answers come from.
pub struct Tailnet<'a> {
    /// Compiled for the state.
    pub engine: &'a Engine,
    /// Has the names of nodes.
    pub state: &'a State,
    /// The subnet routes for which a node is the primary.
    pub primary: &'a dyn Fn(NodeId) -> Vec<IpNet>,
}

impl Tailnet<'_> {
    /// Answers a question.
    ///
    /// # Errors
    /// What the question names is not there, or is not one thing.
    pub fn explain(&self, question: &Question) -> Result<Explanation, ExplainError> {
        let roster = self.engine.roster();
        let document = self.engine.document();
        let mut finder = Finder {
            state: self.state,
            document,
            roster,
            resolver: Resolver::new(self.engine),
        };
        let at = |part| move |fault| ExplainError { part, fault };
        let sources = finder.ends(&question.src).map_err(at(Part::Src))?;
        let destinations = finder.ends(&question.dst).map_err(at(Part::Dst))?;
        let is_other = |(src, dst): &(&End, &End)| !src.is_also(dst, roster);
        let pairs = sources
            .iter()
            .flat_map(|src| destinations.iter().map(move |dst| (src, dst)));
        let judged: Vec<(&End, &End)> = pairs.filter(is_other).take(PAIRS_MAX).collect();
        if judged.is_empty() {
            return Err(at(Part::Dst)(Fault::Same));
        }
        let explainer = Explainer {
            tailnet: self,
            roster,
            rules: rules::rules(document, &mut finder.resolver),
            logins: rules::logins(document, &mut finder.resolver),
            question,
        };
        let all = count_pairs(&sources, &destinations, roster);
        Ok(explainer.explanation(&judged, all.saturating_sub(judged.len())))
    }
}

/// How many pairs there are of a source and another destination, without looking at each.
fn count_pairs(sources: &[End], destinations: &[End], roster: &Roster) -> usize {
    let mut at: BTreeMap<usize, usize> = BTreeMap::new();
    for place in sources.iter().filter_map(|source| source.place) {
        *at.entry(place).or_default() += 1;
    }
    let same = destinations.iter().map(|dst| match dst.place {
        Some(place) => at.get(&place).copied().unwrap_or_default(),
        // An address that is no node's: a question names at most one.
        None => sources
            .iter()
            .filter(|src| src.is_also(dst, roster))
            .count(),
    });
    let all = sources.len().saturating_mul(destinations.len());
    all.saturating_sub(same.sum())
}

struct Explainer<'a> {
    tailnet: &'a Tailnet<'a>,
    roster: &'a Roster,
    rules: Vec<Rule<'a>>,
    logins: Vec<Login<'a>>,
    question: &'a Question,
}

impl Explainer<'_> {
    fn explanation(&self, judged: &[(&End, &End)], unjudged_pairs: usize) -> Explanation {
        let mut groups: Vec<(Finding, Vec<(&End, &End)>)> = Vec::new();
        let mut allowed_pairs = 0;
        for pair in judged {
            let finding = self.finding(pair.0, pair.1);
            allowed_pairs += usize::from(finding.allowed);
            match groups.iter_mut().find(|(known, _)| *known == finding) {
                Some((_, pairs)) => pairs.push(*pair),
                None => groups.push((finding, vec![*pair])),
            }
        }
        let verdict = match allowed_pairs {
            0 => Overall::Denied,
            all if all == judged.len() => Overall::Allowed,
            _ => Overall::Mixed,
        };
        let answers = groups.iter().take(ANSWERS_MAX);
        let question = self.question;
        Explanation {
            src: question.src.clone(),
            dst: question.dst.clone(),
            port: question.wanted.port,
            protocol: question.wanted.protocol.map(protocol_name),
            policy_version: self.tailnet.state.policy().map(|policy| policy.version),
            fault: self.tailnet.engine.fault().map(ToString::to_string),
            verdict,
            pairs: judged.len(),
            allowed_pairs,
            unjudged_pairs,
            answers: answers.map(|(f, pairs)| self.answer(f, pairs)).collect(),
            more_answers: groups.len().saturating_sub(ANSWERS_MAX),
        }
    }
}
