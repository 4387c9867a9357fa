//! The log: lines on standard error, and with feature `otlp` spans for a collector.
//!
//! `main` starts it once, before anything else speaks, and keeps what [`start_logs`] returns until the end. A panic is a line of
//! the log too, in the span it happened in.

use std::backtrace::{Backtrace, BacktraceStatus};
use std::ffi::OsString;
use std::panic::PanicHookInfo;

use tracing_appender::non_blocking::{ErrorCounter, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, fmt};

/// How log lines are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// The running log. Dropped at the end of the program, it writes and sends what is not out yet.
#[must_use = "dropped at once, it ends the log"]
#[derive(Debug)]
pub struct Logs {
    /// Writes what is left when it is dropped; waits a second at most for a reader.
    _writer: WorkerGuard,
    lost: ErrorCounter,
    #[cfg(feature = "otlp")]
    _export: Option<super::otlp::Export>,
}

/// Lines that were lost, as nobody took them in time.
#[derive(Clone, Debug)]
pub struct LostLines(ErrorCounter);

/// Lines that wait for standard error, at most.
const WAITING_LINES: usize = 8192;

/// Starts logging to standard error; `RUST_LOG` chooses what (default: `info`). From then on panics are logged as well. A second
/// call changes nothing.
///
/// With feature `otlp`, spans of requests go to the collector that `OTEL_EXPORTER_OTLP_ENDPOINT` names, if it names one.
///
/// # Errors
/// What is wrong with `RUST_LOG` or the `OTEL_…` variables.
pub fn start_logs(format: LogFormat) -> Result<Logs, String> {
    let filter = filter(std::env::var_os("RUST_LOG"))?;
    let colours = std::io::IsTerminal::is_terminal(&std::io::stderr());
    // A thread of its own writes: a reader that stalls (a terminal that was paused, a full pipe) costs lines, and stalls nobody.
    let (writer, guard) = NonBlockingBuilder::default()
        .lossy(true)
        .buffered_lines_limit(WAITING_LINES)
        .thread_name("log")
        .finish(std::io::stderr());
    let lost = writer.error_counter();
    // A log that cannot be written (nobody reads the pipe any more) is lost, and nothing else: saying so on the same standard
    // error would panic, in every request.
    let lines = fmt::layer().with_ansi(colours).with_writer(writer).log_internal_errors(false);
    let lines = match format {
        LogFormat::Text => lines.boxed(),
        LogFormat::Json => lines.json().flatten_event(true).with_span_list(false).boxed(),
    };
    let registry = tracing_subscriber::registry().with(lines.with_filter(filter));
    #[cfg(feature = "otlp")]
    let started = {
        let export = super::otlp::Export::from_environment()?;
        let layer = export.as_ref().map(super::otlp::Export::layer);
        // Fails only where a subscriber is set already, as in tests of a larger program.
        let started = registry.with(layer).try_init().is_ok();
        Logs { _writer: guard, lost, _export: export.filter(|_| started) }
    };
    #[cfg(not(feature = "otlp"))]
    let started = {
        // Fails only where a subscriber is set already, as in tests of a larger program.
        let _ = registry.try_init();
        Logs { _writer: guard, lost }
    };
    std::panic::set_hook(Box::new(log_panic));
    #[cfg(not(feature = "otlp"))]
    if std::env::var_os("OTEL_EXPORTER_OTLP_ENDPOINT").is_some_and(|endpoint| !endpoint.is_empty()) {
        tracing::warn!(
            "OTEL_EXPORTER_OTLP_ENDPOINT is set, and this program is built without the feature `otlp`: no traces are sent"
        );
    }
    Ok(started)
}

/// What `RUST_LOG` says.
fn filter(variable: Option<OsString>) -> Result<EnvFilter, String> {
    let Some(variable) = variable.filter(|text| !text.is_empty()) else { return Ok(EnvFilter::new("info")) };
    let text = variable.to_string_lossy();
    EnvFilter::try_new(&text).map_err(|error| {
        format!(
            "RUST_LOG={text}: {error}; it is a level (warn) or a list of them (info,featherlight::access=off)"
        )
    })
}

impl Logs {
    /// How many lines were lost; counts on.
    pub fn lost_lines(&self) -> LostLines {
        LostLines(self.lost.clone())
    }
}

impl LostLines {
    /// Since the start of the log.
    pub fn count(&self) -> usize {
        self.0.dropped_lines()
    }
}

/// Takes the place of the standard library's text on standard error, which no log reader understands and no id goes with.
fn log_panic(info: &PanicHookInfo<'_>) {
    let payload = info.payload();
    let text = payload.downcast_ref::<&str>().copied();
    let text = text.or_else(|| payload.downcast_ref::<String>().map(String::as_str)).unwrap_or("no text");
    let location = info.location().map(tracing::field::display);
    let thread = std::thread::current();
    // Taken where RUST_BACKTRACE asks for it.
    let backtrace = Backtrace::capture();
    let backtrace =
        (backtrace.status() == BacktraceStatus::Captured).then(|| tracing::field::display(backtrace));
    tracing::error!(target: "featherlight::panic", panic = text, location, thread = thread.name(), backtrace, "a panic");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_rust_log_says_is_taken_or_refused_by_name() {
        assert_eq!(filter(None).expect("the default").to_string(), "info");
        assert_eq!(filter(Some("".into())).expect("the default").to_string(), "info");
        assert_eq!(filter(Some("warn".into())).expect("a level").to_string(), "warn");
        let refused = filter(Some("featherlight=loud".into())).expect_err("no level");
        assert!(refused.contains("RUST_LOG=featherlight=loud"), "{refused}");
    }
}
