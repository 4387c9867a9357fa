//! AdamW, gradient accumulation and clipping, as PyTorch does them; moments in f32.
//!
//! The trainer calls [`AdamW::accumulate`] once a micro-batch, then [`Gradients::clip`] and [`AdamW::step`]. candle's own
//! AdamW hides its moments and has neither groups nor clipping.

use candle_core::backprop::GradStore;
use candle_core::{Result, Tensor, Var};
use featherlight::nn::Parameter;

/// Settings of AdamW (Loshchilov & Hutter 2019).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamWSettings {
    /// Decay of the first moment.
    pub beta_1: f64,
    /// Decay of the second moment.
    pub beta_2: f64,
    /// Added to the root of the second moment.
    pub eps: f64,
    /// Share of a weight taken off a step, times the learning rate.
    pub weight_decay: f64,
}

impl Default for AdamWSettings {
    fn default() -> Self {
        Self { beta_1: 0.9, beta_2: 0.999, eps: 1e-8, weight_decay: 0.0 }
    }
}

/// Which parameters weight decay applies to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decayed {
    /// Every one.
    All,
    /// Matrices and tables: biases, norms and layer scales, which have one dimension, are left alone (Hugging Face's default).
    Matrices,
}

/// The optimiser and its state.
pub struct AdamW {
    settings: AdamWSettings,
    slots: Vec<Slot>,
    steps: u32,
}

struct Slot {
    variable: Var,
    first: Tensor,
    second: Tensor,
    decay: bool,
}

impl AdamW {
    /// An optimiser of the trainable parameters among `parameters`, in their order, with moments at zero.
    ///
    /// # Errors
    /// candle's.
    pub fn new(parameters: &[&Parameter], settings: AdamWSettings, decayed: Decayed) -> Result<Self> {
        let slots = parameters.iter().filter(|parameter| parameter.is_trainable()).map(|parameter| {
            let variable = Var::from_tensor(parameter.tensor())?;
            let zero = parameter.tensor().zeros_like()?;
            let decay = decayed == Decayed::All || parameter.tensor().rank() > 1;
            Ok(Slot { variable, first: zero.clone(), second: zero, decay })
        });
        Ok(Self { settings, slots: slots.collect::<Result<_>>()?, steps: 0 })
    }

    /// An empty store for the gradients of this optimiser's parameters.
    pub fn gradients(&self) -> Gradients {
        Gradients { sums: vec![None; self.slots.len()] }
    }

    /// Adds the gradients of one micro-batch, scaled.
    ///
    /// # Errors
    /// candle's.
    pub fn accumulate(&self, gradients: &mut Gradients, store: &GradStore, scale: f64) -> Result<()> {
        for (slot, sum) in self.slots.iter().zip(&mut gradients.sums) {
            let Some(gradient) = store.get(slot.variable.as_tensor()) else { continue };
            let gradient = gradient.affine(scale, 0.0)?;
            *sum = Some(match sum.take() {
                Some(sum) => (sum + gradient)?,
                None => gradient,
            });
        }
        Ok(())
    }

    /// One step. A parameter without a gradient is left as it is.
    ///
    /// # Errors
    /// candle's.
    pub fn step(&mut self, gradients: &Gradients, learning_rate: f64) -> Result<()> {
        self.steps += 1;
        let AdamWSettings { beta_1, beta_2, eps, weight_decay } = self.settings;
        let steps = f64::from(self.steps);
        let (correction_1, correction_2) = (1.0 - beta_1.powf(steps), (1.0 - beta_2.powf(steps)).sqrt());
        for (slot, gradient) in self.slots.iter_mut().zip(&gradients.sums) {
            let Some(gradient) = gradient else { continue };
            slot.first = (slot.first.affine(beta_1, 0.0)? + gradient.affine(1.0 - beta_1, 0.0)?)?;
            slot.second = (slot.second.affine(beta_2, 0.0)? + gradient.sqr()?.affine(1.0 - beta_2, 0.0)?)?;
            let kept = if slot.decay { 1.0 - learning_rate * weight_decay } else { 1.0 };
            let root = slot.second.sqrt()?.affine(1.0 / correction_2, eps)?;
            let change = (&slot.first / root)?.affine(learning_rate / correction_1, 0.0)?;
            slot.variable.set(&(slot.variable.as_tensor().detach().affine(kept, 0.0)? - change)?)?;
        }
        Ok(())
    }
}

/// Gradients summed over the micro-batches of a step.
pub struct Gradients {
    sums: Vec<Option<Tensor>>,
}

impl Gradients {
    /// Scales the gradients down to `max_norm` if their norm over all parameters is larger; returns the norm before.
    ///
    /// # Errors
    /// candle's.
    pub fn clip(&mut self, max_norm: f64) -> Result<f64> {
        let mut squares = 0f64;
        for sum in self.sums.iter().flatten() {
            squares += f64::from(sum.sqr()?.sum_all()?.to_scalar::<f32>()?);
        }
        let norm = squares.sqrt();
        let factor = max_norm / (norm + 1e-6);
        if factor < 1.0 {
            for sum in self.sums.iter_mut().flatten() {
                *sum = sum.affine(factor, 0.0)?;
            }
        }
        Ok(norm)
    }
}
