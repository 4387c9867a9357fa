//! `comparison.html`: plots and tables for a browser, in one file that asks for no other.

use super::figures::Report;
use super::plot::plots;
use crate::markup::escaped;
use std::fmt::Write;

const STYLE: &str = include_str!("page.css");
const SCRIPT: &str = include_str!("page.js");

/// The whole page.
pub fn html(report: &Report) -> String {
    let title = escaped(&report.title);
    let mut page = format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'\">\n\
         <title>{title}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n<main>\n<h1>{title}</h1>\n"
    );
    let waiting = report.rows.iter().filter(|row| row.results.len() < row.runs).count();
    // `write!` to a String cannot fail.
    let _ = match waiting {
        0 => writeln!(page, "<p class=\"soft\">{} variants.</p>", report.rows.len()),
        _ => writeln!(
            page,
            "<p class=\"soft\">{} variants, {waiting} of them not finished. This page is written anew after every run.</p>",
            report.rows.len()
        ),
    };
    for (at, _) in report.tables.iter().enumerate() {
        section(&mut page, report, at);
    }
    page.push_str("<section>\n<h2>What the columns mean</h2>\n<dl>\n");
    for column in &report.columns {
        let _ = writeln!(page, "<dt>{}</dt><dd>{}</dd>", column.title(), column.note());
    }
    page.push_str("</dl>\n");
    if report.has_seeds() {
        page.push_str(
            "<p>A variant with several seeds shows the mean; of accuracies the least and the greatest as well.</p>\n",
        );
    }
    for words in report.circumstances() {
        let _ = writeln!(page, "<p>{}</p>", escaped(&words));
    }
    let _ = write!(page, "</section>\n</main>\n<script>\n{SCRIPT}</script>\n</body>\n</html>\n");
    page
}

fn section(page: &mut String, report: &Report, at: usize) {
    let table = &report.tables[at];
    let title = escaped(&table.title);
    let _ = writeln!(page, "<section>\n<h2 id=\"table{at}\">{title}</h2>");
    page.push_str(&plots(report, table));
    // A region that scrolls must be reachable with the keyboard.
    let _ = write!(
        page,
        "<div class=\"scroll\" tabindex=\"0\" role=\"region\" aria-labelledby=\"table{at}\">\n<table>\n<thead><tr><th scope=\"col\">Variant</th>"
    );
    for column in &report.columns {
        let _ = write!(page, "<th scope=\"col\" class=\"figure\">{}</th>", column.title());
    }
    page.push_str("</tr></thead>\n<tbody>\n");
    for (at, differing) in &table.rows {
        let row = &report.rows[*at];
        let _ = write!(page, "<tr><th scope=\"row\">{}", escaped(&row.name));
        match row.state() {
            state if state == "finished" => {}
            state => {
                let _ = write!(page, " <span class=\"state\">{state}</span>");
            }
        }
        if !differing.is_empty() {
            let _ = write!(page, "<small>{}</small>", escaped(differing));
        }
        page.push_str("</th>");
        for &column in &report.columns {
            let mean = row.spread(column).map(|spread| spread.mean);
            let value = mean.map(|mean| format!(" data-value=\"{mean}\"")).unwrap_or_default();
            let best = mean.is_some() && mean == report.best(table, column);
            let cell = row.cell(column);
            let cell = if best { format!("<strong>{cell}</strong>") } else { cell };
            let _ = write!(page, "<td class=\"figure\"{value}>{cell}</td>");
        }
        page.push_str("</tr>\n");
    }
    page.push_str("</tbody>\n</table>\n</div>\n");
    for (at, _) in &table.rows {
        let row = &report.rows[*at];
        for words in &row.failures {
            let name = escaped(&row.name);
            let _ = writeln!(page, "<p class=\"error\"><b>{name}</b> failed: {}</p>", escaped(words));
        }
    }
    page.push_str("</section>\n");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compare::tests::a_report;

    #[test]
    fn the_page_holds_every_figure_and_asks_for_nothing() {
        let page = html(&a_report());
        for shown in
            ["<strong>91.00 %</strong>", "50.00 % (45.00–55.00)", "1 min 40 s", "data-value=\"0.91\""]
        {
            assert!(page.contains(shown), "{shown}: {page}");
        }
        for asks in ["http://", "https://", " src=", "url(", "@import", "<link"] {
            assert!(!page.contains(asks), "{asks}");
        }
        assert_eq!(page.matches("<svg").count(), 4);
        assert_eq!(page.matches("role=\"img\" aria-label=\"").count(), 4);
    }

    #[test]
    fn names_and_last_words_are_text_and_no_markup() {
        let mut report = a_report();
        report.title = "<script>alert('a')</script>".to_owned();
        report.rows[0].name = "\"><img onerror=x>".to_owned();
        let page = html(&report);
        assert!(
            !page.contains("<img") && !page.contains("<script>alert") && !page.contains("<memory>"),
            "{page}"
        );
        assert!(
            page.contains("&lt;script&gt;alert(&#39;a&#39;)")
                && page.contains("out of &lt;memory&gt; | really")
        );
    }

    #[test]
    fn a_bar_is_as_long_as_its_value_and_the_best_one_stands_out() {
        let page = html(&a_report());
        let top1 = page.split("<svg").nth(1).unwrap();
        assert!(top1.contains("class=\"bar\" x=\"0\" y=\"21\" width=\"150.0\""), "{top1}");
        assert!(top1.contains("class=\"bar best\" x=\"0\" y=\"61\" width=\"273.0\""), "{top1}");
        assert_eq!(top1.matches("class=\"range\"").count(), 1);
        let time = page.split("<svg").nth(2).unwrap();
        assert!(time.contains("class=\"bar best\" x=\"0\" y=\"21\" width=\"30.0\""), "{time}");
    }
}
