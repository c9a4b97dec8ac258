//! What the policy in force allows the owners of nodes: tags that they may take, and routes that need
//! no administrator. Worked out from the file, the users and one node; no rules are compiled.

use std::collections::BTreeSet;
use std::sync::Arc;

use hydrascale_proto::state::v1::TagGrant;
use ipnet::IpNet;

use super::document::Document;
use super::facts::Facts;
use super::owner::Owner;
use super::selector::{Selector, Spot};
use crate::state::{Node, UserRole};

/// The policy in force as far as it is about tags and routes.
#[derive(Clone, Debug, Default)]
pub struct Rights {
    version: u64,
    document: Arc<Document>,
    facts: Arc<Facts>,
}

impl Rights {
    pub(super) const fn new(version: u64, document: Arc<Document>, facts: Arc<Facts>) -> Self {
        Self {
            version,
            document,
            facts,
        }
    }

    /// The version that was read; 0 for none.
    pub const fn version(&self) -> u64 {
        self.version
    }

    /// Whether the policy names owners of this tag, be it nobody: an administrator may set it. In
    /// headscale's old policies tags need none.
    pub fn defines(&self, tag: &str) -> bool {
        self.document.is_old || self.document.names.tag_owners.contains_key(tag)
    }

    /// Those of the tags that somebody may give to a device of theirs.
    pub fn grant(&self, owner: Owner<'_>, wanted: &[String]) -> TagGrant {
        let owned = self.owned_tags(owner);
        let granted = wanted.iter().filter(|tag| owned.contains(tag.as_str()));
        TagGrant {
            tags: granted.cloned().collect(),
            policy_version: self.version,
        }
    }

    /// The tags that name this owner among theirs; those whose owner is such a tag, and so on. Tags
    /// own themselves. Whoever runs the network owns all.
    fn owned_tags(&self, owner: Owner<'_>) -> BTreeSet<&str> {
        let tag_owners = &self.document.names.tag_owners;
        let is_direct = |tag: &String, spots: &[Spot]| match owner {
            Owner::User(user) if runs_network(user.role) => true,
            Owner::User(_) => self.names(owner, spots),
            Owner::Tags(tags) => tags.contains(tag) || self.names(owner, spots),
        };
        let direct = tag_owners
            .iter()
            .filter(|(tag, spots)| is_direct(tag, spots));
        let mut owned: BTreeSet<&str> = direct.map(|(tag, _)| tag.as_str()).collect();
        loop {
            let through = |spot: &Spot| matches!(&spot.selector, Selector::Tag(tag) if owned.contains(tag.as_str()));
            let more = tag_owners
                .iter()
                .filter(|(tag, spots)| !owned.contains(tag.as_str()) && spots.iter().any(through));
            let more: Vec<&str> = more.map(|(tag, _)| tag.as_str()).collect();
            if more.is_empty() {
                return owned;
            }
            owned.extend(more);
        }
    }

    fn names(&self, owner: Owner<'_>, spots: &[Spot]) -> bool {
        is_one_of(&self.document, &self.facts, owner, spots)
    }

    /// The routes that the policy approves of those that a node advertises and has not approved
    /// yet, sorted. None while an administrator's word stands.
    pub fn open_routes(&self, node: &Node) -> Vec<IpNet> {
        let advertised = &node.hostinfo.routable_ips;
        let open = advertised.iter().copied();
        let open: Vec<IpNet> = open
            .filter(|route| *route == route.trunc() && !node.approved_routes.contains(route))
            .collect();
        if open.is_empty() || node.routes_set_under == self.version {
            return Vec::new();
        }
        let owner = match node.user_id.and_then(|id| self.facts.user(id)) {
            Some(user) => Owner::User(user),
            None => Owner::Tags(&node.tags),
        };
        approved_routes(&self.document, &self.facts, owner, &open)
    }
}

/// Roles that may do to nodes what their owners may.
fn runs_network(role: UserRole) -> bool {
    match role {
        UserRole::Owner | UserRole::Admin | UserRole::NetworkAdmin => true,
        UserRole::Member | UserRole::ItAdmin | UserRole::BillingAdmin | UserRole::Auditor => false,
    }
}

fn is_one_of(document: &Document, facts: &Facts, owner: Owner<'_>, spots: &[Spot]) -> bool {
    let mut selectors = spots.iter().map(|spot| &spot.selector);
    selectors.any(|selector| owner.is_named(selector, &document.names, facts))
}

/// The routes of the wanted ones that are approved at once for the nodes of this owner, sorted.
pub(super) fn approved_routes(
    document: &Document,
    facts: &Facts,
    owner: Owner<'_>,
    wanted: &[IpNet],
) -> Vec<IpNet> {
    let approvers = &document.auto_approvers;
    let approves = |spots: &[Spot]| is_one_of(document, facts, owner, spots);
    let is_approved = |route: &IpNet| {
        if route.prefix_len() == 0 {
            return approves(&approvers.exit_node);
        }
        let mut keys = approvers.routes.iter();
        keys.any(|(key, spots)| key.contains(route) && approves(spots))
    };
    let mut routes: Vec<IpNet> = wanted.iter().copied().filter(is_approved).collect();
    routes.sort_unstable();
    routes.dedup();
    routes
}

#[cfg(test)]
mod tests;
