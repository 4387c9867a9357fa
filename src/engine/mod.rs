//! The engine: photos in, raw scores out, across one thread a device.
//!
//! `http` calls [`Engine::admit`] or [`Engine::submit`]; an admitted photo holds a slot, is decoded by the decode pool,
//! waits in the queue and is taken by the first free device's thread with whatever else waits there. `main` starts the
//! engine with factories that build a [`Runner`] each, on the device's own thread. Nothing here knows about HTTP, files or
//! tensors.

mod batcher;
mod decode_pool;
mod error;
mod handle;
mod metrics;
mod model_runner;
mod queue;
mod runner;
mod shared;
mod slots;
#[cfg(test)]
mod tests;
mod warm_up;
mod worker;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

pub use error::EngineError;
pub use handle::{Engine, Ticket};
pub use metrics::EngineMetrics;
pub use model_runner::{DeviceChoice, built_runner, model_runner, photo_input};
pub use runner::{Runner, RunnerError, RunnerFactory, Warmup};
pub use shared::DeviceState;

use crate::image::{ImageError, Pixels};

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

/// What the engine must know about the model its devices run.
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
    /// Photos in one forward pass, at most; a device with too little memory for them takes fewer (see [`DeviceState`]).
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
    /// The model is being loaded or warmed, on one device at least.
    Starting,
    /// Photos are admitted.
    Ready,
    /// No photo is admitted any more; those admitted are being answered.
    Draining,
    /// The model could not be built, or a device failed; for good.
    Failed(Arc<str>),
    /// The drain is over; nobody is answered any more.
    Stopped,
}
