//! Dropout (Srivastava et al. 2014) whose mask is a function of a key and a place: it is drawn again in the backward pass
//! rather than kept, by any number of threads, and the same on every device.

use super::graph::{Kept, record_cheap};
use super::launch::{Argument, File, Geometry, Kernel, has_cuda_kernel};
use super::profile::timed;
use super::tensor_slice::{has_cpu_kernel, with_values};
use crate::randomness::{Stream, indexed_uniform};
use candle_core::{Result, Tensor};
use multiversion::multiversion;
use rayon::prelude::*;

/// Values one task works on.
const PIECE: usize = 16_384;

/// Sets each value of `x` to zero with probability `probability` and divides the others by `1 − probability`. The mask is
/// that of the stream's next word.
///
/// # Errors
/// candle's.
pub fn dropout(x: &Tensor, probability: f32, mut stream: Stream) -> Result<Tensor> {
    timed("dropout", x.device(), || {
        let (x, op) = (x.contiguous()?, Dropout { key: stream.word(), probability });
        let kept = Kept::of(&x);
        let again = move || op.apply(&kept.values()?);
        let gradients = move |grad: &Tensor| Ok([Some(op.apply(&grad.contiguous()?)?)]);
        record_cheap("dropout, backward", [Some(&x)], op.apply(&x.detach())?, again, gradients)
    })
}

/// The kernel in elementwise.cu.
pub(super) fn kernel(values: &Tensor, key: u64, probability: f32, factor: f32) -> Result<Tensor> {
    let count = values.elem_count();
    let arguments = [
        Argument::Tensor(0, count),
        Argument::U64(key),
        Argument::F32(probability),
        Argument::F32(factor),
        Argument::U64(count as u64),
    ];
    let geometry = Geometry::Values(count);
    let kernel = Kernel { file: File::Elementwise, name: "dropout", geometry, arguments: &arguments };
    kernel.run(&[values])
}

/// Whether value `index` under `key` is kept.
#[inline(always)]
fn keeps(key: u64, index: u64, probability: f32) -> bool {
    indexed_uniform(key, index) >= probability
}

/// The values that are kept times `factor`, else 0; `first` is the place of the first.
#[multiversion(targets = "simd")]
fn masked(out: &mut [f32], values: &[f32], (key, first): (u64, u64), probability: f32, factor: f32) {
    for ((out, value), index) in out.iter_mut().zip(values).zip(first..) {
        *out = if keeps(key, index, probability) { value * factor } else { 0.0 };
    }
}

#[derive(Clone, Copy)]
struct Dropout {
    key: u64,
    probability: f32,
}

impl Dropout {
    fn factor(&self) -> f32 {
        1.0 / (1.0 - self.probability)
    }

    fn apply(&self, values: &Tensor) -> Result<Tensor> {
        if !has_cpu_kernel(values) {
            return self.apply_elsewhere(values);
        }
        with_values("dropout", [values], |[x]| Tensor::from_vec(self.of(x), values.shape(), values.device()))
    }

    fn of(&self, values: &[f32]) -> Vec<f32> {
        let (mut out, factor) = (vec![0f32; values.len()], self.factor());
        out.par_chunks_mut(PIECE).zip(values.par_chunks(PIECE)).enumerate().for_each(
            |(piece, (out, values))| {
                let place = (self.key, (piece * PIECE) as u64);
                masked(out, values, place, self.probability, factor);
            },
        );
        out
    }

    /// By the CUDA kernel; elsewhere composed, the mask a tensor of its own.
    fn apply_elsewhere(&self, values: &Tensor) -> Result<Tensor> {
        if has_cuda_kernel(values) {
            return kernel(values, self.key, self.probability, self.factor());
        }
        let mask = self.mask(values)?.to_dtype(values.dtype())?;
        (values * mask)?.affine(f64::from(self.factor()), 0.0)
    }

    /// 1 where a value is kept, 0 where it is dropped; u8, the shape of `values`.
    fn mask(&self, values: &Tensor) -> Result<Tensor> {
        let mut mask = vec![0u8; values.elem_count()];
        mask.par_chunks_mut(PIECE).enumerate().for_each(|(piece, mask)| {
            for (offset, keep) in mask.iter_mut().enumerate() {
                *keep = u8::from(keeps(self.key, (piece * PIECE + offset) as u64, self.probability));
            }
        });
        Tensor::from_vec(mask, values.shape(), values.device())
    }
}
