//! `/`: the page for people. One self-contained answer: no outside requests, no build step.
//!
//! Reached through `router.rs`; the page itself speaks to `/classify`, `/models`, `/info` and `/metrics` like any other
//! client. Its parts lie side by side as files and are put together when the page is first asked for.

use std::sync::LazyLock;

use axum::response::Response;

use super::composed::Composed;

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

static PAGE: LazyLock<Composed> = LazyLock::new(|| Composed::new(FRAME, STYLE, &SCRIPTS.join("\n")));

pub(super) async fn page() -> Response {
    PAGE.answer()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::composed::tests::is_sound;

    #[test]
    fn the_policy_names_the_style_and_the_script_that_the_page_holds() {
        is_sound(&PAGE, FRAME, ":root", "refresh()");
    }
}
