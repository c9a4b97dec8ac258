//! What changed between two states, as the messages that bring clients from one to the other.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;

use super::node::{endpoints, own, owner, peer};
use super::{NetmapConfig, Wire, encode, user_profile};
use crate::policy::Policy;
use crate::state::{Change, Node, NodeChange, State};
use crate::tailcfg::{MapResponse, PeerChange};
use crate::types::{NodeId, RegionId, Timestamp};

/// A change and the state after it, with its encodings, made when first asked for.
#[derive(Debug)]
pub struct Delta {
    /// Log index of [`Self::state`].
    pub index: u64,
    /// What differs.
    pub change: Change,
    /// The state after the change.
    pub state: Arc<State>,
    now: Timestamp,
    /// Frames by visibility class and wire form; `None` for nothing to say.
    shared: Mutex<BTreeMap<(u64, Wire), Option<Bytes>>>,
}

impl Delta {
    /// A change that led to `state`.
    pub fn new(index: u64, change: Change, state: Arc<State>, now: Timestamp) -> Self {
        Self {
            index,
            change,
            state,
            now,
            shared: Mutex::default(),
        }
    }

    /// The frame for a viewer; `None` when there is nothing to tell it.
    pub fn frame(
        &self,
        config: &NetmapConfig,
        policy: &dyn Policy,
        viewer: &Node,
        wire: Wire,
    ) -> Option<Bytes> {
        if self.change.nodes.contains_key(&viewer.id) {
            return self
                .message(config, policy, viewer)
                .map(|message| encode(&message, wire));
        }
        let class = policy.class(&self.state, viewer);
        let mut shared = self.shared.lock();
        let frame = shared.entry((class, wire)).or_insert_with(|| {
            self.message(config, policy, viewer)
                .map(|message| encode(&message, wire))
        });
        frame.clone()
    }

    /// The message for a viewer; `None` when there is nothing to tell it.
    pub fn message(
        &self,
        config: &NetmapConfig,
        policy: &dyn Policy,
        viewer: &Node,
    ) -> Option<MapResponse> {
        let mut message = MapResponse::default();
        let mut owners = BTreeSet::new();
        for (id, change) in &self.change.nodes {
            if *id == viewer.id {
                if concerns_itself(change) {
                    message.node = Some(own(&self.state, config, policy, viewer, self.now));
                    owners.insert(owner(viewer));
                }
            } else {
                self.add_peer(
                    &mut message,
                    &mut owners,
                    config,
                    policy,
                    viewer,
                    *id,
                    change,
                );
            }
        }
        owners.extend(&self.change.users);
        message.user_profiles = owners
            .into_iter()
            .filter_map(|id| user_profile(&self.state, id))
            .collect();
        message.derp_map = self.change.derp_map.then(|| self.state.derp_map());
        (message != MapResponse::default()).then_some(message)
    }

    #[expect(
        clippy::too_many_arguments,
        reason = "one step of `message`, split for length"
    )]
    fn add_peer(
        &self,
        message: &mut MapResponse,
        owners: &mut BTreeSet<crate::types::UserId>,
        config: &NetmapConfig,
        policy: &dyn Policy,
        viewer: &Node,
        id: NodeId,
        change: &NodeChange,
    ) {
        let Some(node) = self.state.node(id) else {
            message.peers_removed.push(id);
            return;
        };
        if !policy.can_see(&self.state, viewer, node) {
            return;
        }
        if change.needs_whole_node() || (change.expiry && node.is_expired(self.now)) {
            message
                .peers_changed
                .push(peer(&self.state, config, node, self.now));
            owners.insert(owner(node));
        } else if let Some(patch) = self.patch(node, change) {
            message.peers_changed_patch.push(patch);
        }
    }

    /// The fields that differ; `None` when peers are not told of any.
    fn patch(&self, node: &Node, change: &NodeChange) -> Option<PeerChange> {
        let online = self.state.is_online(node.id);
        let mut patch = PeerChange {
            node_id: node.id,
            ..Default::default()
        };
        if change.endpoints {
            patch.endpoints = Some(endpoints(node));
        }
        if change.home_derp {
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
        if change.expiry {
            patch.key_expiry = Some(node.expires_at.unwrap_or(Timestamp::GO_ZERO));
        }
        if change.online || change.disco_key {
            // A disco key without a word on being online is taken for an old one by some clients.
            patch.online = Some(online);
        }
        if (change.online || change.last_seen) && !online {
            patch.last_seen = node.last_seen;
        }
        let empty = PeerChange {
            node_id: node.id,
            ..Default::default()
        };
        (patch != empty).then_some(patch)
    }
}

/// Whether a node is told of a change of itself. What it reported itself it knows, and a new `Node`
/// makes the client rebuild its whole netmap.
fn concerns_itself(change: &NodeChange) -> bool {
    change.added || change.full || change.routes || change.node_key || change.expiry
}
