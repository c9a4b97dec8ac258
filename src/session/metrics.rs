//! What map streams count.

use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;

use super::StreamEnd;

/// Bounds of map streams as label values.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
pub enum Bound {
    /// `OPENINGS_MAX`
    Openings,
    /// `PLACES` for whole netmaps
    WholeMaps,
    /// `PLACE_TIME`
    PlaceTime,
    /// `FRESH_BYTES_MAX` of whole netmaps on their way
    FreshBytes,
    /// `SLOW_BYTES_MAX` of whole netmaps on their way to slow clients
    SlowBytes,
    /// `RATE_MIN` at which a client takes a whole netmap
    Rate,
    /// `SHARED_BYTES_MAX` of what whole netmaps share
    SharedPages,
    /// `DELTAS_KEPT`
    Deltas,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct BoundLabel {
    bound: Bound,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct EndLabel {
    reason: StreamEnd,
}

/// Counters of map streams. Cloning shares them.
#[derive(Clone, Debug, Default)]
pub struct MapMetrics {
    bounds: Family<BoundLabel, Counter>,
    ends: Family<EndLabel, Counter>,
    resent: Counter,
    pages: Counter,
}

impl MapMetrics {
    /// Puts everything into `registry`, which adds the prefix `hydrascale`.
    pub fn register(&self, registry: &mut Registry) {
        registry.register(
            "map_bound_hits",
            "Map streams that met a bound",
            self.bounds.clone(),
        );
        registry.register("map_ends", "Ended maps and map streams", self.ends.clone());
        registry.register(
            "map_resent_whole",
            "Whole netmaps sent in the middle of a stream that fell behind, or after a change of \
             settings",
            self.resent.clone(),
        );
        registry.register(
            "map_pages_encoded",
            "Pages of peers that were encoded, for one whole netmap or for many",
            self.pages.clone(),
        );
    }

    pub(super) fn bound_hit(&self, bound: Bound) {
        self.bounds.get_or_create(&BoundLabel { bound }).inc();
    }

    pub(super) fn ended(&self, reason: StreamEnd) {
        self.ends.get_or_create(&EndLabel { reason }).inc();
    }

    pub(super) fn resent_whole(&self) {
        self.resent.inc();
    }

    pub(super) fn page_encoded(&self) {
        self.pages.inc();
    }

    /// How often a bound was met.
    pub fn bound_hits(&self, bound: Bound) -> u64 {
        self.bounds.get_or_create(&BoundLabel { bound }).get()
    }

    /// How many streams ended for this reason.
    pub fn ends(&self, reason: StreamEnd) -> u64 {
        self.ends.get_or_create(&EndLabel { reason }).get()
    }

    /// How many whole netmaps were sent in the middle of a stream.
    pub fn resent(&self) -> u64 {
        self.resent.get()
    }

    /// How many pages of peers were encoded.
    pub fn pages_encoded(&self) -> u64 {
        self.pages.get()
    }
}
