//! Activation checkpointing (Chen et al. 2016, "Training Deep Nets with Sublinear Memory Cost"): only what goes into each block is
//! kept, and a block is run again when the backward pass comes to it. Memory for the activations of one block instead of all, for one
//! more forward pass.
//!
//! Dropout and drop path draw the same numbers again, as these are a function of their place alone.

use super::Run;
use crate::evaluate::pixel_values;
use crate::loader::Batch;
use crate::optimizer::Gradients;
use candle_core::{Result, Tensor, Var, bail};
use featherlight::model::Hidden;
use featherlight::nn::Pass;
use featherlight::ops::{self, GradStore};

impl Run<'_> {
    /// What [`Run::backward`] does, block by block.
    pub(super) fn recompute(
        &self,
        batch: &Batch,
        pass: &Pass,
        total: f64,
        gradients: &mut Gradients,
    ) -> Result<f64> {
        let (model, scale) = (self.model, self.state.loss_scale);
        let pixel_values = pixel_values(batch, self.normalization, &self.device)?;
        let first = self.first_trained;
        let embedded = ops::no_grad(|| model.embed(&pixel_values, pass))?;
        let (mut last, mut inputs) = (detached(embedded), Vec::new());
        for index in 0..model.blocks() {
            let output = detached(ops::no_grad(|| model.block(index, &last, pass))?);
            // Blocks before the first trained one are not run again.
            if index + 1 >= first {
                inputs.push((index, last));
            }
            last = output;
        }
        let (states, hidden) = as_variable(&last, first <= model.blocks())?;
        let loss = self.loss(&model.head(&hidden, pass)?, batch, total)?;
        let value = loss.to_scalar::<f32>()?;
        let mut store = ops::backward(&loss.affine(scale, 0.0)?)?;
        drop((loss, hidden));
        let mut gradient = taken(&mut store, states)?;
        self.optimizer.accumulate(gradients, store, 1.0 / scale)?;
        for (index, input) in inputs.into_iter().rev() {
            let Some(wanted) = gradient.take() else { break };
            let (states, hidden) = as_variable(&input, first <= index)?;
            drop(input);
            let mut store = ops::backward_from(&model.block(index, &hidden, pass)?.states, wanted)?;
            gradient = taken(&mut store, states)?;
            self.optimizer.accumulate(gradients, store, 1.0 / scale)?;
        }
        if let Some(wanted) = gradient {
            let store = ops::backward_from(&model.embed(&pixel_values, pass)?.states, wanted)?;
            self.optimizer.accumulate(gradients, store, 1.0 / scale)?;
        }
        Ok(f64::from(value))
    }
}

fn detached(hidden: Hidden) -> Hidden {
    Hidden { states: hidden.states.detach(), grid: hidden.grid }
}

/// The same states as a variable, where their gradient is wanted.
fn as_variable(hidden: &Hidden, wanted: bool) -> Result<(Option<Var>, Hidden)> {
    if !wanted {
        return Ok((None, hidden.clone()));
    }
    let variable = Var::from_tensor(&hidden.states)?;
    let hidden = Hidden { states: variable.as_tensor().clone(), grid: hidden.grid };
    Ok((Some(variable), hidden))
}

fn taken(store: &mut GradStore, variable: Option<Var>) -> Result<Option<Tensor>> {
    let Some(variable) = variable else { return Ok(None) };
    match store.remove(variable.as_tensor()) {
        Some(gradient) => Ok(Some(gradient)),
        None => bail!("a block's output does not depend on its input"),
    }
}
