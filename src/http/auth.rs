//! API keys: `Authorization: Bearer KEY` or `x-api-key: KEY`.
//!
//! A layer inside `observe.rs`. Without keys in the settings the service is open; health, metrics and the page are open
//! always. A key's text is never logged.

use axum::extract::{Request, State};
use axum::http::{HeaderMap, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::error::ApiError;
use super::state::Service;

pub(super) async fn authorize(State(service): State<Service>, request: Request, next: Next) -> Response {
    let keys = &service.settings().api_keys;
    if keys.is_empty() || is_open(request.uri().path()) || knows(keys, request.headers()) {
        next.run(request).await
    } else {
        ApiError::Unauthorized.into_response()
    }
}

fn is_open(path: &str) -> bool {
    matches!(path, "/" | "/metrics" | "/health" | "/health/live" | "/health/ready")
}

fn knows(keys: &[String], headers: &HeaderMap) -> bool {
    let bearer = headers.get(header::AUTHORIZATION).and_then(|value| {
        let (scheme, key) = value.as_bytes().split_at_checked(7)?;
        scheme.eq_ignore_ascii_case(b"bearer ").then(|| key.trim_ascii())
    });
    let plain = headers.get("x-api-key").map(|value| value.as_bytes().trim_ascii());
    // Every key is compared, so that the time does not tell which one came near.
    [bearer, plain]
        .into_iter()
        .flatten()
        .fold(false, |known, sent| keys.iter().fold(known, |known, key| known | same(key.as_bytes(), sent)))
}

/// Equality in a time that depends on the length of what was sent alone.
fn same(key: &[u8], sent: &[u8]) -> bool {
    let mut difference = u8::from(key.len() != sent.len() || key.is_empty());
    for (index, byte) in sent.iter().enumerate() {
        let other = if key.is_empty() { 0 } else { key[index % key.len()] };
        difference = std::hint::black_box(difference | (byte ^ other));
    }
    difference == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_whole_key_is_the_key() {
        assert!(same(b"secret", b"secret"));
        for other in [&b""[..], b"secre", b"secrets", b"secretsecret", b"Secret"] {
            assert!(!same(b"secret", other));
        }
        assert!(!same(b"", b""));
    }
}
