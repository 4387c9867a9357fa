//! A model comes to a device: its runner is built and warmed, and its batch limit found.
//!
//! Called by the device's thread. Meters are not kept here: nobody waits for blank photos.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use super::knee::{self, Knee, Row};
use super::runner::{Breathe, Runner, RunnerError, RunnerFactory, Warmup};
use super::shared::Shared;
use super::{BatchLimit, ModelSpec, Prepared, device};
use crate::image::Pixels;

/// A runner that may be given photos.
pub(super) struct Warm {
    pub(super) runner: Box<dyn Runner>,
    /// Photos in one pass, at most.
    pub(super) limit: usize,
    /// Its pass of the largest size that was measured.
    pub(super) pass: Row,
}

/// The largest batch that `auto` looks at.
const AUTO_MOST: usize = 256;

/// Builds the runner and runs the blank batches of its kind; calls `breathe` in between.
///
/// # Errors
/// [`RunnerError::Load`]: it cannot be built, a pass fails, or not even one photo fits into the device's memory.
/// [`RunnerError::Device`]: the device is lost.
pub(super) fn build(
    shared: &Shared,
    factory: RunnerFactory,
    spec: &ModelSpec,
    breathe: Breathe<'_>,
) -> Result<Warm, RunnerError> {
    let (device, warmup) = (factory.device().to_owned(), factory.warmup());
    let panicked = |_| RunnerError::Load("building the model panicked".to_owned());
    let built = catch_unwind(AssertUnwindSafe(|| (factory.build)(breathe))).map_err(panicked)?;
    let mut runner = built.map_err(|error| unfit(&device, error))?;
    let mut blanks = Blanks { spec, photos: Vec::new() };
    // A batch never holds more photos than the queue does.
    let most = shared.settings.max_queue_size.max(1);
    let mut run = |size| {
        let time = pass(shared, &mut *runner, blanks.of(size)?);
        breathe();
        time
    };
    let found = match shared.settings.max_batch_size {
        BatchLimit::Fixed(size) => buckets(warmup, &device, size.clamp(1, most), &mut run),
        BatchLimit::Auto => {
            let knee = knee::find(AUTO_MOST.min(most), &shared.clock, &mut run);
            knee.map(|Knee { limit, table, ended }| {
                let rows: Vec<String> = table.iter().map(ToString::to_string).collect();
                tracing::info!(model = %spec.name, %device, limit, "batch sizes: {}; {ended}", rows.join(", "));
                (limit, table.into_iter().find(|row| row.size == limit))
            })
        }
    };
    let (limit, row) = found.map_err(|error| unfit(&device, error))?;
    let pass = row.unwrap_or(Row { size: 1, time: Duration::ZERO });
    Ok(Warm { runner, limit, pass })
}

/// Runs the batches of a kind of device up to `asked`; the last that fits into its memory is the limit. Its pass is told, as the first
/// pays for what is loaded and allocated once.
fn buckets(
    warmup: Warmup,
    device: &str,
    asked: usize,
    run: &mut dyn FnMut(usize) -> Result<Duration, RunnerError>,
) -> Result<(usize, Option<Row>), RunnerError> {
    let mut last = None::<Row>;
    for size in warmup.sizes(asked) {
        match (run(size), last) {
            (Ok(time), _) => last = Some(Row { size, time }),
            (Err(RunnerError::OutOfMemory(reason)), Some(Row { size: fitted, .. })) => {
                tracing::warn!(
                    %device,
                    reason,
                    "out of memory with batches of {size}: the limit is {fitted}, not {asked}"
                );
                return Ok((fitted, last));
            }
            (Err(error), _) => return Err(error),
        }
    }
    Ok((asked, last))
}

/// An error of building or warming, as whoever starts a service should read it.
fn unfit(device: &str, error: RunnerError) -> RunnerError {
    match error {
        RunnerError::OutOfMemory(reason) => {
            RunnerError::Load(format!("the model needs more memory than {device} has to give: {reason}"))
        }
        RunnerError::Batch(reason) => RunnerError::Load(format!("the warm-up run failed: {reason}")),
        RunnerError::Load(_) | RunnerError::Device(_) => error,
    }
}

/// One pass whose scores must be numbers; the time it took.
fn pass(shared: &Shared, runner: &mut dyn Runner, blanks: &[Prepared]) -> Result<Duration, RunnerError> {
    let start = shared.clock.now();
    let rows = device::infer(shared, runner, blanks)?;
    if rows.iter().flatten().all(|score| score.is_finite()) {
        Ok(shared.clock.now().saturating_duration_since(start))
    } else {
        Err(RunnerError::Batch("scores that are not finite".to_owned()))
    }
}

/// Blank photos, as many as the largest batch so far.
struct Blanks<'a> {
    spec: &'a ModelSpec,
    photos: Vec<Prepared>,
}

impl Blanks<'_> {
    fn of(&mut self, size: usize) -> Result<&[Prepared], RunnerError> {
        let (height, width) = (self.spec.height, self.spec.width);
        while self.photos.len() < size {
            let pixels = Pixels::new(width, height, vec![0; height * width * 3]).map_err(|error| {
                RunnerError::Load(format!("no blank photo of {height} × {width}: {error}"))
            })?;
            self.photos.push(Prepared::Pixels(pixels.into()));
        }
        Ok(self.photos.get(..size).unwrap_or_default())
    }
}
