//! Map streams: the long poll in which a node gets its netmap and every change of it.
//!
//! ```text
//! Cluster --changes--> feed (one task: gathers, makes one Delta) --shared Delta--> driver (one per
//! stream: full map, deltas, keep-alives) --frames--> FrameSink (HTTP/2 inside Noise)
//! registry (who streams here) --> recorder (one task) --sessions--> Cluster
//! ```
//!
//! The first message is whole and nothing overtakes it: a stream subscribes first and then takes its
//! state, so that every later change reaches it. Whoever falls behind gets a fresh full map.

mod driver;
mod feed;
mod held;
mod metrics;
mod once_map;
mod one_shots;
mod recorder;
mod registry;
mod service;
mod shared;
mod stream;
#[cfg(test)]
mod tests;
mod turns;
mod whole_maps;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::task::JoinSet;

pub use self::driver::StreamEnd;
use self::feed::Feed;
pub use self::metrics::{Bound, MapMetrics};
use self::one_shots::OneShots;
use self::recorder::Recorder;
use self::registry::Registry;
pub use self::service::Service;
pub use self::stream::{MapKind, StreamRequest};
use self::turns::Turns;
use self::whole_maps::WholeMaps;
use crate::cluster::Cluster;
use crate::netmap::{Basis, KeepAlive, NetmapConfig};
use crate::state::State;
use crate::tasks::Tasks;
use crate::types::Timestamp;

/// Where a stream's frames go.
pub trait FrameSink: Send {
    /// Sends one frame; returns once it is handed over, which takes as long as the client is slow.
    ///
    /// # Errors
    /// The client is gone, or takes nothing any more.
    fn send(&mut self, frame: Bytes) -> impl Future<Output = Result<(), SinkError>> + Send;

    /// Resolves when the client is gone.
    fn closed(&mut self) -> impl Future<Output = ()> + Send;
}

/// Why a frame was not sent whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SinkError {
    /// The client is gone.
    #[error("the client has left its map stream")]
    Closed,
    /// The client took nothing for a long time.
    #[error("the client does not read its map stream")]
    Stalled,
}

/// All map streams of this replica. Cloning is cheap.
#[derive(Clone)]
pub struct MapStreams {
    inner: Arc<Inner>,
}

struct Inner {
    cluster: Cluster,
    config: NetmapConfig,
    clock: fn() -> Timestamp,
    feed: Feed,
    registry: Arc<Registry>,
    one_shots: OneShots,
    whole_maps: WholeMaps,
    /// Who works out what a heavy delta means. Turns of their own: a netmap keeps its turn while it
    /// waits for room, and what closes something must not wait for that.
    tellers: Turns,
    metrics: MapMetrics,
    keep_alive: KeepAlive,
    tasks: Tasks,
}

impl MapStreams {
    /// Binds map streams to the cluster's changes.
    pub fn new(cluster: Cluster, config: NetmapConfig, clock: fn() -> Timestamp) -> Self {
        let mut tasks = JoinSet::new();
        let feed = Feed::spawn(&cluster, clock, &mut tasks);
        let registry = Arc::new(Registry::default());
        let metrics = MapMetrics::default();
        let recorder = Recorder::new(cluster.clone(), Arc::clone(&registry), metrics.clone());
        tasks.spawn(recorder.run());
        let inner = Inner {
            cluster,
            config,
            clock,
            feed,
            registry,
            one_shots: OneShots::default(),
            whole_maps: WholeMaps::new(metrics.clone()),
            tellers: Turns::new(),
            metrics,
            keep_alive: KeepAlive::default(),
            tasks: Tasks::new("map streams", tasks),
        };
        Self {
            inner: Arc::new(inner),
        }
    }

    /// Streams a node's netmap into `sink` until one of the two ends it, or sends it once. An older
    /// stream, or an older single map, of the same node here ends first. `found` is the state in which the node was found.
    ///
    /// # Cancel safety
    /// Dropping the future ends the stream; its session is closed all the same.
    pub async fn serve(
        &self,
        request: StreamRequest,
        found: Arc<State>,
        sink: &mut impl FrameSink,
    ) -> StreamEnd {
        driver::run(&self.inner, request, found, sink).await
    }

    /// What netmaps are made from, as of this log index of a change or later; `None` when the replica
    /// stops.
    pub async fn basis_at(&self, index: u64) -> Option<Arc<Basis>> {
        self.inner.feed.basis_at(index).await
    }

    /// Resolves once clients are better off at other replicas.
    pub async fn sends_away(&self) {
        let mut service = self.inner.feed.service();
        if service
            .wait_for(|service| service.sends_away())
            .await
            .is_err()
        {
            // Nobody judges any more: this replica stops.
            std::future::pending::<()>().await;
        }
    }

    /// Resolves when a task that all streams share has ended, which only a fault does; tells how.
    pub async fn ended(&self) -> String {
        self.inner.tasks.ended().await
    }

    /// Streams that are open here.
    pub fn count(&self) -> usize {
        self.inner.registry.count()
    }

    /// What is counted.
    pub fn metrics(&self) -> &MapMetrics {
        &self.inner.metrics
    }
}

/// Changes are gathered this long behind the last ones sent, so that a storm costs one frame per
/// window; a lone change goes out at once.
const GATHER_WINDOW: Duration = Duration::from_millis(50);
