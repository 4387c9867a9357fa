//! Figures under each other: columns of fixed width, so that a row can be printed when it is known.

/// One column.
#[derive(Clone, Copy, Debug)]
pub struct Column {
    /// Columns of the same group stand under its name; empty: under none.
    pub group: &'static str,
    pub name: &'static str,
    /// With the space before it.
    pub width: usize,
}

/// A column of a group.
pub const fn column(group: &'static str, name: &'static str, width: usize) -> Column {
    Column { group, name, width }
}

/// The two lines above the figures.
pub fn heading(columns: &[Column]) -> String {
    let mut groups = String::new();
    for group in columns.chunk_by(|left, right| left.group == right.group) {
        let width: usize = group.iter().map(|column| column.width).sum();
        let name = group.first().map_or("", |column| column.group);
        // One space keeps it from its neighbour.
        let label = if name.is_empty() { String::new() } else { format!(" {name} ") };
        let rule = if name.is_empty() { ' ' } else { '-' };
        let rules = width.saturating_sub(label.chars().count() + 1);
        groups.push(' ');
        groups.extend(std::iter::repeat_n(rule, rules / 2));
        groups.push_str(&label);
        groups.extend(std::iter::repeat_n(rule, rules - rules / 2));
    }
    let names: Vec<String> = columns.iter().map(|column| column.name.to_owned()).collect();
    format!("{}\n{}", groups.trim_end(), row(columns, &names))
}

/// One line of figures, each at the right end of its column.
pub fn row(columns: &[Column], cells: &[String]) -> String {
    let cells = columns.iter().zip(cells);
    cells.map(|(column, cell)| format!("{cell:>width$}", width = column.width)).collect()
}

/// A figure in at most six characters, up to a million.
pub fn short(value: Option<f64>) -> String {
    match value {
        None => "-".to_owned(),
        Some(value) if value.abs() < 99.995 => format!("{value:.2}"),
        Some(value) if value.abs() < 9999.95 => format!("{value:.1}"),
        Some(value) => format!("{value:.0}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_stand_over_their_figures_and_groups_over_their_columns() {
        let columns = [
            column("", "rate", 6),
            column("200, ms", "p50", 8),
            column("200, ms", "p99", 8),
            column("", "ok", 4),
        ];
        let cells = ["5", "1.50", "12.25", "9"].map(str::to_owned);
        let table = format!("{}\n{}", heading(&columns), row(&columns, &cells));
        let wanted = ["       --- 200, ms ---", "  rate     p50     p99  ok", "     5    1.50   12.25   9"];
        assert_eq!(table.lines().collect::<Vec<_>>(), wanted);
    }

    #[test]
    fn a_figure_is_as_exact_as_its_column_is_wide() {
        let shown =
            [0.0, 0.004, 1.256, 99.99, 99.996, 100.0, 9999.9, 9999.96, 123_456.7].map(Some).map(short);
        let wanted = ["0.00", "0.00", "1.26", "99.99", "100.0", "100.0", "9999.9", "10000", "123457"];
        assert_eq!(shown, wanted);
        assert_eq!(short(None), "-");
    }
}
