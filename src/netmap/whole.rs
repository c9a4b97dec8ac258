//! Whole netmaps of one state, for many viewers at once.
//!
//! ```text
//! {own parts,"Peers":[  page  page  ...  page  ]}
//! ```
//!
//! Peers are told in pages. A page is the same for all viewers who see the same nodes of it, which
//! is everybody of a class but these nodes themselves, and may use the same routes of them.
//! Compressed, every page is a zstd frame: clients decode frame after frame until the message ends.

use std::sync::Arc;

use bytes::Bytes;

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

/// A state of which whole netmaps are made.
#[derive(Debug)]
pub struct Whole {
    /// The state, and what follows from it.
    pub basis: Arc<Basis>,
    /// This replica's clock when it was prepared.
    pub now: Timestamp,
    /// How many ids one page covers. Pages follow ids, so that all viewers cut at the same places.
    page_ids: u64,
    /// Peers that a viewer may be told of otherwise than others are, in id order.
    carriers: Vec<NodeId>,
}

/// Some peers of a netmap: all that their bytes depend on, within one state.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Page {
    /// Who may use which routes of these peers; absent where they have none to use.
    route_class: Option<u64>,
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
            carriers: basis.engine.carriers().collect(),
            basis,
            now,
        }
    }

    /// The same with pages of this many ids.
    #[cfg(test)]
    pub(crate) fn with_page_ids(self, page_ids: u64) -> Self {
        Self { page_ids, ..self }
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

    /// The peers of a viewer in pages, and of each whether others may have the same one: nobody else
    /// sees the viewer's own page without the viewer.
    pub fn pages(&self, viewer: &Node, peers: &[&Node], wire: Wire) -> Vec<(Page, bool)> {
        let class = self.basis.engine.route_class(viewer.id);
        let number = |node: &Node| node.id.0 / self.page_ids;
        let carries = |node: &&Node| self.carriers.binary_search(&node.id).is_ok();
        let pages = peers.chunk_by(|one, next| number(one) == number(next));
        let pages = pages.zip(0..).map(|(nodes, place)| {
            let page = Page {
                route_class: nodes.iter().any(carries).then_some(class),
                wire,
                is_first: place == 0,
                nodes: nodes.iter().map(|node| node.id).collect(),
            };
            let is_own = nodes.iter().any(|node| number(node) == number(viewer));
            (page, !is_own)
        });
        pages.collect()
    }

    /// The bytes of a page, as `viewer` and all others who have the same one are told.
    pub fn page(&self, config: &NetmapConfig, viewer: NodeId, page: &Page) -> Bytes {
        let scene = self.scene(config);
        let nodes = page.nodes.iter();
        let nodes = nodes.filter_map(|id| self.basis.state.node(*id));
        let mut text = Vec::new();
        for (number, node) in nodes.enumerate() {
            if number > 0 || !page.is_first {
                text.push(b',');
            }
            let routes = self.basis.routes(viewer, node.id);
            text.extend_from_slice(&json(&scene.peer(node, routes)));
        }
        pack(text, page.wire)
    }

    /// The frame of a message and the pages of its peers.
    pub fn frame(message: &MapResponse, pages: Vec<Bytes>, wire: Wire) -> Bytes {
        let mut head = json(message);
        if pages.is_empty() {
            return frame(&[pack(head, wire)]);
        }
        head.pop();
        head.extend_from_slice(b",\"Peers\":[");
        let mut pieces = vec![pack(head, wire)];
        pieces.extend(pages);
        pieces.push(pack(b"]}".to_vec(), wire));
        frame(&pieces)
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
        let whole = Whole::new(world.basis(), world.now).with_page_ids(4);
        (world, whole)
    }

    fn told(world: &World, whole: &Whole, viewer: u64, wire: Wire) -> MapResponse {
        let viewer = whole.basis.state.node(NodeId(viewer)).unwrap();
        let (message, peers) = whole.message(&world.config, viewer);
        let pages = whole.pages(viewer, &peers, wire).into_iter();
        let pages = pages.map(|(page, _)| whole.page(&world.config, viewer.id, &page));
        let frame = Whole::frame(&message, pages.collect(), wire);
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
    fn a_lone_node_is_told_of_no_peers() {
        let (world, whole) = whole(1);
        assert_eq!(told(&world, &whole, 1, Wire::Zstd).peers, []);
    }
}
