//! Logs and traces.
//!
//! Context lives in spans (`session`, `map_stream`, `propose`, `apply`, `api_request`,
//! `derp_client`), values in fields, messages are fixed lowercase phrases. Traces leave the process
//! only when an OTLP endpoint is configured.

mod logs;
mod traces;

pub use self::logs::{Telemetry, TelemetryError, init};
#[cfg(test)]
pub(crate) use self::traces::testing;
pub(crate) use self::traces::{TRACEPARENT, continue_trace, traceparent};
