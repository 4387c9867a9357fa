//! The plots of `comparison.html`: for each table what its variants reach, and beside it what they cost, as bars in the same
//! order.

use super::figures::{Column, Report, Row, Table};
use crate::markup::{escaped, shortened};
use std::fmt::Write;

/// Accuracy, then what it costs.
const PANELS: [Column; 4] = [Column::Top1, Column::TrainingTime, Column::PeakMemory, Column::Trainable];

/// The panel's width in its own units, about a CSS pixel each.
const WIDTH: f64 = 300.0;
/// Height of a row: a line of text, a bar, some air.
const ROW: f64 = 40.0;
/// Letters of a name that fit beside its value.
const LETTERS: usize = 24;

/// The plots of `table`: on a GPU its memory is the cost, not the process's.
pub fn plots(report: &Report, table: &Table) -> String {
    let mut html = String::from("<div class=\"plots\">\n");
    for column in PANELS {
        let on_device = column == Column::PeakMemory && report.columns.contains(&Column::DeviceMemory);
        html.push_str(&panel(report, table, if on_device { Column::DeviceMemory } else { column }));
    }
    html.push_str("</div>\n");
    html
}

fn panel(report: &Report, table: &Table, column: Column) -> String {
    let rows: Vec<&Row> = table.rows.iter().map(|(at, _)| &report.rows[*at]).collect();
    let values = rows.iter().filter_map(|row| Some(row.spread(column)?.mean));
    // A share has its own whole; costs are measured by the greatest among them.
    let whole = if column.is_cost() { values.fold(0.0, f64::max) } else { 1.0 };
    let better = if column.is_cost() { "less is better" } else { "more is better" };
    let kind = if column.is_cost() { "cost" } else { "gain" };
    let summary: Vec<String> = rows.iter().map(|row| format!("{} {}", row.name, row.cell(column))).collect();
    let height = ROW * rows.len() as f64;
    let mut html = String::new();
    // `write!` to a String cannot fail.
    let _ = writeln!(
        html,
        "<figure class=\"{kind}\"><figcaption>{title} <span>{better}</span></figcaption>\n\
         <svg viewBox=\"0 0 {WIDTH} {height}\" role=\"img\" aria-label=\"{title}: {summary}\">",
        title = column.title(),
        summary = escaped(&summary.join("; ")),
    );
    for (at, row) in rows.iter().enumerate() {
        let top = ROW * at as f64;
        let (text, bar) = (top + 15.0, top + 21.0);
        let (name, cell) = (escaped(&shortened(&row.name, LETTERS)), shown(row, column));
        let _ = writeln!(
            html,
            "<g><title>{full}: {cell}</title><text x=\"0\" y=\"{text}\">{name}</text>\
             <text x=\"{WIDTH}\" y=\"{text}\" class=\"value\">{cell}</text>\
             <rect class=\"track\" x=\"0\" y=\"{bar}\" width=\"{WIDTH}\" height=\"9\" rx=\"2\"/>",
            full = escaped(&row.name),
        );
        if let Some(spread) = row.spread(column) {
            let x = |value: f64| if whole > 0.0 { WIDTH * value / whole } else { 0.0 };
            let best = if report.best(table, column) == Some(spread.mean) { " best" } else { "" };
            let _ = writeln!(
                html,
                "<rect class=\"bar{best}\" x=\"0\" y=\"{bar}\" width=\"{:.1}\" height=\"9\" rx=\"2\"/>",
                x(spread.mean).max(1.0)
            );
            if column == Column::Top1 && spread.most > spread.least {
                let _ = writeln!(
                    html,
                    "<path class=\"range\" d=\"M{0:.1} {1}v9M{2:.1} {1}v9M{0:.1} {3}H{2:.1}\"/>",
                    x(spread.least),
                    bar,
                    x(spread.most),
                    bar + 4.5
                );
            }
        }
        html.push_str("</g>\n");
    }
    html.push_str("</svg></figure>\n");
    html
}

/// The value beside a bar: shorter than the table's cell.
fn shown(row: &Row, column: Column) -> String {
    match row.spread(column) {
        Some(spread) => column.show(spread.mean),
        None if row.failures.is_empty() => row.state(),
        None => "failed".to_owned(),
    }
}
