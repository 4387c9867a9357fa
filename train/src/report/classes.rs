//! The table of classes: precision, recall and F1 of each.

use crate::evaluation::{ClassFigures, Evaluation};
use crate::markup::escaped;
use std::fmt::Write;

/// The table as HTML, the lowest F1 first; classes of which nothing is known are counted below it.
pub(super) fn classes(evaluation: &Evaluation, labels: &[String]) -> String {
    let figures = evaluation.class_figures();
    let known = |class: &ClassFigures| class.photos + class.predicted > 0;
    let mut rows: Vec<(&String, &ClassFigures)> =
        labels.iter().zip(&figures).filter(|(_, class)| known(class)).collect();
    let unknown = figures.len() - rows.len();
    // Of equal ones the class with more photos has more to gain.
    rows.sort_by(|a, b| a.1.f1().total_cmp(&b.1.f1()).then(b.1.photos.cmp(&a.1.photos)));
    let means = evaluation.macro_averages();
    let mut html = String::from(
        "<p class=\"soft\">Precision: how many of the photos said to be of the class are. Recall: how many of its photos were recognised. \
         F1: their harmonic mean. The lowest F1 comes first; a click on a heading sorts.</p>\n\
         <div class=\"scroll tall\" tabindex=\"0\" role=\"region\" aria-labelledby=\"classes\">\n<table>\n<thead><tr><th scope=\"col\">Class</th>\
         <th scope=\"col\" class=\"figure\">F1</th><th scope=\"col\" class=\"figure\">Precision</th><th scope=\"col\" class=\"figure\">Recall</th>\
         <th scope=\"col\" class=\"figure\">Photos</th></tr></thead>\n<tbody>\n",
    );
    let cell = |value: f64| {
        let percent = 100.0 * value;
        format!(
            "<td class=\"figure bar\" data-value=\"{value}\" style=\"--part:{percent:.1}%\">{percent:.1} %</td>"
        )
    };
    for (label, class) in rows {
        // Without a photo there is nothing to recall, without an answer nothing to be precise about.
        let nothing = || "<td class=\"figure\">–</td>".to_owned();
        let precision = if class.predicted > 0 { cell(class.precision()) } else { nothing() };
        let recall = if class.photos > 0 { cell(class.recall()) } else { nothing() };
        // `write!` to a String cannot fail.
        let _ = writeln!(
            html,
            "<tr><th scope=\"row\">{}</th>{}{precision}{recall}<td class=\"figure\" data-value=\"{2}\">{2}</td></tr>",
            escaped(label),
            cell(class.f1()),
            class.photos,
        );
    }
    let _ = write!(
        html,
        "</tbody>\n<tfoot><tr><th scope=\"row\">Mean</th><td class=\"figure\">{:.1} %</td><td class=\"figure\">{:.1} %</td>\
         <td class=\"figure\">{:.1} %</td><td class=\"figure\">{}</td></tr></tfoot>\n</table>\n</div>\n",
        100.0 * means.f1,
        100.0 * means.precision,
        100.0 * means.recall,
        evaluation.photos,
    );
    if unknown > 0 {
        let classes = if unknown == 1 { "class has" } else { "classes have" };
        let _ = writeln!(
            html,
            "<p class=\"soft\">{unknown} {classes} no photo here and no photo was taken for one.</p>"
        );
    }
    html
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::evaluation::tests::{evaluation, sure};

    #[test]
    fn the_lowest_f1_comes_first_and_what_is_not_known_is_no_zero() {
        let labels: Vec<String> = ["good", "<bad>", "never seen", "unknown"].map(str::to_owned).into();
        let html = classes(&evaluation(&sure::<4>(&[0, 0, 2]), &[0, 0, 1]), &labels);
        let place = |text: &str| html.find(text).unwrap_or_else(|| panic!("{text}: {html}"));
        assert!(place("&lt;bad&gt;") < place(">good<") && !html.contains("<bad>"));
        assert!(html.contains("&lt;bad&gt;</th><td class=\"figure bar\" data-value=\"0\" style=\"--part:0.0%\">0.0 %</td><td class=\"figure\">–</td>"), "{html}");
        assert!(html.contains("1 class has no photo here") && !html.contains(">unknown<"));
    }
}
