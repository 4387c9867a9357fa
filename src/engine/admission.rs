//! Admission: whether photos may come in, by the places of the queue and by the time that the photos ahead take.
//!
//! The one way in: `Engine` asks here for its callers, and so do the tests that run in virtual time.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::call::{Call, Claim};
use super::lane::Lane;
use super::queue::Entry;
use super::shared::Shared;
use super::{EngineError, EngineStatus, Input, Model, ModelSpec, Prepared, Ticket};

impl Shared {
    /// Whether anything is admitted at all.
    pub(super) fn open(&self) -> Result<(), EngineError> {
        match &*self.status.borrow() {
            EngineStatus::Ready => Ok(()),
            EngineStatus::Draining | EngineStatus::Stopped => Err(EngineError::ShuttingDown),
            EngineStatus::Failed(reason) => Err(EngineError::DeviceUnavailable { reason: reason.clone() }),
        }
    }

    /// See `Engine::admissible`.
    pub(super) fn admissible(&self, deadline: Instant) -> Result<(), EngineError> {
        self.open()?;
        if self.slots.free() == 0 {
            self.sweep();
        }
        if self.slots.free() == 0 {
            return Err(self.overloaded());
        }
        self.in_time(None, 1, deadline).map(drop)
    }

    /// See `Engine::admit`.
    pub(super) fn admit(
        &self,
        inputs: Vec<Input>,
        model: &Model,
        deadline: Instant,
    ) -> Result<Vec<Ticket>, EngineError> {
        self.open()?;
        let limit = self.settings.max_queue_size;
        if inputs.len() > limit {
            return Err(EngineError::TooManyPhotos { sent: inputs.len(), limit });
        }
        inputs.iter().try_for_each(|input| fits(input, model.spec()))?;
        let promised = self.in_time(Some(model.lane()), inputs.len(), deadline)?;
        let slots = match self.slots.take(inputs.len()) {
            Some(slots) => slots,
            None => {
                self.sweep();
                self.slots.take(inputs.len()).ok_or_else(|| self.overloaded())?
            }
        };
        let now = self.clock.now();
        if self.outstanding.count() == 0 {
            self.pace.begun(now);
        }
        let (mut tickets, mut encoded, mut ready) = (Vec::with_capacity(slots.len()), Vec::new(), Vec::new());
        for (input, slot) in inputs.into_iter().zip(slots) {
            let (reply, answer) = oneshot::channel();
            let claim = Claim {
                model: model.clone(),
                deadline,
                promised,
                slot,
                reply,
                unanswered: self.outstanding.enter(model.lane()),
            };
            let call = Call::new(claim, now);
            match input {
                Input::Photo(payload) => encoded.push(Entry { payload, call }),
                Input::Pixels(pixels) => ready.push(Entry { payload: Prepared::Pixels(pixels), call }),
                Input::Tensor(values) => ready.push(Entry { payload: Prepared::Tensor(values), call }),
            }
            tickets.push(Ticket { answer, deadline, status: self.status.subscribe() });
        }
        // Together: an idle device would run a pass for the first of them alone.
        self.push_encoded(encoded);
        self.push_ready(ready);
        Ok(tickets)
    }

    /// The time until `deadline`, where by the pace so far it is enough for `photos` more; none where nobody is ahead, and nothing
    /// needs to be known.
    fn in_time(
        &self,
        lane: Option<&Arc<Lane>>,
        photos: usize,
        deadline: Instant,
    ) -> Result<Option<Duration>, EngineError> {
        let now = self.clock.now();
        let left = deadline.saturating_duration_since(now);
        if left.is_zero() {
            return Err(EngineError::DeadlineExceeded);
        }
        let too_late = || self.pace.too_late(lane.map(Arc::as_ref), photos, left, now);
        // Some of those ahead may have left.
        let verdict = too_late().and_then(|_| {
            self.sweep();
            too_late()
        });
        match verdict {
            Some(wait) => {
                Err(EngineError::DeadlineUnmeetable { wait, left, retry_after: self.retry_after() })
            }
            None => Ok((self.outstanding.count() > 0).then_some(left)),
        }
    }

    fn overloaded(&self) -> EngineError {
        EngineError::Overloaded { retry_after: self.retry_after() }
    }

    /// Clears entries nobody waits for any more, so that they do not hold slots while the device is busy.
    fn sweep(&self) {
        let now = self.clock.now();
        self.encoded.sweep(now);
        self.ready.sweep(now);
    }
}

/// Whether what is no encoded photo has the model's size.
fn fits(input: &Input, spec: &ModelSpec) -> Result<(), EngineError> {
    let want = (spec.height, spec.width);
    match input {
        Input::Photo(_) => Ok(()),
        Input::Pixels(pixels) => {
            let found = (pixels.height(), pixels.width());
            if found == want { Ok(()) } else { Err(EngineError::PixelSize { want, found }) }
        }
        Input::Tensor(values) => {
            let (want, found) = (3 * want.0 * want.1, values.len());
            if found == want { Ok(()) } else { Err(EngineError::TensorSize { want, found }) }
        }
    }
}
