//! A device's thread: loads models, runs whatever photos wait, batch after batch, and drops models that nobody names any more.
//!
//! Started by `Engine::start`, one for each device; the only thread that ever touches that device. A model is loaded in
//! pieces between batches, so that those that are there already go on. One bad photo never harms its batch: a batch that
//! fails is run again one by one. A batch that finds no memory is run again in halves.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::batcher::BatchRule;
use super::call::Call;
use super::lane::Lane;
use super::model::{Model, Wanted};
use super::pace::{Departure, Queued};
use super::queue::{Entry, Taken, Taker};
use super::runner::{Runner, RunnerError, RunnerFactory};
use super::shared::Shared;
use super::warm_up::{self, Warm};
use super::{EngineError, Prepared, Scores};

/// The device is lost, and everyone told.
#[derive(Debug)]
pub(super) struct Lost;

/// A model to load: the runner it is built by, and whom to tell.
pub(super) struct LoadOrder {
    pub(super) model: Model,
    pub(super) factory: RunnerFactory,
    pub(super) reply: oneshot::Sender<Result<(), EngineError>>,
}

/// Which time photos are on the device.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Attempt {
    First,
    Again,
}

pub(super) fn spawn(shared: Arc<Shared>, index: usize) -> std::io::Result<()> {
    let name = format!("device-{index}");
    std::thread::Builder::new().name(name).spawn(move || work(&shared, index))?;
    Ok(())
}

/// A thread that panics is a device lost: nobody else would take its photos.
struct Watch<'a>(&'a Shared);

impl Drop for Watch<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.fail("a device's thread panicked");
        }
    }
}

fn work(shared: &Shared, index: usize) {
    let _watch = Watch(shared);
    let mut device = Device::new(shared, index);
    loop {
        let outcome = match shared.ready.take(&device) {
            Taken::Batch(entries) => device.take(entries),
            Taken::Nothing => device.load_all(),
            Taken::Closed => return,
        };
        if outcome.is_err() {
            return;
        }
        device.unload();
    }
}

/// A device at work.
pub(super) struct Device<'a> {
    shared: &'a Shared,
    index: usize,
    models: Vec<Loaded>,
    /// When photos last had the device, while a model is being loaded.
    breath: Option<Instant>,
}

/// A model that is warm on this device.
struct Loaded {
    id: u64,
    wanted: Wanted,
    runner: Box<dyn Runner>,
    limit: usize,
    lane: Arc<Lane>,
    /// How long its last pass took.
    pass: Duration,
}

/// While a model is loaded, waiting photos get the device after so much of it; long against a small tensor, short against a
/// client's patience.
const PIECE: Duration = Duration::from_millis(20);
/// With more than one model, how often a sleeping device looks whether one of them is still wanted.
const LOOK: Duration = Duration::from_secs(1);

impl Taker for Device<'_> {
    fn rule(&self, model: &Model) -> Option<BatchRule> {
        let loaded = self.models.iter().find(|loaded| loaded.id == model.id())?;
        let max_delay = self.shared.settings.max_queue_delay;
        Some(BatchRule { limit: loaded.limit, max_delay, pass: loaded.pass })
    }

    fn interrupted(&self) -> bool {
        self.breath.is_none() && self.shared.has_order(self.index)
    }

    fn patience(&self) -> Option<Duration> {
        (self.models.len() > 1).then_some(LOOK)
    }
}

impl<'a> Device<'a> {
    pub(super) fn new(shared: &'a Shared, index: usize) -> Self {
        Self { shared, index, models: Vec::new(), breath: None }
    }

    /// Loads what is to be loaded here.
    fn load_all(&mut self) -> Result<(), Lost> {
        while let Some(order) = self.shared.next_order(self.index) {
            self.load(order)?;
        }
        Ok(())
    }

    /// Loads and warms one model; photos of others are run in between.
    pub(super) fn load(&mut self, order: LoadOrder) -> Result<(), Lost> {
        let LoadOrder { model, factory, reply } = order;
        let (shared, index, device) = (self.shared, self.index, factory.device().to_owned());
        self.breath = Some(shared.clock.now());
        let mut gone = false;
        let built = warm_up::build(shared, factory, model.spec(), &mut || {
            gone = gone || self.breathe().is_err();
        });
        self.breath = None;
        if gone {
            return Err(Lost);
        }
        let outcome = match built {
            Ok(Warm { runner, limit, pass }) => {
                tracing::info!(model = model.name(), %device, limit, "the model is loaded and warm");
                shared.saw_memory(index, runner.memory());
                shared.pace.warmed(model.lane(), pass.time, pass.size, shared.device_count());
                model.warmed(index, limit);
                let (id, wanted, lane) = (model.id(), model.wanted(), model.lane().clone());
                self.models.push(Loaded { id, wanted, runner, limit, lane, pass: pass.time });
                Ok(())
            }
            Err(RunnerError::Device(reason)) => return Err(lost(shared, Vec::new(), &reason)),
            Err(
                RunnerError::Load(reason) | RunnerError::Batch(reason) | RunnerError::OutOfMemory(reason),
            ) => Err(EngineError::Load { reason }),
        };
        // Whoever asked may have given up; the model then goes with its last handle.
        let _ = reply.send(outcome);
        Ok(())
    }

    /// Lets photos have the device for as long as the load had it since they last did, or until none waits.
    fn breathe(&mut self) -> Result<(), Lost> {
        let (clock, Some(last)) = (&self.shared.clock, self.breath) else { return Ok(()) };
        let start = clock.now();
        let piece = start.saturating_duration_since(last);
        if piece < PIECE {
            return Ok(());
        }
        while self.step()? && clock.now().saturating_duration_since(start) < piece {}
        self.breath = Some(clock.now());
        Ok(())
    }

    /// Runs what can be run at once; whether there was anything.
    pub(super) fn step(&mut self) -> Result<bool, Lost> {
        match self.shared.ready.try_take(self) {
            Some(entries) => self.take(entries).map(|()| true),
            None => Ok(false),
        }
    }

    /// Drops the models that nobody names any more.
    pub(super) fn unload(&mut self) {
        let (shared, index, before) = (self.shared, self.index, self.models.len());
        self.models.retain(|loaded| loaded.wanted.still());
        if self.models.len() < before {
            shared.saw_memory(index, self.models.first().and_then(|loaded| loaded.runner.memory()));
        }
    }

    /// Runs one batch, all of one model, and answers each entry.
    fn take(&mut self, entries: Vec<Entry<Prepared>>) -> Result<(), Lost> {
        let (taken, behind) = (self.shared.clock.now(), self.shared.waiting());
        let id = entries.first().map(|entry| entry.call.model().id());
        let (mut photos, mut calls) = (Vec::with_capacity(entries.len()), Vec::with_capacity(entries.len()));
        for Entry { payload, mut call } in entries {
            self.shared.metrics.queue_duration.observe(call.leave_queue().as_secs_f64());
            photos.push(payload);
            calls.push(call);
        }
        let (shared, index) = (self.shared, self.index);
        let Some(loaded) = self.models.iter_mut().find(|loaded| Some(loaded.id) == id) else {
            // `rule` grants no other; an answer is owed all the same.
            for call in calls {
                call.answer(Err(EngineError::Internal("the model is not on this device".to_owned())));
            }
            return Ok(());
        };
        let Loaded { runner, pass, limit, lane, .. } = loaded;
        Worker { shared, index, runner: &mut **runner, limit: *limit, lane, pass, taken, behind }.run(
            &photos,
            calls,
            Attempt::First,
        )
    }
}

/// A warm model at work.
struct Worker<'a> {
    shared: &'a Shared,
    index: usize,
    runner: &'a mut dyn Runner,
    limit: usize,
    lane: &'a Arc<Lane>,
    pass: &'a mut Duration,
    /// When the photos were taken, and who was left behind.
    taken: Instant,
    behind: Queued,
}

impl Worker<'_> {
    /// Runs `photos`, in parts where they fail together, and answers their `calls`.
    fn run(&mut self, photos: &[Prepared], calls: Vec<Call>, attempt: Attempt) -> Result<(), Lost> {
        match self.measured(photos) {
            Ok(rows) => {
                let scores = rows.into_iter().map(|row| self.scores(row));
                self.answer(calls.into_iter().zip(scores));
                Ok(())
            }
            Err(RunnerError::Device(reason)) => Err(lost(self.shared, calls, &reason)),
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
                self.answer(calls.into_iter().map(|call| (call, Err(self.shared.out_of_memory()))));
                Ok(())
            }
            Err(RunnerError::Batch(reason) | RunnerError::Load(reason)) if photos.len() == 1 => {
                tracing::error!(reason, "a photo failed in the model");
                let failed = || EngineError::Internal(reason.clone());
                self.answer(calls.into_iter().map(|call| (call, Err(failed()))));
                Ok(())
            }
            // Only the one at fault must go without scores.
            Err(RunnerError::Batch(reason) | RunnerError::Load(reason)) => {
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
                let (now, metrics) = (self.shared.clock.now(), &self.shared.metrics);
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

    /// One pass with its meters.
    fn measured(&mut self, photos: &[Prepared]) -> Result<Vec<Vec<f32>>, RunnerError> {
        let start = self.shared.clock.now();
        let rows = infer(self.shared, self.runner, photos)?;
        *self.pass = self.shared.clock.now().saturating_duration_since(start);
        self.shared.metrics.inference_duration.observe(self.pass.as_secs_f64());
        self.shared.metrics.batch_size.observe(photos.len() as f64);
        Ok(rows)
    }

    fn scores(&self, row: Vec<f32>) -> Result<Scores, EngineError> {
        if row.iter().all(|score| score.is_finite()) {
            self.shared.metrics.predictions.inc();
            Ok(Scores(row))
        } else {
            Err(EngineError::NonFinite)
        }
    }

    /// The pace hears of it first: with the last answer the engine is idle, and whoever comes then begins another measure.
    fn answer(&self, answers: impl ExactSizeIterator<Item = (Call, Result<Scores, EngineError>)>) {
        let (shared, photos, now) = (self.shared, answers.len(), self.shared.clock.now());
        shared.pace.departed(Departure {
            lane: self.lane,
            photos,
            taken: self.taken,
            behind: self.behind,
            pass: *self.pass / u32::try_from(shared.device_count()).unwrap_or(u32::MAX).max(1),
            limit: self.limit,
            now,
            waiting: shared.waiting(),
            others: shared.outstanding.count().saturating_sub(photos),
        });
        for (call, answer) in answers {
            call.settle(now);
            call.answer(answer);
        }
    }
}

/// The engine fails before anybody is answered: whoever hears of it finds the service unready.
fn lost(shared: &Shared, calls: Vec<Call>, reason: &str) -> Lost {
    shared.fail(reason);
    for call in calls {
        call.answer(Err(EngineError::DeviceUnavailable { reason: reason.into() }));
    }
    Lost
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
