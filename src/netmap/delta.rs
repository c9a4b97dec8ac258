//! What changed between two states, as the messages that bring clients from one to the other.
//!
//! Which parts of which nodes differ comes from the change, the values from the state after it. What
//! another policy, or another place in it, changes comes from comparing the answers of two engines.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;

use super::dial_plan::dial_plan;
use super::node::{Scene, endpoints};
use super::profile::{owner, user_profile};
use super::shift::Shift;
use super::{BASE_FILTER, Basis, NetmapConfig, Wire, encode};
use crate::dns::dns_config;
use crate::policy::Difference;
use crate::state::{Change, Node, NodeChange, State};
use crate::tailcfg::{MapResponse, PeerChange};
use crate::types::{NodeId, RegionId, Timestamp, UserId};

/// Peers that come into sight, or are shown otherwise, at once and are told one by one. Beyond that a
/// whole netmap costs less: its pages are shared, and made off the reactor.
const SHIFTED_MAX: usize = 64;

/// What leads from one basis to a later one, with its encodings, made when first asked for.
#[derive(Debug)]
pub struct Delta {
    before: Arc<Basis>,
    after: Arc<Basis>,
    change: Change,
    now: Timestamp,
    /// Whose answers of the policy may differ; absent when no answer does.
    difference: Option<Difference>,
    /// By the classes of a viewer, before and after.
    shifts: Mutex<BTreeMap<Classes, Arc<Shift>>>,
    /// Frames by classes and wire form; `None` for nothing to say.
    shared: Mutex<BTreeMap<(Classes, Wire), Option<Bytes>>>,
}

/// Visibility classes of a viewer, before and after.
type Classes = (u64, u64);

/// What a viewer is told of a change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Told {
    /// Nothing concerns it.
    Nothing,
    /// One or more frames in a row.
    Frame(Bytes),
    /// So much that a whole netmap is better. It may have to wait, so whatever closes something goes
    /// ahead of it, as frames.
    Whole(Option<Bytes>),
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
    /// A change that led from one basis to another. `now` is the local clock's.
    pub fn new(before: Arc<Basis>, after: Arc<Basis>, change: Change, now: Timestamp) -> Self {
        let now = after.state.present(now);
        let (old, new) = (&before.engine, &after.engine);
        let difference = (!Arc::ptr_eq(old, new)).then(|| Difference::of(old, new));
        Self {
            difference,
            before,
            after,
            change,
            now,
            shifts: Mutex::default(),
            shared: Mutex::default(),
        }
    }

    /// The basis after the change.
    pub const fn basis(&self) -> &Arc<Basis> {
        &self.after
    }

    /// Whether anybody may be told anything.
    pub fn concerns_clients(&self) -> bool {
        let Change {
            nodes,
            users,
            derp_map,
            ..
        } = &self.change;
        !nodes.is_empty() || !users.is_empty() || *derp_map || self.difference.is_some()
    }

    /// What a viewer is told.
    ///
    /// Members of a class share a frame. A viewer among the touched nodes shares it too while it
    /// appears only as a patch, which clients skip when it names no peer of theirs: otherwise every
    /// node that comes online would need bytes of its own just when all do. What the policy changes
    /// for the viewer alone follows in a frame of its own.
    pub fn tell(&self, config: &NetmapConfig, viewer: &Node, wire: Wire) -> Told {
        let shift = self.shift(viewer);
        if shift.came.len().saturating_add(shift.altered.len()) > SHIFTED_MAX {
            let closing = self.closing_message(config, viewer, &shift);
            return Told::Whole(closing.map(|message| encode(&message, wire)));
        }
        let own = self.change.nodes.get(&viewer.id);
        let touched = own.is_some_and(|change| {
            goes_whole(&self.after.state, viewer, change) || concerns_itself(change)
        });
        if touched || shift.came.contains(&viewer.id) || shift.altered.contains(&viewer.id) {
            let message = self.message(config, viewer);
            return Told::of(message.map(|message| encode(&message, wire)));
        }
        let shared = self.shared_frame(config, viewer, wire);
        let own = self.own_message(config, viewer);
        let own = own.map(|message| encode(&message, wire));
        match (shared, own) {
            (Some(shared), Some(own)) => Told::Frame([shared, own].concat().into()),
            (shared, own) => Told::of(shared.or(own)),
        }
    }

    /// All in one message; `None` when there is nothing to tell.
    pub fn message(&self, config: &NetmapConfig, viewer: &Node) -> Option<MapResponse> {
        let mut draft = self.draft(config, viewer, Audience::Viewer);
        self.add_policy(&mut draft, config, viewer);
        draft.finish(&self.after.state)
    }

    /// What the policy changes for the viewer alone.
    fn own_message(&self, config: &NetmapConfig, viewer: &Node) -> Option<MapResponse> {
        let mut draft = Draft::default();
        self.add_policy(&mut draft, config, viewer);
        draft.finish(&self.after.state)
    }

    /// What must not wait for a whole netmap: the viewer's own filter and logins, and who is gone.
    fn closing_message(
        &self,
        config: &NetmapConfig,
        viewer: &Node,
        shift: &Shift,
    ) -> Option<MapResponse> {
        let mut draft = Draft::default();
        self.add_policy(&mut draft, config, viewer);
        draft.message.peers_removed = shift.went.iter().copied().collect();
        draft.finish(&self.after.state)
    }

    fn shared_frame(&self, config: &NetmapConfig, viewer: &Node, wire: Wire) -> Option<Bytes> {
        let key = (self.classes(viewer), wire);
        // Held while encoding, so that the others of the class wait instead of encoding too.
        let mut shared = self.shared.lock();
        let frame = shared.entry(key).or_insert_with(|| {
            let draft = self.draft(config, viewer, Audience::Class);
            let message = draft.finish(&self.after.state);
            message.map(|message| encode(&message, wire))
        });
        frame.clone()
    }

    fn draft(&self, config: &NetmapConfig, viewer: &Node, audience: Audience) -> Draft {
        let scene = self.scene(config);
        let shift = self.shift(viewer);
        let changed = self.change.users.iter().copied();
        let mut draft = Draft {
            owners: changed.filter(|user| self.knows(viewer, *user)).collect(),
            ..Draft::default()
        };
        for (id, change) in &self.change.nodes {
            if *id == viewer.id && audience == Audience::Viewer {
                draft.add_own(scene, viewer, change);
            } else {
                let known = self.before.engine.sees(viewer.id, *id);
                let as_patch = known && !shift.altered.contains(id);
                draft.add_peer(scene, viewer, *id, change, (known, as_patch));
            }
        }
        draft.add_shift(scene, &shift, viewer, audience, &self.change);
        if self.change.derp_map {
            let state = &self.after.state;
            draft.message.derp_map = Some(self.after.derp_map());
            draft.message.control_dial_plan = dial_plan(state, config);
        }
        draft
    }

    /// Whether a viewer, or others of its class, are told about a user at all: as the owner of a node
    /// that they see.
    fn knows(&self, viewer: &Node, user: UserId) -> bool {
        let mut nodes = self.after.state.nodes_by_user(user);
        nodes.any(|node| self.after.engine.sees(viewer.id, node.id))
    }

    /// The viewer's own filter, logins and attributes, where they differ, and its own user.
    fn add_policy(&self, draft: &mut Draft, config: &NetmapConfig, viewer: &Node) {
        let own = Some(owner(viewer)).filter(|user| self.change.users.contains(user));
        draft.owners.extend(own);
        let Some(difference) = &self.difference else {
            return;
        };
        let (old, new, id) = (&self.before.engine, &self.after.engine, viewer.id);
        if difference.may_change_filter(new, id) {
            let filter = new.filter(id);
            if old.filter(id) != filter {
                let filters = [(BASE_FILTER.to_owned(), Some(filter))];
                draft.message.packet_filters = filters.into();
            }
        }
        if difference.may_change_logins(new, id) {
            let logins = new.logins(id);
            if old.logins(id) != logins {
                draft.message.ssh_policy = Some(logins);
            }
        }
        if difference.may_change_attributes(new, id) && old.attributes(id) != new.attributes(id) {
            draft.message.node = Some(self.scene(config).own(viewer));
        }
    }

    fn classes(&self, viewer: &Node) -> Classes {
        let class = |basis: &Basis| basis.engine.class(viewer.id);
        (class(&self.before), class(&self.after))
    }

    fn shift(&self, viewer: &Node) -> Arc<Shift> {
        let mut shifts = self.shifts.lock();
        let shift = shifts.entry(self.classes(viewer)).or_insert_with(|| {
            Arc::new(match &self.difference {
                Some(difference) => Shift::of(&self.before, &self.after, difference, viewer.id),
                None => Shift::default(),
            })
        });
        Arc::clone(shift)
    }

    fn scene<'a>(&'a self, config: &'a NetmapConfig) -> Scene<'a> {
        Scene {
            config,
            basis: &self.after,
            now: self.now,
        }
    }
}

impl Told {
    fn of(frame: Option<Bytes>) -> Self {
        frame.map_or(Self::Nothing, Self::Frame)
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
            let settings = scene.basis.state.settings();
            let dns = dns_config(&scene.config.dns, settings, viewer, scene.now);
            self.message.dns_config = Some(dns);
        }
    }

    /// What a node is told of a change of another, which it may have known, and for which a patch may
    /// do.
    fn add_peer(
        &mut self,
        scene: Scene<'_>,
        viewer: &Node,
        id: NodeId,
        change: &NodeChange,
        (known, as_patch): (bool, bool),
    ) {
        let seen = scene.basis.engine.sees(viewer.id, id);
        let node = scene.basis.state.node(id).filter(|_| seen);
        let Some(node) = node else {
            self.message.peers_removed.extend(known.then_some(id));
            return;
        };
        if !as_patch || goes_whole(&scene.basis.state, node, change) {
            self.add_whole(scene, viewer, node);
            let farewell = farewell(scene, node, change);
            self.message.peers_changed_patch.extend(farewell);
        } else if let Some(patch) = patch(scene, node, change) {
            self.message.peers_changed_patch.push(patch);
        }
    }

    /// What the policy changes of who sees whom, beyond the nodes that changed themselves.
    fn add_shift(
        &mut self,
        scene: Scene<'_>,
        shift: &Shift,
        viewer: &Node,
        audience: Audience,
        change: &Change,
    ) {
        let is_peer = |id: &&NodeId| **id != viewer.id || audience == Audience::Class;
        let others = |id: &&NodeId| !change.nodes.contains_key(*id) && is_peer(id);
        let whole = shift.came.union(&shift.altered).filter(others);
        for node in whole.filter_map(|id| scene.basis.state.node(*id)) {
            self.add_whole(scene, viewer, node);
        }
        let went = shift.went.iter().filter(others);
        self.message.peers_removed.extend(went);
        self.message.peers_removed.sort_unstable();
        self.message.peers_changed.sort_by_key(|peer| peer.id);
    }

    fn add_whole(&mut self, scene: Scene<'_>, viewer: &Node, node: &Node) {
        let peer = scene.peer(viewer.id, node);
        self.message.peers_changed.push(peer);
        self.owners.insert(owner(node));
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

/// Whether a node is told of a change of itself. What it reported itself it knows, and a new `Node`
/// makes the client rebuild its whole netmap.
fn concerns_itself(change: &NodeChange) -> bool {
    change.added || change.full || change.routes || change.node_key || change.expiry
}
