//! Headers on every answer that tell a browser what it must not do with it.
//!
//! The outermost layer, so that errors and refusals have them too; `server/malformed.rs` writes them where no request came
//! about. A resource that sets one itself keeps its own: the pages' policies name what they need.

use axum::http::{HeaderName, HeaderValue, header};
use axum::response::Response;

/// Nothing here is a document but the pages, and those bring their own policy and caching.
pub(super) const HEADERS: [(HeaderName, &str); 6] = [
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::CONTENT_SECURITY_POLICY, "default-src 'none'; frame-ancestors 'none'"),
    // For browsers that do not know `frame-ancestors`.
    (header::X_FRAME_OPTIONS, "DENY"),
    (header::REFERRER_POLICY, "no-referrer"),
    // Pages of other origins cannot embed an answer; a call that CORS allows is no embedding.
    (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    // Answers are about private photos, or of this moment.
    (header::CACHE_CONTROL, "no-store"),
];

pub(super) async fn secure(mut response: Response) -> Response {
    let headers = response.headers_mut();
    for (name, value) in HEADERS {
        headers.entry(name).or_insert(HeaderValue::from_static(value));
    }
    response
}
