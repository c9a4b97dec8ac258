//! What single selectors stand for, in the policy in force or not.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::Engine;
use super::meaning::Extent;
use super::node_set::NodeSet;
use super::plan::TermNo;
use super::roster::Roster;
use super::selector::Selector;
use super::terms::{Standing, Term, resolve};

/// Looks up selectors, each once.
pub(super) struct Resolver<'a> {
    engine: &'a Engine,
    numbers: BTreeMap<&'a Term, TermNo>,
    known: BTreeMap<Term, Arc<Extent>>,
    conforming: BTreeMap<Vec<String>, Arc<NodeSet>>,
}

impl<'a> Resolver<'a> {
    pub(super) fn new(engine: &'a Engine) -> Self {
        Self {
            engine,
            numbers: engine.plan.numbers(),
            known: BTreeMap::new(),
            conforming: BTreeMap::new(),
        }
    }

    pub(super) const fn roster(&self) -> &'a Roster {
        self.engine.roster()
    }

    pub(super) fn resolve(&mut self, selector: &Selector) -> Arc<Extent> {
        self.source(selector, &[])
    }

    /// What a selector stands for on the side of the sources: of its nodes those that meet one of
    /// the postures.
    pub(super) fn source(&mut self, selector: &Selector, postures: &[String]) -> Arc<Extent> {
        let term = Term::Named(selector.clone(), postures.to_vec());
        if let Some(known) = self.known.get(&term) {
            return Arc::clone(known);
        }
        let extent = Arc::new(self.standing(&term).extent.clone());
        self.known.insert(term, Arc::clone(&extent));
        extent
    }

    fn standing(&self, term: &Term) -> Arc<Standing> {
        let number = self.numbers.get(term);
        let planned = number.and_then(|number| self.engine.terms.standing(*number));
        let names = &self.engine.document().names;
        planned.map_or_else(|| resolve(term.clone(), names, self.roster()), Arc::clone)
    }

    /// The nodes that meet one of the postures; absent: there are none to meet.
    pub(super) fn conforming(&mut self, postures: &[String]) -> Option<Arc<NodeSet>> {
        if postures.is_empty() {
            return None;
        }
        if let Some(known) = self.conforming.get(postures) {
            return Some(Arc::clone(known));
        }
        let named = &self.engine.document().names.postures;
        let named = postures.iter().filter_map(|name| named.get(name).cloned());
        let named: Vec<_> = named.collect();
        let conforming = Arc::new(self.roster().conforming(&named));
        let known = self.conforming.entry(postures.to_vec());
        Some(Arc::clone(known.or_insert(conforming)))
    }
}
