//! Sets up the process's subscriber: log lines, and spans to OTLP when configured.

use opentelemetry::trace::TracerProvider as _;
use opentelemetry_otlp::{ExporterBuildError, SpanExporter, WithExportConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{Sampler, SdkTracerProvider};
use tracing_subscriber::filter::{EnvFilter, LevelFilter};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::{SubscriberInitExt, TryInitError};
use tracing_subscriber::{Layer, Registry};

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
            let layer = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
            layer.with_filter(filter()).boxed()
        }
    };
    let provider = otlp.map(|config| exporter(config, replica)).transpose()?;
    let spans = provider.as_ref().map(|provider| {
        let tracer = provider.tracer("hydrascale");
        tracing_opentelemetry::layer()
            .with_tracer(tracer)
            .with_filter(LevelFilter::INFO)
    });
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

fn exporter(config: &OtlpConfig, replica: &str) -> Result<SdkTracerProvider, TelemetryError> {
    let exporter = SpanExporter::builder()
        .with_tonic()
        .with_endpoint(&config.endpoint)
        .build()
        .map_err(|source| TelemetryError::Exporter {
            endpoint: config.endpoint.clone(),
            source,
        })?;
    let resource = Resource::builder()
        .with_service_name("hydrascale")
        .with_attribute(opentelemetry::KeyValue::new(
            "service.instance.id",
            replica.to_owned(),
        ))
        .build();
    Ok(SdkTracerProvider::builder()
        .with_batch_exporter(exporter)
        .with_sampler(Sampler::ParentBased(Box::new(Sampler::TraceIdRatioBased(
            config.sample_ratio,
        ))))
        .with_resource(resource)
        .build())
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
