//! The engine: photos in, raw scores out, across one device thread.
//!
//! `http` calls [`Engine::admit`] or [`Engine::submit`]; an admitted photo holds a slot, is decoded by the decode pool,
//! waits in the queue and is taken by the device thread with whatever else waits there. `main` starts the engine with a
//! factory that builds the [`Runner`] on the device's own thread. Nothing here knows about HTTP, files or tensors.

mod batcher;
mod decode_pool;
mod error;
mod metrics;
mod model_runner;
mod queue;
mod slots;
#[cfg(test)]
mod tests;
mod worker;

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::{oneshot, watch};

pub use error::EngineError;
pub use metrics::EngineMetrics;
pub use model_runner::{loaded_runner, model_runner, photo_input};
pub use worker::{Runner, RunnerError, RunnerFactory};

use crate::image::{ImageError, Pixels};
use queue::{Call, Entry, Queue};
use slots::{Outstanding, Pace, Slots};

/// What a caller hands in for one prediction.
#[derive(Debug)]
pub enum Input {
    /// The bytes of an image file; decoded, resized and cropped by the decode pool.
    Photo(Bytes),
    /// Normalised values, `3 × height × width`; goes to the device as it is.
    Tensor(Vec<f32>),
}

/// What reaches the device: one photo of a batch.
#[derive(Debug)]
pub enum Prepared {
    /// `height × width × 3`, u8; the device normalises.
    Pixels(Pixels),
    /// `3 × height × width`, normalised already.
    Tensor(Vec<f32>),
}

/// Raw logits, one a label; softmax and top-k are the caller's business.
#[derive(Debug, Clone, PartialEq)]
pub struct Scores(pub Vec<f32>);

/// Turns the bytes of an image file into the pixels the model wants (decode, orientation, resize, crop).
///
/// Called on the decode pool's threads. A panic inside is caught and answered as [`EngineError::Internal`].
pub trait Prepare: Fn(&[u8]) -> Result<Pixels, ImageError> + Send + Sync {}

impl<F: Fn(&[u8]) -> Result<Pixels, ImageError> + Send + Sync> Prepare for F {}

/// What the engine must know about the model its device thread runs.
#[derive(Debug, Clone)]
pub struct ModelSpec {
    /// The name clients use; [`Engine::admit`] refuses any other.
    pub name: Arc<str>,
    /// Height of the model's input, pixels.
    pub height: usize,
    /// Width of the model's input, pixels.
    pub width: usize,
}

/// The engine's part of the service's settings.
#[derive(Debug, Clone)]
pub struct EngineSettings {
    /// Photos in one forward pass, at most.
    pub max_batch_size: usize,
    /// How long a batch below the limit is held back for company; zero: not at all.
    pub max_queue_delay: Duration,
    /// Photos admitted and not yet taken by the device, at most; decoding ones included.
    pub max_queue_size: usize,
    /// Threads that decode photos.
    pub decode_threads: usize,
}

impl Default for EngineSettings {
    /// Batches of 8, up to 32 of them waiting; one decode thread a core, at most four: the device needs cores too.
    fn default() -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Self {
            max_batch_size: 8,
            max_queue_delay: Duration::ZERO,
            max_queue_size: 256,
            decode_threads: cores.min(4),
        }
    }
}

/// Where the engine stands; watch it with [`Engine::status`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EngineStatus {
    /// The model is being loaded or warmed.
    Starting,
    /// Photos are admitted.
    Ready,
    /// No photo is admitted any more; those admitted are being answered.
    Draining,
    /// The model could not be built, or the device failed; for good.
    Failed(Arc<str>),
    /// The drain is over; nobody is answered any more.
    Stopped,
}

/// Everything that callers, decode threads and the device thread share.
struct Shared {
    settings: EngineSettings,
    model: ModelSpec,
    metrics: EngineMetrics,
    status: watch::Sender<EngineStatus>,
    slots: Slots,
    outstanding: Outstanding,
    pace: Pace,
    /// Admitted photos that no decode thread has taken yet.
    encoded: Queue<Bytes>,
    /// Prepared photos that the device has not taken yet.
    ready: Queue<Prepared>,
}

impl Shared {
    /// The error for an entry that meets a closed queue.
    fn closed_error(&self) -> EngineError {
        match &*self.status.borrow() {
            EngineStatus::Failed(reason) => EngineError::DeviceUnavailable { reason: reason.clone() },
            _ => EngineError::ShuttingDown,
        }
    }

    /// Closes both queues and answers what is left in them.
    fn close(&self) {
        for entry in self.encoded.close() {
            entry.call.answer(Err(self.closed_error()));
        }
        for entry in self.ready.close() {
            entry.call.answer(Err(self.closed_error()));
        }
    }

    /// The device is lost: not ready any more, and everyone who waits hears so.
    fn fail(&self, reason: &str) {
        tracing::error!(reason, "the device failed: no more photos are accepted");
        self.status.send_replace(EngineStatus::Failed(reason.into()));
        self.close();
    }

    /// Hands a prepared photo to the device thread.
    fn push_ready(&self, entry: Entry<Prepared>) {
        if let Err(refused) = self.ready.push(entry) {
            refused.call.answer(Err(self.closed_error()));
        }
    }
}

/// Ends the threads when the last handle of the engine is gone.
struct Closer(Arc<Shared>);

impl Drop for Closer {
    fn drop(&mut self) {
        self.0.close();
    }
}

/// A handle to the running engine; clones share it. The threads end when the last one is dropped.
#[derive(Clone)]
pub struct Engine {
    shared: Arc<Shared>,
    _closer: Arc<Closer>,
}

impl Engine {
    /// Starts the decode pool and the device thread; returns before the model is built (see [`Engine::status`]).
    ///
    /// `factory` runs on the device's own thread. The engine is ready once it returned and one blank photo went through.
    ///
    /// # Errors
    /// [`EngineError::Internal`] when the system refuses a thread.
    pub fn start(
        settings: EngineSettings,
        model: ModelSpec,
        prepare: Arc<dyn Prepare>,
        factory: RunnerFactory,
        metrics: EngineMetrics,
    ) -> Result<Self, EngineError> {
        let shared = Arc::new(Shared {
            slots: Slots::new(settings.max_queue_size, metrics.queue_size.clone()),
            outstanding: Outstanding::default(),
            pace: Pace::default(),
            encoded: Queue::new(metrics.clone()),
            ready: Queue::new(metrics.clone()),
            status: watch::Sender::new(EngineStatus::Starting),
            settings,
            model,
            metrics,
        });
        let engine = Self { _closer: Arc::new(Closer(shared.clone())), shared: shared.clone() };
        let refused = |error| EngineError::Internal(format!("no thread for the engine: {error}"));
        decode_pool::spawn(&shared, &prepare).map_err(refused)?;
        worker::spawn(shared, factory).map_err(refused)?;
        Ok(engine)
    }

    /// Where the engine stands, and every change of it.
    pub fn status(&self) -> watch::Receiver<EngineStatus> {
        self.shared.status.subscribe()
    }

    /// Photos admitted and not yet taken by the device.
    pub fn queued(&self) -> usize {
        self.shared.slots.used()
    }

    /// The time a client should stay away: photos queued × measured seconds a photo, rounded up, at least one second.
    pub fn retry_after(&self) -> Duration {
        self.shared.pace.retry_after(self.shared.slots.used())
    }

    /// Whether a photo would be admitted now; lets a refusal come before the body is read.
    ///
    /// # Errors
    /// As [`Engine::admit`] for one photo.
    pub fn admissible(&self) -> Result<(), EngineError> {
        self.open()?;
        if self.shared.slots.free() > 0 {
            return Ok(());
        }
        self.sweep();
        if self.shared.slots.free() > 0 { Ok(()) } else { Err(self.overloaded()) }
    }

    /// Admits all of `inputs` or none, without waiting. Dropping a [`Ticket`] withdraws its photo.
    ///
    /// # Errors
    /// [`EngineError::Overloaded`] when there are fewer free slots than inputs; `NotReady`, `ShuttingDown`,
    /// `DeviceUnavailable` by the engine's status; `UnknownModel`, `TooManyPhotos`, `TensorSize`, `DeadlineExceeded`.
    pub fn admit(
        &self,
        inputs: Vec<Input>,
        model: Option<&str>,
        deadline: Instant,
    ) -> Result<Vec<Ticket>, EngineError> {
        self.open()?;
        let shared = &self.shared;
        if let Some(name) = model.filter(|name| **name != *shared.model.name) {
            return Err(EngineError::UnknownModel {
                name: name.to_owned(),
                known: shared.model.name.clone(),
            });
        }
        let limit = shared.settings.max_queue_size;
        if inputs.len() > limit {
            return Err(EngineError::TooManyPhotos { sent: inputs.len(), limit });
        }
        let want = 3 * shared.model.height * shared.model.width;
        let tensors = inputs.iter().filter_map(|input| match input {
            Input::Tensor(values) => Some(values.len()),
            Input::Photo(_) => None,
        });
        if let Some(found) = tensors.into_iter().find(|found| *found != want) {
            return Err(EngineError::TensorSize { want, found });
        }
        if deadline <= Instant::now() {
            return Err(EngineError::DeadlineExceeded);
        }
        let slots = match shared.slots.take(inputs.len()) {
            Some(slots) => slots,
            None => {
                self.sweep();
                shared.slots.take(inputs.len()).ok_or_else(|| self.overloaded())?
            }
        };
        let tickets = inputs.into_iter().zip(slots).map(|(input, slot)| {
            let (reply, answer) = oneshot::channel();
            let call = Call::new(deadline, slot, reply, shared.outstanding.enter());
            match input {
                Input::Photo(payload) => {
                    if let Err(refused) = shared.encoded.push(Entry { payload, call }) {
                        refused.call.answer(Err(shared.closed_error()));
                    }
                }
                Input::Tensor(values) => shared.push_ready(Entry { payload: Prepared::Tensor(values), call }),
            }
            Ticket { answer, deadline, status: shared.status.subscribe() }
        });
        Ok(tickets.collect())
    }

    /// Admits one input and waits for its scores, at the longest until `deadline`.
    ///
    /// # Errors
    /// Those of [`Engine::admit`] and of [`Ticket::wait`].
    pub async fn submit(
        &self,
        input: Input,
        model: Option<&str>,
        deadline: Instant,
    ) -> Result<Scores, EngineError> {
        match self.admit(vec![input], model, deadline)?.pop() {
            Some(ticket) => ticket.wait().await,
            None => Err(EngineError::Internal("one input got no ticket".to_owned())),
        }
    }

    /// Admits all of `inputs` or none and waits for each; the answers keep the order of the inputs.
    ///
    /// # Errors
    /// Those of [`Engine::admit`]; what befalls one photo alone stands in its own result.
    pub async fn submit_many(
        &self,
        inputs: Vec<Input>,
        model: Option<&str>,
        deadline: Instant,
    ) -> Result<Vec<Result<Scores, EngineError>>, EngineError> {
        let mut answers = Vec::with_capacity(inputs.len());
        for ticket in self.admit(inputs, model, deadline)? {
            answers.push(ticket.wait().await);
        }
        Ok(answers)
    }

    /// Stops admission and waits until every admitted photo is answered, at the longest for `grace`; whoever still
    /// waits then is told [`EngineError::ShuttingDown`]. Returns whether all were answered within the grace.
    pub async fn drain(&self, grace: Duration) -> bool {
        self.shared.status.send_if_modified(|status| {
            let open = matches!(status, EngineStatus::Starting | EngineStatus::Ready);
            if open {
                *status = EngineStatus::Draining;
            }
            open
        });
        self.shared.ready.hurry();
        let empty = tokio::time::timeout(grace, self.shared.outstanding.none()).await.is_ok();
        self.shared.close();
        self.shared.status.send_if_modified(|status| {
            let drained = *status == EngineStatus::Draining;
            if drained {
                *status = EngineStatus::Stopped;
            }
            drained
        });
        empty
    }

    fn open(&self) -> Result<(), EngineError> {
        match &*self.shared.status.borrow() {
            EngineStatus::Ready => Ok(()),
            EngineStatus::Starting => Err(EngineError::NotReady),
            EngineStatus::Draining | EngineStatus::Stopped => Err(EngineError::ShuttingDown),
            EngineStatus::Failed(reason) => Err(EngineError::DeviceUnavailable { reason: reason.clone() }),
        }
    }

    fn overloaded(&self) -> EngineError {
        EngineError::Overloaded { retry_after: self.retry_after() }
    }

    /// Clears entries nobody waits for any more, so that they do not hold slots while the device is busy.
    fn sweep(&self) {
        let now = Instant::now();
        self.shared.encoded.sweep(now);
        self.shared.ready.sweep(now);
    }
}

/// The claim to one admitted photo's answer. Dropping it withdraws the photo wherever it waits.
#[derive(Debug)]
pub struct Ticket {
    answer: oneshot::Receiver<Result<Scores, EngineError>>,
    deadline: Instant,
    status: watch::Receiver<EngineStatus>,
}

impl Ticket {
    /// Waits for the scores, at the longest until the deadline, even if the device hangs.
    ///
    /// # Errors
    /// `DeadlineExceeded`; `Photo` when it cannot be decoded; `NonFinite`, `DeviceUnavailable`, `ShuttingDown`, `Internal`.
    pub async fn wait(mut self) -> Result<Scores, EngineError> {
        // Where several are true at once the first line wins: an answer that is there is given.
        tokio::select! {
            biased;
            answer = self.answer => answer.unwrap_or_else(|_| {
                Err(EngineError::Internal("an entry was dropped without an answer".to_owned()))
            }),
            _ = self.status.wait_for(|status| *status == EngineStatus::Stopped) => Err(EngineError::ShuttingDown),
            () = tokio::time::sleep_until(self.deadline.into()) => Err(EngineError::DeadlineExceeded),
        }
    }
}
