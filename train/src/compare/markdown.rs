//! `comparison.md`: the tables for a repository or a report.

use super::figures::Report;
use std::fmt::Write;

/// The whole page. The best value of a column is bold.
pub fn markdown(report: &Report) -> String {
    let mut page = format!("# {}\n", escaped(&report.title));
    // `write!` to a String cannot fail.
    for table in &report.tables {
        let settings = table.rows.iter().any(|(_, settings)| !settings.is_empty());
        let _ = write!(page, "\n## {}\n\n| Variant |", escaped(&table.title));
        page.push_str(if settings { " Settings |" } else { "" });
        report.columns.iter().for_each(|column| {
            let _ = write!(page, " {} |", column.title());
        });
        page.push_str(if settings { "\n|---|---|" } else { "\n|---|" });
        page.push_str(&"---:|".repeat(report.columns.len()));
        page.push('\n');
        for (at, differing) in &table.rows {
            let row = &report.rows[*at];
            let state = match row.state() {
                state if state == "finished" => String::new(),
                state => format!(" ({state})"),
            };
            let _ = write!(page, "| {}{state} |", escaped(&row.name));
            if settings {
                let _ = write!(page, " {} |", escaped(differing));
            }
            for &column in &report.columns {
                let cell = row.cell(column);
                let mean = row.spread(column).map(|spread| spread.mean);
                let bold = mean.is_some() && mean == report.best(table, column);
                let _ = if bold { write!(page, " **{cell}** |") } else { write!(page, " {cell} |") };
            }
            page.push('\n');
        }
        for (at, _) in &table.rows {
            for words in &report.rows[*at].failures {
                let _ = write!(page, "\n- {} failed: {}\n", escaped(&report.rows[*at].name), escaped(words));
            }
        }
    }
    page.push_str("\n## What the columns mean\n\n");
    for column in &report.columns {
        let _ = writeln!(page, "- {}: {}.", column.title(), column.note());
    }
    if report.has_seeds() {
        page.push_str("\nA variant with several seeds shows the mean; of accuracies the least and the greatest as well.\n");
    }
    for words in report.circumstances() {
        let _ = write!(page, "\n{}\n", escaped(&words));
    }
    page
}

/// Text that is nothing but text in Markdown, within a table or without.
fn escaped(text: &str) -> String {
    let mut safe = String::new();
    let mut before = ' ';
    let mut letters = text.chars().peekable();
    while let Some(letter) = letters.next() {
        let inside = before.is_alphanumeric() && letters.peek().is_some_and(|next| next.is_alphanumeric());
        match letter {
            '\n' | '\r' | '\t' => safe.push(' '),
            '<' => safe.push_str("&lt;"),
            '&' => safe.push_str("&amp;"),
            '_' if inside => safe.push('_'),
            '\\' | '`' | '*' | '_' | '[' | ']' | '>' | '|' | '~' | '$' => {
                safe.push('\\');
                safe.push(letter);
            }
            letter => safe.push(letter),
        }
        before = letter;
    }
    safe
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compare::tests::a_report;

    #[test]
    fn the_best_value_of_a_column_is_bold_and_a_row_without_figures_says_why() {
        let page = markdown(&a_report());
        let row = |name: &str| page.lines().find(|line| line.starts_with(&format!("| {name}"))).unwrap();
        assert!(row("large").contains("| **91.00 %** |"), "{page}");
        assert!(row("small").contains("| 50.00 % (45.00–55.00) |"), "{page}");
        assert!(row("small").contains("**1,000 (10.00 %)**"), "{page}");
        assert!(
            row("broken").starts_with("| broken (failed) |") && row("broken").contains("| – |"),
            "{page}"
        );
        assert!(
            page.contains(
                "- broken failed: error: out of &lt;memory> \\| really".replace('>', "\\>").as_str()
            ),
            "{page}"
        );
        assert!(page.contains("- Top-1: ") && page.contains("on 30 test photos"), "{page}");
    }

    #[test]
    fn every_row_of_a_table_has_as_many_cells_as_its_head() {
        let page = markdown(&a_report());
        let lines = page.lines().filter(|line| line.starts_with('|'));
        let cells: Vec<usize> = lines.map(|line| line.replace("\\|", "").matches('|').count()).collect();
        assert!(cells.len() >= 5 && cells.iter().all(|count| *count == cells[0]), "{page}");
    }

    #[test]
    fn markup_in_a_name_stays_text() {
        assert_eq!(escaped("a|b *c* <d>\nlora_rank _e_"), "a\\|b \\*c\\* &lt;d\\> lora_rank \\_e\\_");
    }
}
