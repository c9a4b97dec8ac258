//! Logs and traces.

use tracing::level_filters::LevelFilter;

use super::reader::Reader;

/// The `log:` part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogConfig {
    /// `log.level`: panic, fatal, error, warn, info, debug, trace or disabled.
    pub level: LevelFilter,
    /// `log.format`.
    pub format: LogFormat,
}

/// How log lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// Trace export by OTLP over gRPC: `otlp.*`, or the standard `OTEL_EXPORTER_OTLP_ENDPOINT`.
#[derive(Clone, Debug, PartialEq)]
pub struct OtlpConfig {
    /// URL of the collector (`otlp.endpoint`), such as `http://127.0.0.1:4317`.
    pub endpoint: String,
    /// Share of traces that is exported (`otlp.sample_ratio`), 0 to 1.
    pub sample_ratio: f64,
}

impl LogConfig {
    pub(super) fn read(reader: &mut Reader<'_>) -> Self {
        let level = reader
            .string("log.level")
            .map_or(LevelFilter::INFO, |text| {
                parse_level(&text).unwrap_or_else(|| {
                    reader.notice(format!("log.level: {text:?} is not a level; debug is used"));
                    LevelFilter::DEBUG
                })
            });
        let format = reader
            .parse("log.format", |text| match text {
                "text" => Ok(LogFormat::Text),
                "json" => Ok(LogFormat::Json),
                _ => Err("must be text or json"),
            })
            .unwrap_or_default();
        Self { level, format }
    }
}

fn parse_level(text: &str) -> Option<LevelFilter> {
    match text.to_ascii_lowercase().as_str() {
        "panic" | "fatal" | "error" => Some(LevelFilter::ERROR),
        "warn" | "warning" => Some(LevelFilter::WARN),
        "info" => Some(LevelFilter::INFO),
        "debug" => Some(LevelFilter::DEBUG),
        "trace" => Some(LevelFilter::TRACE),
        "disabled" | "off" => Some(LevelFilter::OFF),
        _ => None,
    }
}

impl OtlpConfig {
    pub(super) fn read(reader: &mut Reader<'_>) -> Option<Self> {
        let endpoint = reader.parse("otlp.endpoint", |text| {
            if text.starts_with("http://") || text.starts_with("https://") {
                Ok(text.to_owned())
            } else {
                Err("must be a URL such as http://127.0.0.1:4317")
            }
        });
        let sample_ratio = reader.parse("otlp.sample_ratio", |text| {
            text.parse::<f64>()
                .ok()
                .filter(|ratio| (0.0..=1.0).contains(ratio))
                .ok_or("must be a number from 0 to 1")
        });
        let standard = reader.environment().variable("OTEL_EXPORTER_OTLP_ENDPOINT");
        let endpoint = endpoint.or_else(|| standard.map(str::to_owned))?;
        Some(Self {
            endpoint,
            sample_ratio: sample_ratio.unwrap_or(1.0),
        })
    }
}
