//! The exact (erf) GELU: `x · Φ(x)` (Hendrycks & Gimpel 2016), not its tanh approximation.

use super::elementwise;
use super::launch::{Argument, File, Geometry, Kernel, has_cuda_kernel};
use super::math::{erf, exp};
use super::profile::timed;
use super::tensor_slice::has_cpu_kernel;
use candle_core::{DType, Result, Tensor};
use multiversion::multiversion;

/// GELU of every value of `x`, any shape.
///
/// # Errors
/// candle's.
pub fn gelu(x: &Tensor) -> Result<Tensor> {
    timed("gelu", x.device(), || elementwise::op("gelu, backward", x, of, gradient))
}

fn of(x: &Tensor) -> Result<Tensor> {
    if has_cpu_kernel(x) { elementwise::forward("gelu", x, forward) } else { x.gelu_erf() }
}

fn gradient(x: &Tensor, grad: &Tensor) -> Result<Tensor> {
    if has_cpu_kernel(x) {
        elementwise::backward("gelu", x, grad, backward)
    } else {
        backward_elsewhere(x, grad)
    }
}

/// d/dx x·Φ(x) = Φ(x) + x·φ(x), in f32.
fn backward_elsewhere(x: &Tensor, grad: &Tensor) -> Result<Tensor> {
    if has_cuda_kernel(x) {
        return backward_kernel(x, &grad.contiguous()?);
    }
    let wide = x.to_dtype(DType::F32)?;
    let distribution = wide.affine(std::f64::consts::FRAC_1_SQRT_2, 0.0)?.erf()?.affine(0.5, 0.5)?;
    let density = wide.sqr()?.affine(-0.5, 0.0)?.exp()?.affine(f64::from(INVERSE_SQRT_TAU), 0.0)?;
    let slope = (distribution + (wide * density)?)?;
    (grad.to_dtype(DType::F32)? * slope)?.to_dtype(x.dtype())
}

/// The kernel in elementwise.cu.
pub(super) fn backward_kernel(x: &Tensor, grad: &Tensor) -> Result<Tensor> {
    let count = x.elem_count();
    let arguments = [Argument::Tensor(0, count), Argument::Tensor(1, count), Argument::U64(count as u64)];
    let geometry = Geometry::Values(count);
    let kernel = Kernel { file: File::Elementwise, name: "gelu_backward", geometry, arguments: &arguments };
    kernel.run(&[x, grad])
}

/// 1/√(2π), the factor of the normal density.
const INVERSE_SQRT_TAU: f32 = 0.398_942_3;

/// Φ(x), the distribution function of the standard normal distribution.
#[inline(always)]
fn normal_distribution(x: f32) -> f32 {
    0.5 + 0.5 * erf(x * std::f32::consts::FRAC_1_SQRT_2)
}

#[multiversion(targets = "simd")]
fn forward(y: &mut [f32], x: &[f32]) {
    for (y, &x) in y.iter_mut().zip(x) {
        *y = x * normal_distribution(x);
    }
}

/// d/dx x·Φ(x) = Φ(x) + x·φ(x).
#[multiversion(targets = "simd")]
fn backward(grad_x: &mut [f32], x: &[f32], grad: &[f32]) {
    for ((out, &x), &grad) in grad_x.iter_mut().zip(x).zip(grad) {
        *out = grad * (normal_distribution(x) + x * INVERSE_SQRT_TAU * exp(-0.5 * x * x));
    }
}
