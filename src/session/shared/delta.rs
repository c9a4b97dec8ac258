//! A change, and what it comes to for those who are told the same.

use std::sync::Arc;

use bytes::Bytes;

use crate::netmap::{Basis, Delta, Group, NetmapConfig, Outline, Told, Wire};
use crate::session::once_map::OnceMap;
use crate::state::Node;
use crate::types::NodeId;

/// A change with its encodings, each made when first asked for.
#[derive(Debug)]
pub(in crate::session) struct SharedDelta {
    delta: Delta,
    groups: OnceMap<Group, Arc<Common>>,
    /// The same by what they say: many groups have equal outlines.
    commons: OnceMap<Outline, Arc<Common>>,
}

/// What all with the same outline are told.
#[derive(Debug)]
struct Common {
    outline: Outline,
    /// `None` for nothing to say.
    frames: OnceMap<Wire, Option<Bytes>>,
}

impl SharedDelta {
    pub(in crate::session) fn new(delta: Delta) -> Self {
        Self {
            delta,
            groups: OnceMap::default(),
            commons: OnceMap::default(),
        }
    }

    /// The basis after the change.
    pub(in crate::session) const fn basis(&self) -> &Arc<Basis> {
        self.delta.basis()
    }

    /// Whether anybody may be told anything.
    pub(in crate::session) fn concerns_clients(&self) -> bool {
        self.delta.concerns_clients()
    }

    /// Whether telling a viewer takes so long that other tasks should not wait for it.
    pub(in crate::session) fn is_heavy_for(&self, viewer: NodeId, wire: Wire) -> bool {
        let made = || {
            let common = self.groups.get(&self.delta.group(viewer));
            common.is_some_and(|common| {
                common.outline.is_too_long() || common.frames.get(&wire).is_some()
            })
        };
        self.delta.may_change_answers_for(viewer) || (self.delta.is_heavy() && !made())
    }

    /// What a viewer is told.
    pub(in crate::session) fn tell(
        &self,
        config: &NetmapConfig,
        viewer: &Node,
        wire: Wire,
    ) -> Told {
        let common = self.common(viewer.id);
        let outline = &common.outline;
        let shared = |part: &Outline| {
            let of_part = (part != outline).then(|| self.common_of(part.clone()));
            let common = of_part.as_ref().unwrap_or(&common);
            let make = || self.delta.frame(config, part, wire);
            common.frames.get_or_make(wire, make)
        };
        self.delta.tell(config, viewer, outline, wire, shared)
    }

    fn common(&self, viewer: NodeId) -> Arc<Common> {
        let make = || self.common_of(self.delta.outline(viewer));
        self.groups.get_or_make(self.delta.group(viewer), make)
    }

    fn common_of(&self, outline: Outline) -> Arc<Common> {
        self.commons.get_or_make(outline.clone(), || {
            Arc::new(Common {
                outline,
                frames: OnceMap::default(),
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use hydrascale_proto::state::v1 as pb;

    use super::*;
    use crate::netmap::testing::{World, endpoints};

    /// Two nodes of alice and two of bob, who see each other and reach their own.
    const OWN: &str = r#"{"acls": [
        {"action": "accept", "src": ["*"], "dst": ["*:22"]},
        {"action": "accept", "src": ["autogroup:member"], "dst": ["autogroup:self:*"]},
    ]}"#;

    fn world() -> World {
        let mut world = World::new();
        for (device, user) in [(1, "alice"), (2, "alice"), (3, "bob"), (4, "bob")] {
            world.register(device, device + 10, user).unwrap();
        }
        world.set_policy(OWN);
        world.take_delta();
        world
    }

    fn moved(world: &mut World) -> SharedDelta {
        let update = pb::UpdateNode {
            endpoints: Some(endpoints(&["192.0.2.1:1"])),
            ..Default::default()
        };
        world.update(NodeId(2), update);
        SharedDelta::new(world.take_delta())
    }

    fn frame(world: &World, delta: &SharedDelta, viewer: u64, wire: Wire) -> Bytes {
        let viewer = delta.basis().state.node(NodeId(viewer)).unwrap();
        match delta.tell(&world.config, viewer, wire) {
            Told::Frame(frame) => frame,
            other @ (Told::Nothing | Told::Whole(_)) => panic!("expected a frame, got {other:?}"),
        }
    }

    #[test]
    fn a_patch_is_encoded_once_for_all_but_the_node_that_it_is_about() {
        let mut world = world();
        let delta = moved(&mut world);
        let own = delta.basis().state.node(NodeId(2)).unwrap();
        assert_eq!(delta.tell(&world.config, own, Wire::Zstd), Told::Nothing);
        let frames = [1, 3, 4].map(|id| frame(&world, &delta, id, Wire::Zstd));
        assert!(
            frames
                .iter()
                .all(|frame| frame.as_ptr() == frames[0].as_ptr())
        );
        let raw = frame(&world, &delta, 1, Wire::Raw);
        assert_eq!(
            &raw[4..],
            br#"{"PeersChangedPatch":[{"NodeID":2,"Endpoints":["192.0.2.1:1"]}]}"#
        );
    }

    #[test]
    fn owners_who_are_told_the_same_share_one_encoding() {
        let mut world = world();
        let delta = moved(&mut world);
        for viewer in [1, 3, 4] {
            frame(&world, &delta, viewer, Wire::Raw);
        }
        assert_eq!((delta.groups.len(), delta.commons.len()), (2, 1));
    }

    #[test]
    fn only_what_the_policy_changes_is_heavy_and_only_until_it_is_made() {
        let mut world = world();
        let light = moved(&mut world);
        assert!(!light.is_heavy_for(NodeId(1), Wire::Raw));
        // Another node of bob's: all see it, and his own let it in.
        world.register(5, 15, "bob").unwrap();
        let heavy = SharedDelta::new(world.take_delta());
        assert!(heavy.is_heavy_for(NodeId(1), Wire::Raw));
        let viewer = heavy.basis().state.node(NodeId(1)).unwrap();
        heavy.tell(&world.config, viewer, Wire::Raw);
        let own = heavy.delta.may_change_answers_for(NodeId(2));
        assert_eq!(heavy.is_heavy_for(NodeId(2), Wire::Raw), own);
        assert!(heavy.is_heavy_for(NodeId(3), Wire::Raw), "has a new filter");
    }
}
