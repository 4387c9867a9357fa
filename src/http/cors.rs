//! Cross-origin calls, from the origins on the allow-list alone.
//!
//! A layer inside `observe.rs` and outside `auth.rs`: a browser's preflight carries no key. Without a list no header is
//! ever added.

use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::state::Service;

pub(super) async fn cors(State(service): State<Service>, request: Request, next: Next) -> Response {
    let allowed = allowed(&service.settings().cors_allow_origins, request.headers());
    let Some(origin) = allowed else { return next.run(request).await };
    let preflight = request.method() == Method::OPTIONS
        && request.headers().contains_key(header::ACCESS_CONTROL_REQUEST_METHOD);
    let mut response = if preflight {
        let grants = [
            (header::ACCESS_CONTROL_ALLOW_METHODS, "GET, HEAD, POST"),
            (header::ACCESS_CONTROL_ALLOW_HEADERS, "authorization, content-type, x-api-key, x-request-id"),
            (header::ACCESS_CONTROL_MAX_AGE, "600"),
        ];
        (StatusCode::NO_CONTENT, grants).into_response()
    } else {
        next.run(request).await
    };
    let headers = response.headers_mut();
    headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
    headers.append(header::VARY, HeaderValue::from_static("origin"));
    let exposed = HeaderValue::from_static("retry-after, x-request-id");
    headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, exposed);
    response
}

/// The origin to allow, if the request's is on the list.
fn allowed(list: &[String], headers: &HeaderMap) -> Option<HeaderValue> {
    let origin = headers.get(header::ORIGIN)?;
    let listed = |entry: &String| entry == "*" || entry.trim_end_matches('/').as_bytes() == origin.as_bytes();
    list.iter().any(listed).then(|| origin.clone())
}
