//! From the engine of one state to that of a later one: what is the same is shared.

use std::sync::Arc;

use super::{Engine, in_force};
use crate::policy::document::Document;
use crate::policy::node_set::NodeSet;
use crate::policy::plan::Plan;
use crate::policy::roster::{Member, Moved, Roster};
use crate::policy::terms::{Term, Terms};
use crate::policy::visibility::Ground;
use crate::state::{Change, State};

/// Nodes that are followed one by one; of more it is cheaper to look at all.
const FOLLOWED_MAX: usize = 32;

impl Engine {
    /// The engine for a later state, itself if nothing of the change concerns it.
    pub fn follow(self: &Arc<Self>, state: &State, change: &Change) -> Arc<Self> {
        let Some((roster, moved)) = self.roster.follow(state, change) else {
            return Arc::new(Self::of(state));
        };
        if change.policy {
            let (document, fault) = in_force(state);
            let next = if document.needs_hostinfo() == self.document.needs_hostinfo() {
                self.renewed(document, roster, &moved)
            } else {
                Self::new(document, state)
            };
            return Arc::new(Self { fault, ..next });
        }
        if moved.is_empty() && change.users.is_empty() {
            return Arc::clone(self);
        }
        let next = self.stepped(&roster, &moved);
        Arc::new(next.unwrap_or_else(|| self.moved(roster, &moved)))
    }

    /// The same document for another roster.
    fn moved(&self, roster: Roster, moved: &[Moved]) -> Self {
        Self {
            fault: self.fault.clone(),
            ..self.renewed(Arc::clone(&self.document), roster, moved)
        }
    }

    /// After a few nodes have moved, or are named otherwise because of their users: only what
    /// concerns them is worked out again. `None` when that is not enough.
    fn stepped(&self, roster: &Roster, moved: &[Moved]) -> Option<Self> {
        if !Arc::ptr_eq(&self.roster.offers, &roster.offers) {
            return None;
        }
        let mut moved = moved.to_vec();
        let mut terms = self.terms.clone();
        if !Arc::ptr_eq(&self.roster.facts, &roster.facts) {
            let names = &self.document.names;
            let (renamed, users) = terms.renamed(&self.plan.terms, names, roster);
            terms = renamed;
            moved.extend(roster.unmoved(&users));
        }
        if moved.len() > FOLLOWED_MAX {
            return None;
        }
        let terms = terms.after(&moved, roster)?;
        let ground = Ground {
            plan: &self.plan,
            terms: &terms,
            roster,
        };
        let classes = self.classes.after(&moved, ground)?;
        let changed = self.terms.changed(&terms);
        let sources = self.sources.after(&changed, &self.plan, &terms, roster);
        Some(Self {
            document: Arc::clone(&self.document),
            fault: self.fault.clone(),
            plan: Arc::clone(&self.plan),
            roster: roster.clone(),
            terms,
            sources,
            classes,
        })
    }

    /// For another document or roster. What is the same as here is shared with it, so that it is
    /// known to be the same.
    fn renewed(&self, document: Arc<Document>, roster: Roster, moved: &[Moved]) -> Self {
        let is_same_text = Arc::ptr_eq(&document, &self.document);
        let plan = if is_same_text {
            Arc::clone(&self.plan)
        } else {
            Arc::new(Plan::of(&document))
        };
        let is_same_tailnet = moved.is_empty() && Arc::ptr_eq(&self.roster.facts, &roster.facts);
        let is_same_meaning = is_same_text || self.document.names.means(&document.names);
        if is_same_tailnet && is_same_meaning && plan.terms == self.plan.terms {
            let terms = self.terms.clone();
            return Self::assembled(document, plan, roster, terms, Some(self));
        }
        let earlier = self.plan.numbers();
        let standing = |term: &Term| {
            let number = earlier.get(term)?;
            self.terms.standing(*number)
        };
        let mut terms = Terms::with(&plan.terms, &document.names, &roster, |term| {
            standing(term)
                .filter(|_| is_same_tailnet && is_same_meaning)
                .cloned()
        });
        let readdressed = readdressed(moved);
        terms.share(|number| {
            let earlier = standing(plan.terms.get(number)?)?;
            let mut members = earlier.members();
            (!members.any(|nodes| nodes.meets(&readdressed))).then(|| Arc::clone(earlier))
        });
        Self::assembled(document, plan, roster, terms, Some(self))
    }
}

/// The nodes with other addresses than before.
fn readdressed(moved: &[Moved]) -> NodeSet {
    let addresses = |member: &Option<Arc<Member>>| member.as_ref().map(|m| m.addresses.clone());
    let readdressed = moved.iter();
    let readdressed = readdressed.filter(|moved| addresses(&moved.old) != addresses(&moved.new));
    NodeSet::of(readdressed.map(|moved| moved.place))
}
