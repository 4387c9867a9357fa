//! A function of every value for itself, on the CPU: the values in pieces, shared among the threads.

use super::graph::record_cheap;
use super::tensor_slice::with_values;
use candle_core::{Result, Tensor};
use rayon::prelude::*;

/// Values one task works on: small enough to stay in the first-level cache.
const PIECE: usize = 8192;

/// A function of every value that costs little, as an op: `of` computes it, `gradient` the gradient of its argument from that and the
/// gradient of its result. Both get constants.
///
/// # Errors
/// Theirs.
pub(super) fn op(
    name: &'static str,
    x: &Tensor,
    of: fn(&Tensor) -> Result<Tensor>,
    gradient: fn(&Tensor, &Tensor) -> Result<Tensor>,
) -> Result<Tensor> {
    let x = x.contiguous()?;
    let (kept, read) = (x.detach(), x.detach());
    let gradients = move |grad: &Tensor| Ok([Some(gradient(&read, grad)?)]);
    record_cheap(name, [Some(&x)], of(&kept)?, move || of(&kept), gradients)
}

/// The op `name` forward: `function` fills its first argument from its second.
///
/// # Errors
/// If `x` is not f32 on the CPU.
pub(super) fn forward(name: &'static str, x: &Tensor, function: fn(&mut [f32], &[f32])) -> Result<Tensor> {
    with_values(name, [x], |[xs]| {
        let mut y = vec![0f32; xs.len()];
        y.par_chunks_mut(PIECE).zip(xs.par_chunks(PIECE)).for_each(|(y, x)| function(y, x));
        Tensor::from_vec(y, x.shape(), x.device())
    })
}

/// The gradient with respect to `x`: `function` fills its first argument from `x` and the gradient of the output.
///
/// # Errors
/// If one of them is not f32 on the CPU.
pub(super) fn backward(
    name: &'static str,
    x: &Tensor,
    grad: &Tensor,
    function: fn(&mut [f32], &[f32], &[f32]),
) -> Result<Tensor> {
    with_values(name, [x, grad], |[xs, gs]| {
        let mut out = vec![0f32; xs.len()];
        out.par_chunks_mut(PIECE)
            .zip(xs.par_chunks(PIECE).zip(gs.par_chunks(PIECE)))
            .for_each(|(out, (x, grad))| function(out, x, grad));
        Tensor::from_vec(out, x.shape(), x.device())
    })
}
