//! A device's thread: builds the runner, warms it, then runs whatever waits, batch after batch.
//!
//! Started by `Engine::start`, one for each device; the only thread that ever touches that device. One bad photo never harms
//! its batch: a batch that fails is run again one by one. A batch that finds no memory is run again in halves.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Instant;

use super::batcher::BatchRule;
use super::queue::{Call, Entry};
use super::runner::{Runner, RunnerError, RunnerFactory};
use super::shared::Shared;
use super::warm_up::{self, Warm};
use super::{EngineError, Prepared, Scores};

/// The device is lost, and everyone told.
struct Lost;

/// Which time photos are on the device.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Attempt {
    First,
    Again,
}

pub(super) fn spawn(shared: Arc<Shared>, index: usize, factory: RunnerFactory) -> std::io::Result<()> {
    let name = format!("device-{index}");
    std::thread::Builder::new().name(name).spawn(move || work(&shared, index, factory))?;
    Ok(())
}

fn work(shared: &Shared, index: usize, factory: RunnerFactory) {
    let device = factory.device().to_owned();
    let Warm { runner, limit } = match warm_up::build(shared, factory) {
        Ok(warm) => warm,
        Err(error) => return shared.fail(&error.to_string()),
    };
    tracing::info!(%device, limit, "the model is loaded and warm");
    shared.warmed(index, limit, runner.memory());
    let rule = BatchRule { limit, max_delay: shared.settings.max_queue_delay };
    let mut worker = Worker { shared, index, runner };
    while let Some(entries) = shared.ready.take(&rule) {
        if worker.take(entries).is_err() {
            return;
        }
    }
}

/// A warm device at work.
struct Worker<'a> {
    shared: &'a Shared,
    index: usize,
    runner: Box<dyn Runner>,
}

impl Worker<'_> {
    /// Runs one batch and answers each entry.
    fn take(&mut self, entries: Vec<Entry<Prepared>>) -> Result<(), Lost> {
        let (mut photos, mut calls) = (Vec::with_capacity(entries.len()), Vec::with_capacity(entries.len()));
        for Entry { payload, mut call } in entries {
            self.shared.metrics.queue_duration.observe(call.leave_queue().as_secs_f64());
            photos.push(payload);
            calls.push(call);
        }
        self.run(&photos, calls, Attempt::First)
    }

    /// Runs `photos`, in parts where they fail together, and answers their `calls`.
    fn run(&mut self, photos: &[Prepared], calls: Vec<Call>, attempt: Attempt) -> Result<(), Lost> {
        match measured(self.shared, &mut *self.runner, photos) {
            Ok(rows) => {
                for (call, row) in calls.into_iter().zip(rows) {
                    self.answer(call, row);
                }
                Ok(())
            }
            Err(RunnerError::Device(reason)) => Err(self.lost(calls, &reason)),
            Err(RunnerError::OutOfMemory(reason)) => {
                let memory = self.runner.memory();
                self.shared.saw_memory(self.index, memory);
                if attempt == Attempt::First {
                    tracing::warn!(
                        reason,
                        photos = photos.len(),
                        ?memory,
                        "out of memory: once more, in halves"
                    );
                    return self.run_in_parts(photos, calls, photos.len().div_ceil(2));
                }
                tracing::error!(
                    reason,
                    photos = photos.len(),
                    ?memory,
                    "out of memory again: photos are refused"
                );
                for call in calls {
                    call.answer(Err(self.shared.out_of_memory()));
                }
                Ok(())
            }
            Err(RunnerError::Batch(reason)) if photos.len() == 1 => {
                tracing::error!(reason, "a photo failed in the model");
                for call in calls {
                    call.answer(Err(EngineError::Internal(reason.clone())));
                }
                Ok(())
            }
            // Only the one at fault must go without scores.
            Err(RunnerError::Batch(reason)) => {
                tracing::warn!(reason, photos = photos.len(), "a batch failed and is run again one by one");
                self.run_in_parts(photos, calls, 1)
            }
        }
    }

    /// The photos of a failed batch again, `size` at a time, each part for itself.
    fn run_in_parts(&mut self, photos: &[Prepared], calls: Vec<Call>, size: usize) -> Result<(), Lost> {
        let mut calls = calls.into_iter();
        for part in photos.chunks(size.max(1)) {
            let mut own: Vec<Call> = calls.by_ref().take(part.len()).collect();
            if part.len() == 1 {
                // Nobody may wait for it any more after the time its batch took.
                let (now, metrics) = (Instant::now(), &self.shared.metrics);
                own = own.into_iter().filter_map(|call| call.unless_given_up(now, metrics)).collect();
            }
            if !own.is_empty()
                && let Err(Lost) = self.run(part, own, Attempt::Again)
            {
                for call in calls {
                    call.answer(Err(self.shared.closed_error()));
                }
                return Err(Lost);
            }
        }
        Ok(())
    }

    fn answer(&self, call: Call, row: Vec<f32>) {
        if row.iter().all(|score| score.is_finite()) {
            self.shared.metrics.predictions.inc();
            call.answer(Ok(Scores(row)));
        } else {
            call.answer(Err(EngineError::NonFinite));
        }
    }

    /// The engine fails before anybody is answered: whoever hears of it finds the service unready.
    fn lost(&self, calls: Vec<Call>, reason: &str) -> Lost {
        self.shared.fail(reason);
        for call in calls {
            call.answer(Err(EngineError::DeviceUnavailable { reason: reason.into() }));
        }
        Lost
    }
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
pub(super) fn infer(
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
