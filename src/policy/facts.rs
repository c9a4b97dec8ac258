//! What validation knows of the tailnet beside the file: its users.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::state::{State, User};
use crate::types::UserId;

/// The users of a tailnet and the mail domains that are theirs.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// In id order.
    pub users: Vec<Arc<User>>,
    /// Lower case; `user:*@domain` may name these. Absent: any.
    pub domains: Option<BTreeSet<String>>,
}

impl Facts {
    /// The users of a state and the domains of their mail addresses.
    pub fn of(state: &State) -> Self {
        let users: Vec<Arc<User>> = state.users().cloned().collect();
        let domains = users
            .iter()
            .filter_map(|user| domain(&user.email))
            .collect();
        Self {
            users,
            domains: Some(domains),
        }
    }

    /// As [`Directory::named`], for one name.
    pub(super) fn named(&self, token: &str) -> Vec<&User> {
        let token = local_name(token);
        if token.is_empty() {
            return Vec::new();
        }
        let provider =
            |user: &&Arc<User>| !user.provider_id.is_empty() && user.provider_id == token;
        if let Some(user) = self.users.iter().find(provider) {
            return vec![user];
        }
        let named = |user: &&Arc<User>| user.email == token || user.name == token;
        let named = self.users.iter().filter(named);
        named.map(|user| &**user).collect()
    }

    pub(super) fn user(&self, id: UserId) -> Option<&User> {
        let place = self.users.binary_search_by_key(&id, |user| user.id).ok()?;
        self.users.get(place).map(|user| &**user)
    }
}

/// `name@` is `name`, as headscale writes local users.
fn local_name(token: &str) -> &str {
    token.strip_suffix('@').unwrap_or(token)
}

/// Users by what a policy may call them, to look up many names.
pub(super) struct Directory<'a> {
    facts: &'a Facts,
    by_domain: BTreeMap<String, Vec<&'a User>>,
    by_provider: BTreeMap<&'a str, &'a User>,
    by_name: BTreeMap<&'a str, Vec<&'a User>>,
}

impl<'a> Directory<'a> {
    pub(super) fn of(facts: &'a Facts) -> Self {
        let mut by_provider = BTreeMap::new();
        let mut by_name: BTreeMap<&str, Vec<&User>> = BTreeMap::new();
        let mut by_domain: BTreeMap<String, Vec<&User>> = BTreeMap::new();
        for user in &facts.users {
            if !user.provider_id.is_empty() {
                let first = by_provider.entry(user.provider_id.as_str());
                first.or_insert(&**user);
            }
            by_name.entry(&user.name).or_default().push(user);
            if user.email != user.name {
                by_name.entry(&user.email).or_default().push(user);
            }
            if let Some(domain) = domain(&user.email) {
                by_domain.entry(domain).or_default().push(user);
            }
        }
        Self {
            facts,
            by_domain,
            by_provider,
            by_name,
        }
    }

    /// The users whom a name in a policy may mean: the one with this identity at its provider, else
    /// those with this mail address or name.
    pub(super) fn named(&self, token: &str) -> Vec<&'a User> {
        let token = local_name(token);
        // Many users have no mail address: nothing names none of them.
        if token.is_empty() {
            return Vec::new();
        }
        if let Some(user) = self.by_provider.get(token) {
            return vec![*user];
        }
        self.by_name.get(token).cloned().unwrap_or_default()
    }

    /// The users with a mail address in this domain.
    pub(super) fn of_domain(&self, domain: &str) -> &[&'a User] {
        self.by_domain.get(domain).map_or(&[], Vec::as_slice)
    }

    /// Whether `user:*@domain` may name this domain.
    pub(super) fn has_domain(&self, domain: &str) -> bool {
        let domains = self.facts.domains.as_ref();
        domains.is_none_or(|domains| domains.contains(domain))
    }

    /// Whether it is known who the users are.
    pub(super) const fn is_known(&self) -> bool {
        self.facts.domains.is_some()
    }
}

/// The part behind the `@`, in lower case.
pub(super) fn domain(email: &str) -> Option<String> {
    let (_, domain) = email.rsplit_once('@')?;
    (!domain.is_empty()).then(|| domain.to_lowercase())
}
