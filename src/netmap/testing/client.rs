//! A client's memory of its netmap, with the rules by which the Go client merges messages
//! (`control/controlclient/map.go`): what it ignores, what it cannot express, what it loses.

use std::collections::BTreeMap;

use crate::tailcfg::{
    ControlDialPlan, DerpMap, DisplayMessage, DnsConfig, FilterRule, MapResponse, Node, PeerChange,
    SshPolicy, UserProfile, decode,
};
use crate::types::{NodeId, RegionId, Timestamp, UserId};

#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Client {
    pub(crate) node: Option<Node>,
    pub(crate) peers: BTreeMap<NodeId, Node>,
    pub(crate) profiles: BTreeMap<UserId, UserProfile>,
    pub(crate) derp_map: Option<DerpMap>,
    pub(crate) dns: Option<DnsConfig>,
    pub(crate) domain: String,
    pub(crate) filters: BTreeMap<String, Vec<FilterRule>>,
    pub(crate) ssh: Option<SshPolicy>,
    pub(crate) health: Vec<String>,
    pub(crate) messages: BTreeMap<String, DisplayMessage>,
    pub(crate) dial_plan: Option<ControlDialPlan>,
}

impl Client {
    /// Takes frames of a stream without compression.
    pub(crate) fn take_frames(&mut self, mut frames: &[u8]) {
        while let Some((len, rest)) = frames.split_first_chunk() {
            let (payload, rest) = rest.split_at(u32::from_le_bytes(*len) as usize);
            self.take(decode(payload).unwrap());
            frames = rest;
        }
    }

    pub(crate) fn take(&mut self, message: MapResponse) {
        replace(&mut self.dial_plan, message.control_dial_plan.clone());
        if message.keep_alive {
            return;
        }
        assert!(
            self.node.is_some() || message.node.is_some(),
            "the first message of a stream must have a Node"
        );
        self.take_peers(&message);
        replace(&mut self.node, message.node);
        self.profiles.extend(
            message
                .user_profiles
                .into_iter()
                .map(|user| (user.id, user)),
        );
        replace(&mut self.derp_map, message.derp_map);
        replace(&mut self.dns, message.dns_config);
        replace(&mut self.ssh, message.ssh_policy);
        self.health = message
            .health
            .unwrap_or_else(|| std::mem::take(&mut self.health));
        if !message.domain.is_empty() {
            self.domain = message.domain;
        }
        merge_named(&mut self.filters, message.packet_filters);
        merge_named(&mut self.messages, message.display_messages);
    }

    fn take_peers(&mut self, message: &MapResponse) {
        if !message.peers.is_empty() {
            self.peers = message
                .peers
                .iter()
                .map(|peer| (peer.id, peer.clone()))
                .collect();
            return;
        }
        let mut patches = message.peers_changed_patch.clone();
        if message.peers_changed.is_empty() {
            for patch in &patches {
                self.check_patch(patch);
            }
        }
        let mut whole = Vec::new();
        for peer in &message.peers_changed {
            match self.peers.get(&peer.id).map(|was| diff(was, peer)) {
                Some(Some(patch)) => patches.push(patch),
                Some(None) | None => whole.push(peer.clone()),
            }
        }
        patches.retain(|patch| !self.is_old_disco(patch));
        for id in &message.peers_removed {
            self.peers.remove(id);
        }
        self.peers
            .extend(whole.into_iter().map(|peer| (peer.id, peer)));
        for patch in patches {
            if let Some(peer) = self.peers.get_mut(&patch.node_id) {
                apply(peer, patch);
            }
        }
    }

    /// Clients from 1.84 on lose all patches of a message that patches somebody who is no peer, and
    /// take to their connections only the first thing of what a patch says.
    fn check_patch(&self, patch: &PeerChange) {
        let id = patch.node_id;
        assert!(
            self.peers.contains_key(&id),
            "a patch of {id}, who is no peer"
        );
        let both = patch.derp_region != RegionId(0) && patch.endpoints.is_some();
        assert!(!both, "home and endpoints of {id} in one patch");
    }

    /// Clients may learn disco keys from peers, and do not take older ones from the control plane.
    fn is_old_disco(&self, patch: &PeerChange) -> bool {
        let known = self
            .peers
            .get(&patch.node_id)
            .and_then(|peer| peer.last_seen);
        match (patch.disco_key, patch.online, patch.last_seen, known) {
            (Some(_), Some(false), Some(seen), Some(known)) => seen <= known,
            _ => false,
        }
    }
}

/// What is not said stays.
fn replace<T>(known: &mut Option<T>, news: Option<T>) {
    if news.is_some() {
        *known = news;
    }
}

/// Chunks by name: `None` deletes one, `*` deletes all first.
fn merge_named<T>(known: &mut BTreeMap<String, T>, news: BTreeMap<String, Option<T>>) {
    if matches!(news.get("*"), Some(None)) {
        known.clear();
    }
    for (name, value) in news {
        match value {
            Some(value) => drop(known.insert(name, value)),
            None => drop(known.remove(&name)),
        }
    }
}

fn apply(peer: &mut Node, patch: PeerChange) {
    if patch.derp_region != RegionId(0) {
        peer.home_derp = patch.derp_region;
    }
    if patch.cap != 0 {
        peer.cap = patch.cap;
    }
    replace(&mut peer.endpoints, patch.endpoints);
    peer.key = patch.key.unwrap_or(peer.key);
    peer.disco_key = patch.disco_key.or(peer.disco_key);
    peer.online = patch.online.or(peer.online);
    peer.last_seen = patch.last_seen.or(peer.last_seen);
    if let Some(expiry) = patch.key_expiry {
        peer.key_expiry = Some(expiry).filter(|at| !at.is_go_zero());
    }
    peer.cap_map = patch
        .cap_map
        .unwrap_or_else(|| std::mem::take(&mut peer.cap_map));
}

/// The patch into which the client turns a whole node that differs only in what patches carry;
/// `None` when it differs in more. Some differences get lost on the way.
fn diff(was: &Node, new: &Node) -> Option<PeerChange> {
    let differs =
        |a: &Option<Timestamp>, b: &Option<Timestamp>| a.is_some() && b.is_some() && a != b;
    let rest = |node: &Node| Node {
        key: was.key,
        key_expiry: None,
        disco_key: None,
        endpoints: None,
        home_derp: RegionId(0),
        cap: 0,
        cap_map: BTreeMap::new(),
        online: None,
        last_seen: None,
        ..node.clone()
    };
    if rest(was) != rest(new) {
        return None;
    }
    let expiry_differs = was.key_expiry != new.key_expiry;
    let online_differs = was.online.is_some() && was.online != new.online;
    Some(PeerChange {
        node_id: new.id,
        key: (was.key != new.key).then_some(new.key),
        key_expiry: expiry_differs.then(|| new.key_expiry.unwrap_or(Timestamp::GO_ZERO)),
        disco_key: if was.disco_key == new.disco_key {
            None
        } else {
            new.disco_key
        },
        endpoints: if was.endpoints == new.endpoints {
            None
        } else {
            new.endpoints.clone()
        },
        derp_region: if was.home_derp == new.home_derp {
            RegionId(0)
        } else {
            new.home_derp
        },
        cap: if was.cap == new.cap { 0 } else { new.cap },
        cap_map: (was.cap_map != new.cap_map).then(|| new.cap_map.clone()),
        online: new.online.filter(|_| online_differs),
        last_seen: new
            .last_seen
            .filter(|_| differs(&was.last_seen, &new.last_seen)),
        ..PeerChange::default()
    })
}
