//! The policy in force of a state, read once for all who ask what it allows.

use std::sync::Arc;

use imbl::OrdMap;

use super::check::{Warnings, fault, warnings};
use super::document::Document;
use super::error::PolicyErrors;
use super::facts::Facts;
use super::rights::Rights;
use crate::state::{PolicyVersion, State, User};
use crate::types::UserId;

/// What the policy in force says, for the users of a state. To read a long one takes too long for a
/// request: keep it for as long as [`Self::is_of`] holds. Cloning is cheap.
#[derive(Clone, Debug)]
pub struct Reading {
    policy: Option<Arc<PolicyVersion>>,
    users: OrdMap<UserId, Arc<User>>,
    facts: Arc<Facts>,
    document: Result<Arc<Document>, Arc<PolicyErrors>>,
}

impl Reading {
    /// Reads the policy in force in a state, and its users. What an earlier one has read already is
    /// taken from there.
    pub fn of(state: &State, earlier: Option<&Self>) -> Self {
        let policy = state.policy();
        let document = earlier
            .filter(|earlier| is_same(earlier.policy.as_ref(), policy))
            .map_or_else(
                || parse(policy.map(|policy| &**policy)),
                |earlier| earlier.document.clone(),
            );
        let users = state.user_rows();
        let facts = earlier
            .filter(|earlier| earlier.users.ptr_eq(users))
            .map_or_else(
                || Arc::new(Facts::of(state)),
                |earlier| Arc::clone(&earlier.facts),
            );
        Self {
            policy: policy.cloned(),
            users: users.clone(),
            facts,
            document,
        }
    }

    /// Whether this is what the state has.
    pub fn is_of(&self, state: &State) -> bool {
        is_same(self.policy.as_ref(), state.policy()) && self.users.ptr_eq(state.user_rows())
    }

    /// What it allows the owners of nodes. Without a policy no tag is defined and no route approved.
    ///
    /// # Errors
    /// The text is not a policy for this program, though it was for the one that set it.
    pub fn rights(&self) -> Result<Rights, Arc<PolicyErrors>> {
        let version = self.policy.as_ref().map_or(0, |policy| policy.version);
        let document = self.document.clone()?;
        Ok(Rights::new(version, document, Arc::clone(&self.facts)))
    }

    /// What it says that has no effect: users may have gone since it was set.
    pub fn warnings(&self) -> Warnings {
        match &self.document {
            Ok(document) => warnings(document, &self.facts),
            Err(errors) => fault(errors),
        }
    }
}

fn parse(policy: Option<&PolicyVersion>) -> Result<Arc<Document>, Arc<PolicyErrors>> {
    let text = policy.map_or("", |policy| policy.text.as_str());
    let document = Document::parse(text, &Facts::default());
    document.map(Arc::new).map_err(Arc::new)
}

fn is_same(one: Option<&Arc<PolicyVersion>>, other: Option<&Arc<PolicyVersion>>) -> bool {
    match (one, other) {
        (Some(one), Some(other)) => Arc::ptr_eq(one, other),
        (None, None) => true,
        (Some(_), None) | (None, Some(_)) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::super::following::{Step, World};
    use super::*;

    #[test]
    fn what_has_not_changed_is_not_read_again() {
        let mut world = World::new();
        world.take(&Step::SetPolicy(1));
        let first = Reading::of(&world.state, None);
        world.take(&Step::AddUser);
        assert!(!first.is_of(&world.state));
        let second = Reading::of(&world.state, Some(&first));
        let documents = |one: &Reading, other: &Reading| {
            let [one, other] = [one, other].map(|reading| reading.document.clone().unwrap());
            Arc::ptr_eq(&one, &other)
        };
        assert!(documents(&first, &second));
        assert_eq!(second.facts.users.len(), 1);
        world.take(&Step::SetPolicy(2));
        let third = Reading::of(&world.state, Some(&second));
        assert!(!documents(&second, &third));
        assert!(Arc::ptr_eq(&second.facts, &third.facts));
        assert_eq!(third.rights().unwrap().version(), 2);
        assert!(third.is_of(&world.state));
    }
}
