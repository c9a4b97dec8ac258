//! What changed between two states, as the messages that bring clients from one to the other.
//!
//! A delta holds no values of its own: which parts of which nodes differ comes from the change, the
//! values from the state after it. So it also serves a receiver whose map is already newer than the
//! state before: everything is told absolutely, and telling it twice does no harm.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;

use super::dial_plan::dial_plan;
use super::node::{Scene, endpoints};
use super::profile::{owner, user_profile};
use super::routes::RouteTable;
use super::{View, Wire, encode};
use crate::dns::dns_config;
use crate::state::{Change, Node, NodeChange, State};
use crate::tailcfg::{MapResponse, PeerChange};
use crate::types::{NodeId, RegionId, Timestamp, UserId};

/// A change and the state after it, with its encodings, made when first asked for.
#[derive(Debug)]
pub struct Delta {
    /// Log index of [`Self::state`].
    pub index: u64,
    /// What differs.
    pub change: Change,
    /// The state after the change.
    pub state: Arc<State>,
    routes: RouteTable,
    now: Timestamp,
    /// Frames by visibility class and wire form; `None` for nothing to say.
    shared: Mutex<BTreeMap<(u64, Wire), Option<Bytes>>>,
}

/// Whom a message is for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Audience {
    /// The viewer alone.
    Viewer,
    /// Every node of the viewer's visibility class.
    Class,
}

/// A message under construction.
#[derive(Default)]
struct Draft {
    message: MapResponse,
    /// Whose profiles it needs.
    owners: BTreeSet<UserId>,
}

impl Delta {
    /// A change that led to `state`, in which the routes are carried as in `routes`. `now` is the
    /// local clock's.
    pub fn new(
        index: u64,
        change: Change,
        state: Arc<State>,
        routes: RouteTable,
        now: Timestamp,
    ) -> Self {
        let now = state.present(now);
        Self {
            index,
            change,
            state,
            routes,
            now,
            shared: Mutex::default(),
        }
    }

    /// The frame for a viewer; `None` when there is nothing to tell it.
    ///
    /// Members of a class share it. A viewer among the touched nodes shares it too while it appears
    /// only as a patch, which clients skip when it names no peer of theirs: otherwise every node
    /// that comes online would need bytes of its own just when all do.
    pub fn frame(&self, view: View<'_>, viewer: &Node, wire: Wire) -> Option<Bytes> {
        let own = self.change.nodes.get(&viewer.id);
        if own.is_some_and(|change| {
            goes_whole(&self.state, viewer, change) || concerns_itself(change)
        }) {
            return self
                .message(view, viewer)
                .map(|message| encode(&message, wire));
        }
        let class = view.policy.class(&self.state, viewer);
        // Held while encoding, so that the others of the class wait instead of encoding too.
        let mut shared = self.shared.lock();
        let frame = shared.entry((class, wire)).or_insert_with(|| {
            let message = self.build_message(view, viewer, Audience::Class);
            message.map(|message| encode(&message, wire))
        });
        frame.clone()
    }

    /// The message for a viewer; `None` when there is nothing to tell it.
    pub fn message(&self, view: View<'_>, viewer: &Node) -> Option<MapResponse> {
        self.build_message(view, viewer, Audience::Viewer)
    }

    fn build_message(
        &self,
        view: View<'_>,
        viewer: &Node,
        audience: Audience,
    ) -> Option<MapResponse> {
        let scene = Scene {
            view,
            state: &self.state,
            routes: &self.routes,
            now: self.now,
        };
        let mut draft = Draft {
            owners: self.change.users.clone(),
            ..Draft::default()
        };
        for (id, change) in &self.change.nodes {
            if *id == viewer.id && audience == Audience::Viewer {
                draft.add_own(scene, viewer, change);
            } else {
                draft.add_peer(scene, viewer, *id, change);
            }
        }
        if self.change.derp_map {
            draft.message.derp_map = Some(self.state.derp_map());
            draft.message.control_dial_plan = dial_plan(&self.state, view.config);
        }
        draft.finish(&self.state)
    }
}

impl Draft {
    /// What a node is told of a change of itself.
    fn add_own(&mut self, scene: Scene<'_>, viewer: &Node, change: &NodeChange) {
        if !concerns_itself(change) {
            return;
        }
        self.message.node = Some(scene.own(viewer));
        self.owners.insert(owner(viewer));
        if change.expiry {
            let config = &scene.view.config.dns;
            let dns = dns_config(config, scene.state.settings(), viewer, scene.now);
            self.message.dns_config = Some(dns);
        }
    }

    /// What a node is told of a change of another.
    fn add_peer(&mut self, scene: Scene<'_>, viewer: &Node, id: NodeId, change: &NodeChange) {
        let Some(node) = scene.state.node(id) else {
            self.message.peers_removed.push(id);
            return;
        };
        if !scene.view.policy.can_see(scene.state, viewer, node) {
            return;
        }
        if goes_whole(scene.state, node, change) {
            self.message.peers_changed.push(scene.peer(node));
            self.owners.insert(owner(node));
            self.message
                .peers_changed_patch
                .extend(farewell(scene, node, change));
        } else if let Some(patch) = patch(scene, node, change) {
            self.message.peers_changed_patch.push(patch);
        }
    }

    fn finish(mut self, state: &State) -> Option<MapResponse> {
        let profiles = self
            .owners
            .into_iter()
            .filter_map(|id| user_profile(state, id));
        self.message.user_profiles = profiles.collect();
        (self.message != MapResponse::default()).then_some(self.message)
    }
}

/// Whether peers get the whole node: a patch cannot carry the change, or clients would take it
/// wrongly.
fn goes_whole(state: &State, node: &Node, change: &NodeChange) -> bool {
    // Whether a client shows a node as expired depends on when its map was made, so a new expiry
    // comes with everything that hangs on it.
    //
    // A patch with a disco key that says "offline since then" is dropped whole by clients that know
    // of that time already, to protect keys that they learned from the peer itself.
    let went_offline = (change.online || change.last_seen) && !state.is_online(node.id);
    change.needs_whole_node() || change.expiry || change.disco_key && went_offline
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
    let online = scene.state.is_online(node.id);
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

/// Whether a node is told of a change of itself. What it reported itself it knows, and a new `Node`
/// makes the client rebuild its whole netmap.
fn concerns_itself(change: &NodeChange) -> bool {
    change.added || change.full || change.routes || change.node_key || change.expiry
}
