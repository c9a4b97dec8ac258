//! What validation may know of the tailnet beside the file.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::state::{State, User};

/// Facts of a tailnet that decide whether a policy may be set. What is not known is not checked, so
/// that a policy that was set once is read again whatever became of its users.
#[derive(Clone, Debug, Default)]
pub struct TailnetFacts {
    /// All users.
    pub users: Option<Vec<Arc<User>>>,
    /// Mail domains of the tailnet, in lower case: `user:*@domain` and `localpart:*@domain` name
    /// only these.
    pub domains: Option<BTreeSet<String>>,
}

impl TailnetFacts {
    /// The users of a state and the domains of their mail addresses; as long as nobody has one, any
    /// domain may be named.
    pub fn of(state: &State) -> Self {
        let users: Vec<Arc<User>> = state.users().cloned().collect();
        let domains: BTreeSet<String> = users.iter().filter_map(|user| domain(user)).collect();
        Self {
            users: Some(users),
            domains: (!domains.is_empty()).then_some(domains),
        }
    }

    /// The users whom a name in a policy may mean; `None` while users are not known. The user with
    /// this id at the identity provider comes first, else all with this mail address or name;
    /// `name@` is `name`.
    pub fn users_named(&self, name: &str) -> Option<Vec<&User>> {
        let users = self.users.as_ref()?;
        let name = name.strip_suffix('@').unwrap_or(name);
        let by_provider = users
            .iter()
            .find(|user| !user.provider_id.is_empty() && user.provider_id == name);
        if let Some(user) = by_provider {
            return Some(vec![&**user]);
        }
        let named = users
            .iter()
            .filter(|user| user.email == name || user.name == name);
        Some(named.map(|user| &**user).collect())
    }

    /// Whether a domain, in lower case, belongs to the tailnet; true while that is not known.
    pub fn has_domain(&self, domain: &str) -> bool {
        let domains = self.domains.as_ref();
        domains.is_none_or(|domains| domains.contains(domain))
    }
}

/// The part of a user's mail address behind the `@`, in lower case.
fn domain(user: &User) -> Option<String> {
    let (_, domain) = user.email.rsplit_once('@')?;
    (!domain.is_empty()).then(|| domain.to_lowercase())
}
