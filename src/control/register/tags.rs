//! What becomes of the tags that a device asks for when it brings an auth key.

use std::collections::BTreeSet;

use hydrascale_proto::state::v1::TagGrant;

use crate::cluster::Cluster;
use crate::policy::{Owner, Rights};
use crate::state::{PreAuthKey, State};
use crate::types::MachineKey;

/// The tags beyond those that the key or a node of the device has already.
#[derive(Default)]
pub(super) struct Asked<'a> {
    /// What the policy gives; absent when it is not needed.
    pub(super) grant: Option<TagGrant>,
    /// What nobody gives: a new login with these is refused.
    pub(super) refused: Vec<&'a str>,
}

impl<'a> Asked<'a> {
    pub(super) async fn of(
        cluster: &Cluster,
        state: &State,
        machine_key: MachineKey,
        key: &PreAuthKey,
        wanted: &'a [String],
    ) -> Self {
        let has = |tag: &String| {
            let mut nodes = state.nodes_by_machine(machine_key);
            key.tags.contains(tag) || nodes.any(|node| node.tags.contains(tag))
        };
        let beyond: Vec<String> = wanted.iter().filter(|tag| !has(tag)).cloned().collect();
        if beyond.is_empty() {
            return Self::default();
        }
        let user = key.user_id.and_then(|id| state.user(id));
        let owner = match user.filter(|_| !key.is_tagged()) {
            Some(user) => Owner::User(user),
            None => Owner::Tags(&key.tags),
        };
        let rights = cluster.policy(state).await.rights();
        let rights = rights.unwrap_or_else(|errors| {
            tracing::error!(error = %errors, "the policy in force is not understood");
            Rights::default()
        });
        let grant = rights.grant(owner, &beyond);
        let granted: BTreeSet<&String> = grant.tags.iter().collect();
        let refused = wanted
            .iter()
            .filter(|tag| !has(tag) && !granted.contains(tag));
        Self {
            refused: refused.map(String::as_str).collect(),
            grant: Some(grant),
        }
    }
}
