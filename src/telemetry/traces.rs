//! Spans on their way to OTLP: which ones, and what ties those of several replicas together.

use opentelemetry::propagation::{Extractor, TextMapPropagator};
use opentelemetry::trace::{TraceContextExt, TracerProvider as _};
use opentelemetry_otlp::{SpanExporter, WithExportConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::{Sampler, SdkTracerProvider};
use tracing::{Metadata, Span, Subscriber};
use tracing_opentelemetry::OpenTelemetrySpanExt;
use tracing_subscriber::Layer;
use tracing_subscriber::filter::{FilterFn, LevelFilter};
use tracing_subscriber::registry::LookupSpan;

use super::TelemetryError;
use crate::config::OtlpConfig;

/// Name of the header, and of the field between replicas.
pub(crate) const TRACEPARENT: &str = "traceparent";

/// Sends the spans of our own code to `provider`, whatever the level of the log lines. Libraries
/// have spans for every frame and poll, and log lines have a place of their own.
pub(super) fn own_spans<S>(provider: &SdkTracerProvider) -> impl Layer<S> + use<S>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    let ours = |metadata: &Metadata<'_>| {
        metadata.is_span()
            && *metadata.level() <= LevelFilter::DEBUG
            && metadata.target().starts_with("hydrascale")
    };
    tracing_opentelemetry::layer()
        .with_tracer(provider.tracer("hydrascale"))
        .with_filter(FilterFn::new(ours).with_max_level_hint(LevelFilter::DEBUG))
}

/// The present span as a W3C `traceparent`; empty when it is not traced.
pub(crate) fn traceparent() -> String {
    let context = Span::current().context();
    let span = context.span().span_context().clone();
    if !span.is_valid() {
        return String::new();
    }
    let (trace, id, flags) = (span.trace_id(), span.span_id(), span.trace_flags().to_u8());
    format!("00-{trace}-{id}-{flags:02x}")
}

/// Makes `span`, which nobody has entered yet, a child of the one that a W3C `traceparent` names. A
/// text that is none leaves it alone.
///
/// The parent decides whether the span is exported: take it from those who may come in.
pub(crate) fn continue_trace(span: &Span, traceparent: &str) {
    let parent = TraceContextPropagator::new().extract(&Header(traceparent));
    // Nothing to tie when spans are not exported.
    if parent.span().span_context().is_valid()
        && let Err(error) = span.set_parent(parent)
    {
        tracing::trace!(%error, "span has no parent elsewhere");
    }
}

/// A carrier of nothing else.
struct Header<'a>(&'a str);

impl Extractor for Header<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        (key == TRACEPARENT).then_some(self.0)
    }

    fn keys(&self) -> Vec<&str> {
        vec![TRACEPARENT]
    }
}

pub(super) fn exporter(
    config: &OtlpConfig,
    replica: &str,
) -> Result<SdkTracerProvider, TelemetryError> {
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

#[cfg(test)]
pub(crate) mod testing {
    use std::sync::Arc;

    use opentelemetry_sdk::error::OTelSdkResult;
    use opentelemetry_sdk::trace::{SpanData, SpanExporter};
    use parking_lot::Mutex;
    use tracing::Dispatch;
    use tracing::subscriber::DefaultGuard;
    use tracing_subscriber::Registry;
    use tracing_subscriber::layer::SubscriberExt;

    use super::*;

    /// What the present thread exports, for as long as this lives.
    pub(crate) struct Exports {
        exported: Exported,
        _subscriber: DefaultGuard,
        /// While only one subscriber lives, whether anybody listens to a span is asked in the thread
        /// that meets it first: another test would answer for this one.
        _second: Dispatch,
    }

    /// Keeps what is exported.
    #[derive(Clone, Debug, Default)]
    struct Exported(Arc<Mutex<Vec<SpanData>>>);

    impl SpanExporter for Exported {
        async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
            self.0.lock().extend(batch);
            Ok(())
        }
    }

    impl Exports {
        pub(crate) fn collect() -> Self {
            let second = Dispatch::new(Registry::default());
            let exported = Exported::default();
            let provider = SdkTracerProvider::builder()
                .with_simple_exporter(exported.clone())
                .build();
            let subscriber = Registry::default().with(own_spans(&provider));
            Self {
                exported,
                _subscriber: tracing::subscriber::set_default(subscriber),
                _second: second,
            }
        }

        /// Names of the spans that have ended, in that order.
        pub(crate) fn names(&self) -> Vec<String> {
            let exported = self.exported.0.lock();
            exported.iter().map(|span| span.name.to_string()).collect()
        }

        /// Trace and parent of a span that has ended, as in a `traceparent`.
        pub(crate) fn parent_of(&self, name: &str) -> Option<String> {
            let exported = self.exported.0.lock();
            let span = exported.iter().find(|span| span.name == name)?;
            let trace = span.span_context.trace_id();
            Some(format!("{trace}-{}", span.parent_span_id))
        }
    }
}

#[cfg(test)]
mod tests {
    use hydrascale_proto::state::v1::{self as pb, command::Op};
    use hydrascale_raft::{ApplyContext, StateMachine};
    use prost::Message;

    use super::testing::Exports;
    use super::*;
    use crate::cluster::Machine;

    #[test]
    fn applying_a_command_exports_a_span() {
        let exports = Exports::collect();
        let command = pb::Command {
            op: Some(Op::Tick(pb::Tick {})),
        };
        let context = ApplyContext {
            index: 1,
            now_ms: 1,
        };
        Machine::new()
            .apply(&context, &command.encode_to_vec())
            .unwrap();
        assert_eq!(exports.names(), ["apply"]);
    }

    #[test]
    fn spans_of_libraries_and_log_lines_are_not_exported() {
        let exports = Exports::collect();
        tracing::debug_span!(target: "h2::server", "poll").in_scope(|| {});
        tracing::trace_span!("packet").in_scope(|| {});
        tracing::info!("a line");
        tracing::debug_span!(target: "hydrascale_raft::network", "propose").in_scope(|| {});
        assert_eq!(exports.names(), ["propose"]);
    }

    #[test]
    fn a_change_that_another_replica_forwards_belongs_to_the_trace_there() {
        let exports = Exports::collect();
        let span = tracing::debug_span!("propose");
        continue_trace(&span, PARENT);
        span.in_scope(|| assert!(traceparent().starts_with(&PARENT[..36])));
        drop(span);
        assert_eq!(
            exports.parent_of("propose").as_deref(),
            Some(&PARENT[3..52])
        );
    }

    #[test]
    fn a_malformed_traceparent_is_no_parent() {
        let exports = Exports::collect();
        let zero = PARENT.replace(char::is_alphanumeric, "0");
        for text in ["", "nonsense", &PARENT[..35], zero.as_str()] {
            let span = tracing::debug_span!("propose");
            continue_trace(&span, text);
            span.in_scope(|| assert!(!traceparent().contains(&PARENT[3..35])));
        }
        assert_eq!(exports.names().len(), 4);
    }

    const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    #[test]
    fn the_traceparent_names_the_span_that_it_is_asked_in() {
        assert_eq!(traceparent(), "");
        let _exports = Exports::collect();
        tracing::debug_span!("propose").in_scope(|| {
            let text = traceparent();
            let parts: Vec<&str> = text.split('-').collect();
            let lengths: Vec<usize> = parts.iter().map(|part| part.len()).collect();
            assert_eq!(lengths, [2, 32, 16, 2], "{text}");
            assert_eq!((parts[0], parts[3]), ("00", "01"), "{text}");
        });
    }
}
