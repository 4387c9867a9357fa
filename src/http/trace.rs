//! The span of a request, in the trace of its caller or in one of its own.
//!
//! `observe.rs` opens one span a request with [`open`]; every log line written inside carries its ids. With feature `otlp` and
//! a collector named, the span is exported under the same ids. The specification has no header for the answer, so none is set:
//! `x-request-id` is what ties an answer to its span.

use axum::extract::Request;
use axum::http::HeaderMap;
use tracing::Span;

use super::observe::RequestId;
use crate::telemetry::{Hex, Ids, Parent};

/// The caller's span, where one is given and well-formed. What is malformed is ignored, as the specification wants.
fn parent(headers: &HeaderMap) -> Option<Parent> {
    let mut values = headers.get_all("traceparent").iter();
    match (values.next(), values.next()) {
        (Some(value), None) => Parent::parse(value.as_bytes()),
        _ => None,
    }
}

/// Characters of a method, at most, that are shown; those of HTTP are shorter.
const LONGEST_METHOD: usize = 16;

/// The span of a request. At the level of errors, so that whatever is logged inside is never without it.
pub(super) fn open(id: &RequestId, route: &'static str, request: &Request) -> Span {
    let method = request.method().as_str();
    let method = method.get(..LONGEST_METHOD).unwrap_or(method);
    let (id, parent) = (&*id.0, parent(request.headers()));
    #[cfg(feature = "otlp")]
    if crate::telemetry::otlp::exporting() {
        let span = tracing::error_span!(
            "request",
            request_id = id,
            method,
            route,
            trace_id = tracing::field::Empty,
            span_id = tracing::field::Empty,
            otel.kind = "server",
        );
        // Not kept by the exporter's filter, it is a span of the log alone.
        let ids =
            crate::telemetry::otlp::adopt(&span, parent, method, route).unwrap_or_else(|| Ids::new(parent));
        let shown = |id| tracing::field::display(Hex(id));
        span.record("trace_id", shown(&ids.trace_id)).record("span_id", shown(&ids.span_id));
        return span;
    }
    let ids = Ids::new(parent);
    tracing::error_span!(
        "request",
        request_id = id,
        method,
        route,
        trace_id = %Hex(&ids.trace_id),
        span_id = %Hex(&ids.span_id),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_parents_are_none() {
        const GOOD: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        let mut headers = HeaderMap::new();
        headers.append("traceparent", GOOD.parse().expect("a value"));
        assert!(parent(&headers).is_some());
        headers.append("traceparent", GOOD.parse().expect("a value"));
        assert_eq!(parent(&headers), None);
    }
}
