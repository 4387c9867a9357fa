//! `/docs`: the interface for people. One self-contained answer: no outside requests, no build step.
//!
//! Reached through `router.rs`. The page reads `/openapi.json` and shows every operation with its examples, a line to paste and
//! a form to try it; it speaks to its own service like any other client.

use std::sync::LazyLock;

use axum::response::Response;

use super::composed::Composed;

const FRAME: &str = include_str!("index.html");

static PAGE: LazyLock<Composed> =
    LazyLock::new(|| Composed::new(FRAME, include_str!("style.css"), include_str!("script.js")));

pub(super) async fn docs() -> Response {
    PAGE.answer()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::composed::tests::is_sound;

    #[test]
    fn the_policy_names_the_style_and_the_script_that_the_page_holds() {
        is_sound(&PAGE, FRAME, ":root", "show();");
    }
}
