//! What callers, decode threads and device threads share: queues, slots, and where the engine and its devices stand.
//!
//! One value behind an `Arc`, made by `Engine::start`. How an engine fails is decided here.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::sync::watch;

use super::queue::{Entry, Queue};
use super::slots::{Outstanding, Pace, Slots};
use super::{EngineError, EngineMetrics, EngineSettings, EngineStatus, ModelSpec, Prepared};
use crate::ops::device::Memory;

/// What is known of one device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceState {
    /// Its name: `cpu`, `cuda:0`.
    pub device: Arc<str>,
    /// Photos in one forward pass, at most: the setting, or what fitted into its memory. `None` until it is warm.
    pub max_batch_size: Option<usize>,
    /// Its memory, as its thread last saw it: after the warm-up, or when it ran out.
    pub memory: Option<Memory>,
}

/// Everything that callers, decode threads and device threads share.
pub(super) struct Shared {
    pub(super) settings: EngineSettings,
    pub(super) model: ModelSpec,
    pub(super) metrics: EngineMetrics,
    pub(super) status: watch::Sender<EngineStatus>,
    pub(super) slots: Slots,
    pub(super) outstanding: Outstanding,
    pub(super) pace: Pace,
    /// Admitted photos that no decode thread has taken yet.
    pub(super) encoded: Queue<Bytes>,
    /// Prepared photos that no device has taken yet.
    pub(super) ready: Queue<Prepared>,
    /// One a device, in the order of the factories.
    devices: Mutex<Vec<DeviceState>>,
}

impl Shared {
    pub(super) fn new(
        settings: EngineSettings,
        model: ModelSpec,
        metrics: EngineMetrics,
        devices: impl Iterator<Item = Arc<str>>,
    ) -> Self {
        let cold = |device| DeviceState { device, max_batch_size: None, memory: None };
        let devices: Vec<DeviceState> = devices.map(cold).collect();
        Self {
            slots: Slots::new(settings.max_queue_size, metrics.queue_size.clone()),
            outstanding: Outstanding::default(),
            pace: Pace::of(devices.len()),
            encoded: Queue::new(metrics.clone()),
            ready: Queue::new(metrics.clone()),
            status: watch::Sender::new(EngineStatus::Starting),
            settings,
            model,
            metrics,
            devices: Mutex::new(devices),
        }
    }

    pub(super) fn devices(&self) -> Vec<DeviceState> {
        self.device_states().clone()
    }

    /// Device `index` has passed its warm-up; the engine is ready when that is true of every device.
    pub(super) fn warmed(&self, index: usize, max_batch_size: usize, memory: Option<Memory>) {
        let mut devices = self.device_states();
        if let Some(state) = devices.get_mut(index) {
            *state = DeviceState { max_batch_size: Some(max_batch_size), memory, ..state.clone() };
        }
        let all = devices.iter().all(|state| state.max_batch_size.is_some());
        drop(devices);
        self.status.send_if_modified(|status| {
            let ready = all && *status == EngineStatus::Starting;
            if ready {
                *status = EngineStatus::Ready;
            }
            ready
        });
    }

    /// What device `index` says of its memory now.
    pub(super) fn saw_memory(&self, index: usize, memory: Option<Memory>) {
        if let Some(state) = self.device_states().get_mut(index) {
            state.memory = memory;
        }
    }

    /// Whoever panicked holding the lock left a whole list: states are replaced, not edited.
    fn device_states(&self) -> MutexGuard<'_, Vec<DeviceState>> {
        self.devices.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The error for an entry that meets a closed queue.
    pub(super) fn closed_error(&self) -> EngineError {
        match &*self.status.borrow() {
            EngineStatus::Failed(reason) => EngineError::DeviceUnavailable { reason: reason.clone() },
            _ => EngineError::ShuttingDown,
        }
    }

    /// Closes both queues and answers what is left in them.
    pub(super) fn close(&self) {
        for entry in self.encoded.close() {
            entry.call.answer(Err(self.closed_error()));
        }
        for entry in self.ready.close() {
            entry.call.answer(Err(self.closed_error()));
        }
    }

    /// A device is lost, and the engine with it: not ready any more, and everyone who waits hears so. What the others would
    /// still answer is given up: a process with a lost device must end, and its successor answers sooner.
    pub(super) fn fail(&self, reason: &str) {
        let failed = self.status.send_if_modified(|status| {
            let first = !matches!(status, EngineStatus::Failed(_));
            if first {
                *status = EngineStatus::Failed(reason.into());
            }
            first
        });
        if failed {
            tracing::error!(reason, "a device failed: no more photos are accepted");
        }
        self.close();
    }

    /// The answer where memory does not suffice, not even for half a batch.
    pub(super) fn out_of_memory(&self) -> EngineError {
        EngineError::OutOfMemory { retry_after: self.pace.retry_after(self.slots.used()) }
    }

    /// Hands a prepared photo to the devices' threads.
    pub(super) fn push_ready(&self, entry: Entry<Prepared>) {
        if let Err(refused) = self.ready.push(entry) {
            refused.call.answer(Err(self.closed_error()));
        }
    }
}
