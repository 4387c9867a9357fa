//! What a person sees of a run: a bar with the time left on a terminal, plain lines elsewhere.
//!
//! Everything goes to standard error; log lines take the same way ([`Progress::writer`]), so that they do not tear the bar.

use crate::trainer::{EpochEnd, Step};
use indicatif::{HumanDuration, ProgressBar, ProgressStyle};
use std::io::{self, Write};
use std::time::{Duration, Instant};

/// Plain lines of a run that is watched by no terminal come no more often than this.
const LINE_EVERY: Duration = Duration::from_secs(30);

/// The progress of one job, counted in whatever the job counts.
pub struct Progress {
    bar: ProgressBar,
    started: Instant,
    last_line: Instant,
    total: u64,
    /// Units of these that were done before the start.
    skipped: u64,
    /// What is counted, in words.
    what: String,
}

impl Default for Progress {
    fn default() -> Self {
        let now = Instant::now();
        // indicatif draws on standard error, only on a terminal, and not before there is something to show.
        Self {
            bar: ProgressBar::new(0),
            started: now,
            last_line: now,
            total: 0,
            skipped: 0,
            what: String::new(),
        }
    }
}

impl Progress {
    /// The work begins: `total` units, `what` in words (`steps`, `photos`).
    pub fn start(&mut self, total: u64, what: &str) {
        let template = format!("{{bar:30}} {{pos}}/{{len}} {what} · {{msg}}{{eta}} left");
        if let Ok(style) = ProgressStyle::with_template(&template) {
            self.bar.set_style(style.progress_chars("━╸─"));
        }
        // Another job may have used it before.
        self.bar.reset();
        self.bar.set_message("");
        self.bar.set_length(total);
        (self.total, self.skipped) = (total, 0);
        what.clone_into(&mut self.what);
        self.started = Instant::now();
        self.last_line = self.started;
    }

    /// `units` lie behind us from the start: a run that goes on.
    pub fn skip(&mut self, units: u64) {
        self.skipped = units;
        self.bar.set_position(units);
        self.bar.reset_eta();
    }

    /// A line above the bar.
    pub fn say(&self, line: &str) {
        self.bar.suspend(|| {
            // A closed standard error is no reason to stop.
            let _ = writeln!(io::stderr(), "{line}");
        });
    }

    /// A place for log lines.
    pub fn writer(&self) -> impl Fn() -> LogWriter + Send + Sync + 'static {
        let bar = self.bar.clone();
        move || LogWriter(bar.clone())
    }

    /// `units` more are done.
    pub fn advance(&mut self, units: u64) {
        self.bar.inc(units);
        if self.bar.is_hidden() && self.last_line.elapsed() >= LINE_EVERY {
            self.last_line = Instant::now();
            let done = self.bar.position();
            self.say(&format!("{done}/{} {} · {} left", self.total, self.what, self.time_left(done)));
        }
    }

    /// An optimiser step was made.
    pub fn stepped(&mut self, step: &Step) {
        let speed = step.images_per_second();
        let message = format!(
            "epoch {:.2} · loss {:.4} · lr {:.2e} · {speed:.1} img/s",
            step.epoch, step.loss, step.learning_rate
        );
        self.reached(step.step, &message);
    }

    /// So many steps are behind us.
    pub fn reached(&mut self, step: u64, message: &str) {
        self.bar.set_position(step);
        self.bar.set_message(format!("{message} · "));
        if self.bar.is_hidden() && self.last_line.elapsed() >= LINE_EVERY {
            self.last_line = Instant::now();
            self.say(&format!("step {step}/{} · {message} · {} left", self.total, self.time_left(step)));
        }
    }

    /// An epoch of `epochs` ended, with this mean loss of the photos trained on.
    pub fn epoch_ended(&self, end: &EpochEnd<'_>, epochs: u64, loss: f64) {
        let validation = end.evaluation.map_or_else(String::new, |evaluation| {
            format!(
                " · validation: top-1 {:.4}, top-5 {:.4}, loss {:.4}",
                evaluation.top1_accuracy(),
                evaluation.top5_accuracy(),
                evaluation.mean_loss()
            )
        });
        self.say(&format!(
            "epoch {}/{epochs} · training loss {loss:.4}{validation} · {} left",
            end.epoch,
            self.time_left(end.step)
        ));
    }

    /// The bar leaves the screen.
    pub fn finish(&self) {
        self.bar.finish_and_clear();
    }

    fn time_left(&self, done: u64) -> HumanDuration {
        let remaining = self.total.saturating_sub(done) as f64;
        let timed = done.saturating_sub(self.skipped).max(1) as f64;
        HumanDuration(self.started.elapsed().mul_f64(remaining / timed))
    }
}

/// Writes log lines above the bar.
pub struct LogWriter(ProgressBar);

impl Write for LogWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.suspend(|| io::stderr().write(bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}
