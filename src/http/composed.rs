//! A page for people as one answer: frame, style and script put together, and a policy that allows nothing else.
//!
//! `page` and `docs` hold one each, composed when it is first asked for: no route of its own for style and script, no outside
//! request, no build step.

use axum::http::header;
use axum::response::{Html, IntoResponse, Response};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use sha2::{Digest, Sha256};

/// Where a frame takes the two in.
const STYLE_MARK: &str = "/* style */";
const SCRIPT_MARK: &str = "/* script */";

/// A whole page.
pub(super) struct Composed {
    html: String,
    policy: String,
}

impl Composed {
    pub(super) fn new(frame: &str, style: &str, script: &str) -> Self {
        // Neither holds the other's mark: styles have no such comment, and comments of the scripts begin with `//`.
        let html = frame.replacen(STYLE_MARK, style, 1).replacen(SCRIPT_MARK, script, 1);
        Self { html, policy: policy(style, script) }
    }

    /// With what differs from `security.rs`: the page's own policy, and that a browser may keep it and ask whether it still holds.
    pub(super) fn answer(&'static self) -> Response {
        let headers =
            [(header::CONTENT_SECURITY_POLICY, self.policy.as_str()), (header::CACHE_CONTROL, "no-cache")];
        (headers, Html(self.html.as_str())).into_response()
    }
}

/// The policy lets a page run this style and this script alone, and speak to its own service, nothing else.
fn policy(style: &str, script: &str) -> String {
    format!(
        "default-src 'none'; style-src '{}'; script-src '{}'; img-src blob: data:; connect-src 'self'; \
         base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'",
        hash(style),
        hash(script),
    )
}

/// A text as the policy names it: the hash of all that lies between the element's tags.
fn hash(text: &str) -> String {
    format!("sha256-{}", BASE64_STANDARD.encode(Sha256::digest(text)))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    fn between<'a>(html: &'a str, start: &str, end: &str) -> &'a str {
        let (_, rest) = html.split_once(start).expect("the start");
        rest.split_once(end).expect("the end").0
    }

    /// What must hold of every page; `styled` and `scripted` are a piece of each.
    pub(in crate::http) fn is_sound(page: &Composed, frame: &str, styled: &str, scripted: &str) {
        let Composed { html, policy } = page;
        let style = between(html, "<style>", "</style>");
        let script = between(html, "<script type=\"module\">", "</script>");
        assert!(policy.contains(&format!("style-src '{}'", hash(style))), "{policy}");
        assert!(policy.contains(&format!("script-src '{}'", hash(script))), "{policy}");
        assert!(style.contains(styled) && script.contains(scripted), "each is in its place");
        assert!(html.trim_end().ends_with("</html>"));
        assert!(!policy.contains("unsafe"));
        for forbidden in [" style=", " onclick=", " onload=", " onsubmit=", "javascript:"] {
            assert!(!frame.contains(forbidden), "{forbidden}: the policy would forbid it");
        }
    }
}
