//! What netmaps are made from.

use std::collections::BTreeSet;
use std::sync::Arc;

use ipnet::IpNet;

use super::routes::RouteTable;
use crate::policy::Engine;
use crate::state::{Change, Node, State};
use crate::tailcfg::DerpMap;
use crate::types::NodeId;

/// A state with what follows from it for all netmaps. Cloning is cheap.
#[derive(Clone)]
pub struct Basis {
    /// Log index of [`Self::state`].
    pub index: u64,
    /// The state.
    pub state: Arc<State>,
    /// What the policy means for the nodes of the state.
    pub engine: Arc<Engine>,
    routes: Arc<RouteTable>,
}

impl std::fmt::Debug for Basis {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut basis = f.debug_struct("Basis");
        basis.field("index", &self.index).finish_non_exhaustive()
    }
}

impl Basis {
    /// Works everything out.
    pub fn of(index: u64, state: Arc<State>) -> Self {
        Self {
            index,
            engine: Arc::new(Engine::of(&state)),
            routes: Arc::new(RouteTable::of(&state)),
            state,
        }
    }

    /// The basis of a later state, and the change with what follows from it: nodes whose routes
    /// moved, and another map of relays.
    pub fn follow(&self, index: u64, state: Arc<State>, mut change: Change) -> (Self, Change) {
        let mut routes = Arc::clone(&self.routes);
        if RouteTable::concerns(&change) {
            Arc::make_mut(&mut routes).follow(&state, &mut change);
        }
        let engine = self.engine.follow(&state, &change);
        change.derp_map |= self.engine.document().derp_map != engine.document().derp_map;
        let next = Self {
            index,
            engine,
            routes,
            state,
        };
        (next, change)
    }

    /// The map of relays: those of the replicas, as the policy adds to them and leaves them out.
    pub fn derp_map(&self) -> DerpMap {
        let mut map = self.state.derp_map();
        if let Some(regions) = &self.engine.document().derp_map {
            regions.merge_into(&mut map);
        }
        map
    }

    /// The nodes that a viewer knows, in id order and without itself.
    pub fn peers<'a>(&'a self, viewer: &Node) -> impl Iterator<Item = &'a Node> {
        let peers = self.engine.peers(viewer.id);
        peers.filter_map(|id| self.state.node(id).map(|node| &**node))
    }

    /// The subnet routes for which the node is primary, sorted.
    pub(super) fn primary(&self, id: NodeId) -> &[IpNet] {
        self.routes.primary(id)
    }

    /// The routes that a viewer may use through a peer.
    pub(super) fn routes(&self, viewer: NodeId, peer: NodeId) -> BTreeSet<IpNet> {
        self.engine.routes(viewer, peer, self.primary(peer))
    }
}
