//! The confusion matrix of an evaluation, as an SVG grid that can still be read, and the pairs of classes most often mistaken.

use crate::evaluation::Evaluation;
use crate::markup::{escaped, shortened};
use std::collections::HashSet;
use std::fmt::Write;

/// Classes of a grid that shows all of them, at most: a row is 12 pixels high then.
const ALL: usize = 120;
/// Classes of a grid that cannot show all: those with the most mistakes.
const SOME: usize = 60;
/// Rows of the table of pairs, at most.
const PAIRS: usize = 40;
/// Letters of a label beside the grid.
const LETTERS: usize = 18;
/// With more cells than these none says its content when it is pointed at: the table does.
const TITLED_CELLS: usize = 4000;

/// The grid and the table, as HTML.
pub(super) fn confusion(evaluation: &Evaluation, labels: &[String]) -> String {
    let figures = evaluation.class_figures();
    let name = |class: u32| labels.get(class as usize).map_or("?", String::as_str);
    let pairs = evaluation.most_confused();
    let mut shown: Vec<u32> = (0..).take(figures.len()).collect();
    let mut html = String::from(
        "<p class=\"soft\">A row is a class as it is, a column what the model said; the colour is the share of the row's photos. \
         On the diagonal the model was right.</p>\n",
    );
    if shown.len() > ALL {
        // Both sides of a mistake: photos of the class, and photos taken for it.
        let mistakes = |class: &u32| {
            figures.get(*class as usize).map_or(0, |class| class.photos + class.predicted - 2 * class.right)
        };
        shown.sort_by_key(|class| std::cmp::Reverse(mistakes(class)));
        shown.truncate(SOME);
        shown.sort_unstable();
        // `write!` to a String cannot fail.
        let _ = writeln!(
            html,
            "<p class=\"soft\">Of the {} classes the {SOME} with the most mistakes are shown.</p>",
            figures.len()
        );
    }
    html.push_str("<div class=\"beside\">\n<div class=\"scroll\" tabindex=\"0\" role=\"region\" aria-label=\"Confusion matrix\">\n");
    grid(&mut html, evaluation, &shown, name);
    html.push_str("</div>\n<div class=\"pairs\">\n");
    if pairs.is_empty() {
        html.push_str("<p>No photo was taken for another class.</p>\n</div>\n</div>\n");
        return html;
    }
    let most = if pairs.len() > PAIRS {
        format!("<p class=\"soft\">The {PAIRS} most frequent of {} pairs.</p>\n", pairs.len())
    } else {
        String::new()
    };
    let _ = write!(
        html,
        "<h3 id=\"pairs\">Most often mistaken</h3>\n{most}\
         <div class=\"scroll tall\" tabindex=\"0\" role=\"region\" aria-labelledby=\"pairs\">\n<table>\n<thead><tr><th scope=\"col\">Is</th>\
         <th scope=\"col\">Was taken for</th><th scope=\"col\" class=\"figure\">Photos</th>\
         <th scope=\"col\" class=\"figure\">Of the class</th></tr></thead>\n<tbody>\n"
    );
    for pair in pairs.iter().take(PAIRS) {
        let class = figures.get(pair.label as usize).map_or(0, |class| class.photos);
        let share = 100.0 * pair.photos as f64 / class.max(1) as f64;
        let _ = writeln!(
            html,
            "<tr><th scope=\"row\">{}</th><td class=\"name\">{}</td><td class=\"figure\" data-value=\"{2}\">{2}</td>\
             <td class=\"figure\" data-value=\"{share}\">{share:.1} %</td></tr>",
            escaped(name(pair.label)),
            escaped(name(pair.predicted)),
            pair.photos,
        );
    }
    html.push_str("</tbody>\n</table>\n</div>\n</div>\n</div>\n");
    html
}

fn grid<'a>(html: &mut String, evaluation: &Evaluation, shown: &[u32], name: impl Fn(u32) -> &'a str) {
    let cell = match shown.len() {
        0..=12 => 40,
        13..=30 => 26,
        31..=60 => 15,
        _ => 12,
    };
    let letters = shown.iter().map(|class| name(*class).chars().count().min(LETTERS)).max().unwrap_or(0);
    let font = (cell - 2).min(13);
    // The room that labels take; the corner between them says what rows and columns are.
    let margin = ((letters * font * 6).div_ceil(10) + 14).max(58);
    let size = margin + shown.len() * cell + 2;
    let position = |class: u32| shown.binary_search(&class).ok();
    let figures = evaluation.class_figures();
    let mut cells: Vec<((u32, u32), usize)> = evaluation.confusion().into_iter().collect();
    cells.sort_unstable();
    let right: usize = figures.iter().map(|class| class.right).sum();
    let summary = format!(
        "Confusion matrix of {} classes: {right} of {} photos on the diagonal. The table below names the pairs most often mistaken.",
        shown.len(),
        evaluation.photos
    );
    let _ = writeln!(
        html,
        "<svg class=\"matrix\" width=\"{size}\" height=\"{size}\" viewBox=\"0 0 {size} {size}\" role=\"img\" aria-label=\"{summary}\" font-size=\"{font}\">\n\
         <rect class=\"ground\" x=\"{margin}\" y=\"{margin}\" width=\"{0}\" height=\"{0}\"/>\n\
         <text class=\"side\" x=\"{1}\" y=\"14\" font-size=\"12\" text-anchor=\"end\">said →</text>\n\
         <text class=\"side\" x=\"1\" y=\"{1}\" font-size=\"12\">is ↓</text>",
        shown.len() * cell,
        margin - 8,
    );
    for (at, &class) in shown.iter().enumerate() {
        let label = escaped(&shortened(name(class), LETTERS));
        let middle = (margin + at * cell) as f64 + cell as f64 / 2.0;
        let (edge, low) = (margin - 7, middle + font as f64 * 0.35);
        // Labels as short as digits stand upright.
        let above = match letters {
            0..=2 => format!("<text x=\"{middle:.1}\" y=\"{edge}\" text-anchor=\"middle\">{label}</text>"),
            _ => format!("<text transform=\"translate({low:.1} {edge}) rotate(-90)\">{label}</text>"),
        };
        let _ = writeln!(html, "<text x=\"{edge}\" y=\"{low:.1}\" text-anchor=\"end\">{label}</text>{above}");
    }
    let places: HashSet<u32> = shown.iter().copied().collect();
    cells.retain(|((label, predicted), _)| places.contains(label) && places.contains(predicted));
    let titled = cells.len() <= TITLED_CELLS;
    for ((label, predicted), photos) in cells {
        let (Some(row), Some(column)) = (position(label), position(predicted)) else { continue };
        let class = figures.get(label as usize).map_or(0, |class| class.photos);
        let share = photos as f64 / class.max(1) as f64;
        let (x, y) = (margin + column * cell, margin + row * cell);
        let kind = if label == predicted { "right" } else { "wrong" };
        // A single mistake among many photos must still be seen.
        let opacity = 0.15 + 0.85 * share;
        let side = cell - 1;
        let _ = write!(
            html,
            "<rect class=\"{kind}\" x=\"{x}\" y=\"{y}\" width=\"{side}\" height=\"{side}\" fill-opacity=\"{opacity:.2}\">"
        );
        if titled {
            let names = (escaped(&shortened(name(label), 40)), escaped(&shortened(name(predicted), 40)));
            let _ = write!(html, "<title>{} → {}: {photos} of {class}</title>", names.0, names.1);
        }
        html.push_str("</rect>");
        if cell >= 26 {
            let strong = if opacity > 0.55 { " class=\"strong\"" } else { "" };
            let (middle, low) = (x as f64 + side as f64 / 2.0, y as f64 + side as f64 / 2.0 + 4.0);
            let font = if photos > 999 { 9 } else { 11 };
            let _ = write!(
                html,
                "<text{strong} x=\"{middle}\" y=\"{low}\" font-size=\"{font}\" text-anchor=\"middle\" pointer-events=\"none\">{photos}</text>"
            );
        }
        html.push('\n');
    }
    html.push_str("</svg>\n");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::evaluation::tests::{evaluation, sure};

    fn labels(count: usize) -> Vec<String> {
        (0..count).map(|class| format!("<class {class}>")).collect()
    }

    #[test]
    fn every_cell_says_how_many_photos_it_holds_and_labels_are_text() {
        let html = confusion(&evaluation(&sure::<3>(&[0, 1, 1, 2]), &[0, 0, 0, 2]), &labels(3));
        assert!(html.contains("<title>&lt;class 0&gt; → &lt;class 1&gt;: 2 of 3</title>"), "{html}");
        assert!(html.contains("data-value=\"2\">2</td>") && html.contains("66.7 %"), "{html}");
        assert_eq!(html.matches("class=\"right\"").count(), 2);
        assert_eq!(html.matches("class=\"wrong\"").count(), 1);
        assert!(!html.contains("<class"));
    }

    #[test]
    fn of_many_classes_those_with_mistakes_are_shown() {
        let said: Vec<usize> = (0..200).map(|class| if class == 150 { 170 } else { class }).collect();
        let html = confusion(&evaluation(&sure::<200>(&said), &(0..200).collect::<Vec<u32>>()), &labels(200));
        assert!(html.contains("Of the 200 classes the 60"), "{html}");
        assert!(html.contains("<title>&lt;class 150&gt; → &lt;class 170&gt;: 1 of 1</title>"));
        assert_eq!(html.matches("class=\"wrong\"").count(), 1);
    }

    #[test]
    fn without_a_mistake_there_is_no_table() {
        let html = confusion(&evaluation(&sure::<2>(&[0, 1]), &[0, 1]), &labels(2));
        assert!(html.contains("No photo was taken for another class") && !html.contains("<table"), "{html}");
    }
}
