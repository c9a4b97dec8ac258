//! Which nodes stream from this replica. A newer stream of a node replaces the older one.

use std::collections::BTreeMap;

use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use crate::types::NodeId;

#[derive(Default)]
pub(super) struct Registry {
    streams: Mutex<Streams>,
}

#[derive(Default)]
struct Streams {
    last_number: u64,
    by_node: BTreeMap<NodeId, (u64, CancellationToken)>,
}

/// A stream's place; leaving it frees the place unless a newer stream has taken it.
pub(super) struct Place<'a> {
    registry: &'a Registry,
    node: NodeId,
    number: u64,
    replaced: CancellationToken,
}

impl Registry {
    /// Takes the node's place and ends the stream that held it.
    pub(super) fn enter(&self, node: NodeId) -> Place<'_> {
        let replaced = CancellationToken::new();
        let mut streams = self.streams.lock();
        streams.last_number += 1;
        let number = streams.last_number;
        if let Some((_, older)) = streams.by_node.insert(node, (number, replaced.clone())) {
            older.cancel();
        }
        Place {
            registry: self,
            node,
            number,
            replaced,
        }
    }

    pub(super) fn count(&self) -> usize {
        self.streams.lock().by_node.len()
    }

    pub(super) fn holds(&self, node: NodeId) -> bool {
        self.streams.lock().by_node.contains_key(&node)
    }
}

impl Place<'_> {
    /// Resolves when a newer stream of the node has come.
    pub(super) async fn replaced(&self) {
        self.replaced.cancelled().await;
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let mut streams = self.registry.streams.lock();
        if streams
            .by_node
            .get(&self.node)
            .is_some_and(|(number, _)| *number == self.number)
        {
            streams.by_node.remove(&self.node);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_newer_stream_replaces_the_older_and_keeps_its_place() {
        let registry = Registry::default();
        let older = registry.enter(NodeId(1));
        let newer = registry.enter(NodeId(1));
        older.replaced().await;
        assert!(!newer.replaced.is_cancelled());
        drop(older);
        assert!(registry.holds(NodeId(1)));
        drop(newer);
        assert_eq!(registry.count(), 0);
    }
}
