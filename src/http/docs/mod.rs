//! `/docs`: the interface for people. One self-contained file: no outside requests, no build step.
//!
//! Reached through `router.rs`. The page reads `/openapi.json` and shows every operation with its examples, a line to paste and
//! a form to try it; it speaks to its own service like any other client.

use axum::http::header;
use axum::response::{Html, IntoResponse, Response};

/// The policy lets the page run its own script and speak to its own service, nothing else.
const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:; \
                      connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

pub(super) async fn docs() -> Response {
    let headers = [
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::CACHE_CONTROL, "no-cache"),
    ];
    (headers, Html(include_str!("index.html"))).into_response()
}
