//! Whole netmaps of one state, for many viewers at once.
//!
//! ```text
//! {own parts,"Peers":[  page  page  ...  page  ]}
//! ```
//!
//! Peers are told in pages. A page is encoded once for all viewers of a class that see the same
//! nodes of it, which is everybody but these nodes themselves. Compressed, every page is a zstd
//! frame: clients decode frame after frame until the message ends.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;

use super::frame::{frame, json, pack};
use super::full::own_parts;
use super::node::Scene;
use super::{Basis, NetmapConfig, Wire};
use crate::state::Node;
use crate::tailcfg::MapResponse;
use crate::types::{NodeId, Timestamp};

/// Node ids in a page, at least: fewer compress worse, and of more, those on the page must have more
/// encoded for themselves.
const PAGE_IDS_MIN: u64 = 64;
/// Pages of a message: Go's decoder copies what it has at each frame.
const PAGES_MAX: u64 = 48;
/// Pages that are kept of one state, in bytes: those of 100,000 nodes in a few classes. What comes
/// after is encoded for each viewer.
const SHARED_BYTES_MAX: usize = 128 * 1024 * 1024;

/// A state of which whole netmaps are made, and what these share.
#[derive(Debug)]
pub struct Whole {
    /// The state, and what follows from it.
    pub basis: Arc<Basis>,
    /// This replica's clock when it was prepared.
    pub now: Timestamp,
    /// How many ids one page covers. Pages follow ids, so that all viewers cut at the same places.
    page_ids: u64,
    shared: Mutex<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    pages: BTreeMap<PageKey, Bytes>,
    bytes: usize,
}

/// All that the bytes of a page depend on, within one state.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct PageKey {
    class: u64,
    wire: Wire,
    is_first: bool,
    nodes: Vec<NodeId>,
}

impl Whole {
    /// Prepares netmaps of a state.
    pub fn new(basis: Arc<Basis>, now: Timestamp) -> Self {
        let last = basis.state.nodes().next_back().map_or(0, |node| node.id.0);
        Self {
            page_ids: PAGE_IDS_MIN.max(last / PAGES_MAX + 1),
            basis,
            now,
            shared: Mutex::default(),
        }
    }

    /// Everything that `viewer` is told but its peers, and these. Clients forget all they knew at
    /// each new stream, so nothing is left out (`tailcfg.MapResponse`, the first of a stream).
    pub fn message(&self, config: &NetmapConfig, viewer: &Node) -> (MapResponse, Vec<&Node>) {
        let peers: Vec<_> = self.basis.peers(viewer).collect();
        (
            own_parts(self.scene(config), viewer, &peers, self.now),
            peers,
        )
    }

    /// The frame of a message and its peers.
    pub fn frame(
        &self,
        config: &NetmapConfig,
        viewer: &Node,
        message: &MapResponse,
        peers: &[&Node],
        wire: Wire,
    ) -> Bytes {
        let mut head = json(message);
        if peers.is_empty() {
            return frame(&[pack(head, wire)]);
        }
        head.pop();
        head.extend_from_slice(b",\"Peers\":[");
        let mut pieces = vec![pack(head, wire)];
        let class = self.basis.engine.class(viewer.id);
        let number = |node: &Node| node.id.0 / self.page_ids;
        for page in peers.chunk_by(|one, next| number(one) == number(next)) {
            let key = PageKey {
                class,
                wire,
                is_first: pieces.len() == 1,
                nodes: page.iter().map(|node| node.id).collect(),
            };
            // Nobody else sees this node's page without this node.
            let is_own = page.iter().any(|node| number(node) == number(viewer));
            pieces.push(self.page(self.scene(config), viewer, page, key, !is_own));
        }
        pieces.push(pack(b"]}".to_vec(), wire));
        frame(&pieces)
    }

    /// Whether there is no room for more pages to share.
    pub fn is_full(&self) -> bool {
        self.shared.lock().bytes >= SHARED_BYTES_MAX
    }

    fn page(
        &self,
        scene: Scene<'_>,
        viewer: &Node,
        nodes: &[&Node],
        key: PageKey,
        keep: bool,
    ) -> Bytes {
        if let Some(page) = self.shared.lock().pages.get(&key) {
            return page.clone();
        }
        let mut text = Vec::new();
        for (number, node) in nodes.iter().enumerate() {
            if number > 0 || !key.is_first {
                text.push(b',');
            }
            text.extend_from_slice(&json(&scene.peer(viewer.id, node)));
        }
        let page = pack(text, key.wire);
        let mut shared = self.shared.lock();
        if keep && shared.bytes < SHARED_BYTES_MAX {
            shared.bytes += page.len();
            shared.pages.insert(key, page.clone());
        }
        page
    }

    fn scene<'a>(&'a self, config: &'a NetmapConfig) -> Scene<'a> {
        Scene {
            config,
            basis: &self.basis,
            now: self.basis.state.present(self.now),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netmap::testing::World;
    use crate::tailcfg;

    /// The state of some nodes, cut into small pages.
    fn whole(nodes: u8) -> (World, Whole) {
        let mut world = World::new();
        for device in 1..=nodes {
            world.register(device, device, "alice").unwrap();
        }
        world.take_delta();
        let whole = Whole {
            page_ids: 4,
            ..Whole::new(world.basis(), world.now)
        };
        (world, whole)
    }

    fn told(world: &World, whole: &Whole, viewer: u64, wire: Wire) -> MapResponse {
        let viewer = whole.basis.state.node(NodeId(viewer)).unwrap();
        let (message, peers) = whole.message(&world.config, viewer);
        let frame = whole.frame(&world.config, viewer, &message, &peers, wire);
        let (len, payload) = frame.split_at(4);
        assert_eq!(
            u32::from_le_bytes(len.try_into().unwrap()) as usize,
            payload.len()
        );
        let json = match wire {
            Wire::Raw => payload.to_vec(),
            Wire::Zstd => zstd::stream::decode_all(payload).unwrap(),
        };
        tailcfg::decode(&json).unwrap()
    }

    #[test]
    fn everybody_gets_all_others_in_order_wherever_pages_are_cut() {
        let (world, whole) = whole(10);
        for viewer in 1..=10 {
            let raw = told(&world, &whole, viewer, Wire::Raw);
            let ids: Vec<u64> = raw.peers.iter().map(|peer| peer.id.0).collect();
            let others: Vec<u64> = (1..=10).filter(|id| *id != viewer).collect();
            assert_eq!(ids, others);
            assert_eq!(raw.node.as_ref().unwrap().id, NodeId(viewer));
            assert_eq!(told(&world, &whole, viewer, Wire::Zstd), raw);
        }
    }

    #[test]
    fn a_page_is_encoded_once_for_all_who_see_all_of_it() {
        let (world, whole) = whole(10);
        for viewer in 1..=10 {
            told(&world, &whole, viewer, Wire::Zstd);
        }
        let shared = whole.shared.lock();
        let kept: Vec<usize> = shared.pages.keys().map(|key| key.nodes.len()).collect();
        assert_eq!(
            kept,
            [4, 3, 3],
            "one of each: the rest belongs to one viewer"
        );
        assert_eq!(
            shared.bytes,
            shared.pages.values().map(Bytes::len).sum::<usize>()
        );
    }

    #[test]
    fn a_lone_node_is_told_of_no_peers() {
        let (world, whole) = whole(1);
        assert_eq!(told(&world, &whole, 1, Wire::Zstd).peers, []);
    }
}
