//! A block's residual connection in one pass: `x + factor · scale ∘ y`.
//!
//! `scale` is the layer scale (BEiT's lambda; Touvron et al. 2021), `factor` a number a sample: stochastic depth (Huang et
//! al. 2016) makes it 0 or 1/keep, an adapter makes it s for all.

use super::launch::{Argument, File, Geometry, Kernel, has_cuda_kernel};
use super::linear::column_sums;
use super::profile::timed;
use super::recorded::{has_cpu_kernel, record2, record3};
use super::tensor_slice::{argument, storage, with_values};
use candle_core::{CpuStorage, CustomOp2, CustomOp3, DType, Layout, Result, Shape, Tensor, bail};
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
        match scale {
            Some(scale) if has_cpu_kernel(&x) => x.apply_op3(&y, &scale.contiguous()?, op),
            None if has_cpu_kernel(&x) => x.apply_op2(&y, op),
            Some(scale) => {
                let result = op.sum(&x, &y, Some(scale))?;
                record3(op, &x, &y, scale, result)
            }
            None => {
                let result = op.sum(&x, &y, None)?;
                record2(op, &x, &y, result)
            }
        }
    })
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

    /// Gradients of y and of the scale, each only where it is wanted.
    fn backward_elsewhere(
        &self,
        y: &Tensor,
        scale: Option<&Tensor>,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        if has_cuda_kernel(y) && scale.is_none_or(|scale| !scale.track_op()) {
            let grad_y = y.track_op().then(|| self.scaled_by_kernel(&grad.contiguous()?, scale));
            return Ok((grad_y.transpose()?, None));
        }
        let weighted = self.times_factor(grad.clone())?;
        let grad_scale = scale.filter(|scale| scale.track_op()).map(|scale| {
            let products = (weighted.to_dtype(DType::F32)? * y.detach().to_dtype(DType::F32)?)?;
            let rows = products.elem_count() / scale.elem_count().max(1);
            products.reshape((rows, scale.elem_count()))?.sum(0)?.to_dtype(scale.dtype())
        });
        let grad_y = y.track_op().then(|| match scale {
            Some(scale) => weighted.broadcast_mul(&scale.detach()),
            None => Ok(weighted.clone()),
        });
        Ok((grad_y.transpose()?, grad_scale.transpose()?))
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

    /// The gradient of y: `grad · factor · scale`; with `other` in place of the scale, its summand for the scale's gradient.
    fn scaled(&self, grad: &[f32], dims: &[usize], other: impl Fn(usize, usize) -> f32 + Sync) -> Vec<f32> {
        let mut out = vec![0f32; grad.len()];
        self.rows(&mut out, dims, |out, start, factor| {
            for (column, out) in out.iter_mut().enumerate() {
                *out = grad[start + column] * (factor * other(start, column));
            }
        });
        out
    }
}

impl CustomOp2 for AddResidual {
    fn name(&self) -> &'static str {
        "residual"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        xl: &Layout,
        y: &CpuStorage,
        yl: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (x, y) = (argument("residual", x, xl)?, argument("residual", y, yl)?);
        Ok((storage(self.forward(x, y, None, xl.dims())), xl.shape().clone()))
    }

    fn bwd(
        &self,
        x: &Tensor,
        y: &Tensor,
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let grad_y = match y.track_op() {
            true if !has_cpu_kernel(y) => self.backward_elsewhere(y, None, grad)?.0,
            true => Some(with_values("residual", [grad], |[g]| {
                Tensor::from_vec(self.scaled(g, y.dims(), |_, _| 1.0), y.shape(), y.device())
            })?),
            false => None,
        };
        Ok((x.track_op().then(|| grad.clone()), grad_y))
    }
}

impl CustomOp3 for AddResidual {
    fn name(&self) -> &'static str {
        "residual"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        xl: &Layout,
        y: &CpuStorage,
        yl: &Layout,
        s: &CpuStorage,
        sl: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (x, y) = (argument("residual", x, xl)?, argument("residual", y, yl)?);
        let scale = argument("residual", s, sl)?;
        Ok((storage(self.forward(x, y, Some(scale), xl.dims())), xl.shape().clone()))
    }

    fn bwd(
        &self,
        x: &Tensor,
        y: &Tensor,
        scale: &Tensor,
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        if !has_cpu_kernel(y) {
            let (grad_y, grad_scale) = self.backward_elsewhere(y, Some(scale), grad)?;
            return Ok((x.track_op().then(|| grad.clone()), grad_y, grad_scale));
        }
        with_values("residual", [grad, y, scale], |[g, ys, ss]| {
            let grad_y = y
                .track_op()
                .then(|| self.scaled(g, y.dims(), |_, column| ss[column]))
                .map(|values| Tensor::from_vec(values, y.shape(), y.device()))
                .transpose()?;
            let grad_scale = scale
                .track_op()
                .then(|| self.scaled(g, y.dims(), |start, column| ys[start + column]))
                .map(|values| Tensor::from_vec(column_sums(&values, ss.len()), scale.shape(), scale.device()))
                .transpose()?;
            Ok((x.track_op().then(|| grad.clone()), grad_y, grad_scale))
        })
    }
}
