//! Dropout (Srivastava et al. 2014) whose mask is drawn from a stream of the caller's: the same place, the same mask.

use super::tensor_slice::{argument, require_f32, storage, with_values};
use crate::randomness::Stream;
use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor};

/// Sets each value of `x` to zero with probability `probability` and divides the others by `1 − probability`.
///
/// # Errors
/// If `x` is not f32 on the CPU.
pub fn dropout(x: &Tensor, probability: f32, mut stream: Stream) -> Result<Tensor> {
    require_f32("dropout", x)?;
    let keep = (0..x.elem_count()).map(|_| stream.uniform() >= probability).collect();
    x.contiguous()?.apply_op1(Dropout { keep, factor: 1.0 / (1.0 - probability) })
}

struct Dropout {
    keep: Vec<bool>,
    factor: f32,
}

impl Dropout {
    fn apply(&self, values: &[f32]) -> Vec<f32> {
        values
            .iter()
            .zip(&self.keep)
            .map(|(value, keep)| if *keep { value * self.factor } else { 0.0 })
            .collect()
    }
}

impl CustomOp1 for Dropout {
    fn name(&self) -> &'static str {
        "dropout"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        Ok((storage(self.apply(argument("dropout", x, layout)?)), layout.shape().clone()))
    }

    fn bwd(&self, x: &Tensor, _: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let grad =
            with_values("dropout", [grad], |[g]| Tensor::from_vec(self.apply(g), x.shape(), x.device()))?;
        Ok(Some(grad))
    }
}
