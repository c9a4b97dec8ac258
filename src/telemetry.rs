//! Logs, traces and metrics.
//!
//! Context lives in spans (`session`, `map_stream`, `propose`, `apply`, `api_request`,
//! `derp_client`), values in fields, messages are fixed lowercase phrases. Traces leave the process
//! only when an OTLP endpoint is configured.

mod logs;
mod metrics;
mod traces;

pub use self::logs::{Telemetry, TelemetryError, init};
pub use self::metrics::{MetricsSources, metrics_router};
#[cfg(test)]
pub(crate) use self::traces::testing;
pub(crate) use self::traces::{TRACEPARENT, continue_trace, traceparent};
