//! One page for a browser, in one file that asks for no other: `report.html` of a run, and what `evaluate --report` writes.

use super::classes::classes;
use super::curve::Chart;
use super::matrix::confusion;
use super::mistakes::mistakes;
use super::mosaic::Mosaic;
use crate::dataset::Sample;
use crate::evaluation::Evaluation;
use crate::markup::escaped;
use std::fmt::Write;

const STYLE: &str = include_str!("page.css");
/// Sorts tables; the page can be read without it.
const SCRIPT: &str = include_str!("../compare/page.js");
/// Photos that could not be read, and warnings, of which the page lists no more.
const LISTED: usize = 100;

/// A figure that is to be seen first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Figure {
    pub name: &'static str,
    pub value: String,
    /// Small print; may be empty.
    pub note: String,
}

/// What stands in a page. Empty parts are left out.
#[derive(Debug, Default)]
pub(super) struct Page<'a> {
    pub title: String,
    /// A sentence on where it stands.
    pub state: String,
    /// Why the run ended early.
    pub error: Option<String>,
    pub headline: Vec<Figure>,
    pub warnings: Vec<String>,
    pub charts: Vec<Chart>,
    pub labels: &'a [String],
    pub evaluation: Option<&'a Evaluation>,
    /// Why there is no evaluation, where there is none.
    pub no_evaluation: &'static str,
    /// The photos that the evaluation's indices point to.
    pub samples: &'a [Sample],
    pub mosaic: Option<&'a Mosaic>,
    /// Files that could not be read, and why.
    pub unreadable: Vec<(String, String)>,
    /// Settings under their names.
    pub settings: Vec<(String, String)>,
    /// Versions, sizes, times.
    pub facts: Vec<(String, String)>,
}

impl Page<'_> {
    /// The whole file.
    pub(super) fn html(&self) -> String {
        let title = escaped(&self.title);
        let mut page = format!(
            "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
             <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
             <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'\">\n\
             <title>{title}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n<main>\n<header>\n<h1>{title}</h1>\n<p class=\"soft\">{}</p>\n",
            escaped(&self.state)
        );
        let sections = self.sections();
        page.push_str("<nav aria-label=\"Contents\"><ul>");
        for (id, heading, _) in &sections {
            // `write!` to a String cannot fail.
            let _ = write!(page, "<li><a href=\"#{id}\">{heading}</a></li>");
        }
        page.push_str("</ul></nav>\n</header>\n");
        if let Some(error) = &self.error {
            let error = escaped(error);
            let _ = writeln!(
                page,
                "<section class=\"failed\"><h2>The run ended early</h2><p>{error}</p></section>"
            );
        }
        let _ = writeln!(page, "<section aria-label=\"Headline figures\">\n<dl class=\"headline\">");
        for Figure { name, value, note } in &self.headline {
            let note =
                if note.is_empty() { String::new() } else { format!("<small>{}</small>", escaped(note)) };
            let _ = writeln!(page, "<div><dt>{name}</dt><dd>{}{note}</dd></div>", escaped(value));
        }
        page.push_str("</dl>\n</section>\n");
        if !self.warnings.is_empty() {
            page.push_str("<section class=\"warnings\">\n<h2>What was noticed about the photos</h2>\n");
            list(&mut page, "", self.warnings.iter().map(|warning| escaped(warning)));
            page.push_str("</section>\n");
        }
        for (id, heading, content) in &sections {
            let _ = write!(page, "<section>\n<h2 id=\"{id}\">{heading}</h2>\n{content}</section>\n");
        }
        let _ = write!(page, "</main>\n<script>\n{SCRIPT}</script>\n</body>\n</html>\n");
        page
    }

    /// Those that there is something for: id, heading, content.
    fn sections(&self) -> Vec<(&'static str, &'static str, String)> {
        let mut sections = Vec::new();
        if !self.charts.is_empty() {
            sections.push(("curves", "Curves", self.curves()));
        }
        match self.evaluation.filter(|evaluation| evaluation.photos > 0) {
            Some(evaluation) => {
                if let Some(cards) = mistakes(evaluation, self.labels, self.samples) {
                    sections.push(("mistakes", "The worst mistakes", cards));
                }
                sections.push(("confusion", "Confusion matrix", confusion(evaluation, self.labels)));
                sections.push(("classes", "Classes", classes(evaluation, self.labels)));
            }
            None => {
                let why = format!("<p class=\"soft\">{}</p>\n", escaped(self.no_evaluation));
                sections.push(("classes", "Classes", why));
            }
        }
        if let Some(mosaic) = self.mosaic.and_then(|mosaic| Some(self.seen(mosaic, &mosaic.uri()?))) {
            sections.push(("seen", "What the model sees", mosaic));
        }
        if !self.unreadable.is_empty() {
            let mut content =
                String::from("<p class=\"soft\">These files could not be read and are in no figure.</p>\n");
            let files = self.unreadable.iter();
            list(
                &mut content,
                "left-out",
                files.map(|(file, why)| format!("<bdi>{}</bdi>: {}", escaped(file), escaped(why))),
            );
            sections.push(("left-out", "Photos left out", content));
        }
        for (id, heading, named) in
            [("settings", "Settings", &self.settings), ("run", "Versions and sizes", &self.facts)]
        {
            if !named.is_empty() {
                sections.push((id, heading, facts(named)));
            }
        }
        sections
    }

    fn curves(&self) -> String {
        let mut html = String::from("<div class=\"curves\">\n");
        self.charts.iter().for_each(|chart| html.push_str(&chart.svg()));
        html.push_str("</div>\n");
        html
    }

    fn seen(&self, mosaic: &Mosaic, uri: &str) -> String {
        let (pixels, photos) = (mosaic.pixels(), mosaic.photos());
        let mut html = format!(
            "<p class=\"soft\">The first photos of the first epoch: cropped, mirrored and coloured as the training does it, before \
             they are normalised.</p>\n\
             <img class=\"mosaic\" src=\"{uri}\" width=\"{}\" height=\"{}\" alt=\"The first {photos} training photos, side by side\">\n\
             <details><summary>Their labels</summary>\n<ol>\n",
            pixels.width(),
            pixels.height(),
        );
        let name = |class: &u32| self.labels.get(*class as usize).map_or("?", String::as_str);
        for row in mosaic.rows() {
            let names: Vec<_> =
                row.iter().map(|class| format!("<bdi>{}</bdi>", escaped(name(class)))).collect();
            let _ = writeln!(html, "<li>{}</li>", names.join(", "));
        }
        html.push_str("</ol>\n</details>\n");
        html
    }
}

/// A list of at most [`LISTED`] items, which are HTML.
fn list(html: &mut String, class: &str, items: impl ExactSizeIterator<Item = String>) {
    let more = items.len().saturating_sub(LISTED);
    let _ = writeln!(html, "<ul class=\"{class}\">");
    items.take(LISTED).for_each(|item| {
        let _ = writeln!(html, "<li>{item}</li>");
    });
    if more > 0 {
        let _ = writeln!(html, "<li>and {more} more</li>");
    }
    html.push_str("</ul>\n");
}

fn facts(named: &[(String, String)]) -> String {
    let mut html = String::from("<dl class=\"facts\">\n");
    for (name, value) in named {
        let _ = writeln!(html, "<div><dt>{}</dt><dd>{}</dd></div>", escaped(name), escaped(value));
    }
    html.push_str("</dl>\n");
    html
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::evaluation::tests::evaluation;
    use crate::report::charts::charts;
    use crate::report::history::tests::{TWO_EPOCHS, history};

    #[test]
    fn the_page_asks_for_nothing_and_every_heading_can_be_reached() {
        let labels: Vec<String> = ["a".to_owned(), "b".to_owned()].into();
        let evaluation = evaluation(&[[1.0, 0.0], [1.0, 0.0]], &[0, 1]);
        let page = Page {
            title: "A run".to_owned(),
            charts: charts(&history(TWO_EPOCHS)),
            labels: &labels,
            evaluation: Some(&evaluation),
            settings: vec![("epochs".to_owned(), "2".to_owned())],
            ..Page::default()
        };
        let html = page.html();
        for id in ["curves", "mistakes", "confusion", "classes", "settings"] {
            assert!(
                html.contains(&format!("<h2 id=\"{id}\">")) && html.contains(&format!("href=\"#{id}\"")),
                "{id}"
            );
        }
        let asking = html.replace("xmlns=\"http://www.w3.org/2000/svg\"", "");
        for asks in ["http://", "https://", "url(", "@import", "<link", "src=\"/"] {
            assert!(!asking.contains(asks), "{asks}");
        }
        assert_eq!(html.matches("<svg").count(), html.matches("role=\"img\" aria-label=\"").count());
    }

    #[test]
    fn whatever_comes_from_outside_is_text() {
        let hostile = "</title><script>alert(1)</script><b title='".to_owned();
        let page = Page {
            title: hostile.clone(),
            state: hostile.clone(),
            error: Some(hostile.clone()),
            warnings: vec![hostile.clone()],
            unreadable: vec![(hostile.clone(), hostile.clone())],
            settings: vec![(hostile.clone(), hostile.clone())],
            headline: vec![Figure { name: "x", value: hostile.clone(), note: hostile }],
            ..Page::default()
        };
        let html = page.html();
        assert!(!html.contains("<script>alert") && !html.contains("<b title"), "{html}");
        assert!(html.matches("&lt;script&gt;alert(1)").count() >= 10);
    }

    #[test]
    fn a_run_that_has_measured_nothing_says_why() {
        let html = Page { no_evaluation: "No photos to validate on.", ..Page::default() }.html();
        assert!(html.contains("No photos to validate on.") && !html.contains("id=\"confusion\""));
    }

    #[test]
    fn long_lists_end_with_what_is_not_shown() {
        let warnings = (0..LISTED + 7).map(|at| format!("warning {at}")).collect();
        let html = Page { warnings, ..Page::default() }.html();
        assert!(
            html.contains("<li>warning 99</li>")
                && !html.contains("warning 100")
                && html.contains("and 7 more")
        );
    }
}
