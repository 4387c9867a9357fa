//! Layer normalisation over the last dimension (Ba et al. 2016), mean and variance in f32.
//!
//! candle's fused norm loses the gradient silently; this one has a backward pass, which recomputes mean and deviation rather
//! than keeping them.

use super::graph::record_cheap;
use super::launch::{Argument, File, Geometry, Kernel, has_cuda_kernel};
use super::linear::{column_sums, sums_of_pieces};
use super::math::{sum, sum_pairs};
use super::profile::timed;
use super::tensor_slice::{has_cpu_kernel, with_values};
use candle_core::{D, DType, Result, Tensor, bail};
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
        let kept = [x.detach(), weight.detach(), bias.detach()];
        let wanted = [&x, &weight, &bias].map(Tensor::track_op);
        let [read, scales, _] = kept.clone();
        let result = of(&kept, eps)?;
        let inputs = [Some(&x), Some(&weight), Some(&bias)];
        record_cheap(
            "layer_norm, backward",
            inputs,
            result,
            move || of(&kept, eps),
            move |grad| gradients([&read, &scales, grad], wanted, eps),
        )
    })
}

fn of([x, weight, bias]: &[Tensor; 3], eps: f32) -> Result<Tensor> {
    if has_cuda_kernel(x) {
        return on_rows("layer_norm", eps, [x, weight, bias], weight.elem_count());
    }
    if !has_cpu_kernel(x) {
        let normalized = Normalized::of(x, eps)?.values;
        let scaled = normalized.broadcast_mul(&weight.to_dtype(DType::F32)?)?;
        return scaled.broadcast_add(&bias.to_dtype(DType::F32)?)?.to_dtype(x.dtype());
    }
    with_values("layer_norm", [x, weight, bias], |[xs, weight, bias]| {
        let mut y = vec![0f32; xs.len()];
        let piece = ROWS * weight.len();
        y.par_chunks_mut(piece).zip(xs.par_chunks(piece)).for_each(|(y, x)| forward(y, x, weight, bias, eps));
        Tensor::from_vec(y, x.shape(), x.device())
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
        let x = x.to_dtype(DType::F32)?;
        let centred = x.broadcast_sub(&x.mean_keepdim(D::Minus1)?)?;
        let variance = centred.sqr()?.mean_keepdim(D::Minus1)?;
        let inverse = variance.affine(1.0, f64::from(eps))?.sqrt()?.recip()?;
        Ok(Self { values: centred.broadcast_mul(&inverse)?, inverse })
    }
}

/// Gradients of x, weight and bias, each only where it is wanted.
fn gradients(tensors: [&Tensor; 3], wanted: [bool; 3], eps: f32) -> Result<[Option<Tensor>; 3]> {
    let [x, weight, grad] = tensors;
    if has_cuda_kernel(x) && wanted == [true, false, false] {
        let grad_x = on_rows("layer_norm_backward", eps, [x, weight, &grad.contiguous()?], x.elem_count())?;
        return Ok([Some(grad_x), None, None]);
    }
    if !has_cpu_kernel(x) {
        return gradients_elsewhere(tensors, wanted, eps);
    }
    let hidden = weight.elem_count();
    with_values("layer_norm", tensors, |[xs, ws, gs]| {
        let grad_x = wanted[0].then(|| {
            let mut grad_x = vec![0f32; xs.len()];
            let piece = ROWS * hidden;
            grad_x
                .par_chunks_mut(piece)
                .zip(xs.par_chunks(piece).zip(gs.par_chunks(piece)))
                .for_each(|(out, (x, grad))| backward(out, x, ws, grad, eps));
            Tensor::from_vec(grad_x, x.shape(), x.device())
        });
        let grad_weight = wanted[1].then(|| {
            let sums = sums_of_pieces(xs.len() / hidden.max(1), hidden, |rows, sums| {
                let values = rows.start * hidden..rows.end * hidden;
                add_products(sums, &xs[values.clone()], &gs[values], eps);
            });
            Tensor::from_vec(sums, hidden, x.device())
        });
        let grad_bias = wanted[2].then(|| Tensor::from_vec(column_sums(gs, hidden), hidden, x.device()));
        Ok([grad_x.transpose()?, grad_weight.transpose()?, grad_bias.transpose()?])
    })
}

fn gradients_elsewhere(
    [x, weight, grad]: [&Tensor; 3],
    wanted: [bool; 3],
    eps: f32,
) -> Result<[Option<Tensor>; 3]> {
    let Normalized { values, inverse } = Normalized::of(x, eps)?;
    let grad = grad.to_dtype(DType::F32)?;
    let sums = |values: Tensor| {
        let rows = values.elem_count() / weight.elem_count().max(1);
        values.reshape((rows, weight.elem_count()))?.sum(0)?.to_dtype(weight.dtype())
    };
    let grad_weight = wanted[1].then(|| sums((&grad * &values)?)).transpose()?;
    let grad_bias = wanted[2].then(|| sums(grad.clone())).transpose()?;
    let grad_x = wanted[0].then(|| {
        let scaled = grad.broadcast_mul(&weight.to_dtype(DType::F32)?)?;
        let mean_product = (&scaled * &values)?.mean_keepdim(D::Minus1)?;
        let shifted = scaled.broadcast_sub(&scaled.mean_keepdim(D::Minus1)?)?;
        (shifted - values.broadcast_mul(&mean_product)?)?.broadcast_mul(&inverse)?.to_dtype(x.dtype())
    });
    Ok([grad_x.transpose()?, grad_weight, grad_bias])
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

/// The gradient of x.
#[multiversion(targets = "simd")]
fn backward(grad_x: &mut [f32], x: &[f32], weight: &[f32], grad: &[f32], eps: f32) {
    let hidden = weight.len();
    let rows = x.chunks_exact(hidden).zip(grad.chunks_exact(hidden));
    for (out, (x, grad)) in grad_x.chunks_exact_mut(hidden).zip(rows) {
        let (mean, inverse) = moments(x, eps);
        for ((out, &weight), &grad) in out.iter_mut().zip(weight).zip(grad) {
            *out = grad * weight;
        }
        let mean_grad = sum(out, |v| v) / hidden as f32;
        let mean_product = sum_pairs(out, x, |a, x| a * ((x - mean) * inverse)) / hidden as f32;
        for (out, &x) in out.iter_mut().zip(x) {
            *out = inverse * (*out - mean_grad - (x - mean) * inverse * mean_product);
        }
    }
}

/// Adds each row's `grad · x̂`, the rows' parts of the gradient of the weight.
#[multiversion(targets = "simd")]
fn add_products(sums: &mut [f32], x: &[f32], grad: &[f32], eps: f32) {
    let hidden = sums.len();
    for (x, grad) in x.chunks_exact(hidden).zip(grad.chunks_exact(hidden)) {
        let (mean, inverse) = moments(x, eps);
        for ((sum, &x), &grad) in sums.iter_mut().zip(x).zip(grad) {
            *sum += (x - mean) * inverse * grad;
        }
    }
}
