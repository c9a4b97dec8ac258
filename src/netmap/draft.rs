//! A message about a change, while it is written.

use std::collections::BTreeSet;

use super::node::{Scene, endpoints};
use super::outline::Outline;
use super::profile::{owner, user_profile};
use crate::dns::dns_config;
use crate::state::{Change, Node, NodeChange, State};
use crate::tailcfg::{MapResponse, PeerChange};
use crate::types::{RegionId, UserId};

/// A message under construction.
#[derive(Default)]
pub(super) struct Draft {
    pub(super) message: MapResponse,
    /// Whose profiles it needs.
    pub(super) owners: BTreeSet<UserId>,
}

impl Draft {
    /// What an outline comes to.
    pub(super) fn of(scene: Scene<'_>, outline: &Outline, change: &Change) -> Self {
        let mut draft = Self {
            owners: outline.users.clone(),
            ..Self::default()
        };
        let state = &scene.basis.state;
        for (id, routes) in &outline.whole {
            let Some(node) = state.node(*id) else {
                continue;
            };
            let peer = scene.peer(node, routes.clone());
            draft.message.peers_changed.push(peer);
            draft.owners.insert(owner(node));
        }
        let message = &mut draft.message;
        for (id, change) in &change.nodes {
            let Some(node) = state.node(*id) else {
                continue;
            };
            let patch = if outline.whole.contains_key(id) {
                farewell(scene, node, change)
            } else if outline.patched.contains(id) {
                patch(scene, node, change)
            } else {
                None
            };
            message.peers_changed_patch.extend(patch);
        }
        message.peers_removed = outline.removed.iter().copied().collect();
        draft
    }

    /// What a node is told of a change of itself.
    pub(super) fn add_own(&mut self, scene: Scene<'_>, viewer: &Node, change: &NodeChange) {
        if !concerns_itself(change) {
            return;
        }
        self.message.node = Some(scene.own(viewer));
        self.owners.insert(owner(viewer));
        if change.expiry {
            let settings = scene.basis.state.settings();
            let attributes = scene.basis.engine.attributes(viewer.id);
            let asking = (viewer, &attributes);
            let dns = dns_config(&scene.config.dns, settings, asking, scene.now);
            self.message.dns_config = Some(dns);
        }
    }

    /// The message; `None` when there is nothing to tell.
    pub(super) fn finish(mut self, state: &State) -> Option<MapResponse> {
        let profiles = self
            .owners
            .into_iter()
            .filter_map(|id| user_profile(state, id));
        self.message.user_profiles = profiles.collect();
        (self.message != MapResponse::default()).then_some(self.message)
    }
}

/// Whether a node is told of a change of itself. What it reported itself it knows, and a new `Node`
/// makes the client rebuild its whole netmap.
pub(super) fn concerns_itself(change: &NodeChange) -> bool {
    change.added || change.full || change.routes || change.node_key || change.expiry
}

/// When a node went offline, for beside the whole node: from a whole node that differs little from
/// the one that they know clients take a time offline only in place of another one.
fn farewell(scene: Scene<'_>, node: &Node, change: &NodeChange) -> Option<PeerChange> {
    let only_that = NodeChange {
        online: change.online,
        last_seen: change.last_seen,
        ..NodeChange::default()
    };
    patch(scene, node, &only_that).filter(|patch| patch.last_seen.is_some())
}

/// The fields that differ; `None` when peers are not told of any.
fn patch(scene: Scene<'_>, node: &Node, change: &NodeChange) -> Option<PeerChange> {
    let online = scene.basis.state.is_online(node.id);
    let reachable = !node.is_expired(scene.now);
    let nothing = PeerChange {
        node_id: node.id,
        ..PeerChange::default()
    };
    let mut patch = nothing.clone();
    if change.endpoints && reachable {
        patch.endpoints = Some(endpoints(node));
    }
    if change.home_derp && reachable {
        patch.derp_region = node.home_derp.unwrap_or(RegionId(0));
    }
    if change.node_key {
        patch.key = Some(node.node_key);
    }
    if change.disco_key {
        patch.disco_key = node.disco_key;
    }
    if change.capver {
        patch.cap = node.capver;
    }
    if change.online {
        patch.online = Some(online);
    }
    if (change.online || change.last_seen) && !online {
        patch.last_seen = node.last_seen;
    }
    (patch != nothing).then_some(patch)
}
