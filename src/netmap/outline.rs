//! What of a change concerns the peers of a viewer, before any of it is written down.

use std::collections::{BTreeMap, BTreeSet};

use ipnet::IpNet;

use super::Basis;
use super::shift::Shift;
use crate::policy::Difference;
use crate::state::{Change, Node, NodeChange, State};
use crate::types::{NodeId, UserId};

/// Peers that come into sight, or are shown otherwise, at once and are told one by one. Beyond that a
/// whole netmap costs less: its pages are shared.
const SHIFTED_MAX: usize = 64;

/// Patches in each of the parts that a touched viewer is told: of one it needs bytes of its own.
const PATCHES_PER_PART: usize = 32;

/// All that the shared bytes of a change depend on: whoever has the same outline is told the same.
/// The viewer itself may be in it where others of its class see it.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Outline {
    /// So much is shown otherwise that a whole netmap is better: only [`Self::removed`] says something.
    pub(super) is_too_long: bool,
    /// Changed users whose nodes are seen.
    pub(super) users: BTreeSet<UserId>,
    /// Peers that are told whole, with the routes that may be used through them.
    pub(super) whole: BTreeMap<NodeId, BTreeSet<IpNet>>,
    /// Peers of which some fields are told.
    pub(super) patched: BTreeSet<NodeId>,
    /// Peers that are not seen any more.
    pub(super) removed: BTreeSet<NodeId>,
    /// What concerns no peer is told with another part.
    pub(super) goes_on: bool,
}

impl Outline {
    /// What concerns the peers of everybody in the classes of `viewer`, before and after.
    pub(super) fn of(
        (before, after): (&Basis, &Basis),
        change: &Change,
        difference: Option<&Difference>,
        viewer: NodeId,
    ) -> Self {
        let shift = difference.map(|difference| Shift::of(before, after, difference, viewer));
        let shift = shift.unwrap_or_default();
        if shift.came.len().saturating_add(shift.altered.len()) > SHIFTED_MAX {
            return Self {
                is_too_long: true,
                removed: shift.went,
                ..Self::default()
            };
        }
        let users = change.users.iter().copied();
        let mut outline = Self {
            users: users.filter(|user| knows(after, viewer, *user)).collect(),
            ..Self::default()
        };
        for (id, change) in &change.nodes {
            let known = before.engine.sees(viewer, *id);
            let as_patch = known && !shift.altered.contains(id);
            outline.add(after, viewer, *id, change, (known, as_patch));
        }
        let is_other = |id: &&NodeId| !change.nodes.contains_key(*id);
        for id in shift.came.union(&shift.altered).filter(is_other) {
            outline.whole.insert(*id, after.routes(viewer, *id));
        }
        outline.removed.extend(shift.went.iter().filter(is_other));
        outline
    }

    /// Adds a node that changed, which may have been known, and for which a patch may do.
    fn add(
        &mut self,
        after: &Basis,
        viewer: NodeId,
        id: NodeId,
        change: &NodeChange,
        (known, as_patch): (bool, bool),
    ) {
        let seen = after.engine.sees(viewer, id);
        let Some(node) = after.state.node(id).filter(|_| seen) else {
            self.removed.extend(known.then_some(id));
            return;
        };
        if !as_patch || goes_whole(&after.state, node, change) {
            self.whole.insert(id, after.routes(viewer, id));
        } else {
            self.patched.insert(id);
        }
    }

    /// Whether a whole netmap is told instead.
    pub const fn is_too_long(&self) -> bool {
        self.is_too_long
    }

    /// The same in parts with few patches each, to be told one after the other.
    pub(super) fn parts(&self) -> Vec<Self> {
        let patched: Vec<NodeId> = self.patched.iter().copied().collect();
        let mut chunks = patched.chunks(PATCHES_PER_PART);
        let collect = |ids: Option<&[NodeId]>| ids.unwrap_or_default().iter().copied().collect();
        let first = Self {
            patched: collect(chunks.next()),
            ..self.clone()
        };
        let others = chunks.map(|ids| Self {
            patched: collect(Some(ids)),
            goes_on: true,
            ..Self::default()
        });
        [first].into_iter().chain(others).collect()
    }

    /// The same for one of the class who must not find itself in it.
    pub(super) fn without(&self, viewer: NodeId) -> Self {
        let mut outline = self.clone();
        outline.whole.remove(&viewer);
        outline.patched.remove(&viewer);
        outline.removed.remove(&viewer);
        outline
    }
}

/// Whether a viewer, or others of its class, are told about a user at all: as the owner of a node
/// that they see.
fn knows(after: &Basis, viewer: NodeId, user: UserId) -> bool {
    let mut nodes = after.state.nodes_by_user(user);
    nodes.any(|node| after.engine.sees(viewer, node.id))
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
