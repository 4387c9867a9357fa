//! QuickGELU: `x · σ(1.702 · x)` (Hendrycks & Gimpel 2016, §2), CLIP's activation.

use super::elementwise;
use super::math::exp;
use super::profile::timed;
use super::tensor_slice::has_cpu_kernel;
use candle_core::{DType, Result, Tensor};
use multiversion::multiversion;

/// The slope inside the sigmoid.
const SLOPE: f32 = 1.702;

/// QuickGELU of every value of `x`, any shape.
///
/// # Errors
/// candle's.
pub fn quick_gelu(x: &Tensor) -> Result<Tensor> {
    timed("quick_gelu", x.device(), || elementwise::op("quick_gelu, backward", x, of, gradient))
}

fn of(x: &Tensor) -> Result<Tensor> {
    if has_cpu_kernel(x) {
        return elementwise::forward("quick_gelu", x, forward);
    }
    let wide = x.to_dtype(DType::F32)?;
    (&wide * sigmoid_elsewhere(&wide)?)?.to_dtype(x.dtype())
}

fn gradient(x: &Tensor, grad: &Tensor) -> Result<Tensor> {
    if has_cpu_kernel(x) {
        elementwise::backward("quick_gelu", x, grad, backward)
    } else {
        backward_elsewhere(x, grad)
    }
}

/// σ(1.702 · x) = ½ + ½ · tanh(0.851 · x), which cannot overflow.
fn sigmoid_elsewhere(x: &Tensor) -> Result<Tensor> {
    x.affine(f64::from(SLOPE) / 2.0, 0.0)?.tanh()?.affine(0.5, 0.5)
}

/// d/dx x·σ(ax) = σ(ax) · (1 + ax · (1 − σ(ax))), in f32.
fn backward_elsewhere(x: &Tensor, grad: &Tensor) -> Result<Tensor> {
    let wide = x.to_dtype(DType::F32)?;
    let sigmoid = sigmoid_elsewhere(&wide)?;
    let slope =
        (&sigmoid * (wide.affine(f64::from(SLOPE), 0.0)? * sigmoid.affine(-1.0, 1.0)?)?.affine(1.0, 1.0)?)?;
    (grad.to_dtype(DType::F32)? * slope)?.to_dtype(x.dtype())
}

/// σ(1.702 · x): the exponential of a negative number alone, which cannot overflow.
#[inline(always)]
fn sigmoid(x: f32) -> f32 {
    let small = exp(-(SLOPE * x).abs());
    let below = small / (1.0 + small);
    if x < 0.0 { below } else { 1.0 - below }
}

#[multiversion(targets = "simd")]
fn forward(y: &mut [f32], x: &[f32]) {
    for (y, &x) in y.iter_mut().zip(x) {
        *y = x * sigmoid(x);
    }
}

#[multiversion(targets = "simd")]
fn backward(grad_x: &mut [f32], x: &[f32], grad: &[f32]) {
    for ((out, &x), &grad) in grad_x.iter_mut().zip(x).zip(grad) {
        let sigmoid = sigmoid(x);
        *out = grad * (sigmoid * (1.0 + SLOPE * x * (1.0 - sigmoid)));
    }
}
