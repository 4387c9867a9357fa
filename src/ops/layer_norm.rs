//! Layer normalisation over the last dimension (Ba et al. 2016), mean and variance in f32.
//!
//! candle's fused norm loses the gradient silently; this one has a backward pass, which recomputes mean and deviation rather
//! than keeping them.

use super::launch::{Argument, File, Geometry, Kernel, has_cuda_kernel};
use super::linear::column_sums;
use super::math::{sum, sum_pairs};
use super::profile::timed;
use super::recorded::{has_cpu_kernel, record3};
use super::tensor_slice::{argument, storage, with_values};
use candle_core::{CpuStorage, CustomOp3, D, DType, Layout, Result, Shape, Tensor, bail};
use multiversion::multiversion;
use rayon::prelude::*;

/// Rows one task works on.
const ROWS: usize = 16;

/// `x` `[…, hidden]`, `weight` and `bias` `[hidden]` → the shape of `x`: `(x − mean) / √(variance + eps) · weight + bias`.
///
/// # Errors
/// If the shapes do not fit.
pub fn layer_norm(x: &Tensor, weight: &Tensor, bias: &Tensor, eps: f32) -> Result<Tensor> {
    let hidden = weight.dims1()?;
    if x.dims().last() != Some(&hidden) || bias.dims() != [hidden] {
        bail!("layer_norm: weight {hidden}, bias {:?}, argument {:?}", bias.shape(), x.shape())
    }
    timed("layer_norm", x.device(), || {
        let (x, weight, bias) = (x.contiguous()?, weight.contiguous()?, bias.contiguous()?);
        if has_cpu_kernel(&x) {
            return x.apply_op3(&weight, &bias, LayerNorm { eps });
        }
        let result = if has_cuda_kernel(&x) {
            on_rows("layer_norm", eps, [&x, &weight, &bias], hidden)?
        } else {
            let normalized = Normalized::of(&x, eps)?.values;
            let scaled = normalized.broadcast_mul(&weight.detach().to_dtype(DType::F32)?)?;
            scaled.broadcast_add(&bias.detach().to_dtype(DType::F32)?)?.to_dtype(x.dtype())?
        };
        record3(LayerNorm { eps }, &x, &weight, &bias, result)
    })
}

/// One of the kernels in layer_norm.cu: `x` and the weight, then the bias `[hidden]` or, backward, the gradient, of which
/// there are `last` values.
pub(super) fn on_rows(name: &'static str, eps: f32, tensors: [&Tensor; 3], last: usize) -> Result<Tensor> {
    let (count, hidden) = (tensors[0].elem_count(), tensors[1].elem_count());
    let rows = count / hidden.max(1);
    let arguments = [
        Argument::Tensor(0, count),
        Argument::Tensor(1, hidden),
        Argument::Tensor(2, last),
        Argument::F32(eps),
        Argument::U64(rows as u64),
        Argument::U32(hidden as u32),
    ];
    let kernel =
        Kernel { file: File::LayerNorm, name, geometry: Geometry::Rows(rows), arguments: &arguments };
    kernel.run(&tensors)
}

/// Composed of candle's operations, in f32: `(x − mean) / deviation`, and `1 / deviation`.
struct Normalized {
    values: Tensor,
    inverse: Tensor,
}

impl Normalized {
    fn of(x: &Tensor, eps: f32) -> Result<Self> {
        let x = x.detach().to_dtype(DType::F32)?;
        let centred = x.broadcast_sub(&x.mean_keepdim(D::Minus1)?)?;
        let variance = centred.sqr()?.mean_keepdim(D::Minus1)?;
        let inverse = variance.affine(1.0, f64::from(eps))?.sqrt()?.recip()?;
        Ok(Self { values: centred.broadcast_mul(&inverse)?, inverse })
    }
}

/// Gradients of x, weight and bias, each only where it is wanted.
fn backward_elsewhere(
    x: &Tensor,
    weight: &Tensor,
    bias: &Tensor,
    grad: &Tensor,
    eps: f32,
) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
    if has_cuda_kernel(x) && !weight.track_op() && !bias.track_op() {
        let grad_x = on_rows("layer_norm_backward", eps, [x, weight, &grad.contiguous()?], x.elem_count())?;
        return Ok((Some(grad_x), None, None));
    }
    let Normalized { values, inverse } = Normalized::of(x, eps)?;
    let grad = grad.to_dtype(DType::F32)?;
    let sums = |wanted: &Tensor, values: Tensor| {
        let rows = values.elem_count() / wanted.elem_count().max(1);
        values.reshape((rows, wanted.elem_count()))?.sum(0)?.to_dtype(wanted.dtype())
    };
    let grad_weight = weight.track_op().then(|| sums(weight, (&grad * &values)?)).transpose()?;
    let grad_bias = bias.track_op().then(|| sums(bias, grad.clone())).transpose()?;
    let grad_x = x.track_op().then(|| {
        let scaled = grad.broadcast_mul(&weight.detach().to_dtype(DType::F32)?)?;
        let mean_product = (&scaled * &values)?.mean_keepdim(D::Minus1)?;
        let shifted = scaled.broadcast_sub(&scaled.mean_keepdim(D::Minus1)?)?;
        (shifted - values.broadcast_mul(&mean_product)?)?.broadcast_mul(&inverse)?.to_dtype(x.dtype())
    });
    Ok((grad_x.transpose()?, grad_weight, grad_bias))
}

struct LayerNorm {
    eps: f32,
}

/// Mean and inverse deviation of a row.
#[inline(always)]
fn moments(row: &[f32], eps: f32) -> (f32, f32) {
    let size = row.len() as f32;
    let mean = sum(row, |v| v) / size;
    let variance = sum(row, |v| (v - mean) * (v - mean)) / size;
    (mean, 1.0 / (variance + eps).sqrt())
}

#[multiversion(targets = "simd")]
fn forward(y: &mut [f32], x: &[f32], weight: &[f32], bias: &[f32], eps: f32) {
    let hidden = weight.len();
    for (y, x) in y.chunks_exact_mut(hidden).zip(x.chunks_exact(hidden)) {
        let (mean, inverse) = moments(x, eps);
        for (((y, &x), &weight), &bias) in y.iter_mut().zip(x).zip(weight).zip(bias) {
            *y = (x - mean) * inverse * weight + bias;
        }
    }
}

/// Gradient of x, and (into `scaled`) each row's `grad · x̂`, whose column sums are the gradient of the weight.
#[multiversion(targets = "simd")]
fn backward(grad_x: &mut [f32], scaled: &mut [f32], x: &[f32], weight: &[f32], grad: &[f32], eps: f32) {
    let hidden = weight.len();
    let rows = grad_x.chunks_exact_mut(hidden).zip(scaled.chunks_exact_mut(hidden));
    for ((out, scaled), (x, grad)) in rows.zip(x.chunks_exact(hidden).zip(grad.chunks_exact(hidden))) {
        let (mean, inverse) = moments(x, eps);
        for (((out, scaled), (&x, &weight)), &grad) in
            out.iter_mut().zip(scaled.iter_mut()).zip(x.iter().zip(weight)).zip(grad)
        {
            let normalized = (x - mean) * inverse;
            *out = grad * weight;
            *scaled = normalized;
        }
        let mean_grad = sum(out, |v| v) / hidden as f32;
        let mean_product = sum_pairs(out, scaled, |a, b| a * b) / hidden as f32;
        for ((out, scaled), &grad) in out.iter_mut().zip(scaled.iter_mut()).zip(grad) {
            *out = inverse * (*out - mean_grad - *scaled * mean_product);
            *scaled *= grad;
        }
    }
}

impl CustomOp3 for LayerNorm {
    fn name(&self) -> &'static str {
        "layer_norm"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        xl: &Layout,
        w: &CpuStorage,
        wl: &Layout,
        b: &CpuStorage,
        bl: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let x = argument("layer_norm", x, xl)?;
        let (weight, bias) = (argument("layer_norm", w, wl)?, argument("layer_norm", b, bl)?);
        let mut y = vec![0f32; x.len()];
        let piece = ROWS * weight.len();
        y.par_chunks_mut(piece)
            .zip(x.par_chunks(piece))
            .for_each(|(y, x)| forward(y, x, weight, bias, self.eps));
        Ok((storage(y), xl.shape().clone()))
    }

    fn bwd(
        &self,
        x: &Tensor,
        weight: &Tensor,
        bias: &Tensor,
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        if !has_cpu_kernel(x) {
            return backward_elsewhere(x, weight, bias, grad, self.eps);
        }
        let hidden = weight.elem_count();
        with_values("layer_norm", [x, weight, grad], |[xs, ws, gs]| {
            let (mut grad_x, mut scaled) = (vec![0f32; xs.len()], vec![0f32; xs.len()]);
            let piece = ROWS * hidden;
            grad_x
                .par_chunks_mut(piece)
                .zip(scaled.par_chunks_mut(piece))
                .zip(xs.par_chunks(piece).zip(gs.par_chunks(piece)))
                .for_each(|((out, scaled), (x, grad))| backward(out, scaled, x, ws, grad, self.eps));
            let sums = |wanted: &Tensor, values: &[f32]| match wanted.track_op() {
                true => {
                    Tensor::from_vec(column_sums(values, hidden), wanted.shape(), wanted.device()).map(Some)
                }
                false => Ok(None),
            };
            let (grad_weight, grad_bias) = (sums(weight, &scaled)?, sums(bias, gs)?);
            let grad_x = match x.track_op() {
                true => Some(Tensor::from_vec(grad_x, x.shape(), x.device())?),
                false => None,
            };
            Ok((grad_x, grad_weight, grad_bias))
        })
    }
}
