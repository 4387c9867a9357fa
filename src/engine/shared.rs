//! What callers, decode threads and device threads share: queues, slots, and where the engine and its devices stand.
//!
//! One value behind an `Arc`, made by `Engine::start`. How an engine fails is decided here.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::watch;

use super::clock::Clock;
use super::device::LoadOrder;
use super::pace::{Pace, Queued};
use super::queue::{Entry, Queue};
use super::slots::{Outstanding, Slots};
use super::{EngineError, EngineMetrics, EngineSettings, EngineStatus, Prepared};
use crate::ops::device::Memory;

/// What is known of one device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceState {
    /// Its name: `cpu`, `cuda:0`.
    pub device: Arc<str>,
    /// Its memory, as its thread last saw it: after a warm-up, or when it ran out.
    pub memory: Option<Memory>,
}

/// Everything that callers, decode threads and device threads share.
pub(super) struct Shared {
    pub(super) settings: EngineSettings,
    pub(super) metrics: EngineMetrics,
    pub(super) clock: Clock,
    pub(super) status: watch::Sender<EngineStatus>,
    pub(super) slots: Slots,
    pub(super) outstanding: Outstanding,
    pub(super) pace: Pace,
    /// Admitted photos that no decode thread has taken yet.
    pub(super) encoded: Queue<Bytes>,
    /// Prepared photos that no device has taken yet.
    pub(super) ready: Queue<Prepared>,
    devices: Vec<Device>,
}

/// One device, in the engine's order.
struct Device {
    state: Mutex<DeviceState>,
    /// Models that it is to load.
    orders: Mutex<VecDeque<LoadOrder>>,
}

impl Shared {
    pub(super) fn new(
        settings: EngineSettings,
        devices: Vec<Arc<str>>,
        metrics: EngineMetrics,
        clock: Clock,
    ) -> Self {
        let device = |device| Device {
            state: Mutex::new(DeviceState { device, memory: None }),
            orders: Mutex::default(),
        };
        Self {
            slots: Slots::new(settings.max_queue_size, metrics.queue_size.clone()),
            outstanding: Outstanding::default(),
            pace: Pace::default(),
            encoded: Queue::new(metrics.clone(), clock.clone()),
            ready: Queue::new(metrics.clone(), clock.clone()),
            status: watch::Sender::new(EngineStatus::Ready),
            settings,
            metrics,
            clock,
            devices: devices.into_iter().map(device).collect(),
        }
    }

    pub(super) fn device_count(&self) -> usize {
        self.devices.len()
    }

    pub(super) fn devices(&self) -> Vec<DeviceState> {
        self.devices.iter().map(|device| locked(&device.state).clone()).collect()
    }

    /// What device `index` says of its memory now.
    pub(super) fn saw_memory(&self, index: usize, memory: Option<Memory>) {
        if let Some(device) = self.devices.get(index) {
            locked(&device.state).memory = memory;
        }
    }

    /// Hands device `index` a model to load.
    pub(super) fn order(&self, index: usize, order: LoadOrder) {
        if let Some(device) = self.devices.get(index) {
            locked(&device.orders).push_back(order);
            self.ready.nudge();
        }
    }

    /// Whether a model waits to be loaded on device `index`.
    pub(super) fn has_order(&self, index: usize) -> bool {
        self.devices.get(index).is_some_and(|device| !locked(&device.orders).is_empty())
    }

    /// The next model to be loaded on device `index`.
    pub(super) fn next_order(&self, index: usize) -> Option<LoadOrder> {
        locked(&self.devices.get(index)?.orders).pop_front()
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
        // Whoever waits for a model to be loaded learns that nobody will.
        for device in &self.devices {
            locked(&device.orders).clear();
        }
    }

    /// A device is lost, and the engine with it: not ready any more, and everyone who waits hears so. What other devices would still
    /// answer is given up: a process with a lost device must end, and its successor answers sooner. A drain that is over stays so.
    pub(super) fn fail(&self, reason: &str) {
        self.fail_if(reason, |status| matches!(status, EngineStatus::Ready | EngineStatus::Draining));
    }

    /// There is no model to begin with: as if a device had failed. A drain that has begun is not disturbed: that loads fail then is no
    /// news.
    pub(super) fn give_up(&self, reason: &str) {
        self.fail_if(reason, |status| *status == EngineStatus::Ready);
    }

    fn fail_if(&self, reason: &str, may: impl Fn(&EngineStatus) -> bool) {
        let failed = self.status.send_if_modified(|status| {
            let may = may(status);
            if may {
                *status = EngineStatus::Failed(reason.into());
            }
            may
        });
        if failed {
            tracing::error!(reason, "no more photos are accepted");
            self.close();
        }
    }

    /// The answer where memory does not suffice, not even for half a batch.
    pub(super) fn out_of_memory(&self) -> EngineError {
        EngineError::OutOfMemory { retry_after: self.retry_after() }
    }

    /// The time a client should stay away: photos queued × measured seconds a photo.
    pub(super) fn retry_after(&self) -> Duration {
        self.pace.retry_after(self.slots.used())
    }

    /// Who waits for a thread at this moment.
    pub(super) fn waiting(&self) -> Queued {
        Queued { encoded: !self.encoded.is_empty(), ready: !self.ready.is_empty() }
    }

    /// Hands photos to the decode pool.
    pub(super) fn push_encoded(&self, entries: Vec<Entry<Bytes>>) {
        self.refuse(self.encoded.push(entries));
    }

    /// Hands prepared photos to the devices' threads.
    pub(super) fn push_ready(&self, entries: Vec<Entry<Prepared>>) {
        self.refuse(self.ready.push(entries));
    }

    /// Answers what met a closed queue.
    fn refuse<P>(&self, pushed: Result<(), Vec<Entry<P>>>) {
        for entry in pushed.err().into_iter().flatten() {
            entry.call.answer(Err(self.closed_error()));
        }
    }
}

/// Whoever panicked holding one of these locks left a whole value: each is changed in one step.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
