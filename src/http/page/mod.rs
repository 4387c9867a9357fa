//! `/`: the page for people. One self-contained answer: no outside requests, no build step.
//!
//! Reached through `router.rs`; the page itself speaks to `/classify`, `/models`, `/info` and `/metrics` like any other
//! client. Its parts lie side by side as files and are put together when the page is first asked for.

use std::sync::LazyLock;

use axum::http::header;
use axum::response::{Html, IntoResponse, Response};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use sha2::{Digest, Sha256};

const FRAME: &str = include_str!("index.html");
const STYLE: &str = include_str!("style.css");
/// One module: later files use the names of earlier ones.
const SCRIPTS: [&str; 8] = [
    include_str!("script/document.js"),
    include_str!("script/words.js"),
    include_str!("script/service.js"),
    include_str!("script/cards.js"),
    include_str!("script/thumbnails.js"),
    include_str!("script/photos.js"),
    include_str!("script/strip.js"),
    include_str!("script/page.js"),
];

/// Where the frame takes the two in.
const STYLE_MARK: &str = "/* style */";
const SCRIPT_MARK: &str = "/* script */";

static PAGE: LazyLock<Page> = LazyLock::new(Page::compose);

struct Page {
    html: String,
    policy: String,
}

impl Page {
    fn compose() -> Self {
        let script = SCRIPTS.join("\n");
        // Neither holds the other's mark: the style has no such comment, and comments of the scripts begin with `//`.
        let html = FRAME.replacen(STYLE_MARK, STYLE, 1).replacen(SCRIPT_MARK, &script, 1);
        let policy = policy(STYLE, &script);
        Self { html, policy }
    }
}

/// The policy lets the page run this style and this script alone, and speak to its own service, nothing else.
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

pub(super) async fn page() -> Response {
    let headers = [
        (header::CONTENT_SECURITY_POLICY, PAGE.policy.as_str()),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::CACHE_CONTROL, "no-cache"),
    ];
    (headers, Html(PAGE.html.as_str())).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn between<'a>(html: &'a str, start: &str, end: &str) -> &'a str {
        let (_, rest) = html.split_once(start).expect("the start");
        rest.split_once(end).expect("the end").0
    }

    #[test]
    fn the_policy_names_the_style_and_the_script_that_the_page_holds() {
        let Page { html, policy } = Page::compose();
        let style = between(&html, "<style>", "</style>");
        let script = between(&html, "<script type=\"module\">", "</script>");
        assert!(policy.contains(&format!("style-src '{}'", hash(style))), "{policy}");
        assert!(policy.contains(&format!("script-src '{}'", hash(script))), "{policy}");
        assert!(style.contains(":root") && script.contains("refresh()"), "each is in its place");
        assert!(html.trim_end().ends_with("</html>"));
        assert!(!policy.contains("unsafe"));
    }

    #[test]
    fn the_frame_has_no_style_or_handler_that_the_policy_would_forbid() {
        for forbidden in [" style=", " onclick=", " onload=", " onsubmit=", "javascript:"] {
            assert!(!FRAME.contains(forbidden), "{forbidden}");
        }
    }
}
