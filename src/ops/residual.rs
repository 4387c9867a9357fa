//! A block's residual connection in one pass: `x + factor · scale ∘ y`.
//!
//! `scale` is the layer scale (BEiT's lambda; Touvron et al. 2021), `factor` a number a sample: stochastic depth (Huang et
//! al. 2016) makes it 0 or 1/keep, an adapter makes it s for all.

use super::graph::{Kept, record};
use super::launch::{Argument, File, Geometry, Kernel, has_cuda_kernel};
use super::linear::sums_of_pieces;
use super::profile::timed;
use super::tensor_slice::{has_cpu_kernel, with_values};
use candle_core::{DType, Result, Tensor, bail};
use rayon::prelude::*;

/// Values one task works on.
const PIECE: usize = 16_384;

/// What a residual connection multiplies `y` by.
#[derive(Clone, Debug)]
pub enum Residual {
    /// The same number for every sample.
    Constant(f32),
    /// A number a sample, in the order of the batch (the first dimension).
    PerSample(Vec<f32>),
}

impl Residual {
    fn of(&self, sample: usize) -> f32 {
        match self {
            Self::Constant(factor) => *factor,
            Self::PerSample(factors) => factors.get(sample).copied().unwrap_or(0.0),
        }
    }
}

/// `x` and `y` `[batch, …, hidden]`, `scale` `[hidden]` → `[batch, …, hidden]`.
///
/// # Errors
/// If the shapes or the number formats do not fit.
pub fn residual(x: &Tensor, y: &Tensor, scale: Option<&Tensor>, factor: Residual) -> Result<Tensor> {
    if x.dims() != y.dims() || x.rank() < 2 {
        bail!("residual: {:?} and {:?} cannot be added", x.shape(), y.shape())
    }
    if let Residual::PerSample(factors) = &factor
        && factors.len() != x.dim(0)?
    {
        bail!("residual: {} factors for a batch of {}", factors.len(), x.dim(0)?)
    }
    if let Some(scale) = scale
        && x.dims().last() != Some(&scale.dims1()?)
    {
        bail!("residual: scale {:?} for values {:?}", scale.shape(), x.shape())
    }
    timed("residual", x.device(), || {
        let (x, y, op) = (x.contiguous()?, y.contiguous()?, AddResidual(factor));
        let scale = scale.map(Tensor::contiguous).transpose()?;
        let result = match has_cpu_kernel(&x) {
            true => op.sum_on_cpu(&x, &y, scale.as_ref())?,
            false => op.sum(&x, &y, scale.as_ref())?,
        };
        let (want_x, want_y) = (Wanted::of(&x), Wanted::of(&y));
        let constant_scale = scale.as_ref().map(Tensor::detach);
        // y is read for the gradient of a trained scale alone.
        let kept = scale.as_ref().filter(|scale| scale.track_op()).map(|_| Kept::of(&y));
        record("residual, backward", [Some(&x), Some(&y), scale.as_ref()], result, move |grad| {
            let kept = kept.map(|y| y.values()).transpose()?;
            let (grad_y, grad_scale) = op.gradients(want_y, kept.as_ref(), constant_scale.as_ref(), grad)?;
            Ok([want_x.the_same(grad)?, grad_y, grad_scale])
        })
    })
}

/// Whether somebody asks for the gradient of a summand, which is that of the sum.
#[derive(Clone, Copy)]
enum Wanted {
    No,
    /// In any memory.
    Yes,
    /// In memory of its own, as a variable's.
    Own,
}

impl Wanted {
    fn of(summand: &Tensor) -> Self {
        match (summand.is_variable(), summand.track_op()) {
            (true, _) => Self::Own,
            (false, true) => Self::Yes,
            (false, false) => Self::No,
        }
    }

    fn the_same(self, gradient: &Tensor) -> Result<Option<Tensor>> {
        match self {
            Self::No => Ok(None),
            Self::Yes => Ok(Some(gradient.clone())),
            Self::Own => gradient.copy().map(Some),
        }
    }
}

struct AddResidual(Residual);

/// The kernel in elementwise.cu: `x + factor · factors ∘ scale ∘ y`, what is absent left out.
pub(super) fn on_values(
    x: Option<&Tensor>,
    y: &Tensor,
    scale: Option<&Tensor>,
    factors: Option<&Tensor>,
    factor: f32,
) -> Result<Tensor> {
    let scale = scale.map(Tensor::contiguous).transpose()?;
    let hidden = y.dims().last().copied().unwrap_or(1);
    let sample = y.elem_count() / y.dim(0)?.max(1);
    let mut tensors = vec![y];
    let mut arguments = [Argument::Absent; 8];
    arguments[1] = Argument::Tensor(0, y.elem_count());
    if let Some(x) = x {
        arguments[0] = Argument::Tensor(tensors.len(), y.elem_count());
        tensors.push(x);
    }
    if let Some(scale) = &scale {
        arguments[2] = Argument::Tensor(tensors.len(), hidden);
        tensors.push(scale);
    }
    if let Some(factors) = factors {
        arguments[3] = Argument::Wide(tensors.len(), y.dim(0)?);
        tensors.push(factors);
    }
    arguments[4] = Argument::F32(factor);
    arguments[5] = Argument::U64(y.elem_count() as u64);
    arguments[6] = Argument::U32(hidden as u32);
    arguments[7] = Argument::U64(sample as u64);
    let geometry = Geometry::Values(y.elem_count());
    let kernel = Kernel { file: File::Elementwise, name: "residual", geometry, arguments: &arguments };
    kernel.run(&tensors)
}

impl AddResidual {
    /// `x + factor · scale ∘ y`, where the CPU's kernel is not for it.
    fn sum(&self, x: &Tensor, y: &Tensor, scale: Option<&Tensor>) -> Result<Tensor> {
        if has_cuda_kernel(y) {
            return match &self.0 {
                Residual::Constant(factor) => on_values(Some(x), y, scale, None, *factor),
                Residual::PerSample(_) => x.detach() + self.scaled_by_kernel(y, scale)?,
            };
        }
        let scaled = match scale {
            Some(scale) => y.detach().broadcast_mul(&scale.detach())?,
            None => y.detach(),
        };
        x.detach() + self.times_factor(scaled)?
    }

    /// `factor · scale ∘ y`.
    fn scaled_by_kernel(&self, y: &Tensor, scale: Option<&Tensor>) -> Result<Tensor> {
        match &self.0 {
            Residual::Constant(factor) => on_values(None, y, scale, None, *factor),
            Residual::PerSample(factors) => {
                let factors = Tensor::from_slice(factors, factors.len(), y.device())?;
                on_values(None, y, scale, Some(&factors), 1.0)
            }
        }
    }

    /// `values · factor`, composed; in f32 where the factor is no simple number.
    fn times_factor(&self, values: Tensor) -> Result<Tensor> {
        match &self.0 {
            Residual::Constant(1.0) => Ok(values),
            Residual::Constant(factor) => values.affine(f64::from(*factor), 0.0),
            Residual::PerSample(factors) => {
                let mut shape = vec![1; values.rank()];
                shape[0] = factors.len();
                let factors = Tensor::from_slice(factors, shape, values.device())?;
                values.to_dtype(DType::F32)?.broadcast_mul(&factors)?.to_dtype(values.dtype())
            }
        }
    }

    fn sum_on_cpu(&self, x: &Tensor, y: &Tensor, scale: Option<&Tensor>) -> Result<Tensor> {
        let sum = match scale {
            Some(scale) => with_values("residual", [x, y, scale], |[xs, ys, ss]| {
                Ok(self.forward(xs, ys, Some(ss), x.dims()))
            })?,
            None => with_values("residual", [x, y], |[xs, ys]| Ok(self.forward(xs, ys, None, x.dims())))?,
        };
        Tensor::from_vec(sum, x.shape(), x.device())
    }

    /// Gradients of y, where it is wanted, and of the scale, where `y` is given.
    fn gradients(
        &self,
        want_y: Wanted,
        y: Option<&Tensor>,
        scale: Option<&Tensor>,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let grad_y = match (want_y, &self.0, scale) {
            (Wanted::No, ..) => None,
            (_, Residual::Constant(1.0), None) => want_y.the_same(grad)?,
            _ if has_cpu_kernel(grad) => Some(self.scaled_on_cpu(scale, grad)?),
            _ if has_cuda_kernel(grad) => Some(self.scaled_by_kernel(&grad.contiguous()?, scale)?),
            (.., Some(scale)) => Some(self.times_factor(grad.clone())?.broadcast_mul(scale)?),
            (.., None) => Some(self.times_factor(grad.clone())?),
        };
        let grad_scale = y.zip(scale).map(|(y, scale)| match has_cpu_kernel(y) {
            true => with_values("residual", [grad, y], |[g, ys]| {
                let sums = self.products(g, ys, y.dims());
                Tensor::from_vec(sums, scale.shape(), scale.device())
            }),
            false => {
                let weighted = self.times_factor(grad.clone())?.to_dtype(DType::F32)?;
                let products = (weighted * y.to_dtype(DType::F32)?)?;
                let rows = products.elem_count() / scale.elem_count().max(1);
                products.reshape((rows, scale.elem_count()))?.sum(0)?.to_dtype(scale.dtype())
            }
        });
        Ok((grad_y, grad_scale.transpose()?))
    }

    fn scaled_on_cpu(&self, scale: Option<&Tensor>, grad: &Tensor) -> Result<Tensor> {
        let scaled = match scale {
            Some(scale) => with_values("residual", [grad, scale], |[g, ss]| {
                Ok(self.scaled(g, grad.dims(), |column| ss[column]))
            })?,
            None => with_values("residual", [grad], |[g]| Ok(self.scaled(g, grad.dims(), |_| 1.0)))?,
        };
        Tensor::from_vec(scaled, grad.shape(), grad.device())
    }

    /// Calls `row` for every row of `hidden` values with its sample's factor.
    fn rows(&self, out: &mut [f32], dims: &[usize], row: impl Fn(&mut [f32], usize, f32) + Sync) {
        let (batch, hidden) = (dims[0], dims[dims.len() - 1]);
        if out.is_empty() {
            return;
        }
        let rows_a_sample = out.len() / batch / hidden;
        let rows_a_piece = (PIECE / hidden).max(1);
        out.par_chunks_mut(hidden * rows_a_piece).enumerate().for_each(|(piece, out)| {
            for (offset, out) in out.chunks_exact_mut(hidden).enumerate() {
                let index = piece * rows_a_piece + offset;
                row(out, index * hidden, self.0.of(index / rows_a_sample));
            }
        });
    }

    fn forward(&self, x: &[f32], y: &[f32], scale: Option<&[f32]>, dims: &[usize]) -> Vec<f32> {
        let mut out = vec![0f32; x.len()];
        self.rows(&mut out, dims, |out, start, factor| {
            let (x, y) = (&x[start..], &y[start..]);
            match scale {
                Some(scale) => {
                    for (((out, x), y), scale) in out.iter_mut().zip(x).zip(y).zip(scale) {
                        *out = x + factor * (scale * y);
                    }
                }
                None => {
                    for ((out, x), y) in out.iter_mut().zip(x).zip(y) {
                        *out = x + factor * y;
                    }
                }
            }
        });
        out
    }

    /// The gradient of y: `grad · factor · scale`.
    fn scaled(&self, grad: &[f32], dims: &[usize], scale: impl Fn(usize) -> f32 + Sync) -> Vec<f32> {
        let mut out = vec![0f32; grad.len()];
        self.rows(&mut out, dims, |out, start, factor| {
            let grad = &grad[start..start + out.len()];
            for (column, (out, grad)) in out.iter_mut().zip(grad).enumerate() {
                *out = grad * (factor * scale(column));
            }
        });
        out
    }

    /// The gradient of the scale: `grad · factor · y` summed over the rows, partial sums of fixed pieces in order.
    fn products(&self, grad: &[f32], y: &[f32], dims: &[usize]) -> Vec<f32> {
        let (batch, hidden) = (dims[0], dims[dims.len() - 1]);
        let rows_a_sample = (grad.len() / batch.max(1) / hidden.max(1)).max(1);
        sums_of_pieces(grad.len() / hidden.max(1), hidden, |rows, sums| {
            for row in rows {
                let (start, factor) = (row * hidden, self.0.of(row / rows_a_sample));
                let pairs = grad[start..start + hidden].iter().zip(&y[start..start + hidden]);
                sums.iter_mut().zip(pairs).for_each(|(sum, (grad, y))| *sum += grad * (factor * y));
            }
        })
    }
}
