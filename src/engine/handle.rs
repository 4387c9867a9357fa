//! What callers hold: [`Engine`], which admits photos, and a [`Ticket`] for each one admitted.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{oneshot, watch};

use super::queue::{Call, Entry};
use super::shared::Shared;
use super::{
    DeviceState, EngineError, EngineMetrics, EngineSettings, EngineStatus, Input, ModelSpec, Prepare,
    Prepared, RunnerFactory, Scores, decode_pool, worker,
};

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
    /// Starts the decode pool and one thread for each of `factories`, which all take from one queue; returns before the model
    /// is built (see [`Engine::status`]).
    ///
    /// A factory runs on its device's own thread. The engine is ready once each of them has returned and its runner has
    /// passed its [`Warmup`](super::Warmup).
    ///
    /// # Errors
    /// [`EngineError::Internal`] when there is no factory, or the system refuses a thread.
    pub fn start(
        settings: EngineSettings,
        model: ModelSpec,
        prepare: Arc<dyn Prepare>,
        factories: Vec<RunnerFactory>,
        metrics: EngineMetrics,
    ) -> Result<Self, EngineError> {
        if factories.is_empty() {
            return Err(EngineError::Internal("no device for the engine".to_owned()));
        }
        let devices = factories.iter().map(|factory| factory.device().into());
        let shared = Arc::new(Shared::new(settings, model, metrics, devices));
        let engine = Self { _closer: Arc::new(Closer(shared.clone())), shared: shared.clone() };
        let refused = |error| EngineError::Internal(format!("no thread for the engine: {error}"));
        decode_pool::spawn(&shared, &prepare).map_err(refused)?;
        for (index, factory) in factories.into_iter().enumerate() {
            worker::spawn(shared.clone(), index, factory).map_err(refused)?;
        }
        Ok(engine)
    }

    /// What is known of each device, in the order of the factories.
    pub fn devices(&self) -> Vec<DeviceState> {
        self.shared.devices()
    }

    /// Where the engine stands, and every change of it.
    pub fn status(&self) -> watch::Receiver<EngineStatus> {
        self.shared.status.subscribe()
    }

    /// Photos admitted and not yet taken by a device.
    pub fn queued(&self) -> usize {
        self.shared.slots.used()
    }

    /// The time a client should stay away: photos queued × measured seconds a photo ÷ devices,
    /// rounded up, at least one second.
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
    /// waits then is told [`EngineError::ShuttingDown`]. Ends at once when a device fails. Returns whether all were answered
    /// within the grace.
    pub async fn drain(&self, grace: Duration) -> bool {
        self.shared.status.send_if_modified(|status| {
            let open = matches!(status, EngineStatus::Starting | EngineStatus::Ready);
            if open {
                *status = EngineStatus::Draining;
            }
            open
        });
        self.shared.ready.hurry();
        let mut status = self.status();
        let empty = tokio::select! {
            biased;
            _ = status.wait_for(|status| matches!(status, EngineStatus::Failed(_))) => false,
            () = self.shared.outstanding.none() => true,
            () = tokio::time::sleep(grace) => false,
        };
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
    /// Waits for the scores, at the longest until the deadline or the engine's end, even if the device hangs.
    ///
    /// # Errors
    /// `DeadlineExceeded`; `Photo` when it cannot be decoded; `OutOfMemory`, `NonFinite`, `DeviceUnavailable`,
    /// `ShuttingDown`, `Internal`.
    pub async fn wait(mut self) -> Result<Scores, EngineError> {
        // Where several are true at once the first line wins: an answer that is there is given.
        tokio::select! {
            biased;
            answer = self.answer => answer.unwrap_or_else(|_| {
                Err(EngineError::Internal("an entry was dropped without an answer".to_owned()))
            }),
            end = over(&mut self.status) => Err(end),
            () = tokio::time::sleep_until(self.deadline.into()) => Err(EngineError::DeadlineExceeded),
        }
    }
}

/// Waits until nobody is answered any more, and says why.
async fn over(status: &mut watch::Receiver<EngineStatus>) -> EngineError {
    let end = |status: &EngineStatus| matches!(status, EngineStatus::Stopped | EngineStatus::Failed(_));
    match status.wait_for(end).await.as_deref() {
        Ok(EngineStatus::Failed(reason)) => EngineError::DeviceUnavailable { reason: reason.clone() },
        _ => EngineError::ShuttingDown,
    }
}
