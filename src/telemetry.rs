//! Logs, traces and metrics.
//!
//! Context lives in spans, values in fields (names in [`fields`]), messages are fixed lowercase
//! phrases. Traces leave the process only when an OTLP endpoint is configured.

pub mod fields;
mod logs;
mod metrics;

pub use self::logs::{Telemetry, TelemetryError, init};
pub use self::metrics::{MetricsSources, metrics_router};
