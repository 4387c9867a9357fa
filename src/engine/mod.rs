//! The engine: photos in, raw scores out, across one thread a device.
//!
//! `http` calls [`Engine::admit`] or [`Engine::submit`]; an admitted photo holds a slot, is decoded by the decode pool,
//! waits in the queue and is taken by the first free device's thread with whatever else of its model waits there.
//! [`Engine::load`] brings a [`Model`] to every device, while those that are there go on: its factories build a [`Runner`]
//! each, on the device's own thread. Nothing here knows about HTTP, and only `model_runner` about model folders and tensors.

mod admission;
mod batcher;
mod call;
mod clock;
mod decode_pool;
mod device;
mod error;
mod handle;
mod held;
mod knee;
mod lane;
mod metrics;
mod model;
mod model_runner;
mod pace;
mod queue;
mod runner;
mod shared;
mod slots;
#[cfg(test)]
mod tests;
mod ticket;
mod warm_up;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

pub use error::EngineError;
pub use handle::Engine;
pub use held::Held;
pub use metrics::EngineMetrics;
pub use model::Model;
pub use model_runner::{DeviceChoice, LoadedParts, device_names};
pub use runner::{Breathe, Runner, RunnerError, RunnerFactory, Warmup};
pub use shared::DeviceState;
pub use ticket::Ticket;

use crate::image::{ImageError, Pixels};
use crate::ops::device::DeviceInfo;

/// What a caller hands in for one prediction.
#[derive(Debug)]
pub enum Input {
    /// The bytes of an image file; decoded, resized and cropped by the decode pool.
    Photo(Bytes),
    /// `height × width × 3`, u8, of the model's own size; the device normalises.
    Pixels(Held<Pixels>),
    /// Normalised values, `3 × height × width`; goes to the device as it is.
    Tensor(Held<Vec<f32>>),
}

/// What reaches the device: one photo of a batch.
#[derive(Debug)]
pub enum Prepared {
    /// `height × width × 3`, u8; the device normalises.
    Pixels(Held<Pixels>),
    /// `3 × height × width`, normalised already.
    Tensor(Held<Vec<f32>>),
}

/// Raw logits, one a label; softmax and top-k are the caller's business.
#[derive(Debug, Clone, PartialEq)]
pub struct Scores(pub Vec<f32>);

/// Turns the bytes of an image file into the pixels the model wants (decode, orientation, resize, crop).
///
/// Called on the decode pool's threads. A panic inside is caught and answered as [`EngineError::Internal`].
pub trait Prepare: Fn(&[u8]) -> Result<Pixels, ImageError> + Send + Sync {}

impl<F: Fn(&[u8]) -> Result<Pixels, ImageError> + Send + Sync> Prepare for F {}

/// What the engine must know about a model.
#[derive(Debug, Clone)]
pub struct ModelSpec {
    /// Its name, for logs.
    pub name: Arc<str>,
    /// Height of the model's input, pixels.
    pub height: usize,
    /// Width of the model's input, pixels.
    pub width: usize,
}

/// What [`Engine::load`] makes a [`Model`] of.
pub struct ModelParts {
    /// Name and size.
    pub spec: ModelSpec,
    /// Turns photos into the model's pixels.
    pub prepare: Arc<dyn Prepare>,
    /// One a device, in the engine's order.
    pub runners: Vec<RunnerFactory>,
}

/// Photos in one forward pass, at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BatchLimit {
    /// So many; a device with too little memory for them takes fewer.
    Fixed(usize),
    /// Where a larger batch makes no more photos a second, found by each device when it warms a model.
    Auto,
}

/// The engine's part of the service's settings.
#[derive(Debug, Clone)]
pub struct EngineSettings {
    /// Photos in one forward pass, at most; what came of it on each device: [`Model::max_batch_sizes`].
    pub max_batch_size: BatchLimit,
    /// How long a batch below the limit is held back for company; zero: not at all.
    pub max_queue_delay: Duration,
    /// Photos admitted and not yet taken by the device, at most; decoding ones included.
    pub max_queue_size: usize,
    /// Threads that decode photos.
    pub decode_threads: usize,
}

impl Default for EngineSettings {
    /// Those for the CPU: batches of up to 8, 256 photos waiting, one decode thread a core and at most four. Why: docs/PERFORMANCE.md.
    fn default() -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Self {
            max_batch_size: BatchLimit::Fixed(8),
            max_queue_delay: Duration::ZERO,
            max_queue_size: 256,
            decode_threads: cores.min(4),
        }
    }
}

impl EngineSettings {
    /// The defaults for models on these devices: where one is a GPU, batches of up to 32 and a decode thread for each core, none of which
    /// has anything else to do.
    pub fn on(choices: &[DeviceChoice]) -> Self {
        let defaults = Self::default();
        if choices.iter().all(|choice| choice.device == DeviceInfo::Cpu) {
            return defaults;
        }
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Self { max_batch_size: BatchLimit::Fixed(32), decode_threads: cores, ..defaults }
    }
}

/// Where the engine stands; watch it with [`Engine::status`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EngineStatus {
    /// Photos are admitted, for models that are loaded.
    Ready,
    /// No photo is admitted any more; those admitted are being answered.
    Draining,
    /// A device failed, or there was no model to begin with; for good.
    Failed(Arc<str>),
    /// The drain is over; nobody is answered any more.
    Stopped,
}
