//! What the cluster's handle counts.

use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;

/// Bounds of changes as label values.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
pub enum Bound {
    /// `QUEUE_DEPTH`
    Queue,
    /// `QUEUE_WAIT_MAX`
    QueueWait,
    /// `COMMAND_BYTES_MAX`
    CommandBytes,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct BoundLabel {
    bound: Bound,
}

/// Counters of changes. Cloning shares them.
#[derive(Clone, Debug, Default)]
pub struct ClusterMetrics {
    bounds: Family<BoundLabel, Counter>,
    soft_retries: Counter,
}

impl ClusterMetrics {
    /// Puts everything into `registry`, which adds the prefix `hydrascale`.
    pub fn register(&self, registry: &mut Registry) {
        registry.register(
            "proposal_bound_hits",
            "Changes refused because they met a bound",
            self.bounds.clone(),
        );
        registry.register(
            "soft_state_retries",
            "Reports of nodes and ends of map streams that have to be proposed again",
            self.soft_retries.clone(),
        );
    }

    pub(super) fn bound_hit(&self, bound: Bound) {
        self.bounds.get_or_create(&BoundLabel { bound }).inc();
    }

    pub(super) fn soft_retry(&self) {
        self.soft_retries.inc();
    }

    /// How often a bound was met.
    pub fn bound_hits(&self, bound: Bound) -> u64 {
        self.bounds.get_or_create(&BoundLabel { bound }).get()
    }

    /// How many reports had to be proposed again.
    pub fn soft_retries(&self) -> u64 {
        self.soft_retries.get()
    }
}
