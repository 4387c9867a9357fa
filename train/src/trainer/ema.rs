//! The exponential moving average of the trained weights (Polyak & Juditsky 1992; in vision, Szegedy et al. 2015), which is often
//! better than the weights of any one step.

use crate::optimizer::{AdamW, find};
use candle_core::{Result, Tensor, Var};
use std::collections::HashMap;

/// Before the name of a parameter in a saved state.
pub(super) const AVERAGE: &str = "average.";

/// The average of each parameter that an optimiser trains, in its order.
pub(super) struct MovingAverage {
    decay: f64,
    tensors: Vec<Tensor>,
}

impl MovingAverage {
    /// An average that starts at the weights as they are.
    pub(super) fn new(optimizer: &AdamW, decay: f64) -> Result<Self> {
        let copies = optimizer.variables().map(|(_, variable)| variable.as_detached_tensor().copy());
        Ok(Self { decay, tensors: copies.collect::<Result<_>>()? })
    }

    /// Takes the weights after `step` steps in. The first steps count for more than the decay says, as TensorFlow's
    /// `ExponentialMovingAverage` has it, so that a short run is no average of the weights that it started from.
    pub(super) fn update(&mut self, optimizer: &AdamW, step: u32) -> Result<()> {
        let step = f64::from(step);
        let decay = self.decay.min((1.0 + step) / (10.0 + step));
        for (average, (_, variable)) in self.tensors.iter_mut().zip(optimizer.variables()) {
            let now = variable.as_detached_tensor().affine(1.0 - decay, 0.0)?;
            *average = (average.affine(decay, 0.0)? + now)?;
        }
        Ok(())
    }

    /// The average takes the place of the weights and the weights that of the average; twice is as before, bit for bit.
    pub(super) fn swap(&mut self, optimizer: &AdamW) -> Result<()> {
        for (average, (_, variable)) in self.tensors.iter_mut().zip(optimizer.variables()) {
            let weights = variable.as_detached_tensor().copy()?;
            variable.set(average)?;
            *average = weights;
        }
        Ok(())
    }

    /// Adds the average to a saved state.
    pub(super) fn save(&self, optimizer: &AdamW, state: &mut HashMap<String, Tensor>) {
        for (average, (name, _)) in self.tensors.iter().zip(optimizer.variables()) {
            state.insert(format!("{AVERAGE}{name}"), average.clone());
        }
    }

    /// Goes back to a saved average.
    pub(super) fn restore(&mut self, optimizer: &AdamW, state: &HashMap<String, Tensor>) -> Result<()> {
        let average = |(name, variable): (&str, &Var)| find(state, &format!("{AVERAGE}{name}"), variable);
        self.tensors = optimizer.variables().map(average).collect::<Result<_>>()?;
        Ok(())
    }
}
