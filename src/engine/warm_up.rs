//! A device's start: its runner is built and warmed, and its batch limit found.
//!
//! Called by the device's thread before it takes photos. Meters are not kept here: nobody waits for blank photos.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use super::runner::{Runner, RunnerError, RunnerFactory};
use super::shared::Shared;
use super::{Prepared, worker};
use crate::image::Pixels;

/// A runner that may be given photos.
pub(super) struct Warm {
    pub(super) runner: Box<dyn Runner>,
    /// Photos in one pass, at most.
    pub(super) limit: usize,
}

/// Builds the runner and runs the blank batches of its kind.
///
/// # Errors
/// [`RunnerError::Device`]: it cannot be built, a pass fails, or not even one photo fits into the device's memory.
pub(super) fn build(shared: &Shared, factory: RunnerFactory) -> Result<Warm, RunnerError> {
    let (device, warmup) = (factory.device().to_owned(), factory.warmup());
    let unfit = |reason: String| {
        RunnerError::Device(format!("the model needs more memory than {device} has to give: {reason}"))
    };
    let panicked = |_| RunnerError::Device("building the model panicked".to_owned());
    let mut runner = match catch_unwind(AssertUnwindSafe(factory.build)).map_err(panicked)? {
        Ok(runner) => runner,
        Err(RunnerError::OutOfMemory(reason)) => return Err(unfit(reason)),
        Err(error) => return Err(error),
    };
    // A batch never holds more photos than the queue does.
    let asked = shared.settings.max_batch_size.min(shared.settings.max_queue_size).max(1);
    let (mut limit, mut last, mut blanks) = (asked, None, Vec::new());
    for size in warmup.sizes(asked) {
        while blanks.len() < size {
            blanks.push(blank(shared)?);
        }
        match (pass(shared, &mut *runner, &blanks), last) {
            (Ok(time), _) => last = Some((time, size)),
            (Err(RunnerError::OutOfMemory(reason)), Some((_, fitted))) => {
                tracing::warn!(
                    %device,
                    reason,
                    "out of memory with batches of {size}: the limit is {fitted}, not {asked}"
                );
                limit = fitted;
                break;
            }
            (Err(RunnerError::OutOfMemory(reason)), None) => return Err(unfit(reason)),
            (Err(error), _) => {
                return Err(RunnerError::Device(format!("the warm-up run failed: {error}")));
            }
        }
    }
    // Only the last: the first pass pays for what is loaded and allocated once.
    if let Some((time, size)) = last {
        shared.pace.record(time, size);
    }
    Ok(Warm { runner, limit })
}

/// One pass whose scores must be numbers; the time it took.
fn pass(shared: &Shared, runner: &mut dyn Runner, blanks: &[Prepared]) -> Result<Duration, RunnerError> {
    let start = Instant::now();
    let rows = worker::infer(shared, runner, blanks)?;
    if rows.iter().flatten().all(|score| score.is_finite()) {
        Ok(start.elapsed())
    } else {
        Err(RunnerError::Batch("scores that are not finite".to_owned()))
    }
}

fn blank(shared: &Shared) -> Result<Prepared, RunnerError> {
    let (height, width) = (shared.model.height, shared.model.width);
    let pixels = Pixels::new(width, height, vec![0; height * width * 3]);
    pixels
        .map(Prepared::Pixels)
        .map_err(|error| RunnerError::Device(format!("no blank photo of {height} × {width}: {error}")))
}
