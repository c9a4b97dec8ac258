//! What the selectors of tests stand for.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::super::document::Document;
use super::super::ports::split_ports;
use super::super::roster::Roster;
use super::super::selector::Selector;
use super::super::terms::{Standing, Term, Terms};

/// Every selector that tests name, worked out together: one by one, each would look at all nodes.
pub(super) struct Named(BTreeMap<Selector, Arc<Standing>>);

impl Named {
    pub(super) fn of(document: &Document, roster: &Roster) -> Self {
        let tests = document.tests.iter();
        let tests = tests.flat_map(|test| {
            let ends = test.accept.iter().chain(&test.deny);
            let ends = ends.filter_map(|end| Some(split_ports(end).ok()?.0));
            ends.chain([test.src.clone()])
        });
        let logins = document.ssh_tests.iter().flat_map(|test| {
            let dst = test.dst.iter().map(|dst| dst.text.clone());
            dst.chain([test.src.clone()])
        });
        let names = &document.names;
        let texts = tests.chain(logins);
        let selectors = texts.filter_map(|text| names.read(&text).ok());
        let mut all: Vec<Selector> = selectors.collect();
        all.sort_unstable();
        all.dedup();
        let term = |selector: &Selector| Term::Named(selector.clone(), Vec::new());
        let terms: Vec<Term> = all.iter().map(term).collect();
        let standings = Terms::of(&terms, names, roster);
        let standing = |number| standings.standing(number).cloned().unwrap_or_default();
        Self(all.into_iter().zip((0..).map(standing)).collect())
    }

    pub(super) fn standing(&self, selector: &Selector) -> Arc<Standing> {
        self.0.get(selector).cloned().unwrap_or_default()
    }
}
