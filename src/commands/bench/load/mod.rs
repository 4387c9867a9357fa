//! A running service under load: `featherlight bench --server`.
//!
//! Warms up (`warm_up`), then runs a measurement a row, `closed` or `open`, through one `client` on one thread, since the machine is
//! often the service's own. A `record` is filled meanwhile and the service's own metrics are watched (`server_side`); a `row` of
//! figures is made of both. Ctrl-C ends the row at once (`interrupt`), and what was measured is reported.

mod address;
mod answer;
mod client;
mod closed;
mod histogram;
mod interrupt;
mod metrics;
mod open;
mod record;
mod row;
mod schedule;
mod server_side;
mod table;
mod warm_up;

use super::report::Report;
use crate::cli::{self, Pattern};
use crate::commands::open_files;
use address::Address;
use answer::Outcome;
use bytes::Bytes;
use client::Client;
use featherlight::predict::PredictError;
use interrupt::Interrupt;
use record::SharedRecord;
use row::{Calls, Row, Span};
use schedule::Schedule;
use serde_json::{Value, json};
use server_side::Monitor;
use std::collections::BTreeMap;
use std::error::Error;
use std::io::Write;
use std::rc::Rc;
use std::time::Duration;
use tokio::task::{JoinError, LocalSet};
use tokio::time::{Instant, timeout};

/// How long an answer is waited for where nobody said: longer than a service's own limit, so that it is its word that counts.
const PATIENCE: Duration = Duration::from_secs(60);
/// How much longer than the time that the service was told, for its own word that the time is over.
const GRACE: Duration = Duration::from_secs(1);
/// How long a page of metrics is waited for.
const METRICS_PATIENCE: Duration = Duration::from_secs(5);
/// And once somebody has asked for the end.
const LAST_PATIENCE: Duration = Duration::from_secs(1);

/// What is measured, and how.
pub struct Setup<'a> {
    /// `http://host:port`.
    pub server: &'a str,
    /// When requests are sent, and what stands in them.
    pub load: &'a cli::Load,
    /// For how long, each row.
    pub time: Duration,
}

/// Sends `photos` round and round, and reports.
///
/// # Errors
/// If the service cannot be used at all, or not one request got predictions.
pub fn measure(setup: &Setup<'_>, photos: Vec<Bytes>, report: &mut Report) -> Result<(), Box<dyn Error>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let outcome = LocalSet::new().block_on(&runtime, async {
        let interrupt = Interrupt::listen()?;
        Bench::prepare(setup, photos, interrupt)?.run(report).await
    });
    // A name that is still being looked up must not hold back the end.
    runtime.shutdown_background();
    outcome
}

/// One run: all rows.
struct Bench<'a> {
    setup: &'a Setup<'a>,
    address: Address,
    photos: Rc<Vec<Bytes>>,
    monitor: Monitor,
    interrupt: Interrupt,
    /// What was said already, so that it is said once.
    told: Vec<String>,
}

impl<'a> Bench<'a> {
    fn prepare(
        setup: &'a Setup<'a>,
        photos: Vec<Bytes>,
        interrupt: Interrupt,
    ) -> Result<Self, Box<dyn Error>> {
        let load = setup.load;
        let address = Address::new(setup.server, &load.path, load.top_k, load.metrics_url.as_deref())?;
        let key = load.key.api_key.as_deref().filter(|_| address.same_host());
        let metrics = Client::of_page(&address.metrics, key, METRICS_PATIENCE)?;
        let monitor = Monitor::new(metrics);
        Ok(Self { setup, address, photos: Rc::new(photos), monitor, interrupt, told: Vec::new() })
    }

    async fn run(mut self, report: &mut Report) -> Result<(), Box<dyn Error>> {
        let calls = self.calls();
        let most = match self.setup.load.pattern() {
            Pattern::Closed(clients) => clients.into_iter().max().unwrap_or(1) as usize,
            Pattern::Open { max_in_flight, .. } => max_in_flight,
        };
        let room = open_files::room_for(most);
        if room < most {
            self.tell(format!(
                "the system allows {room} connections here, fewer than {most} requests may need"
            ));
        }
        self.warm_up().await?;
        report.figure("service", self.to_json(), &self.title())?;
        let Some(first) = calls.first().copied() else { return Ok(()) };
        report.line(&format!("\n{}", table::heading(&Row::columns(first))))?;
        let mut rows = Vec::new();
        for calls in calls {
            if self.interrupt.came() {
                break;
            }
            let row = self.row(calls).await?;
            report.line(&table::row(&Row::columns(calls), &row.cells()))?;
            rows.push(row);
        }
        self.report(first, &rows, report)?;
        if !self.interrupt.came() && rows.iter().all(|row| row.answers() == 0) {
            let mut errors: BTreeMap<&str, u64> = BTreeMap::new();
            for (code, count) in rows.iter().flat_map(Row::errors) {
                *errors.entry(code).or_insert(0) += count;
            }
            return Err(self.fault(format!("no photo was classified; errors: {errors:?}")).into());
        }
        Ok(())
    }

    fn calls(&self) -> Vec<Calls> {
        match self.setup.load.pattern() {
            Pattern::Closed(clients) => clients.into_iter().map(Calls::Clients).collect(),
            Pattern::Open { rates, .. } => rates.into_iter().map(Calls::Rate).collect(),
        }
    }

    fn client(&self) -> Result<Client, Box<dyn Error>> {
        let timeout = self.setup.load.timeout();
        let patience = timeout.map_or(PATIENCE, |timeout| timeout + GRACE);
        let key = self.setup.load.key.api_key.as_deref();
        Ok(Client::of_photos(&self.address.photos, key, timeout, patience)?)
    }

    async fn warm_up(&self) -> Result<(), Box<dyn Error>> {
        let client = self.client()?;
        let keyed = self.setup.load.key.api_key.is_some();
        tokio::select! {
            outcome = warm_up::warm_up(&client, &self.address, keyed, &self.photos) => {
                outcome.map_err(|problem| self.fault(problem).into())
            }
            () = self.interrupt.wait() => Err("interrupted before anything was measured".into()),
        }
    }

    /// One measurement, with connections of its own.
    async fn row(&mut self, calls: Calls) -> Result<Row, Box<dyn Error>> {
        let (client, photos) = (Rc::new(self.client()?), self.photos.clone());
        let send = move |number: usize| {
            let (client, photo) = (client.clone(), photos.get(number % photos.len().max(1)).cloned());
            async move { Outcome::of(&client.ask(photo.unwrap_or_default()).await) }
        };
        let watch = self.monitor.watch().await;
        let (record, start, time) = (SharedRecord::default(), Instant::now(), self.setup.time);
        let load = async {
            match calls {
                Calls::Clients(number) => {
                    closed::run(send, number as usize, start + time, record.clone()).await?;
                }
                Calls::Rate(rate) => {
                    let (due, clock) = Schedule { rate, time }.start()?;
                    open::run(send, due, self.max_in_flight(), record.clone()).await?;
                    drop(clock);
                }
            }
            Ok::<(), Box<dyn Error>>(())
        };
        let cut = tokio::select! {
            ended = load => {
                ended.map_err(explain)?;
                None
            }
            () = self.interrupt.wait() => Some(Instant::now()),
        };
        // Requests that were cut off hold the record until the runtime drops them.
        let record = record.take();
        let server = match (watch, cut) {
            (Ok(watch), None) => watch.end().await,
            // Whoever asked for the end should not wait for it.
            (Ok(watch), Some(_)) => match timeout(LAST_PATIENCE, watch.end()).await {
                Ok(server) => server,
                Err(_) => Err("no answer in time".to_owned()),
            },
            (Err(problem), _) => Err(problem),
        };
        let server = server.map_err(|problem| {
            self.tell(format!(
                "no figures of the service's own side: {}: {problem} (--metrics-url URL names another place)",
                self.address.metrics
            ));
        });
        Ok(Row::new(calls, Span { start, time, cut }, record, server.ok()))
    }

    fn max_in_flight(&self) -> usize {
        match self.setup.load.pattern() {
            Pattern::Open { max_in_flight, .. } => max_in_flight,
            Pattern::Closed(_) => usize::MAX,
        }
    }

    /// What goes under the rows.
    fn report(&self, calls: Calls, rows: &[Row], report: &mut Report) -> Result<(), Box<dyn Error>> {
        let columns = Row::server_columns(calls);
        let server: Vec<String> =
            rows.iter().filter_map(Row::server_cells).map(|cells| table::row(&columns, &cells)).collect();
        if !server.is_empty() {
            report.line(&format!("\nwhat the service measured meanwhile\n{}", table::heading(&columns)))?;
        }
        for line in server {
            report.line(&line)?;
        }
        let notes: Vec<String> = rows.iter().flat_map(Row::notes).collect();
        if !notes.is_empty() {
            report.line(&format!("\n{}", notes.join("\n")))?;
        }
        let interrupted = self.interrupt.came();
        if interrupted {
            report.line(&"interrupted")?;
        }
        let rows: Vec<Value> = rows.iter().map(Row::to_json).collect();
        // The first row by itself: the name and place of the only one, before there were lists.
        report.json("load", rows.first().cloned().unwrap_or(Value::Null));
        report.json("rows", Value::Array(rows));
        report.json("interrupted", json!(interrupted));
        Ok(())
    }

    fn to_json(&self) -> Value {
        json!({
            "server": self.address.server,
            "url": self.address.photos.to_string(),
            "metrics_url": self.address.metrics.to_string(),
            "photos": self.photos.len(),
            "photo_bytes": self.bytes(),
            "timeout_ms": self.setup.load.timeout().map(|timeout| timeout.as_millis() as u64),
        })
    }

    fn title(&self) -> String {
        let kind = match self.setup.load.pattern() {
            Pattern::Closed(_) => "closed loop".to_owned(),
            Pattern::Open { max_in_flight, .. } => format!("open loop, at most {max_in_flight} in flight"),
        };
        format!(
            "{}\nphotos: {}, {:.1} MB in all, sent in turn; {kind}; {} s a row",
            self.address.photos,
            self.photos.len(),
            self.bytes() as f64 / 1e6,
            self.setup.time.as_secs_f64()
        )
    }

    fn bytes(&self) -> usize {
        self.photos.iter().map(Bytes::len).sum()
    }

    fn fault(&self, problem: String) -> PredictError {
        PredictError::Server { server: self.address.server.clone(), problem }
    }

    /// Says something beside the figures, once.
    fn tell(&mut self, text: String) {
        if !self.told.contains(&text) {
            // A closed standard error is no reason to end a measurement.
            let _ = writeln!(std::io::stderr(), "{text}");
            self.told.push(text);
        }
    }
}

/// A panic of a request is a fault of this program.
fn explain(error: Box<dyn Error>) -> Box<dyn Error> {
    if error.is::<JoinError>() { format!("internal: {error}").into() } else { error }
}
