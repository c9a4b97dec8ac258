//! Sets up the process's subscriber: log lines, and spans to OTLP when configured.

use std::io::IsTerminal as _;

use opentelemetry_otlp::ExporterBuildError;
use opentelemetry_sdk::trace::SdkTracerProvider;
use tracing_subscriber::filter::{EnvFilter, LevelFilter};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::{SubscriberInitExt, TryInitError};
use tracing_subscriber::{Layer, Registry};

use super::traces::{exporter, own_spans};
use crate::config::{LogConfig, LogFormat, OtlpConfig};

/// Why telemetry could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The exporter refused its settings.
    #[error("traces cannot be exported to {endpoint}; check `otlp.endpoint`")]
    Exporter {
        /// The configured endpoint.
        endpoint: String,
        /// Why.
        #[source]
        source: ExporterBuildError,
    },
    /// The process has a subscriber already.
    #[error("logging is set up twice")]
    Twice(#[source] TryInitError),
}

/// Owns the exporter; flushes it when dropped.
#[must_use]
pub struct Telemetry {
    provider: Option<SdkTracerProvider>,
}

/// Sets up logs and traces for the whole process. Call inside a runtime when OTLP is configured.
///
/// # Errors
/// See [`TelemetryError`].
pub fn init(
    log: &LogConfig,
    otlp: Option<&OtlpConfig>,
    replica: &str,
) -> Result<Telemetry, TelemetryError> {
    let filter = || EnvFilter::new(directives(log.level));
    let lines: Box<dyn Layer<Registry> + Send + Sync> = match log.format {
        LogFormat::Json => {
            let layer = tracing_subscriber::fmt::layer()
                .json()
                .with_writer(std::io::stdout);
            layer.with_filter(filter()).boxed()
        }
        LogFormat::Text => {
            let mut layer = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
            // On a terminal, NO_COLOR decides.
            if !std::io::stderr().is_terminal() {
                layer = layer.with_ansi(false);
            }
            layer.with_filter(filter()).boxed()
        }
    };
    let provider = otlp.map(|config| exporter(config, replica)).transpose()?;
    let spans = provider.as_ref().map(own_spans);
    tracing_subscriber::registry()
        .with(lines)
        .with(spans)
        .try_init()
        .map_err(TelemetryError::Twice)?;
    Ok(Telemetry { provider })
}

/// The configured level for our own code; libraries speak from one level higher on.
fn directives(level: LevelFilter) -> String {
    let libraries = level.min(LevelFilter::WARN);
    format!("{libraries},hydrascale={level},hydrascale_raft={level}")
}

impl Drop for Telemetry {
    fn drop(&mut self) {
        if let Some(provider) = self.provider.take()
            && let Err(error) = provider.shutdown()
        {
            tracing::debug!(%error, "last traces were not exported");
        }
    }
}
