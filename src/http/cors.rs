//! Cross-origin calls, from the origins on the allow-list alone.
//!
//! Two layers: preflights are answered outside `auth.rs`, as they carry no key, and permissions are written outside `observe.rs`,
//! whose own answers a page must be able to read as well. Without a list no header is ever added. Credentials of the browser's own
//! (cookies) are never allowed; a key travels in a header that the page sets.

use std::str::FromStr;

use axum::extract::{Request, State};
use axum::http::uri::{Authority, Scheme, Uri};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::state::Service;

/// An origin whose pages may call: `https://photos.example`, or `*` for any.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin(HeaderValue);

/// Why a text is no origin, with what would be right.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct OriginError(String);

impl Origin {
    /// `*`.
    fn any() -> Self {
        Self(HeaderValue::from_static("*"))
    }
}

impl FromStr for Origin {
    type Err = OriginError;

    /// Takes an origin as browsers write it; capitals and one slash at the end are forgiven.
    fn from_str(text: &str) -> Result<Self, OriginError> {
        let wrong = |reason: &str| {
            Err(OriginError(format!(
                "{reason}; an origin is `https://photos.example`, `http://localhost:3000` or `*`"
            )))
        };
        if text == "*" {
            return Ok(Self::any());
        }
        let Ok(uri) = text.parse::<Uri>() else { return wrong("this is no origin") };
        let (Some(scheme), Some(authority)) = (uri.scheme(), uri.authority()) else {
            return wrong("this has no `https://` or `http://`");
        };
        let default_port = match scheme {
            scheme if *scheme == Scheme::HTTPS => 443,
            scheme if *scheme == Scheme::HTTP => 80,
            _ => return wrong("pages that may call come by `https://` or `http://`"),
        };
        if uri.path() != "/" || uri.query().is_some() || text.contains('#') {
            return wrong("an origin has no path");
        }
        if authority.as_str().contains('@') || authority.host().is_empty() || has_bad_port(authority) {
            return wrong("this is no host, or no host and port");
        }
        if authority.host().contains('*') {
            return wrong("a part of a host cannot be left open; list every origin, or `*` for any");
        }
        let mut origin = format!("{scheme}://{}", authority.host()).to_ascii_lowercase();
        // Browsers leave the usual port out.
        if let Some(port) = authority.port_u16().filter(|port| *port != default_port) {
            origin.push_str(&format!(":{port}"));
        }
        HeaderValue::from_str(&origin).map(Self).or_else(|_| wrong("this is no origin"))
    }
}

/// A colon after the host without a number behind it.
fn has_bad_port(authority: &Authority) -> bool {
    authority.port_u16().is_none() && authority.as_str().len() > authority.host().len()
}

/// The layer inside `observe.rs`: answers a preflight, whoever asks. What it lacks is the permission, and it never meets a key or a
/// handler.
pub(super) async fn preflight(State(service): State<Service>, request: Request, next: Next) -> Response {
    if !service.settings().cors_allow_origins.is_empty() && is_preflight(&request) {
        return StatusCode::NO_CONTENT.into_response();
    }
    next.run(request).await
}

/// The layer outside `observe.rs`: writes the permission into every answer, those that no handler gave among them.
pub(super) async fn grant(State(service): State<Service>, request: Request, next: Next) -> Response {
    let list = &service.settings().cors_allow_origins;
    if list.is_empty() {
        return next.run(request).await;
    }
    let (allowed, is_preflight) = (allowed(list, request.headers()), is_preflight(&request));
    let mut response = next.run(request).await;
    let headers = response.headers_mut();
    // An answer depends on who asked, also where nobody on the list did: a cache must know.
    if !list.contains(&Origin::any()) {
        headers.append(header::VARY, HeaderValue::from_static("origin"));
    }
    let Some(origin) = allowed else { return response };
    headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
    if is_preflight {
        let grants = [
            (header::ACCESS_CONTROL_ALLOW_METHODS, "GET, HEAD, POST"),
            (header::ACCESS_CONTROL_ALLOW_HEADERS, ALLOWED_HEADERS),
            (header::ACCESS_CONTROL_MAX_AGE, "600"),
        ];
        for (name, grant) in grants {
            headers.insert(name, HeaderValue::from_static(grant));
        }
    } else {
        let exposed = HeaderValue::from_static(EXPOSED_HEADERS);
        headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, exposed);
    }
    response
}

fn is_preflight(request: &Request) -> bool {
    request.method() == Method::OPTIONS
        && request.headers().contains_key(header::ORIGIN)
        && request.headers().contains_key(header::ACCESS_CONTROL_REQUEST_METHOD)
}

/// What a page may send. `authorization` must stand here by name: no wildcard covers it.
const ALLOWED_HEADERS: &str = "authorization, content-type, inference-header-content-length, traceparent, tracestate, \
                               x-api-key, x-request-id, x-request-timeout-ms";
/// What a page may read of an answer, beside what it always may.
const EXPOSED_HEADERS: &str = "inference-header-content-length, retry-after, x-request-id";

/// What to allow, if anything: the request's own origin, or any.
fn allowed(list: &[Origin], headers: &HeaderMap) -> Option<HeaderValue> {
    let origin = headers.get(header::ORIGIN)?;
    let any = Origin::any();
    let entry =
        list.iter().find(|entry| **entry == any).or_else(|| list.iter().find(|entry| entry.0 == origin));
    entry.map(|entry| entry.0.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<String, String> {
        let origin: Result<Origin, _> = text.parse();
        origin
            .map(|Origin(value)| value.to_str().expect("ASCII").to_owned())
            .map_err(|error| error.to_string())
    }

    #[test]
    fn origins_are_taken_as_browsers_write_them() {
        for (text, want) in [
            ("*", "*"),
            ("https://a.example", "https://a.example"),
            ("https://a.example/", "https://a.example"),
            ("HTTPS://A.Example", "https://a.example"),
            ("https://a.example:443", "https://a.example"),
            ("http://a.example:80", "http://a.example"),
            ("http://localhost:3000", "http://localhost:3000"),
            ("http://[::1]:3000", "http://[::1]:3000"),
        ] {
            assert_eq!(read(text).as_deref(), Ok(want), "{text}");
        }
    }

    #[test]
    fn what_no_browser_would_send_is_refused_with_what_it_would() {
        for text in [
            "",
            "a.example",
            "//a.example",
            "ftp://a.example",
            "https://",
            "https://a.example/path",
            "https://a.example?q",
            "https://a.example#f",
            "https://user@a.example",
            "https://a.example:port",
            "https://a.example:",
            "https://*.example",
            "null",
            "https://a.example, https://b.example",
        ] {
            let error = read(text).expect_err(text);
            assert!(error.contains("https://photos.example"), "{text}: {error}");
        }
    }
}
