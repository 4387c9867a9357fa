//! What callers hold: [`Engine`], which loads models and admits photos.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{oneshot, watch};

use super::clock::Clock;
use super::device::{self, LoadOrder};
use super::shared::Shared;
use super::ticket::over;
use super::{
    DeviceState, EngineError, EngineMetrics, EngineSettings, EngineStatus, Input, Model, ModelParts, Scores,
    Ticket, decode_pool,
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
    /// Starts the decode pool and one thread for each of `devices` (`cpu`, `cuda:0`), which all take from one queue. There is no
    /// model yet: see [`Engine::load`].
    ///
    /// # Errors
    /// [`EngineError::Internal`] when there is no device, or the system refuses a thread.
    pub fn start(
        settings: EngineSettings,
        devices: Vec<Arc<str>>,
        metrics: EngineMetrics,
    ) -> Result<Self, EngineError> {
        if devices.is_empty() {
            return Err(EngineError::Internal("no device for the engine".to_owned()));
        }
        let shared = Arc::new(Shared::new(settings, devices, metrics, Clock::default()));
        let engine = Self { _closer: Arc::new(Closer(shared.clone())), shared: shared.clone() };
        let refused = |error| EngineError::Internal(format!("no thread for the engine: {error}"));
        decode_pool::spawn(&shared).map_err(refused)?;
        for index in 0..shared.device_count() {
            device::spawn(shared.clone(), index).map_err(refused)?;
        }
        Ok(engine)
    }

    /// Brings a model to every device: each builds a runner of its own on its thread, in pieces between the batches of models that
    /// are there already, and passes its [`Warmup`](super::Warmup). The model may be used as soon as it is returned, and leaves
    /// the devices when its last handle is dropped.
    ///
    /// # Errors
    /// [`EngineError::Load`] when it cannot be built or warmed on one of them: the others' models are not touched.
    /// `ShuttingDown`, `DeviceUnavailable` by the engine's status; `Internal` when there is not one runner a device.
    pub async fn load(&self, parts: ModelParts) -> Result<Model, EngineError> {
        self.shared.open()?;
        let (shared, ModelParts { spec, prepare, runners }) = (&self.shared, parts);
        let devices = shared.device_count();
        if runners.len() != devices {
            let detail = format!("{} runners for {devices} devices", runners.len());
            return Err(EngineError::Internal(detail));
        }
        let model = Model::new(spec, prepare, devices);
        let mut status = self.status();
        let mut answers = Vec::with_capacity(devices);
        for (index, factory) in runners.into_iter().enumerate() {
            let (reply, answer) = oneshot::channel();
            shared.order(index, LoadOrder { model: model.clone(), factory, reply });
            answers.push(answer);
        }
        for answer in answers {
            tokio::select! {
                biased;
                answer = answer => answer.unwrap_or_else(|_| Err(shared.closed_error()))?,
                end = over(&mut status) => return Err(end),
            }
        }
        Ok(model)
    }

    /// Ends the engine as if a device had failed: there is nothing that it could be used for. A drain, begun or over, goes on.
    pub fn give_up(&self, reason: &str) {
        self.shared.give_up(reason);
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

    /// The time a client should stay away: photos queued × measured seconds a photo, rounded up, at least one second.
    pub fn retry_after(&self) -> Duration {
        self.shared.retry_after()
    }

    /// Whether a photo would be admitted now; lets a refusal come before the body is read.
    ///
    /// # Errors
    /// As [`Engine::admit`] for one photo.
    pub fn admissible(&self, deadline: Instant) -> Result<(), EngineError> {
        self.shared.admissible(deadline)
    }

    /// Admits all of `inputs` or none, without waiting. Dropping a [`Ticket`] withdraws its photo.
    ///
    /// # Errors
    /// [`EngineError::Overloaded`] when there are fewer free slots than inputs, `DeadlineUnmeetable` when the photos ahead
    /// take too long by measure; `ShuttingDown`, `DeviceUnavailable` by the engine's status; `TooManyPhotos`, `PixelSize`,
    /// `TensorSize`, `DeadlineExceeded`.
    pub fn admit(
        &self,
        inputs: Vec<Input>,
        model: &Model,
        deadline: Instant,
    ) -> Result<Vec<Ticket>, EngineError> {
        self.shared.admit(inputs, model, deadline)
    }

    /// Admits one input and waits for its scores, at the longest until `deadline`.
    ///
    /// # Errors
    /// Those of [`Engine::admit`] and of [`Ticket::wait`].
    pub async fn submit(
        &self,
        input: Input,
        model: &Model,
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
        model: &Model,
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
            let open = *status == EngineStatus::Ready;
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

    /// What stands behind the handle.
    #[cfg(test)]
    pub(super) fn shared(&self) -> &Shared {
        &self.shared
    }
}
