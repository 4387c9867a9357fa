//! AdamW, gradient accumulation and clipping, as PyTorch does them; moments in f32, which can be saved and restored.
//!
//! The trainer calls [`AdamW::accumulate`] once a micro-batch, then [`Gradients::clip`] and [`AdamW::step`]. candle's own
//! AdamW hides its moments and has neither groups nor clipping.

use candle_core::{Result, Tensor, Var, bail};
use featherlight::nn::Parameter;
use featherlight::ops::GradStore;
use featherlight::ops::update::{self, AdamWStep};
use std::collections::HashMap;

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

/// How a parameter is treated.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Group {
    /// Whether weight decay applies to it.
    pub decayed: bool,
    /// What the learning rate is multiplied by.
    pub rate: f64,
}

impl Group {
    /// Decayed, with the learning rate as it is.
    pub const PLAIN: Self = Self { decayed: true, rate: 1.0 };
}

/// Prefixes of the tensors of a saved state.
const PARAMETER: &str = "parameter.";
pub(crate) const FIRST: &str = "first.";
pub(crate) const SECOND: &str = "second.";

/// The optimiser and its state.
pub struct AdamW {
    settings: AdamWSettings,
    slots: Vec<Slot>,
    steps: u32,
}

struct Slot {
    /// The parameter's.
    name: String,
    variable: Var,
    first: Tensor,
    second: Tensor,
    group: Group,
}

impl AdamW {
    /// An optimiser of the trainable parameters among `parameters`, in their order, with moments at zero.
    ///
    /// # Errors
    /// candle's.
    pub fn new(
        parameters: &[&Parameter],
        settings: AdamWSettings,
        group: impl Fn(&Parameter) -> Group,
    ) -> Result<Self> {
        let slots = parameters.iter().filter(|parameter| parameter.is_trainable()).map(|parameter| {
            let variable = Var::from_tensor(parameter.tensor())?;
            // Two: each is changed in place.
            let (first, second) = (parameter.tensor().zeros_like()?, parameter.tensor().zeros_like()?);
            Ok(Slot { name: parameter.name().to_owned(), variable, first, second, group: group(parameter) })
        });
        Ok(Self { settings, slots: slots.collect::<Result<_>>()?, steps: 0 })
    }

    /// Steps made.
    pub fn steps(&self) -> u32 {
        self.steps
    }

    /// The trained parameters, in their order, with their names.
    pub fn variables(&self) -> impl Iterator<Item = (&str, &Var)> {
        self.slots.iter().map(|slot| (slot.name.as_str(), &slot.variable))
    }

    /// Everything that a run needs to go on from here: each trained parameter's values and moments, as
    /// `parameter.NAME`, `first.NAME` and `second.NAME`. They share the optimiser's memory: what is kept beyond the next step must be
    /// copied.
    pub fn state(&self) -> HashMap<String, Tensor> {
        self.slots
            .iter()
            .flat_map(|slot| {
                [PARAMETER, FIRST, SECOND].map(|kind| format!("{kind}{}", slot.name)).into_iter().zip([
                    slot.variable.as_detached_tensor(),
                    slot.first.clone(),
                    slot.second.clone(),
                ])
            })
            .collect()
    }

    /// Goes back to a [`AdamW::state`] of an optimiser of the same parameters, after `steps` steps. The moments are taken over, and
    /// written to by the next step: nobody else may hold them.
    ///
    /// # Errors
    /// If a tensor is missing or has another shape; nothing has been changed then.
    pub fn restore(&mut self, state: HashMap<String, Tensor>, steps: u32) -> Result<()> {
        let find = |kind: &str, slot: &Slot| find(&state, &format!("{kind}{}", slot.name), &slot.variable);
        let found = |slot: &Slot| Ok([find(PARAMETER, slot)?, find(FIRST, slot)?, find(SECOND, slot)?]);
        let tensors: Vec<[Tensor; 3]> = self.slots.iter().map(found).collect::<Result<_>>()?;
        for (slot, [parameter, first, second]) in self.slots.iter_mut().zip(tensors) {
            slot.variable.set(&parameter)?;
            (slot.first, slot.second) = (first, second);
        }
        self.steps = steps;
        Ok(())
    }

    /// Goes back to the values of a [`AdamW::state`], whatever the moments are.
    ///
    /// # Errors
    /// If a tensor is missing or has another shape; nothing has been changed then.
    pub fn restore_parameters(&self, state: &HashMap<String, Tensor>) -> Result<()> {
        let found = |slot: &Slot| find(state, &format!("{PARAMETER}{}", slot.name), &slot.variable);
        let tensors: Vec<Tensor> = self.slots.iter().map(found).collect::<Result<_>>()?;
        self.slots.iter().zip(tensors).try_for_each(|(slot, tensor)| slot.variable.set(&tensor))
    }

    /// An empty store for the gradients of this optimiser's parameters.
    pub fn gradients(&self) -> Gradients {
        Gradients { sums: vec![None; self.slots.len()] }
    }

    /// Adds the gradients of one micro-batch, scaled. Each leaves the store when it was added: memory for all of them is needed
    /// once.
    ///
    /// # Errors
    /// candle's.
    pub fn accumulate(&self, gradients: &mut Gradients, mut store: GradStore, scale: f64) -> Result<()> {
        for (slot, sum) in self.slots.iter().zip(&mut gradients.sums) {
            if let Some(gradient) = store.remove(slot.variable.as_tensor()) {
                update::accumulate(sum, gradient, scale)?;
            }
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
        let corrections = (1.0 - beta_1.powf(steps), (1.0 - beta_2.powf(steps)).sqrt());
        for (slot, gradient) in self.slots.iter_mut().zip(&gradients.sums) {
            let Some(gradient) = gradient else { continue };
            let step = AdamWStep {
                betas: (beta_1, beta_2),
                corrections,
                eps,
                learning_rate: learning_rate * slot.group.rate,
                weight_decay: if slot.group.decayed { weight_decay } else { 0.0 },
            };
            update::adamw(&slot.variable, (&mut slot.first, &mut slot.second), gradient, &step)?;
        }
        Ok(())
    }
}

/// The tensor `key` of a saved state, if it has the shape of `like`; on its device.
pub(crate) fn find(state: &HashMap<String, Tensor>, key: &str, like: &Tensor) -> Result<Tensor> {
    match state.get(key) {
        Some(tensor) if tensor.dims() == like.dims() => tensor.to_device(like.device()),
        Some(tensor) => {
            let (found, want) = (tensor.dims(), like.dims());
            bail!("the saved `{key}` has shape {found:?}, {want:?} wanted")
        }
        None => bail!("the saved state has no `{key}`"),
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
        let norm = update::squared_norm(self.sums.iter().flatten())?.sqrt();
        let factor = max_norm / (norm + 1e-6);
        if factor < 1.0 {
            for sum in &mut self.sums {
                *sum = sum.take().map(|sum| update::scaled(sum, factor)).transpose()?;
            }
        }
        Ok(norm)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;
    use featherlight::ops::backward;
    use featherlight::ops::device::Placement;

    fn parameter() -> Parameter {
        let values = Tensor::new(&[[1f32, -2.], [3., 0.5]], &Device::Cpu).unwrap();
        Parameter::new("weight".to_owned(), values, true, &Placement::CPU).unwrap()
    }

    /// A step down Σ w⁴.
    fn step(optimizer: &mut AdamW, parameter: &Parameter) {
        let store = backward(&parameter.tensor().powf(4.0).unwrap().sum_all().unwrap()).unwrap();
        let mut gradients = optimizer.gradients();
        optimizer.accumulate(&mut gradients, store, 1.0).unwrap();
        gradients.clip(1.0).unwrap();
        optimizer.step(&gradients, 0.05).unwrap();
    }

    fn values(parameter: &Parameter) -> Vec<f32> {
        parameter.tensor().flatten_all().unwrap().to_vec1().unwrap()
    }

    #[test]
    fn a_restored_optimiser_goes_on_to_the_very_same_weights() {
        let (whole, first_half, second_half) = (parameter(), parameter(), parameter());
        let settings = AdamWSettings { weight_decay: 0.1, ..AdamWSettings::default() };
        let optimizer = |parameter: &Parameter| AdamW::new(&[parameter], settings, |_| Group::PLAIN).unwrap();
        let (mut uninterrupted, mut before, mut after) =
            (optimizer(&whole), optimizer(&first_half), optimizer(&second_half));
        (0..6).for_each(|_| step(&mut uninterrupted, &whole));
        (0..3).for_each(|_| step(&mut before, &first_half));
        after.restore(before.state(), before.steps()).unwrap();
        (0..3).for_each(|_| step(&mut after, &second_half));
        assert_eq!(values(&second_half), values(&whole));
        assert_ne!(values(&whole), values(&parameter()));
    }

    #[test]
    fn a_state_of_other_parameters_is_refused_by_name_and_changes_nothing() {
        let parameter = parameter();
        let mut optimizer = AdamW::new(&[&parameter], AdamWSettings::default(), |_| Group::PLAIN).unwrap();
        let mut state = optimizer.state();
        state.remove("second.weight");
        let error = optimizer.restore(state, 1).unwrap_err().to_string();
        assert!(error.contains("second.weight"), "{error}");
        assert_eq!(optimizer.steps(), 0);
    }
}
