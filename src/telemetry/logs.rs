//! The log: lines on standard error, and with feature `otlp` spans for a collector.
//!
//! `main` starts it once, before anything else speaks, and keeps what [`start_logs`] returns until the end. A panic is a line of
//! the log too, in the span it happened in.

use std::backtrace::{Backtrace, BacktraceStatus};
use std::panic::PanicHookInfo;

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

/// The running log. Dropped at the end of the program, it sends what is not sent yet.
#[must_use = "dropped at once, it ends the export of traces"]
#[derive(Debug)]
pub struct Logs {
    #[cfg(feature = "otlp")]
    _export: Option<super::otlp::Export>,
}

/// Starts logging to standard error; `RUST_LOG` chooses what (default: `info`). From then on panics are logged as well. A second
/// call changes nothing.
///
/// With feature `otlp`, spans of requests go to the collector that `OTEL_EXPORTER_OTLP_ENDPOINT` names, if it names one.
///
/// # Errors
/// What is wrong with the `OTEL_…` variables.
pub fn start_logs(format: LogFormat) -> Result<Logs, String> {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let colours = std::io::IsTerminal::is_terminal(&std::io::stderr());
    // A log that cannot be written (nobody reads the pipe any more) is lost, and nothing else: saying so on the same standard
    // error would panic, in every request.
    let lines = fmt::layer().with_ansi(colours).with_writer(std::io::stderr).log_internal_errors(false);
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
        Logs { _export: export.filter(|_| started) }
    };
    #[cfg(not(feature = "otlp"))]
    let started = {
        // Fails only where a subscriber is set already, as in tests of a larger program.
        let _ = registry.try_init();
        Logs {}
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
