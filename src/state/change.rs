//! What applying a command altered: the input of netmap diffing.
//!
//! A change says which parts of which nodes differ, never how: readers take the values from the
//! state that came with it. Changes merge, so that a slow reader can skip states.

use std::collections::{BTreeMap, BTreeSet};

use super::Node;
use crate::tailcfg::Hostinfo;
use crate::types::{NodeId, NodeKey, ReplicaId, UserId};

/// What one command, or several merged ones, altered.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Change {
    /// Nodes that differ, and in which parts.
    pub nodes: BTreeMap<NodeId, NodeChange>,
    /// Node keys that a node gave up; the newest state says whether one names a node again.
    pub retired_node_keys: BTreeSet<NodeKey>,
    /// Users made, renamed or destroyed.
    pub users: BTreeSet<UserId>,
    /// Auth ids of logins that began, were decided or ran out.
    pub pending_logins: BTreeSet<String>,
    /// Auth ids of SSH logins that began, were decided or ran out.
    pub ssh_checks: BTreeSet<String>,
    /// Approvals of SSH logins differ.
    pub ssh_approvals: bool,
    /// Pre-auth keys or API keys differ.
    pub keys: bool,
    /// Replicas whose record differs.
    pub replicas: BTreeSet<ReplicaId>,
    /// [`super::State::derp_map`] differs.
    pub derp_map: bool,
    /// The settings differ.
    pub settings: bool,
    /// Another policy is in force.
    pub policy: bool,
}

impl Change {
    /// Whether nothing was altered.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Adds what a later command altered.
    pub fn merge(&mut self, later: Self) {
        for (id, change) in later.nodes {
            self.node(id, change);
        }
        self.retired_node_keys.extend(later.retired_node_keys);
        self.users.extend(later.users);
        self.pending_logins.extend(later.pending_logins);
        self.ssh_checks.extend(later.ssh_checks);
        self.ssh_approvals |= later.ssh_approvals;
        self.keys |= later.keys;
        self.replicas.extend(later.replicas);
        self.derp_map |= later.derp_map;
        self.settings |= later.settings;
        self.policy |= later.policy;
    }

    /// Adds what was altered in one node.
    pub(super) fn node(&mut self, id: NodeId, change: NodeChange) {
        if change != NodeChange::default() {
            self.nodes.entry(id).or_default().merge(change);
        }
    }
}

/// Which parts of a node differ.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NodeChange {
    /// The node is new.
    pub added: bool,
    /// The node is gone; no other flag is set.
    pub removed: bool,
    /// Owner, DNS label, addresses or tags: peers need the whole node again.
    pub full: bool,
    /// Advertised or approved routes.
    pub routes: bool,
    /// Hostinfo outside NetInfo.
    pub hostinfo: bool,
    /// NetInfo, which peers are not told; a new home relay sets `home_derp` too.
    pub net_info: bool,
    /// Node key (`tailcfg.PeerChange.Key`).
    pub node_key: bool,
    /// Disco key (`tailcfg.PeerChange.DiscoKey`).
    pub disco_key: bool,
    /// Endpoints (`tailcfg.PeerChange.Endpoints`).
    pub endpoints: bool,
    /// Home relay (`tailcfg.PeerChange.DERPRegion`).
    pub home_derp: bool,
    /// Capability version (`tailcfg.PeerChange.Cap`).
    pub capver: bool,
    /// Came online or went offline (`tailcfg.PeerChange.Online`).
    pub online: bool,
    /// Last seen (`tailcfg.PeerChange.LastSeen`).
    pub last_seen: bool,
    /// Key expiry, also when its time has come (`tailcfg.PeerChange.KeyExpiry`).
    pub expiry: bool,
}

impl NodeChange {
    /// A new node.
    pub(super) const ADDED: Self = Self {
        added: true,
        ..Self::NONE
    };
    /// A node that is gone.
    pub(super) const REMOVED: Self = Self {
        removed: true,
        ..Self::NONE
    };
    /// Came online or went offline.
    pub(super) const ONLINE: Self = Self {
        online: true,
        ..Self::NONE
    };
    /// The time of its key has come.
    pub(super) const EXPIRY: Self = Self {
        expiry: true,
        ..Self::NONE
    };

    const NONE: Self = Self {
        added: false,
        removed: false,
        full: false,
        routes: false,
        hostinfo: false,
        net_info: false,
        node_key: false,
        disco_key: false,
        endpoints: false,
        home_derp: false,
        capver: false,
        online: false,
        last_seen: false,
        expiry: false,
    };

    /// Whether a `tailcfg.PeerChange` cannot carry it, so that peers need the whole node.
    pub fn needs_whole_node(&self) -> bool {
        self.added || self.full || self.routes || self.hostinfo
    }

    /// Adds what a later command altered in the same node.
    pub fn merge(&mut self, later: Self) {
        if self.removed || later.removed {
            *self = Self::REMOVED;
            return;
        }
        self.added |= later.added;
        self.full |= later.full;
        self.routes |= later.routes;
        self.hostinfo |= later.hostinfo;
        self.net_info |= later.net_info;
        self.node_key |= later.node_key;
        self.disco_key |= later.disco_key;
        self.endpoints |= later.endpoints;
        self.home_derp |= later.home_derp;
        self.capver |= later.capver;
        self.online |= later.online;
        self.last_seen |= later.last_seen;
        self.expiry |= later.expiry;
    }

    /// Which parts differ between two versions of a node's row.
    pub(super) fn between(old: &Node, new: &Node) -> Self {
        let same_json = old.hostinfo_json == new.hostinfo_json;
        Self {
            full: old.user_id != new.user_id
                || old.given_name != new.given_name
                || old.ipv4 != new.ipv4
                || old.ipv6 != new.ipv6
                || old.tags != new.tags,
            routes: old.approved_routes != new.approved_routes
                || old.hostinfo.routable_ips != new.hostinfo.routable_ips,
            hostinfo: !same_json && without_net_info(old) != without_net_info(new),
            net_info: !same_json && old.hostinfo.net_info != new.hostinfo.net_info,
            node_key: old.node_key != new.node_key,
            disco_key: old.disco_key != new.disco_key,
            endpoints: old.endpoints != new.endpoints,
            home_derp: old.home_derp != new.home_derp,
            capver: old.capver != new.capver,
            last_seen: old.last_seen != new.last_seen,
            expiry: old.expires_at != new.expires_at,
            ..Self::NONE
        }
    }
}

fn without_net_info(node: &Node) -> Hostinfo {
    Hostinfo {
        net_info: None,
        ..(*node.hostinfo).clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_that_came_and_went_is_only_removed() {
        let mut change = Change::default();
        change.node(NodeId(1), NodeChange::ADDED);
        change.node(NodeId(1), NodeChange::ONLINE);
        change.node(NodeId(1), NodeChange::REMOVED);
        assert_eq!(change.nodes[&NodeId(1)], NodeChange::REMOVED);
    }

    #[test]
    fn merging_keeps_every_flag_of_both() {
        let mut first = Change {
            keys: true,
            ..Change::default()
        };
        first.node(NodeId(1), NodeChange::EXPIRY);
        let mut later = Change {
            derp_map: true,
            ..Change::default()
        };
        later.node(NodeId(1), NodeChange::ONLINE);
        later.node(NodeId(2), NodeChange::ADDED);
        first.merge(later);
        assert!(first.keys && first.derp_map);
        assert!(first.nodes[&NodeId(1)].expiry && first.nodes[&NodeId(1)].online);
        assert!(first.nodes[&NodeId(2)].needs_whole_node());
    }

    #[test]
    fn an_unchanged_node_leaves_the_change_empty() {
        let mut change = Change::default();
        change.node(NodeId(1), NodeChange::default());
        assert!(change.is_empty());
    }
}
