//! `/metrics`: everything that the parts count, in the OpenMetrics text format.

use std::fmt;
use std::sync::Arc;

use axum::Router;
use axum::extract::State as AxumState;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use hydrascale_raft::Replica;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;

use super::backups::BackupMetrics;
use crate::cluster::{Cluster, Role};
use crate::control::ControlMetrics;
use crate::derp::{RelayMetrics, Sample};
use crate::session::MapStreams;
use crate::stun::StunMetrics;

/// Reads some values.
type Sampler = Box<dyn Fn() -> Vec<Sample> + Send + Sync>;

/// The parts of a replica that count something.
pub(super) struct MetricsSources {
    /// Role, indexes, nodes.
    pub(super) cluster: Cluster,
    /// Consensus and storage.
    pub(super) replica: Replica,
    /// Relay traffic.
    pub(super) relay: Arc<RelayMetrics>,
    /// STUN answers.
    pub(super) stun: Arc<StunMetrics>,
    /// Open map streams.
    pub(super) streams: MapStreams,
    /// The client's side.
    pub(super) control: ControlMetrics,
    /// Scheduled backups.
    pub(super) backups: Arc<BackupMetrics>,
}

/// The routes of the metrics listener.
pub(super) fn metrics_router(sources: MetricsSources) -> Router {
    let MetricsSources {
        cluster,
        replica,
        relay,
        stun,
        streams,
        control,
        backups,
    } = sources;
    let mut own = Registry::with_prefix("hydrascale");
    control.register(&mut own);
    cluster.metrics().register(&mut own);
    streams.metrics().register(&mut own);
    register(
        &mut own,
        Box::new(move || cluster_samples(&cluster, &streams)),
    );
    register(&mut own, Box::new(move || backups.samples()));
    let raft = own.sub_registry_with_prefix("raft");
    register(raft, Box::new(move || raft_samples(&replica)));
    // The relay's names are derper's, which dashboards know.
    let mut derp = Registry::default();
    register(&mut derp, Box::new(move || relay.samples()));
    register(&mut derp, Box::new(move || stun.samples()));
    Router::new()
        .route("/metrics", get(scrape))
        .with_state(Arc::new([own, derp]))
}

fn register(registry: &mut Registry, sampler: Sampler) {
    registry.register_collector(Box::new(Sampled(sampler)));
}

async fn scrape(AxumState(registries): AxumState<Arc<[Registry; 2]>>) -> Response {
    let [own, sampled] = &*registries;
    let mut text = String::new();
    let encoded = prometheus_client::encoding::text::encode_registry(&mut text, own)
        .and_then(|()| prometheus_client::encoding::text::encode(&mut text, sampled));
    match encoded {
        Ok(()) => {
            let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
            ([(header::CONTENT_TYPE, kind)], text).into_response()
        }
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

fn raft_samples(replica: &Replica) -> Vec<Sample> {
    let counter = |(name, value)| Sample {
        name,
        help: "Counter of the consensus layer",
        labels: &[],
        is_gauge: false,
        value,
    };
    replica.metrics().entries().map(counter).collect()
}

fn cluster_samples(cluster: &Cluster, streams: &MapStreams) -> Vec<Sample> {
    let status = cluster.status();
    let state = cluster.state();
    let online = state
        .sessions()
        .filter(|session| state.is_online(session.node_id))
        .count();
    let gauge = |name, help, value| Sample {
        name,
        help,
        labels: &[],
        is_gauge: true,
        value,
    };
    vec![
        gauge("map_streams", "Open map streams", count(streams.count())),
        gauge("nodes", "Nodes of the tailnet", count(state.node_count())),
        gauge(
            "nodes_online",
            "Nodes with a map stream on a live replica",
            count(online),
        ),
        gauge(
            "raft_applied_index",
            "Last applied log entry",
            status.applied_index,
        ),
        gauge(
            "raft_committed_index",
            "Last committed log entry",
            status.committed_index,
        ),
        gauge(
            "raft_purged_index",
            "Last log entry that only a snapshot holds",
            status.purged_index,
        ),
        gauge(
            "raft_last_log_index",
            "Last log entry",
            status.last_log_index,
        ),
        gauge("raft_term", "Consensus term", status.term),
        gauge(
            "raft_is_leader",
            "Whether this replica leads",
            u64::from(status.role == Role::Leader),
        ),
        gauge(
            "raft_has_leader",
            "Whether this replica knows a leader",
            u64::from(status.leader.is_some()),
        ),
        gauge(
            "raft_tolerated_failures",
            "Voters that may fail before the cluster stops taking changes",
            count(status.tolerated_failures),
        ),
    ]
}

fn count(number: usize) -> u64 {
    u64::try_from(number).unwrap_or(u64::MAX)
}

/// Reads values when somebody looks.
struct Sampled(Sampler);

impl fmt::Debug for Sampled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Sampled")
    }
}

impl Collector for Sampled {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        for family in (self.0)().chunk_by(|a, b| a.name == b.name) {
            encode_family(&mut encoder, family)?;
        }
        Ok(())
    }
}

fn encode_family(encoder: &mut DescriptorEncoder<'_>, family: &[Sample]) -> fmt::Result {
    let Some(first) = family.first() else {
        return Ok(());
    };
    let kind = if first.is_gauge {
        MetricType::Gauge
    } else {
        MetricType::Counter
    };
    let mut metric = encoder.encode_descriptor(first.name, first.help, None, kind)?;
    for sample in family {
        if sample.is_gauge {
            let value = i64::try_from(sample.value).unwrap_or(i64::MAX);
            let gauge = ConstGauge::<i64>::new(value);
            encode_value(&mut metric, sample, &gauge)?;
        } else {
            encode_value(&mut metric, sample, &ConstCounter::<u64>::new(sample.value))?;
        }
    }
    Ok(())
}

fn encode_value(
    metric: &mut prometheus_client::encoding::MetricEncoder<'_>,
    sample: &Sample,
    value: &impl EncodeMetric,
) -> fmt::Result {
    if sample.labels.is_empty() {
        return value.encode(metric.encode_family(&[] as &[(&str, &str); 0])?);
    }
    value.encode(metric.encode_family(&sample.labels)?)
}
