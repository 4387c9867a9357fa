//! The outermost layer of what a request passes: every request gets an id and a span, ends in exactly one answer, and is
//! counted and logged once.
//!
//! Renders errors into their JSON, turns a panic into a 500, counts a client that left as 499, lets refused bodies be
//! read on, and closes connections while the service drains.

use std::future::poll_fn;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Instant;

use axum::body::Body;
use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use hyper::body::Body as _;
use tracing::Instrument;

use super::access;
use super::error::{ApiError, Shape};
use super::lingering::{Lingering, Reading, Sending};
use super::router::{OTHER, route};
use super::state::{Phase, Service};
use super::trace;

/// The id of a request: the client's own if it is fit to be repeated, otherwise a fresh one.
#[derive(Debug, Clone)]
pub(super) struct RequestId(pub(super) Arc<str>);

pub(super) const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Bytes of a request's address, at most: path and query.
const LONGEST_URI: usize = 8 * 1024;

impl RequestId {
    fn of(headers: &HeaderMap) -> Self {
        let own = headers.get(X_REQUEST_ID).and_then(|value| value.to_str().ok());
        let own =
            own.filter(|text| (1..=128).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic()));
        own.map_or_else(Self::fresh, |own| Self(own.into()))
    }

    pub(super) fn fresh() -> Self {
        Self(uuid::Uuid::new_v4().to_string().into())
    }
}

/// One request under way. Dropped without a status, the client has left.
struct Visit {
    service: Service,
    route: &'static str,
    start: Instant,
    status: u16,
    bytes_out: Option<u64>,
    reading: Option<Arc<Reading>>,
    access: Option<access::Entry>,
}

impl Visit {
    fn new(service: &Service, route: &'static str) -> Self {
        service.metrics().received.with_label_values(&[route]).inc();
        service.metrics().in_flight.inc();
        Self {
            service: service.clone(),
            route,
            start: Instant::now(),
            status: 499,
            bytes_out: None,
            reading: None,
            access: None,
        }
    }
}

impl Drop for Visit {
    fn drop(&mut self) {
        let (metrics, duration) = (self.service.metrics(), self.start.elapsed());
        metrics.answered.with_label_values(&[self.route, self.status.to_string().as_str()]).inc();
        metrics.duration.with_label_values(&[self.route]).observe(duration.as_secs_f64());
        metrics.in_flight.dec();
        if let Some(access) = &self.access {
            access.write(&access::Outcome {
                route: self.route,
                status: self.status,
                duration,
                reading: self.reading.as_ref(),
                bytes_out: self.bytes_out,
            });
        }
        #[cfg(feature = "otlp")]
        crate::telemetry::otlp::finish(&tracing::Span::current(), self.status);
    }
}

pub(super) async fn observe(State(service): State<Service>, request: Request, next: Next) -> Response {
    let route = route(request.extensions().get::<MatchedPath>());
    let id = RequestId::of(request.headers());
    let span = trace::open(&id, route, &request);
    let mut visit = Visit::new(&service, route);
    if service.settings().access_log {
        visit.access = Some(access::Entry::of(&request));
    }
    // Inside the span from here on, the visit's own end included, wherever that comes.
    answer(service, visit, id, request, next).instrument(span).await
}

async fn answer(service: Service, mut visit: Visit, id: RequestId, request: Request, next: Next) -> Response {
    let (mut head, body) = request.into_parts();
    let shape = Shape::of(head.uri.path());
    let too_long = head.uri.path_and_query().is_some_and(|text| text.as_str().len() > LONGEST_URI);
    head.extensions.insert(id.clone());
    let sending =
        if head.headers.contains_key(header::EXPECT) { Sending::WhenAsked } else { Sending::Unasked };
    let (body, reading) = Lingering::new(body, sending, service.settings().max_body_bytes);
    visit.reading = Some(reading.clone());

    let request = Request::from_parts(head, Body::new(body));
    let mut response = if too_long {
        // Here and not at the end: only then is it known whether a body was left unread.
        drop(request);
        ApiError::UriTooLong { limit: LONGEST_URI }.into_response()
    } else {
        uninterrupted(next.run(request)).await.unwrap_or_else(|error| {
            service.metrics().panics.inc();
            error.into_response()
        })
    };
    // Before anything is counted: a client can leave while its body is waited for, and is a 499 then and no refusal.
    reading.settle().await;
    if let Some(error) = response.extensions_mut().remove::<ApiError>() {
        error.log();
        service.metrics().reject(error.code());
        let rendered = error.render(&id.0, shape);
        // Headers that inner layers set on the bare answer (`allow`) stay; each is set once.
        let set = std::mem::take(response.headers_mut());
        response = rendered;
        response.headers_mut().extend(set.into_iter().filter(|(name, _)| {
            name.as_ref().is_some_and(|name| *name != header::CONTENT_LENGTH && *name != header::CONTENT_TYPE)
        }));
    }
    visit.status = response.status().as_u16();
    // Whoever has left gets none of it.
    visit.bytes_out = if visit.status == 499 { None } else { response.body().size_hint().exact() };
    let headers = response.headers_mut();
    if let Ok(value) = HeaderValue::from_str(&id.0) {
        headers.insert(X_REQUEST_ID, value);
    }
    if service.phase() == Phase::Draining || reading.unfinished() {
        headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

/// Counts and logs what came over a connection and was no request, and gives it an id for its answer.
pub(super) fn malformed(service: &Service, peer: access::Peer, error: &ApiError) -> RequestId {
    let (id, status) = (RequestId::fresh(), error.row().0);
    Visit::new(service, OTHER).status = status;
    service.metrics().reject(error.code());
    if service.settings().access_log {
        access::malformed(&id.0, status, peer);
    }
    id
}

/// The answer of a handler, or the error that stands for its panic.
async fn uninterrupted<T>(answer: impl Future<Output = T>) -> Result<T, ApiError> {
    let mut answer = pin!(answer);
    poll_fn(|context| {
        // After a panic the future is never polled again.
        match catch_unwind(AssertUnwindSafe(|| answer.as_mut().poll(context))) {
            Ok(poll) => poll.map(Ok),
            Err(_) => Poll::Ready(Err(ApiError::Internal("a handler panicked".to_owned()))),
        }
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panic_in_a_handler_becomes_a_500() {
        let handler = async {
            tokio::task::yield_now().await;
            panic!("a handler's bug")
        };
        let error = uninterrupted::<Response>(handler).await.expect_err("no answer");
        assert_eq!(error.row(), (500, "internal"));
        assert_eq!(uninterrupted(async { 7 }).await.ok(), Some(7));
    }
}
