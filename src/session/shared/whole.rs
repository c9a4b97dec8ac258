//! A state of which whole netmaps are made, and the pages that these share.

use std::collections::BTreeMap;

use bytes::Bytes;
use parking_lot::Mutex;

use crate::netmap::{NetmapConfig, Page, Whole, Wire};
use crate::session::metrics::MapMetrics;
use crate::state::Node;
use crate::tailcfg::MapResponse;
use crate::types::NodeId;

/// Pages that are kept of one state, in bytes: those of 100,000 nodes in a few classes. What comes
/// after is encoded for each viewer.
const SHARED_BYTES_MAX: usize = 128 * 1024 * 1024;

#[derive(Debug)]
pub(in crate::session) struct SharedWhole {
    whole: Whole,
    kept: Mutex<Kept>,
    metrics: MapMetrics,
}

#[derive(Debug, Default)]
struct Kept {
    pages: BTreeMap<Page, Bytes>,
    bytes: usize,
}

impl SharedWhole {
    pub(in crate::session) fn new(whole: Whole, metrics: MapMetrics) -> Self {
        Self {
            whole,
            kept: Mutex::default(),
            metrics,
        }
    }

    pub(in crate::session) const fn whole(&self) -> &Whole {
        &self.whole
    }

    /// The frame of a message and its peers.
    pub(in crate::session) fn frame(
        &self,
        config: &NetmapConfig,
        viewer: &Node,
        message: &MapResponse,
        peers: &[&Node],
        wire: Wire,
    ) -> Bytes {
        let pages = self.whole.pages(viewer, peers, wire).into_iter();
        let pages = pages.map(|(page, is_shared)| self.page(config, viewer.id, page, is_shared));
        Whole::frame(message, pages.collect(), wire)
    }

    /// Whether there is no room for more pages to share.
    pub(in crate::session) fn is_full(&self) -> bool {
        self.kept.lock().bytes >= SHARED_BYTES_MAX
    }

    fn page(&self, config: &NetmapConfig, viewer: NodeId, page: Page, is_shared: bool) -> Bytes {
        if let Some(bytes) = self.kept.lock().pages.get(&page) {
            return bytes.clone();
        }
        let bytes = self.whole.page(config, viewer, &page);
        self.metrics.page_encoded();
        let mut kept = self.kept.lock();
        if is_shared && kept.bytes < SHARED_BYTES_MAX {
            kept.bytes += bytes.len();
            kept.pages.insert(page, bytes.clone());
        }
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netmap::testing::World;

    const OWN: &str = r#"{"acls": [
        {"action": "accept", "src": ["*"], "dst": ["*:22"]},
        {"action": "accept", "src": ["autogroup:member"], "dst": ["autogroup:self:*"]},
    ]}"#;

    /// Ten nodes, each second one of bob, cut into pages of four ids.
    fn world(policy: &str) -> World {
        let mut world = World::new();
        for device in 1..=10 {
            let user = if device % 2 == 0 { "bob" } else { "alice" };
            world.register(device, device + 10, user).unwrap();
        }
        world.set_policy(policy);
        world.take_delta();
        world
    }

    /// How many pages were encoded when everybody was served, and how many of them are kept.
    fn encoded(world: &World) -> (u64, usize) {
        let metrics = MapMetrics::default();
        let whole = Whole::new(world.basis(), world.now).with_page_ids(4);
        let shared = SharedWhole::new(whole, metrics.clone());
        for viewer in world.state.nodes() {
            let (message, peers) = shared.whole.message(&world.config, viewer);
            shared.frame(&world.config, viewer, &message, &peers, Wire::Zstd);
        }
        let kept = shared.kept.lock();
        let bytes = kept.pages.values().map(Bytes::len).sum::<usize>();
        assert_eq!(kept.bytes, bytes);
        (metrics.pages_encoded(), kept.pages.len())
    }

    #[test]
    fn a_page_is_encoded_once_for_all_who_see_all_of_it() {
        // Three that are shared, and everybody's own.
        assert_eq!(encoded(&world("")), (3 + 10, 3));
    }

    #[test]
    fn owners_who_see_the_same_of_a_page_share_it() {
        assert_eq!(encoded(&world(OWN)), (3 + 10, 3));
    }

    #[test]
    fn who_may_use_other_routes_of_a_page_has_it_encoded_otherwise() {
        let mut world = world(
            r#"{"acls": [
                {"action": "accept", "src": ["*"], "dst": ["autogroup:member:22"]},
                {"action": "accept", "src": ["alice@"], "dst": ["10.0.0.0/8:*"]},
            ]}"#,
        );
        world.update(
            NodeId(1),
            hydrascale_proto::state::v1::UpdateNode {
                hostinfo_json: r#"{"RoutableIPs":["10.1.0.0/16"]}"#.into(),
                ..Default::default()
            },
        );
        world.approve(NodeId(1), &["10.1.0.0/16"]);
        world.take_delta();
        // The page of the router, once for alice and once for bob.
        assert_eq!(encoded(&world), (4 + 10, 4));
    }
}
