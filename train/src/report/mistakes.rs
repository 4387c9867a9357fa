//! The worst mistakes as pictures: what each photo is, what the model said, and how sure it was.

use super::thumbnail::thumbnail;
use crate::dataset::Sample;
use crate::evaluation::Evaluation;
use crate::markup::{escaped, shortened};
use std::fmt::Write;

/// Pictures of a page, at most.
const MISTAKES: usize = 24;
/// Letters of a name that a card has room for; the whole one is its title.
const LETTERS: usize = 100;

/// The pictures as HTML; `None` where there is no mistake. `samples` are the photos that the answers' indices point to.
pub(super) fn mistakes(evaluation: &Evaluation, labels: &[String], samples: &[Sample]) -> Option<String> {
    let worst = evaluation.worst(MISTAKES);
    if worst.is_empty() {
        return None;
    }
    let name = |class: u32| labels.get(class as usize).map_or("?", String::as_str);
    let mut html = String::from(
        "<p class=\"soft\">The wrong answers that the model was surest of, or farthest from the right one. Some of them may be wrong labels.</p>\n\
         <ul class=\"cards\">\n",
    );
    for answer in worst {
        let sample = samples.get(answer.index as usize);
        let file = sample.map_or("?", |sample| sample.name.as_str());
        let picture = match sample.and_then(|sample| thumbnail(&sample.path)) {
            Some(small) => format!(
                "<img src=\"{}\" width=\"{}\" height=\"{}\" alt=\"{}\">",
                small.uri,
                small.width,
                small.height,
                escaped(file)
            ),
            None => "<span class=\"missing\">This photo cannot be read any more</span>".to_owned(),
        };
        // `write!` to a String cannot fail.
        let _ = writeln!(
            html,
            "<li><div class=\"photo\">{picture}</div><dl><div><dt>is <b>{}</b></dt><dd>{}</dd></div>\
             <div><dt>said <b>{}</b></dt><dd>{}</dd></div></dl><p class=\"file\" title=\"{}\">{}</p></li>",
            percent(answer.label_probability),
            bounded(name(answer.label)),
            percent(answer.predicted_probability),
            bounded(name(answer.predicted)),
            escaped(file),
            bounded(file),
        );
    }
    html.push_str("</ul>\n");
    Some(html)
}

/// A name of its own direction, whatever script it is in.
fn bounded(name: &str) -> String {
    format!("<bdi>{}</bdi>", escaped(&shortened(name, LETTERS)))
}

/// A probability; what the model could not compute is none.
fn percent(probability: f32) -> String {
    match probability.is_finite() {
        true if probability > 0.0 && probability < 0.001 => "&lt; 0.1 %".to_owned(),
        true => format!("{:.1} %", 100.0 * probability),
        false => "no number".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::evaluation::tests::evaluation;

    #[test]
    fn hostile_names_are_text_and_a_photo_that_is_gone_has_a_placeholder() {
        let labels: Vec<String> = ["<script>alert(1)</script>", "\" onerror=\"x"].map(str::to_owned).into();
        let name = "a/<img src=x onerror=alert(1)>.jpg".to_owned();
        let samples = [Sample { path: "nowhere".into(), label_index: 0, name }];
        let html = mistakes(&evaluation(&[[0.0, 2.0]], &[0]), &labels, &samples).unwrap();
        assert!(
            !html.contains("<script") && !html.contains("<img") && !html.contains("\" onerror"),
            "{html}"
        );
        assert!(
            html.contains("<b>11.9 %</b></dt><dd><bdi>&lt;script&gt;alert(1)&lt;/script&gt;</bdi>"),
            "{html}"
        );
        assert!(
            html.contains("<b>88.1 %</b></dt><dd><bdi>&quot; onerror=&quot;x</bdi>")
                && html.contains("cannot be read any more")
        );
    }

    #[test]
    fn without_a_mistake_there_is_nothing_to_show() {
        assert_eq!(mistakes(&evaluation(&[[2.0, 0.0]], &[0]), &[], &[]), None);
    }

    #[test]
    fn a_probability_is_never_shown_as_nothing_where_it_is_something() {
        assert_eq!(
            (percent(0.0), percent(1e-5), percent(f32::NAN)),
            ("0.0 %".into(), "&lt; 0.1 %".into(), "no number".into())
        );
    }
}
