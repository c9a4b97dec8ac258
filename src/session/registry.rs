//! Which nodes stream from this replica, and what the cluster has been told of it. A newer stream
//! of a node replaces the older one.

use std::collections::{BTreeMap, BTreeSet};

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::state::SessionNo;
use crate::types::NodeId;

#[derive(Default)]
pub(super) struct Registry {
    streams: Mutex<Streams>,
    touched: Notify,
}

#[derive(Default)]
struct Streams {
    last_number: u64,
    by_node: BTreeMap<NodeId, Live>,
    /// Nodes whose streams began or ended since somebody asked.
    touched: BTreeSet<NodeId>,
}

/// A stream that runs.
#[derive(Clone, Debug)]
pub(super) struct Live {
    /// Tells the streams of one node apart.
    pub(super) number: u64,
    /// The node's newest session when the stream began.
    pub(super) known: SessionNo,
    /// Its record has been proposed, and the outcome is not known yet.
    pub(super) opening: bool,
    replaced: CancellationToken,
}

/// A stream's place; leaving it frees the place unless a newer stream has taken it.
pub(super) struct Place<'a> {
    registry: &'a Registry,
    node: NodeId,
    number: u64,
    replaced: CancellationToken,
}

impl Registry {
    /// Takes the node's place and ends the stream that held it. `known` is the node's newest session
    /// so far.
    pub(super) fn enter(&self, node: NodeId, known: SessionNo) -> Place<'_> {
        let replaced = CancellationToken::new();
        let mut streams = self.streams.lock();
        streams.last_number += 1;
        let number = streams.last_number;
        let live = Live {
            number,
            known,
            opening: false,
            replaced: replaced.clone(),
        };
        if let Some(older) = streams.by_node.insert(node, live) {
            older.replaced.cancel();
        }
        streams.touched.insert(node);
        drop(streams);
        self.touched.notify_one();
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

    /// The nodes that stream, in id order.
    pub(super) fn nodes(&self) -> Vec<NodeId> {
        self.streams.lock().by_node.keys().copied().collect()
    }

    /// The node's stream.
    pub(super) fn live(&self, node: NodeId) -> Option<Live> {
        self.streams.lock().by_node.get(&node).cloned()
    }

    /// Notes whether the record of this very stream is under way.
    pub(super) fn set_opening(&self, node: NodeId, number: u64, opening: bool) {
        let mut streams = self.streams.lock();
        if let Some(live) = streams.by_node.get_mut(&node)
            && live.number == number
        {
            live.opening = opening;
        }
    }

    /// The nodes whose streams began or ended since the last call, as soon as there are any.
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped.
    pub(super) async fn touched(&self) -> BTreeSet<NodeId> {
        loop {
            let touched = std::mem::take(&mut self.streams.lock().touched);
            if !touched.is_empty() {
                return touched;
            }
            self.touched.notified().await;
        }
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
        let mine = |live: &Live| live.number == self.number;
        if streams.by_node.get(&self.node).is_some_and(mine) {
            streams.by_node.remove(&self.node);
            streams.touched.insert(self.node);
            drop(streams);
            self.registry.touched.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_newer_stream_replaces_the_older_and_keeps_its_place() {
        let registry = Registry::default();
        let older = registry.enter(NodeId(1), SessionNo::default());
        let newer = registry.enter(NodeId(1), SessionNo::default());
        older.replaced().await;
        assert!(!newer.replaced.is_cancelled());
        drop(older);
        assert_eq!(registry.nodes(), [NodeId(1)]);
        drop(newer);
        assert_eq!(registry.count(), 0);
    }

    #[tokio::test]
    async fn beginnings_and_ends_are_told_once() {
        let registry = Registry::default();
        let place = registry.enter(NodeId(1), SessionNo::default());
        registry.enter(NodeId(2), SessionNo::default());
        assert_eq!(
            registry.touched().await,
            BTreeSet::from([NodeId(1), NodeId(2)])
        );
        drop(place);
        assert_eq!(registry.touched().await, BTreeSet::from([NodeId(1)]));
    }
}
