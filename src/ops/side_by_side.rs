//! Tensors beside each other in the last dimension: query, key and value as attention takes them.

use super::graph::record;
use super::profile::timed;
use super::tensor_slice::{has_cpu_kernel, with_values};
use candle_core::{D, Result, Tensor, bail};
use rayon::prelude::*;

/// Values one task copies, about.
const PIECE: usize = 32_768;

/// Three of `[…, hidden]` → `[…, 3 · hidden]`.
///
/// # Errors
/// If their shapes differ.
pub fn side_by_side(parts: [&Tensor; 3]) -> Result<Tensor> {
    let [first, ..] = parts;
    if let Some(other) = parts.iter().find(|part| part.dims() != first.dims()) {
        bail!("side_by_side: {:?} beside {:?}", other.shape(), first.shape())
    }
    timed("side_by_side", first.device(), || {
        let [a, b, c] = parts.map(Tensor::contiguous);
        let (a, b, c) = (a?, b?, c?);
        let result = joined([&a, &b, &c].map(Tensor::detach))?;
        record("side_by_side, backward", [Some(&a), Some(&b), Some(&c)], result, |grad| {
            let [a, b, c] = split(grad)?;
            Ok([Some(a), Some(b), Some(c)])
        })
    })
}

fn joined(parts: [Tensor; 3]) -> Result<Tensor> {
    let [a, b, c] = &parts;
    let mut dims = a.dims().to_vec();
    let Some(last) = dims.last_mut() else { bail!("side_by_side: three numbers have no last dimension") };
    let hidden = *last;
    *last *= 3;
    if !has_cpu_kernel(a) {
        return Tensor::cat(&parts, D::Minus1);
    }
    let values = with_values("side_by_side", [a, b, c], |parts| {
        let mut out = vec![0f32; 3 * a.elem_count()];
        let rows = (PIECE / (3 * hidden).max(1)).max(1);
        out.par_chunks_mut((rows * 3 * hidden).max(1)).enumerate().for_each(|(piece, out)| {
            for (offset, out) in out.chunks_exact_mut(3 * hidden).enumerate() {
                let start = (piece * rows + offset) * hidden;
                for (out, part) in out.chunks_exact_mut(hidden).zip(parts) {
                    out.copy_from_slice(&part[start..start + hidden]);
                }
            }
        });
        Ok(out)
    })?;
    Tensor::from_vec(values, dims, a.device())
}

fn split(joined: &Tensor) -> Result<[Tensor; 3]> {
    let mut dims = joined.dims().to_vec();
    let Some(last) = dims.last_mut() else { bail!("side_by_side: a number has no last dimension") };
    *last /= 3;
    let hidden = *last;
    let part = |index: usize| {
        if !has_cpu_kernel(joined) {
            return joined.narrow(D::Minus1, index * hidden, hidden)?.contiguous();
        }
        let values = with_values("side_by_side", [joined], |[values]| {
            let mut out = vec![0f32; values.len() / 3];
            let rows = (PIECE / hidden.max(1)).max(1);
            out.par_chunks_mut((rows * hidden).max(1)).enumerate().for_each(|(piece, out)| {
                for (offset, out) in out.chunks_exact_mut(hidden).enumerate() {
                    let start = (3 * (piece * rows + offset) + index) * hidden;
                    out.copy_from_slice(&values[start..start + hidden]);
                }
            });
            Ok(out)
        })?;
        Tensor::from_vec(values, dims.as_slice(), joined.device())
    };
    Ok([part(0)?, part(1)?, part(2)?])
}
