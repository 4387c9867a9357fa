//! AdamW, gradient accumulation and clipping, as PyTorch does them; moments in f32, which can be saved and restored.
//!
//! The trainer calls [`AdamW::accumulate`] once a micro-batch, then [`Gradients::clip`] and [`AdamW::step`]. candle's own
//! AdamW hides its moments and has neither groups nor clipping.

use candle_core::backprop::GradStore;
use candle_core::{Result, Tensor, Var, bail};
use featherlight::nn::Parameter;
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

/// Which parameters weight decay applies to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decayed {
    /// Every one.
    All,
    /// What Hugging Face's Trainer decays (`get_decay_parameter_names`): all but norms and whatever has `bias` in its name, as
    /// tables of position biases have.
    NeitherNormsNorBiases,
}

/// Prefixes of the tensors of a saved state.
const PARAMETER: &str = "parameter.";
const FIRST: &str = "first.";
const SECOND: &str = "second.";

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
    decay: bool,
}

/// See [`Decayed::NeitherNormsNorBiases`].
fn is_decayed(name: &str) -> bool {
    !["bias", "norm"].iter().any(|part| name.contains(part))
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
            let name = parameter.name().to_owned();
            let decay = decayed == Decayed::All || is_decayed(&name);
            Ok(Slot { name, variable, first: zero.clone(), second: zero, decay })
        });
        Ok(Self { settings, slots: slots.collect::<Result<_>>()?, steps: 0 })
    }

    /// Steps made.
    pub fn steps(&self) -> u32 {
        self.steps
    }

    /// Everything that a run needs to go on from here: each trained parameter's values and moments, as
    /// `parameter.NAME`, `first.NAME` and `second.NAME`.
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

    /// Goes back to a [`AdamW::state`] of an optimiser of the same parameters, after `steps` steps.
    ///
    /// # Errors
    /// If a tensor is missing or has another shape; nothing has been changed then.
    pub fn restore(&mut self, state: &HashMap<String, Tensor>, steps: u32) -> Result<()> {
        let find = |kind: &str, slot: &Slot| {
            let key = format!("{kind}{}", slot.name);
            match state.get(&key) {
                Some(tensor) if tensor.dims() == slot.variable.dims() => Ok(tensor.clone()),
                Some(tensor) => {
                    let (found, want) = (tensor.dims(), slot.variable.dims());
                    bail!("the optimiser's `{key}` has shape {found:?}, {want:?} wanted")
                }
                None => bail!("the optimiser's state has no `{key}`"),
            }
        };
        let found = |slot: &Slot| Ok([find(PARAMETER, slot)?, find(FIRST, slot)?, find(SECOND, slot)?]);
        let tensors: Vec<[Tensor; 3]> = self.slots.iter().map(found).collect::<Result<_>>()?;
        for (slot, [parameter, first, second]) in self.slots.iter_mut().zip(tensors) {
            slot.variable.set(&parameter)?;
            (slot.first, slot.second) = (first, second);
        }
        self.steps = steps;
        Ok(())
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
        let squares: Vec<Tensor> =
            self.sums.iter().flatten().map(|sum| sum.sqr()?.sum_all()).collect::<Result<_>>()?;
        if squares.is_empty() {
            return Ok(0.0);
        }
        // All at once: each look at a number waits for the device.
        let squares = Tensor::stack(&squares, 0)?.to_vec1::<f32>()?;
        let norm = squares.into_iter().map(f64::from).sum::<f64>().sqrt();
        let factor = max_norm / (norm + 1e-6);
        if factor < 1.0 {
            for sum in self.sums.iter_mut().flatten() {
                *sum = sum.affine(factor, 0.0)?;
            }
        }
        Ok(norm)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;
    use featherlight::ops::device::Placement;

    /// As transformers 5.23.0's `Trainer.get_decay_parameter_names` sorts them.
    #[test]
    fn norms_and_biases_are_not_decayed_and_all_else_is() {
        for name in [
            "beit.encoder.layer.0.lambda_1",
            "beit.encoder.layer.0.attention.attention.query.weight",
            "beit.embeddings.cls_token",
            "vision_model.embeddings.class_embedding",
            "swinv2.encoder.layers.0.blocks.0.attention.self.logit_scale",
            "vit.encoder.layer.0.attention.attention.query.lora_A.weight",
            "classifier.weight",
        ] {
            assert!(is_decayed(name), "{name}");
        }
        for name in [
            "classifier.bias",
            "beit.encoder.layer.0.attention.attention.relative_position_bias.relative_position_bias_table",
            "swinv2.encoder.layers.0.blocks.0.attention.self.continuous_position_bias_mlp.0.weight",
            "vision_model.pre_layrnorm.weight",
            "swin.encoder.layers.0.downsample.norm.weight",
            "beit.pooler.layernorm.weight",
        ] {
            assert!(!is_decayed(name), "{name}");
        }
    }

    fn parameter() -> Parameter {
        let values = Tensor::new(&[[1f32, -2.], [3., 0.5]], &Device::Cpu).unwrap();
        Parameter::new("weight".to_owned(), values, true, &Placement::CPU).unwrap()
    }

    /// A step down Σ w⁴.
    fn step(optimizer: &mut AdamW, parameter: &Parameter) {
        let store = parameter.tensor().powf(4.0).unwrap().sum_all().unwrap().backward().unwrap();
        let mut gradients = optimizer.gradients();
        optimizer.accumulate(&mut gradients, &store, 1.0).unwrap();
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
        let optimizer = |parameter: &Parameter| AdamW::new(&[parameter], settings, Decayed::All).unwrap();
        let (mut uninterrupted, mut before, mut after) =
            (optimizer(&whole), optimizer(&first_half), optimizer(&second_half));
        (0..6).for_each(|_| step(&mut uninterrupted, &whole));
        (0..3).for_each(|_| step(&mut before, &first_half));
        after.restore(&before.state(), before.steps()).unwrap();
        (0..3).for_each(|_| step(&mut after, &second_half));
        assert_eq!(values(&second_half), values(&whole));
        assert_ne!(values(&whole), values(&parameter()));
    }

    #[test]
    fn a_state_of_other_parameters_is_refused_by_name_and_changes_nothing() {
        let parameter = parameter();
        let mut optimizer = AdamW::new(&[&parameter], AdamWSettings::default(), Decayed::All).unwrap();
        let mut state = optimizer.state();
        state.remove("second.weight");
        let error = optimizer.restore(&state, 1).unwrap_err().to_string();
        assert!(error.contains("second.weight"), "{error}");
        assert_eq!(optimizer.steps(), 0);
    }
}
