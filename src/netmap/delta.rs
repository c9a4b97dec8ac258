//! What changed between two states, as the messages that bring clients from one to the other.
//!
//! Which parts of which nodes differ comes from the change, the values from the state after it. What
//! another policy, or another place in it, changes comes from comparing the answers of two engines.

use std::sync::Arc;

use bytes::Bytes;

use super::dial_plan::dial_plan;
use super::draft::{Draft, concerns_itself};
use super::frame::encode_in_steps;
use super::node::Scene;
use super::outline::Outline;
use super::profile::owner;
use super::{BASE_FILTER, Basis, NetmapConfig, Wire};
use crate::dns::dns_config;
use crate::policy::Difference;
use crate::state::{Change, Node};
use crate::tailcfg::{CapMap, MapResponse};
use crate::types::{NodeId, Timestamp};

/// Changed nodes that are written down in no time.
const LIGHT_NODES_MAX: usize = 64;

/// What leads from one basis to a later one.
#[derive(Debug)]
pub struct Delta {
    before: Arc<Basis>,
    after: Arc<Basis>,
    change: Change,
    now: Timestamp,
    /// Whose answers of the policy may differ; absent when no answer does.
    difference: Option<Difference>,
}

/// Visibility classes of a viewer, before and after: whoever has the same has the same outline.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Group(u64, u64);

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

    /// Whether it takes a while to work out an outline, and to write it down.
    pub fn is_heavy(&self) -> bool {
        self.difference.is_some() || self.change.nodes.len() > LIGHT_NODES_MAX
    }

    /// Whether the policy's answers about a viewer have to be worked out for it alone.
    pub fn may_change_answers_for(&self, viewer: NodeId) -> bool {
        let engine = &self.after.engine;
        self.difference.as_ref().is_some_and(|difference| {
            difference.may_change_filter(engine, viewer)
                || difference.may_change_logins(engine, viewer)
                || difference.may_change_attributes(engine, viewer)
        })
    }

    /// Whom a viewer shares its outline with.
    pub fn group(&self, viewer: NodeId) -> Group {
        let class = |basis: &Basis| basis.engine.class(viewer);
        Group(class(&self.before), class(&self.after))
    }

    /// What of the change concerns the peers of a viewer and of all others of its group.
    pub fn outline(&self, viewer: NodeId) -> Outline {
        let bases = (&*self.before, &*self.after);
        Outline::of(bases, &self.change, self.difference.as_ref(), viewer)
    }

    /// The frame that everybody with this outline shares; `None` when there is nothing to tell.
    pub fn frame(&self, config: &NetmapConfig, outline: &Outline, wire: Wire) -> Option<Bytes> {
        let message = self.draft(config, outline).finish(&self.after.state);
        message.map(|message| encode_in_steps(message, wire))
    }

    /// What a viewer with this outline is told; `shared` gives the frame of an outline, or of a part
    /// of it. What the policy changes for the viewer alone follows in a frame of its own.
    pub fn tell(
        &self,
        config: &NetmapConfig,
        viewer: &Node,
        outline: &Outline,
        wire: Wire,
        shared: impl Fn(&Outline) -> Option<Bytes>,
    ) -> Told {
        let frame =
            |message: Option<MapResponse>| message.map(|message| encode_in_steps(message, wire));
        if outline.is_too_long {
            return Told::Whole(frame(self.closing_message(config, viewer, outline)));
        }
        let own = self.change.nodes.get(&viewer.id);
        if outline.whole.contains_key(&viewer.id) || own.is_some_and(concerns_itself) {
            return Told::of(frame(self.message(config, viewer, outline)));
        }
        let peers = match outline.patched.contains(&viewer.id) {
            true => self.frames_without(config, viewer.id, outline, wire, shared),
            false => shared(outline),
        };
        match (peers, frame(self.own_message(config, viewer))) {
            (Some(peers), Some(own)) => Told::Frame([peers, own].concat().into()),
            (peers, own) => Told::of(peers.or(own)),
        }
    }

    /// The frames of an outline for a viewer that is patched in it. It must not find itself: clients
    /// from 1.84 on lose all patches of a message that patches somebody who is no peer of theirs.
    /// All parts but its own it shares, since when all nodes come online, all are touched.
    fn frames_without(
        &self,
        config: &NetmapConfig,
        viewer: NodeId,
        outline: &Outline,
        wire: Wire,
        shared: impl Fn(&Outline) -> Option<Bytes>,
    ) -> Option<Bytes> {
        let parts = outline.parts();
        let frames = parts.iter().filter_map(|part| {
            if part.patched.contains(&viewer) {
                self.frame(config, &part.without(viewer), wire)
            } else {
                shared(part)
            }
        });
        let frames: Vec<Bytes> = frames.collect();
        (!frames.is_empty()).then(|| frames.concat().into())
    }

    /// All in one message; `None` when there is nothing to tell.
    pub fn message(
        &self,
        config: &NetmapConfig,
        viewer: &Node,
        outline: &Outline,
    ) -> Option<MapResponse> {
        let mut draft = self.draft(config, &outline.without(viewer.id));
        if let Some(change) = self.change.nodes.get(&viewer.id) {
            draft.add_own(self.scene(config), viewer, change);
        }
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
        outline: &Outline,
    ) -> Option<MapResponse> {
        let mut draft = Draft::default();
        self.add_policy(&mut draft, config, viewer);
        draft.message.peers_removed = outline.removed.iter().copied().collect();
        draft.finish(&self.after.state)
    }

    fn draft(&self, config: &NetmapConfig, outline: &Outline) -> Draft {
        let mut draft = Draft::of(self.scene(config), outline, &self.change);
        if self.change.derp_map && !outline.goes_on {
            draft.message.derp_map = Some(self.after.derp_map());
            draft.message.control_dial_plan = dial_plan(&self.after.state, config);
        }
        draft
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
        if difference.may_change_attributes(new, id) {
            let attributes = [old, new].map(|engine| engine.attributes(id));
            self.add_attributes(draft, config, viewer, &attributes);
        }
    }

    /// What the viewer's own attributes, before and after, change for it.
    fn add_attributes(
        &self,
        draft: &mut Draft,
        config: &NetmapConfig,
        viewer: &Node,
        attributes: &[CapMap; 2],
    ) {
        let [old, new] = attributes;
        if old == new {
            return;
        }
        draft.message.node = Some(self.scene(config).own(viewer));
        let settings = self.after.state.settings();
        let dns = |attributes| dns_config(&config.dns, settings, (viewer, attributes), self.now);
        let resolved = dns(new);
        if dns(old) != resolved {
            draft.message.dns_config = Some(resolved);
        }
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
