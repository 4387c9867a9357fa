//! What kind of forward pass it is, and where its randomness comes from.

use crate::ops::Residual;
use crate::randomness::{Purpose, Randomness, Stream};

/// A forward pass.
#[derive(Clone, Copy, Debug)]
pub enum Pass {
    /// Inference: no dropout, no drop path.
    Eval,
    /// Training: dropout and drop path are drawn.
    Train(Training),
}

/// The place in a run that a training pass draws its random numbers for.
#[derive(Clone, Copy, Debug)]
pub struct Training {
    /// The run's randomness.
    pub randomness: Randomness,
    /// The epoch, from 0.
    pub epoch: u64,
    /// The micro-batch within the epoch, from 0.
    pub step: u64,
}

impl Pass {
    /// The dropout stream of a layer, or `None` where nothing is dropped.
    pub fn dropout(&self, layer: u64) -> Option<Stream> {
        match self {
            Self::Eval => None,
            Self::Train(t) => Some(t.randomness.stream(Purpose::Dropout, t.epoch, t.step, layer)),
        }
    }

    /// Stochastic depth of a branch (Huang et al. 2016): each sample is dropped with `probability`, the kept ones divided by
    /// `1 − probability`.
    pub fn drop_path(&self, probability: f64, batch: usize, branch: u64) -> Residual {
        match self {
            Self::Train(t) if probability > 0.0 => {
                let mut stream = t.randomness.stream(Purpose::DropPath, t.epoch, t.step, branch);
                let keep = 1.0 - probability;
                let factor = |_| if stream.uniform_f64() < keep { (1.0 / keep) as f32 } else { 0.0 };
                Residual::PerSample((0..batch).map(factor).collect())
            }
            _ => Residual::Constant(1.0),
        }
    }
}
