//! One measurement, ended: its figures for people and as JSON.

use super::record::Record;
use super::server_side::ServerSide;
use super::table::{Column, column, short};
use crate::commands::bench::figures::{Times, rounded};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::time::Instant;

/// How the service was called.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Calls {
    /// By so many clients, each waiting for its answer.
    Clients(u32),
    /// So many times a second.
    Rate(f64),
}

/// What one measurement came to. `sent` = answers + refusals + `unanswered` + `abandoned`.
#[derive(Debug)]
pub struct Row {
    calls: Calls,
    /// From the first request until the last 200, at least as long as requests were sent.
    seconds: f64,
    /// For how long requests were sent.
    sending: f64,
    sent: u64,
    unsent: u64,
    answered: Times,
    refused: Times,
    unanswered: u64,
    /// Requests that were on their way when the measurement was cut short.
    abandoned: u64,
    errors: BTreeMap<String, u64>,
    lags: Times,
    server: Option<ServerSide>,
}

/// When a measurement began and ended.
#[derive(Clone, Copy, Debug)]
pub struct Span {
    pub start: Instant,
    /// How long requests were to be sent.
    pub time: Duration,
    /// When it was cut short, if it was.
    pub cut: Option<Instant>,
}

/// How late a request may be sent before it is worth a word, in milliseconds: less than that is the system's own grain.
const LATE: f64 = 10.0;

impl Row {
    /// Takes what was recorded.
    pub fn new(calls: Calls, span: Span, record: Record, server: Option<ServerSide>) -> Self {
        let since = |moment: Instant| moment.saturating_duration_since(span.start);
        let latest = |moment: Option<Instant>| moment.map_or(span.time, since).max(span.time).as_secs_f64();
        let cut = span.cut.map(|cut| since(cut).as_secs_f64());
        Self {
            calls,
            // As a service is busy while its last answers are on their way, that time counts.
            seconds: cut.unwrap_or_else(|| latest(record.last_answer)),
            sending: cut.unwrap_or_else(|| latest(record.last_sent)),
            sent: record.sent,
            unsent: record.unsent,
            abandoned: record.in_flight(),
            answered: Times::new(record.answered),
            refused: Times::new(record.refused),
            unanswered: record.unanswered,
            errors: record.errors,
            lags: Times::new(record.lags),
            server,
        }
    }

    /// Requests answered with 200.
    pub fn answers(&self) -> usize {
        self.answered.count()
    }

    /// Refused and unanswered ones by code.
    pub fn errors(&self) -> &BTreeMap<String, u64> {
        &self.errors
    }

    fn photos_per_second(&self) -> f64 {
        self.answered.count() as f64 / self.seconds.max(f64::EPSILON)
    }

    fn sent_per_second(&self) -> f64 {
        self.sent as f64 / self.sending.max(f64::EPSILON)
    }

    pub fn to_json(&self) -> Value {
        let figure = |times: &Times, percent| percentile(times, percent).map(rounded);
        let (name, value) = match self.calls {
            Calls::Clients(number) => ("concurrency", json!(number)),
            Calls::Rate(rate) => ("rate", json!(rate)),
        };
        let mut row = json!({
            name: value,
            "seconds": rounded(self.seconds),
            "sent": self.sent,
            "answers": self.answered.count(),
            "photos_per_second": rounded(self.photos_per_second()),
            "p50_ms": figure(&self.answered, 50.0),
            "p90_ms": figure(&self.answered, 90.0),
            "p99_ms": figure(&self.answered, 99.0),
            "max_ms": figure(&self.answered, 100.0),
            "refused": {
                "answers": self.refused.count(),
                "p50_ms": figure(&self.refused, 50.0),
                "p99_ms": figure(&self.refused, 99.0),
                "max_ms": figure(&self.refused, 100.0),
            },
            "unanswered": self.unanswered,
            "abandoned": self.abandoned,
            "errors": self.errors,
            "server": self.server.as_ref().map(ServerSide::to_json),
        });
        if let (Calls::Rate(_), Some(row)) = (self.calls, row.as_object_mut()) {
            row.insert("sent_per_second".to_owned(), json!(rounded(self.sent_per_second())));
            row.insert("unsent".to_owned(), json!(self.unsent));
            row.insert("late_p99_ms".to_owned(), json!(figure(&self.lags, 99.0)));
        }
        row
    }

    /// The columns of the client's side.
    pub fn columns(calls: Calls) -> Vec<Column> {
        const ANSWERED: &str = "answered with 200, ms";
        const REFUSED: &str = "other answers, ms";
        let mut columns = match calls {
            Calls::Clients(_) => vec![column("", "in flight", 9)],
            Calls::Rate(_) => vec![column("", "rate/s", 8), column("", "sent/s", 8)],
        };
        columns.extend([column("", "sent", 8), column("", "200", 8), column("", "photos/s", 9)]);
        columns.extend(["p50", "p90", "p99", "max"].map(|name| column(ANSWERED, name, 8)));
        columns.push(column(REFUSED, "count", 8));
        columns.extend(["p50", "p99", "max"].map(|name| column(REFUSED, name, 8)));
        columns
    }

    /// What stands in them.
    pub fn cells(&self) -> Vec<String> {
        let mut cells = vec![self.calls.number()];
        if let Calls::Rate(_) = self.calls {
            cells.push(short(Some(self.sent_per_second())));
        }
        cells.push(self.sent.to_string());
        cells.push(self.answered.count().to_string());
        cells.push(short(Some(self.photos_per_second())));
        cells.extend([50.0, 90.0, 99.0, 100.0].map(|percent| short(percentile(&self.answered, percent))));
        cells.push(self.refused.count().to_string());
        cells.extend([50.0, 99.0, 100.0].map(|percent| short(percentile(&self.refused, percent))));
        cells
    }

    /// The columns of the service's side.
    pub fn server_columns(calls: Calls) -> Vec<Column> {
        let mut columns = match calls {
            Calls::Clients(_) => vec![column("", "in flight", 9)],
            Calls::Rate(_) => vec![column("", "rate/s", 9)],
        };
        for group in ["queue, ms", "decode, ms", "inference, ms"] {
            columns.extend(["mean", "p50", "p99"].map(|name| column(group, name, 7)));
        }
        columns.extend([column("photos", "a batch", 8), column("queue", "max", 8)]);
        columns.extend(["start", "max", "end"].map(|name| column("memory, MB", name, 7)));
        columns
    }

    /// What stands in them, where the service told.
    pub fn server_cells(&self) -> Option<Vec<String>> {
        let server = self.server.as_ref()?;
        let milliseconds = |seconds: Option<f64>| short(seconds.map(|seconds| seconds * 1000.0));
        let mut cells = vec![self.calls.number()];
        for times in [&server.queue, &server.decode, &server.inference] {
            cells.extend([times.mean(), times.percentile(50.0), times.percentile(99.0)].map(milliseconds));
        }
        cells.push(short(server.batch.mean()));
        cells.push(format!("{:.0}", server.most_waiting));
        let memory = server.memory.map(|[start, end, max]| [start, max, end]);
        cells.extend((0..3).map(|place| short(memory.map(|memory| memory[place] / 1e6))));
        Some(cells)
    }

    /// What no column holds.
    pub fn notes(&self) -> Vec<String> {
        let mut notes = Vec::new();
        if !self.errors.is_empty() {
            let errors: Vec<String> =
                self.errors.iter().map(|(code, count)| format!("{count} {code}")).collect();
            notes.push(format!("errors: {}", errors.join(", ")));
        }
        if self.unsent > 0 {
            notes.push(format!("not sent: {}, as too many had no answer (--max-in-flight)", self.unsent));
        }
        let late = percentile(&self.lags, 99.0).filter(|late| *late > LATE);
        if let Some(late) = late {
            notes.push(format!(
                "sent late: by {} ms (p99); the machine that measures is too busy",
                short(Some(late))
            ));
        }
        if self.abandoned > 0 {
            notes.push(format!("cut short: {} were on their way", self.abandoned));
        }
        let of = match self.calls {
            Calls::Clients(number) => format!("{number} in flight"),
            Calls::Rate(rate) => format!("{rate} a second"),
        };
        notes.into_iter().map(|note| format!("{of}: {note}")).collect()
    }
}

impl Calls {
    fn number(self) -> String {
        match self {
            Self::Clients(number) => number.to_string(),
            Self::Rate(rate) => rate.to_string(),
        }
    }
}

/// In milliseconds; `None` where there are no times.
fn percentile(times: &Times, percent: f64) -> Option<f64> {
    (times.count() > 0).then(|| times.percentile(percent))
}

#[cfg(test)]
mod tests {
    use super::super::table::{heading, row};
    use super::*;

    fn span(cut: Option<Duration>) -> Span {
        let start = Instant::now();
        Span { start, time: Duration::from_secs(10), cut: cut.map(|cut| start + cut) }
    }

    fn record(span: Span) -> Record {
        Record {
            sent: 9,
            unsent: 4,
            answered: [1, 2, 3, 4].map(Duration::from_millis).to_vec(),
            refused: [10, 20].map(Duration::from_millis).to_vec(),
            unanswered: 1,
            errors: [("overloaded".to_owned(), 2), ("timeout".to_owned(), 1)].into(),
            lags: vec![Duration::from_millis(40)],
            last_sent: Some(span.start + Duration::from_secs(9)),
            last_answer: Some(span.start + Duration::from_secs(16)),
        }
    }

    #[test]
    fn figures_are_of_each_kind_of_answer_and_counts_add_up() {
        let span = span(None);
        let row = Row::new(Calls::Rate(2.5), span, record(span), None).to_json();
        assert_eq!((&row["rate"], &row["answers"], &row["abandoned"]), (&json!(2.5), &json!(4), &json!(2)));
        // 4 answers until second 16, 9 requests in the 10 seconds of the schedule.
        assert_eq!((&row["photos_per_second"], &row["sent_per_second"]), (&json!(0.25), &json!(0.9)));
        let times = ["p50_ms", "p90_ms", "p99_ms", "max_ms"].map(|name| row[name].as_f64());
        assert_eq!(times, [2.0, 4.0, 4.0, 4.0].map(Some));
        assert_eq!(row["refused"], json!({"answers": 2, "p50_ms": 10.0, "p99_ms": 20.0, "max_ms": 20.0}));
        assert_eq!((&row["unsent"], &row["late_p99_ms"]), (&json!(4), &json!(40.0)));
        assert_eq!(row["errors"], json!({"overloaded": 2, "timeout": 1}));
    }

    #[test]
    fn a_row_without_answers_has_no_times_and_one_that_was_cut_ends_there() {
        let span = span(Some(Duration::from_secs(2)));
        let row = Row::new(Calls::Clients(3), span, Record { sent: 3, ..Record::default() }, None).to_json();
        assert_eq!((&row["concurrency"], &row["abandoned"]), (&json!(3), &json!(3)));
        assert_eq!((&row["seconds"], &row["photos_per_second"]), (&json!(2.0), &json!(0.0)));
        assert!(row["p50_ms"].is_null() && row["refused"]["max_ms"].is_null() && row["server"].is_null());
        assert!(row.get("sent_per_second").is_none(), "a closed loop has no rate");
    }

    #[test]
    fn what_a_column_cannot_say_is_said_below() {
        let span = span(None);
        let notes = Row::new(Calls::Rate(2.5), span, record(span), None).notes();
        let wanted =
            ["errors: 2 overloaded, 1 timeout", "not sent: 4", "sent late: by 40.00 ms", "cut short: 2"];
        assert_eq!(notes.len(), wanted.len());
        for (note, wanted) in notes.iter().zip(wanted) {
            assert!(note.starts_with(&format!("2.5 a second: {wanted}")), "{note}");
        }
    }

    #[test]
    fn tables_stay_within_110_columns_and_no_figure_meets_its_neighbour() {
        let side = ServerSide {
            queue: crate::commands::bench::load::histogram::Histogram::new([(1e3, 1e6)], 9e8, 1e6),
            decode: Default::default(),
            inference: Default::default(),
            batch: Default::default(),
            most_waiting: 99_999.0,
            memory: Some([9e10, 9e10, 9e10]),
        };
        for calls in [Calls::Clients(1024), Calls::Rate(99_999.25)] {
            let mut record = record(span(None));
            (record.sent, record.answered) = (9_999_999, vec![Duration::from_secs(999); 5]);
            let filled = Row::new(calls, span(None), record, Some(side.clone()));
            let client = (Row::columns(calls), filled.cells());
            let server = (Row::server_columns(calls), filled.server_cells().expect("it told"));
            for (columns, cells) in [client, server] {
                assert_eq!(columns.len(), cells.len());
                let lines = format!("{}\n{}", heading(&columns), row(&columns, &cells));
                assert!(lines.lines().all(|line| line.chars().count() <= 110), "{lines}");
                let last = lines.lines().last().unwrap_or_default();
                assert_eq!(last.split_whitespace().count(), cells.len(), "{lines}");
            }
        }
    }
}
