//! Whose a node is, and whether a selector names them. Unlike `meaning` this needs no other nodes.

use super::document::Names;
use super::facts::{Facts, domain};
use super::selector::{Autogroup, Selector};
use crate::state::User;

/// Who a node belongs to.
#[derive(Clone, Copy, Debug)]
pub enum Owner<'a> {
    /// A person or service account.
    User(&'a User),
    /// Tags, at least one.
    Tags(&'a [String]),
}

impl Owner<'_> {
    /// Whether a selector means the nodes of this owner as such, not one of their addresses.
    pub(super) fn is_named(self, selector: &Selector, names: &Names, facts: &Facts) -> bool {
        match (selector, self) {
            (Selector::User(token), Self::User(user)) => means(facts, token, user),
            (Selector::Domain(wanted), Self::User(user)) => {
                domain(&user.email).is_some_and(|found| found == *wanted)
            }
            (Selector::Group(name), Self::User(user)) => {
                let mut tokens = names.groups.get(name).into_iter().flatten();
                tokens.any(|token| means(facts, &token.text, user))
            }
            (Selector::Tag(tag), Self::Tags(tags)) => tags.contains(tag),
            (Selector::Auto(autogroup), owner) => owner.is_in(*autogroup),
            (
                Selector::Any
                | Selector::User(_)
                | Selector::Domain(_)
                | Selector::Group(_)
                | Selector::Tag(_)
                | Selector::IpSet(_)
                | Selector::Host(_)
                | Selector::Prefix(_),
                Self::User(_) | Self::Tags(_),
            ) => false,
        }
    }

    fn is_in(self, autogroup: Autogroup) -> bool {
        match (autogroup, self) {
            (Autogroup::Member, Self::User(_)) | (Autogroup::Tagged, Self::Tags(_)) => true,
            (Autogroup::Role(role), Self::User(user)) => role.is_of(user),
            (
                Autogroup::Member
                | Autogroup::Tagged
                | Autogroup::Role(_)
                | Autogroup::SelfNodes
                | Autogroup::Internet
                | Autogroup::DangerAll
                | Autogroup::Nonroot
                | Autogroup::Shared,
                Self::User(_) | Self::Tags(_),
            ) => false,
        }
    }
}

/// Whether a name means this user and nobody else.
fn means(facts: &Facts, token: &str, user: &User) -> bool {
    let name = token.strip_suffix('@').unwrap_or(token);
    // Most names are somebody else's, which takes no look at all users.
    let own = [&user.provider_id, &user.email, &user.name];
    own.into_iter().any(|own| own == name)
        && matches!(facts.named(token).as_slice(), [only] if only.id == user.id)
}
