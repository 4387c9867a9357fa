//! The device thread: builds the runner, warms it, then runs whatever waits, batch after batch.
//!
//! Started by `Engine::start`; the only thread that ever touches the device. The real runner over a loaded model and
//! the fakes of the tests both stand behind [`Runner`]. One bad photo never harms its batch: a batch that fails is run
//! again one by one.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Instant;

use super::batcher::BatchRule;
use super::queue::{Call, Entry};
use super::{EngineError, EngineStatus, Prepared, Scores, Shared};
use crate::image::Pixels;

/// What runs on a device thread. It is built there, lives there and is dropped there; it need not be `Send`.
pub trait Runner {
    /// One forward pass: raw logits for each photo of `batch`, in order, one value a label.
    ///
    /// # Errors
    /// [`RunnerError::Batch`] when this batch fails, [`RunnerError::Device`] when no further one can succeed. A panic is
    /// caught and treated as the former, so a runner must stay usable after one.
    fn run(&mut self, batch: &[Prepared]) -> Result<Vec<Vec<f32>>, RunnerError>;
}

/// Builds the runner on the device's own thread.
pub type RunnerFactory = Box<dyn FnOnce() -> Result<Box<dyn Runner>, RunnerError> + Send>;

/// Why a forward pass gave no scores. The texts go to the log, never to a client.
#[derive(Debug, thiserror::Error)]
pub enum RunnerError {
    /// This batch failed; another may succeed.
    #[error("{0}")]
    Batch(String),
    /// The device is lost, or the model cannot be built.
    #[error("{0}")]
    Device(String),
}

pub(super) fn spawn(shared: Arc<Shared>, factory: RunnerFactory) -> std::io::Result<()> {
    std::thread::Builder::new().name("device-0".to_owned()).spawn(move || work(&shared, factory))?;
    Ok(())
}

fn work(shared: &Shared, factory: RunnerFactory) {
    let mut runner = match build(shared, factory) {
        Ok(runner) => runner,
        Err(error) => return shared.fail(&error.to_string()),
    };
    shared.status.send_if_modified(|status| {
        let starting = *status == EngineStatus::Starting;
        if starting {
            *status = EngineStatus::Ready;
        }
        starting
    });
    let settings = &shared.settings;
    let rule = BatchRule { limit: settings.max_batch_size, max_delay: settings.max_queue_delay };
    while let Some(entries) = shared.ready.take(&rule) {
        if let Err(reason) = run_batch(shared, &mut *runner, entries) {
            return shared.fail(&reason);
        }
    }
}

/// The factory, then one blank photo: the first pass of a device pays for its allocations, and shows a broken model
/// before the service calls itself ready.
fn build(shared: &Shared, factory: RunnerFactory) -> Result<Box<dyn Runner>, RunnerError> {
    let panicked = |_| RunnerError::Device("building the model panicked".to_owned());
    let mut runner = catch_unwind(AssertUnwindSafe(factory)).map_err(panicked)??;
    let (height, width) = (shared.model.height, shared.model.width);
    let blank = Pixels::new(width, height, vec![0; height * width * 3])
        .map_err(|error| RunnerError::Device(format!("no blank photo of {height} × {width}: {error}")))?;
    let start = Instant::now();
    let rows = infer(shared, &mut *runner, &[Prepared::Pixels(blank)])
        .map_err(|error| RunnerError::Device(format!("the warm-up run failed: {error}")))?;
    shared.pace.record(start.elapsed(), 1);
    if rows.iter().flatten().any(|score| !score.is_finite()) {
        return Err(RunnerError::Device("the warm-up run gave scores that are not finite".to_owned()));
    }
    Ok(runner)
}

/// Runs one batch and answers each entry; an error is the reason why the device is lost.
fn run_batch(shared: &Shared, runner: &mut dyn Runner, entries: Vec<Entry<Prepared>>) -> Result<(), String> {
    let (mut photos, mut calls) = (Vec::with_capacity(entries.len()), Vec::with_capacity(entries.len()));
    for Entry { payload, mut call } in entries {
        shared.metrics.queue_duration.observe(call.leave_queue().as_secs_f64());
        photos.push(payload);
        calls.push(call);
    }
    match measured(shared, runner, &photos) {
        Ok(rows) => {
            for (call, row) in calls.into_iter().zip(rows) {
                answer(shared, call, row);
            }
            Ok(())
        }
        Err(RunnerError::Device(reason)) => Err(lost(calls, reason)),
        Err(RunnerError::Batch(reason)) if photos.len() == 1 => {
            tracing::error!(reason, "a photo failed in the model");
            for call in calls {
                call.answer(Err(EngineError::Internal(reason.clone())));
            }
            Ok(())
        }
        Err(RunnerError::Batch(reason)) => {
            tracing::warn!(reason, photos = photos.len(), "a batch failed and is run again one by one");
            run_singly(shared, runner, &photos, calls)
        }
    }
}

/// The photos of a failed batch, each alone, so that only the one at fault goes without scores.
fn run_singly(
    shared: &Shared,
    runner: &mut dyn Runner,
    photos: &[Prepared],
    calls: Vec<Call>,
) -> Result<(), String> {
    let mut calls = calls.into_iter();
    for photo in photos.chunks(1) {
        let Some(call) = calls.next() else { break };
        let Some(call) = call.unless_given_up(Instant::now(), &shared.metrics) else { continue };
        match measured(shared, runner, photo) {
            Ok(rows) => answer(shared, call, rows.into_iter().next().unwrap_or_default()),
            Err(RunnerError::Batch(reason)) => {
                tracing::error!(reason, "a photo failed in the model");
                call.answer(Err(EngineError::Internal(reason)));
            }
            Err(RunnerError::Device(reason)) => {
                return Err(lost(std::iter::once(call).chain(calls), reason));
            }
        }
    }
    Ok(())
}

fn answer(shared: &Shared, call: Call, row: Vec<f32>) {
    if row.iter().all(|score| score.is_finite()) {
        shared.metrics.predictions.inc();
        call.answer(Ok(Scores(row)));
    } else {
        call.answer(Err(EngineError::NonFinite));
    }
}

fn lost(calls: impl IntoIterator<Item = Call>, reason: String) -> String {
    for call in calls {
        call.answer(Err(EngineError::DeviceUnavailable { reason: reason.as_str().into() }));
    }
    reason
}

/// One pass with its meters.
fn measured(
    shared: &Shared,
    runner: &mut dyn Runner,
    photos: &[Prepared],
) -> Result<Vec<Vec<f32>>, RunnerError> {
    let start = Instant::now();
    let rows = infer(shared, runner, photos)?;
    let time = start.elapsed();
    shared.metrics.inference_duration.observe(time.as_secs_f64());
    shared.metrics.batch_size.observe(photos.len() as f64);
    shared.pace.record(time, photos.len());
    Ok(rows)
}

/// One pass; a panic and a wrong number of rows are errors of the batch.
fn infer(
    shared: &Shared,
    runner: &mut dyn Runner,
    photos: &[Prepared],
) -> Result<Vec<Vec<f32>>, RunnerError> {
    let rows = catch_unwind(AssertUnwindSafe(|| runner.run(photos))).map_err(|_| {
        shared.metrics.panics_inference.inc();
        RunnerError::Batch("the model panicked".to_owned())
    })??;
    if rows.len() == photos.len() {
        Ok(rows)
    } else {
        Err(RunnerError::Batch(format!("{} rows of scores for {} photos", rows.len(), photos.len())))
    }
}
