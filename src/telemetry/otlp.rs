//! Export of the requests' spans to an OpenTelemetry collector: OTLP, protobuf over HTTP.
//!
//! `logs.rs` starts it where the environment names an endpoint; `http/trace.rs` puts each request's span under its caller's with
//! [`adopt`] and ends it with [`finish`]. The variables are the standard ones, read by the SDK: `OTEL_EXPORTER_OTLP_ENDPOINT`
//! (and `…_TRACES_ENDPOINT`, `…_HEADERS`, `…_TIMEOUT`), `OTEL_SERVICE_NAME`, `OTEL_RESOURCE_ATTRIBUTES`, `OTEL_TRACES_SAMPLER`, `OTEL_BSP_…`.

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use opentelemetry::trace::{
    SpanContext, SpanId, Status, TraceContextExt, TraceFlags, TraceId, TraceState, TracerProvider,
};
use opentelemetry::{Context, KeyValue};
use opentelemetry_http::{Bytes, HttpClient, HttpError, Request, Response};
use opentelemetry_otlp::{Protocol, SpanExporter, WithExportConfig, WithHttpConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::SdkTracerProvider;
use tracing::{Span, Subscriber};
use tracing_opentelemetry::OpenTelemetrySpanExt;
use tracing_subscriber::Layer;
use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::registry::LookupSpan;

use super::{Ids, Parent};

/// Whether spans are exported; it only ever becomes true.
static EXPORTING: AtomicBool = AtomicBool::new(false);

/// The longest that the end of the program waits for the last spans to be sent.
const LAST_WORDS: Duration = Duration::from_secs(5);

/// Whether a collector gets the spans.
pub(crate) fn exporting() -> bool {
    EXPORTING.load(Ordering::Relaxed)
}

/// The export under way. Dropped, it sends what waits.
#[derive(Debug)]
pub(crate) struct Export(SdkTracerProvider);

impl Export {
    /// Nothing, where no variable names an endpoint.
    ///
    /// # Errors
    /// What is wrong with the variables.
    pub(crate) fn from_environment() -> Result<Option<Self>, String> {
        let said = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let endpoint = said("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT").or(said("OTEL_EXPORTER_OTLP_ENDPOINT"));
        let off = said("OTEL_SDK_DISABLED").is_some_and(|value| value.eq_ignore_ascii_case("true"))
            || said("OTEL_TRACES_EXPORTER").is_some_and(|value| value == "none");
        if endpoint.is_none() || off {
            return Ok(None);
        }
        for name in ["OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL"] {
            if let Some(protocol) = said(name).filter(|protocol| protocol != "http/protobuf") {
                return Err(format!("{name} is `{protocol}`; this program speaks `http/protobuf`"));
            }
        }
        let milliseconds = said("OTEL_EXPORTER_OTLP_TRACES_TIMEOUT").or(said("OTEL_EXPORTER_OTLP_TIMEOUT"));
        let timeout = milliseconds
            .and_then(|text| text.parse().ok())
            .map_or(Duration::from_secs(10), Duration::from_millis);
        let exporter = SpanExporter::builder()
            .with_http()
            .with_protocol(Protocol::HttpBinary)
            .with_http_client(Client::new(timeout))
            .build()
            .map_err(|error| format!("the OTEL_… variables cannot be used: {error}"))?;
        let resource = Resource::builder();
        let named = said("OTEL_SERVICE_NAME").is_some()
            || said("OTEL_RESOURCE_ATTRIBUTES").is_some_and(|list| list.contains("service.name="));
        let resource = if named { resource } else { resource.with_service_name(env!("CARGO_PKG_NAME")) };
        let version = KeyValue::new("service.version", env!("CARGO_PKG_VERSION"));
        let provider = SdkTracerProvider::builder()
            .with_resource(resource.with_attribute(version).build())
            .with_batch_exporter(exporter)
            .build();
        EXPORTING.store(true, Ordering::Relaxed);
        Ok(Some(Self(provider)))
    }

    /// What turns spans of our own into those of the collector. Of events none but our own either: the exporter logs, too.
    pub(crate) fn layer<S: Subscriber + for<'span> LookupSpan<'span>>(&self) -> impl Layer<S> + use<S> {
        let own = filter_fn(|metadata| {
            metadata.target().starts_with("featherlight") && *metadata.level() <= tracing::Level::INFO
        });
        tracing_opentelemetry::layer()
            .with_tracer(self.0.tracer("featherlight"))
            .with_location(false)
            .with_threads(false)
            .with_tracked_inactivity(false)
            .with_filter(own)
    }
}

impl Drop for Export {
    fn drop(&mut self) {
        if let Err(error) = self.0.shutdown_with_timeout(LAST_WORDS) {
            tracing::warn!(%error, "the last traces could not be sent");
        }
    }
}

/// Puts a request's span under its caller's, names it, and says under which ids it is exported; nothing where it is not.
pub(crate) fn adopt(span: &Span, parent: Option<Parent>, method: &str, route: &str) -> Option<Ids> {
    if let Some(Parent { trace_id, span_id, sampled }) = parent {
        let (trace_id, span_id) = (TraceId::from_bytes(trace_id), SpanId::from_bytes(span_id));
        let flags = TraceFlags::default().with_sampled(sampled);
        let remote = SpanContext::new(trace_id, span_id, flags, true, TraceState::default());
        span.set_parent(Context::new().with_remote_span_context(remote)).ok()?;
    }
    let context = span.context();
    let exported = context.span();
    let ids = exported.span_context();
    if !ids.is_valid() {
        return None;
    }
    exported.update_name(format!("{method} {route}"));
    exported.set_attribute(KeyValue::new("http.request.method", method.to_owned()));
    exported.set_attribute(KeyValue::new("http.route", route.to_owned()));
    Some(Ids { trace_id: ids.trace_id().to_bytes(), span_id: ids.span_id().to_bytes() })
}

/// Says in a request's span how it ended. A client's mistake is no error of the service.
pub(crate) fn finish(span: &Span, status: u16) {
    if exporting() {
        span.set_attribute("http.response.status_code", i64::from(status));
        if status >= 500 {
            span.set_status(Status::error(""));
        }
    }
}

/// Sends spans with the HTTP client that the program has anyway.
#[derive(Debug)]
struct Client(ureq::Agent);

impl Client {
    fn new(timeout: Duration) -> Self {
        let config = ureq::Agent::config_builder().timeout_global(Some(timeout)).http_status_as_error(false);
        Self(config.build().into())
    }

    fn send(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let (head, mut body) = self.0.run(request.map(|body| body.to_vec()))?.into_parts();
        // A collector answers with a few bytes.
        let body = body.with_config().limit(64 * 1024).read_to_vec()?;
        Ok(Response::from_parts(head, body.into()))
    }
}

impl HttpClient for Client {
    /// Blocks, as it may: the SDK sends on a thread of its own.
    fn send_bytes<'this, 'future>(
        &'this self,
        request: Request<Bytes>,
    ) -> Pin<Box<dyn Future<Output = Result<Response<Bytes>, HttpError>> + Send + 'future>>
    where
        'this: 'future,
        Self: 'future,
    {
        Box::pin(std::future::ready(self.send(request)))
    }
}
