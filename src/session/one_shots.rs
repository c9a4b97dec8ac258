//! One whole netmap per node at a time for those who ask for nothing more: a newer request of a node
//! ends the older one. It knows nothing of streams.

use std::collections::BTreeMap;

use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use crate::types::NodeId;

#[derive(Default)]
pub(super) struct OneShots {
    latest: Mutex<Latest>,
}

#[derive(Default)]
struct Latest {
    last_number: u64,
    by_node: BTreeMap<NodeId, (u64, CancellationToken)>,
}

/// A request's place; leaving it frees the place unless a newer request has taken it.
pub(super) struct OneShot<'a> {
    one_shots: &'a OneShots,
    node: NodeId,
    number: u64,
    replaced: CancellationToken,
}

impl OneShots {
    /// Takes the node's place and ends the request that held it.
    pub(super) fn enter(&self, node: NodeId) -> OneShot<'_> {
        let replaced = CancellationToken::new();
        let mut latest = self.latest.lock();
        latest.last_number += 1;
        let number = latest.last_number;
        let older = latest.by_node.insert(node, (number, replaced.clone()));
        drop(latest);
        if let Some((_, older)) = older {
            older.cancel();
        }
        OneShot {
            one_shots: self,
            node,
            number,
            replaced,
        }
    }
}

impl OneShot<'_> {
    /// Resolves when a newer request of the node has come.
    pub(super) async fn replaced(&self) {
        self.replaced.cancelled().await;
    }
}

impl Drop for OneShot<'_> {
    fn drop(&mut self) {
        let mut latest = self.one_shots.latest.lock();
        if latest
            .by_node
            .get(&self.node)
            .is_some_and(|(number, _)| *number == self.number)
        {
            latest.by_node.remove(&self.node);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_newer_request_replaces_the_older_and_nothing_is_kept_of_either() {
        let one_shots = OneShots::default();
        let older = one_shots.enter(NodeId(1));
        let newer = one_shots.enter(NodeId(1));
        older.replaced().await;
        drop(older);
        assert!(!newer.replaced.is_cancelled());
        assert_eq!(one_shots.latest.lock().by_node.len(), 1);
        drop(newer);
        assert!(one_shots.latest.lock().by_node.is_empty());
    }
}
