//! `/metrics`: everything that the parts count, in the OpenMetrics text format.

use std::fmt;
use std::sync::Arc;

use axum::Router;
use axum::extract::State as AxumState;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;

use crate::cluster::{Cluster, Role};
use crate::control::ControlMetrics;
use crate::derp::{RelayHandle, Sample};

/// The parts of a replica that count something.
pub struct MetricsSources {
    /// Role, indexes, nodes.
    pub cluster: Cluster,
    /// Relay traffic.
    pub relay: RelayHandle,
    /// The client's side.
    pub control: ControlMetrics,
    /// Other values that are read at each scrape.
    pub samplers: Vec<Arc<dyn Fn() -> Vec<Sample> + Send + Sync>>,
}

/// The routes of the metrics listener.
pub fn metrics_router(sources: MetricsSources) -> Router {
    let mut registry = Registry::with_prefix("hydrascale");
    sources.control.register(&mut registry);
    let mut samplers = sources.samplers;
    let relay = sources.relay.metrics();
    samplers.push(Arc::new(move || relay.samples()));
    let cluster = sources.cluster;
    samplers.push(Arc::new(move || cluster_samples(&cluster)));
    let mut unprefixed = Registry::default();
    unprefixed.register_collector(Box::new(Samplers(samplers)));
    let registries = Arc::new([registry, unprefixed]);
    Router::new().route("/metrics", get(scrape)).with_state(registries)
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

fn cluster_samples(cluster: &Cluster) -> Vec<Sample> {
    let status = cluster.status();
    let state = cluster.state();
    let online = state.sessions().filter(|session| state.is_online(session.node_id)).count();
    let gauge = |name, help, value| Sample { name, help, labels: &[], is_gauge: true, value };
    vec![
        gauge("hydrascale_nodes", "Nodes of the tailnet", count(state.node_count())),
        gauge("hydrascale_nodes_online", "Nodes with a map stream on a live replica", count(online)),
        gauge("hydrascale_raft_applied_index", "Last applied log entry", status.applied_index),
        gauge("hydrascale_raft_committed_index", "Last committed log entry", status.committed_index),
        gauge("hydrascale_raft_last_log_index", "Last log entry", status.last_log_index),
        gauge("hydrascale_raft_term", "Consensus term", status.term),
        gauge(
            "hydrascale_raft_is_leader",
            "Whether this replica leads",
            u64::from(status.role == Role::Leader),
        ),
        gauge(
            "hydrascale_raft_has_leader",
            "Whether this replica knows a leader",
            u64::from(status.leader.is_some()),
        ),
        gauge(
            "hydrascale_raft_tolerated_failures",
            "Voters that may fail before the cluster stops taking changes",
            count(status.tolerated_failures),
        ),
    ]
}

fn count(number: usize) -> u64 {
    u64::try_from(number).unwrap_or(u64::MAX)
}

/// Reads values when somebody looks.
struct Samplers(Vec<Arc<dyn Fn() -> Vec<Sample> + Send + Sync>>);

impl fmt::Debug for Samplers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Samplers").field(&self.0.len()).finish()
    }
}

impl Collector for Samplers {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        for sampler in &self.0 {
            let samples = sampler();
            for family in samples.chunk_by(|a, b| a.name == b.name) {
                encode_family(&mut encoder, family)?;
            }
        }
        Ok(())
    }
}

fn encode_family(encoder: &mut DescriptorEncoder<'_>, family: &[Sample]) -> fmt::Result {
    let Some(first) = family.first() else { return Ok(()) };
    let kind = if first.is_gauge { MetricType::Gauge } else { MetricType::Counter };
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
