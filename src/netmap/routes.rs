//! Which node carries which route.
//!
//! A route counts when the node advertises it and it is approved. Of several nodes with the same
//! subnet route one is primary, so that no two peers of a netmap carry it: the online node with the
//! lowest id, or the lowest id when all are offline. That is a pure function of the state, so every
//! replica tells the same. Exit routes are carried by every node that offers them: clients choose.

use std::collections::{BTreeMap, BTreeSet};

use ipnet::IpNet;

use crate::state::{Change, Node, NodeChange, State};
use crate::types::NodeId;

/// The routes that each node carries, for one state.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RouteTable {
    /// Nodes with approved routes, so that following a change need not look at all nodes.
    routers: BTreeSet<NodeId>,
    primary: BTreeMap<NodeId, Vec<IpNet>>,
}

impl RouteTable {
    /// Elects the primaries of a state.
    pub fn of(state: &State) -> Self {
        let routers = state
            .nodes()
            .filter(|node| !node.approved_routes.is_empty());
        Self::elect(state, routers.map(|node| node.id).collect())
    }

    /// Whether a change may move a route.
    pub(super) fn concerns(change: &Change) -> bool {
        let moves = |node: &NodeChange| node.added || node.removed || node.routes || node.online;
        change.nodes.values().any(moves)
    }

    /// Brings the table to the state after a change, and adds the nodes whose routes moved to the
    /// change.
    pub(super) fn follow(&mut self, state: &State, change: &mut Change) {
        let mut routers = std::mem::take(&mut self.routers);
        for id in change.nodes.keys() {
            if state
                .node(*id)
                .is_some_and(|node| !node.approved_routes.is_empty())
            {
                routers.insert(*id);
            } else {
                routers.remove(id);
            }
        }
        let next = Self::elect(state, routers);
        for id in self.primary.keys().chain(next.primary.keys()) {
            if self.primary(*id) != next.primary(*id) && state.node(*id).is_some() {
                change.nodes.entry(*id).or_default().routes = true;
            }
        }
        *self = next;
    }

    fn elect(state: &State, routers: BTreeSet<NodeId>) -> Self {
        let mut best: BTreeMap<IpNet, (bool, NodeId)> = BTreeMap::new();
        for node in routers.iter().filter_map(|id| state.node(*id)) {
            let online = state.is_online(node.id);
            for route in granted(node).filter(|route| !is_exit(route)) {
                let chosen = best.entry(route).or_insert((online, node.id));
                // Nodes come in id order, so only being online beats an earlier one.
                if online && !chosen.0 {
                    *chosen = (online, node.id);
                }
            }
        }
        let mut primary: BTreeMap<NodeId, Vec<IpNet>> = BTreeMap::new();
        for (route, (_, id)) in best {
            primary.entry(id).or_default().push(route);
        }
        Self { routers, primary }
    }

    /// The subnet routes for which the node is primary, sorted.
    pub fn primary(&self, id: NodeId) -> &[IpNet] {
        self.primary.get(&id).map_or(&[], Vec::as_slice)
    }
}

/// The exit routes that the node offers to its peers.
pub fn exit_routes(node: &Node) -> impl Iterator<Item = IpNet> {
    granted(node).filter(is_exit)
}

/// Routes that are both advertised and approved.
fn granted(node: &Node) -> impl Iterator<Item = IpNet> {
    let advertised = &node.hostinfo.routable_ips;
    node.approved_routes
        .iter()
        .filter(|route| advertised.contains(route))
        .copied()
}

fn is_exit(route: &IpNet) -> bool {
    route.prefix_len() == 0
}
