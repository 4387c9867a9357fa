//! The outermost layer: every request gets an id, ends in exactly one answer, and is counted once.
//!
//! Renders errors into their JSON, turns a panic into a 500, counts a client that left as 499, lets refused bodies be
//! read on, and closes connections while the service drains.

use std::future::poll_fn;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Poll;
use std::time::Instant;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::error::ApiError;
use super::lingering::{Lingering, Sending};
use super::router::route;
use super::state::{Phase, Service};

/// The id of a request: the client's own if it is fit to be repeated, otherwise a fresh one.
#[derive(Debug, Clone)]
pub(super) struct RequestId(pub(super) Arc<str>);

pub(super) const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

impl RequestId {
    fn of(headers: &HeaderMap) -> Self {
        let own = headers.get(X_REQUEST_ID).and_then(|value| value.to_str().ok());
        let own =
            own.filter(|text| (1..=128).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic()));
        Self(own.map_or_else(|| uuid::Uuid::new_v4().to_string().into(), Arc::from))
    }
}

/// One request under way. Dropped without a status, the client has left.
struct Visit {
    service: Service,
    route: &'static str,
    start: Instant,
    status: u16,
}

impl Visit {
    fn new(service: &Service, path: &str) -> Self {
        let route = route(path);
        service.metrics().received.with_label_values(&[route]).inc();
        service.metrics().in_flight.inc();
        Self { service: service.clone(), route, start: Instant::now(), status: 499 }
    }
}

impl Drop for Visit {
    fn drop(&mut self) {
        let metrics = self.service.metrics();
        metrics.answered.with_label_values(&[self.route, self.status.to_string().as_str()]).inc();
        metrics.duration.with_label_values(&[self.route]).observe(self.start.elapsed().as_secs_f64());
        metrics.in_flight.dec();
    }
}

pub(super) async fn observe(State(service): State<Service>, request: Request, next: Next) -> Response {
    let mut visit = Visit::new(&service, request.uri().path());
    let id = RequestId::of(request.headers());
    let (mut head, body) = request.into_parts();
    head.extensions.insert(id.clone());
    let sending =
        if head.headers.contains_key(header::EXPECT) { Sending::WhenAsked } else { Sending::Unasked };
    let (body, unfinished) = Lingering::new(body, sending, service.settings().max_body_bytes);

    let answer = next.run(Request::from_parts(head, Body::new(body)));
    let mut response = uninterrupted(answer).await.unwrap_or_else(IntoResponse::into_response);
    if let Some(error) = response.extensions_mut().remove::<ApiError>() {
        error.log(&id.0);
        service.metrics().reject(error.code());
        let rendered = error.render(&id.0);
        // Headers that inner layers set on the bare answer (`allow`, CORS) stay; each is set once.
        let set = std::mem::take(response.headers_mut());
        response = rendered;
        response.headers_mut().extend(set.into_iter().filter(|(name, _)| {
            name.as_ref().is_some_and(|name| *name != header::CONTENT_LENGTH && *name != header::CONTENT_TYPE)
        }));
    }
    visit.status = response.status().as_u16();
    let headers = response.headers_mut();
    if let Ok(value) = HeaderValue::from_str(&id.0) {
        headers.insert(X_REQUEST_ID, value);
    }
    if service.phase() == Phase::Draining || unfinished.load(Ordering::Acquire) {
        headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    response
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
