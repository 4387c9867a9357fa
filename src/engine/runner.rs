//! What an engine runs on a device's thread: the real model and the fakes of the tests stand behind [`Runner`].

use super::Prepared;
use crate::ops::device::Memory;

/// What runs on a device thread. It is built there, lives there and is dropped there; it need not be `Send`.
pub trait Runner {
    /// One forward pass: raw logits for each photo of `batch`, in order, one value a label.
    ///
    /// # Errors
    /// [`RunnerError::Batch`] when this batch fails, [`RunnerError::OutOfMemory`] when a smaller one may succeed,
    /// [`RunnerError::Device`] when no further one can, of any model. A panic is caught and treated as the first, so a runner must stay
    /// usable after one.
    fn run(&mut self, batch: &[Prepared]) -> Result<Vec<Vec<f32>>, RunnerError>;

    /// The device's memory at this moment, where it has its own and says so.
    fn memory(&self) -> Option<Memory> {
        None
    }
}

/// What goes through a runner before photos do: the first pass of a shape pays for its allocations, and shows a broken model
/// before the service calls itself ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Warmup {
    /// One blank photo: for the CPU, where another batch size costs nothing new.
    OnePhoto,
    /// Blank batches of 1, 2, 4 … photos up to the limit, and the limit itself. The limit becomes the last that fits into
    /// the device's memory.
    Buckets,
}

impl Warmup {
    /// The sizes of the batches, up to `limit`, smallest first.
    pub(super) fn sizes(self, limit: usize) -> Vec<usize> {
        match self {
            Self::OnePhoto => vec![1],
            Self::Buckets => {
                let doubled = std::iter::successors(Some(1_usize), |size| size.checked_mul(2));
                doubled.take_while(|size| *size < limit).chain([limit.max(1)]).collect()
            }
        }
    }
}

/// What a factory builds with: called between the pieces of its work, it lets photos of other models have the device.
pub type Breathe<'a> = &'a mut dyn FnMut();

type Build = Box<dyn FnOnce(Breathe<'_>) -> Result<Box<dyn Runner>, RunnerError> + Send>;

/// Builds a runner on its device's own thread.
pub struct RunnerFactory {
    device: String,
    warmup: Warmup,
    pub(super) build: Build,
}

impl RunnerFactory {
    /// A factory for the device called `device` (`cpu`, `cuda:0`), whose work is short enough to be done in one piece.
    pub fn new<R: Runner + 'static>(
        device: impl Into<String>,
        warmup: Warmup,
        build: impl FnOnce() -> Result<R, RunnerError> + Send + 'static,
    ) -> Self {
        Self::in_pieces(device, warmup, move |_| build())
    }

    /// A factory whose work is cut in pieces: `build` calls what it is given in between.
    pub fn in_pieces<R: Runner + 'static>(
        device: impl Into<String>,
        warmup: Warmup,
        build: impl FnOnce(Breathe<'_>) -> Result<R, RunnerError> + Send + 'static,
    ) -> Self {
        let build: Build = Box::new(move |breathe| Ok(Box::new(build(breathe)?)));
        Self { device: device.into(), warmup, build }
    }

    /// The device's name.
    pub fn device(&self) -> &str {
        &self.device
    }

    pub(super) fn warmup(&self) -> Warmup {
        self.warmup
    }
}

/// Why a forward pass gave no scores. The texts go to the log, never to a client.
#[derive(Debug, thiserror::Error)]
pub enum RunnerError {
    /// This batch failed; another may succeed.
    #[error("{0}")]
    Batch(String),
    /// The device's memory did not suffice; a smaller batch may succeed.
    #[error("out of memory: {0}")]
    OutOfMemory(String),
    /// The model cannot be built or warmed; the device is sound.
    #[error("{0}")]
    Load(String),
    /// The device is lost.
    #[error("{0}")]
    Device(String),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_double_up_to_the_limit_and_end_with_it() {
        for (limit, sizes) in
            [(1, &[1][..]), (2, &[1, 2]), (6, &[1, 2, 4, 6]), (8, &[1, 2, 4, 8]), (9, &[1, 2, 4, 8, 9])]
        {
            assert_eq!(Warmup::Buckets.sizes(limit), sizes);
            assert_eq!(Warmup::OnePhoto.sizes(limit), [1]);
        }
    }
}
