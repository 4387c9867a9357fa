//! Cosine attention's queries and keys: each head's vector divided by its length, the query's times the head's scale (Liu et
//! al. 2022, "Swin Transformer V2", §3.2).

use super::graph::{Kept, record_cheap};
use super::math::{sum, sum_pairs};
use super::profile::timed;
use super::tensor_slice::{has_cpu_kernel, with_values};
use candle_core::{D, DType, Result, Tensor, bail};
use multiversion::multiversion;
use rayon::prelude::*;

/// A vector shorter than this is divided by it: PyTorch's `normalize`. Its gradient is 0 here, where PyTorch's is the output's
/// times 10¹², which 16 bits do not hold: such vectors are the keys of padding, which nothing trained has made.
const SHORTEST: f32 = 1e-12;

/// Tokens one task works on, and whose gradient of the scale is one partial sum: fixed, so that the sum does not depend on
/// the number of threads.
const TOKENS: usize = 64;

/// `qkv` `[batch, tokens, 3 · hidden]` (query, key, value side by side, heads side by side in each) → the same shape: queries of
/// length `scale` `[heads]`, keys of length 1, values as they are.
///
/// # Errors
/// If the shapes do not fit.
pub fn unit_heads(qkv: &Tensor, scale: &Tensor) -> Result<Tensor> {
    let heads = scale.dims1()?;
    let packed = qkv.dims3()?.2;
    if heads == 0 || packed == 0 || !packed.is_multiple_of(3 * heads) {
        bail!("unit_heads: {packed} values a token are not query, key and value of {heads} heads")
    }
    timed("unit_heads", qkv.device(), || {
        let (qkv, scale) = (qkv.contiguous()?, scale.contiguous()?);
        let kept = [Kept::of(&qkv), Kept::Values(scale.detach())];
        let read = kept.clone();
        let values = |kept: &[Kept; 2]| Result::Ok([kept[0].values()?, kept[1].values()?]);
        let wanted = [qkv.track_op(), scale.track_op()];
        let result = of(&[qkv.detach(), scale.detach()])?;
        let again = move || of(&values(&kept)?);
        record_cheap("unit_heads, backward", [Some(&qkv), Some(&scale)], result, again, move |grad| {
            let [qkv, scale] = values(&read)?;
            gradients(&qkv, &scale, grad, wanted)
        })
    })
}

fn of([qkv, scale]: &[Tensor; 2]) -> Result<Tensor> {
    if !has_cpu_kernel(qkv) {
        let parts = Parts::of(qkv, scale)?;
        let [query, key, value] = &parts.unit;
        return parts.pack([&query.broadcast_mul(&parts.scale)?, key, value], qkv.dtype());
    }
    let packed = qkv.dims3()?.2;
    let head_size = packed / (3 * scale.elem_count());
    with_values("unit_heads", [qkv, scale], |[values, scale]| {
        let mut out = vec![0f32; values.len()];
        out.par_chunks_mut(TOKENS * packed)
            .zip(values.par_chunks(TOKENS * packed))
            .for_each(|(out, qkv)| forward(out, qkv, scale, head_size));
        Tensor::from_vec(out, qkv.shape(), qkv.device())
    })
}

/// What the composition works on, all in f32: `[batch, tokens, heads, head_size]` each.
struct Parts {
    /// Queries and keys of length 1, values as they are.
    unit: [Tensor; 3],
    /// The lengths of queries and keys, `[batch, tokens, heads, 1]`.
    lengths: [Tensor; 2],
    /// `[heads, 1]`.
    scale: Tensor,
}

impl Parts {
    fn of(qkv: &Tensor, scale: &Tensor) -> Result<Self> {
        let scale = scale.to_dtype(DType::F32)?.unsqueeze(1)?;
        let [query, key, value] = split(qkv, scale.dim(0)?)?;
        let length = |part: &Tensor| part.sqr()?.sum_keepdim(D::Minus1)?.sqrt()?.maximum(f64::from(SHORTEST));
        let lengths = [length(&query)?, length(&key)?];
        let unit = [query.broadcast_div(&lengths[0])?, key.broadcast_div(&lengths[1])?, value];
        Ok(Self { unit, lengths, scale })
    }

    fn pack(&self, parts: [&Tensor; 3], dtype: DType) -> Result<Tensor> {
        let (batch, tokens, heads, head_size) = parts[0].dims4()?;
        Tensor::stack(&parts, 2)?.reshape((batch, tokens, 3 * heads * head_size))?.to_dtype(dtype)
    }
}

/// Query, key and value in f32, `[batch, tokens, heads, head_size]` each.
fn split(packed: &Tensor, heads: usize) -> Result<[Tensor; 3]> {
    let (batch, tokens, values) = packed.dims3()?;
    let parts = packed.to_dtype(DType::F32)?.reshape((batch, tokens, 3, heads, values / (3 * heads)))?;
    let part = |index| parts.narrow(2, index, 1)?.squeeze(2)?.contiguous();
    Ok([part(0)?, part(1)?, part(2)?])
}

/// Gradients of `qkv` and of the scale, each only where it is wanted.
fn gradients(qkv: &Tensor, scale: &Tensor, grad: &Tensor, wanted: [bool; 2]) -> Result<[Option<Tensor>; 2]> {
    if !has_cpu_kernel(qkv) {
        return gradients_elsewhere(qkv, scale, grad, wanted);
    }
    let (packed, heads) = (qkv.dims3()?.2, scale.dims1()?);
    with_values("unit_heads", [qkv, scale, grad], |[xs, ss, gs]| {
        let mut out = vec![0f32; xs.len()];
        let piece = TOKENS * packed;
        let partial: Vec<Vec<f32>> = out
            .par_chunks_mut(piece)
            .zip(xs.par_chunks(piece).zip(gs.par_chunks(piece)))
            .map(|(out, (x, grad))| {
                let mut sums = vec![0f32; heads];
                backward(out, &mut sums, x, ss, grad, packed / (3 * heads));
                sums
            })
            .collect();
        let grad_qkv = wanted[0].then(|| Tensor::from_vec(out, qkv.shape(), qkv.device()));
        let grad_scale = wanted[1].then(|| {
            let total = |head: usize| partial.iter().map(|sums| sums[head]).sum::<f32>();
            Tensor::from_vec((0..heads).map(total).collect(), scale.shape(), scale.device())
        });
        Ok([grad_qkv.transpose()?, grad_scale.transpose()?])
    })
}

fn gradients_elsewhere(
    qkv: &Tensor,
    scale: &Tensor,
    grad: &Tensor,
    wanted: [bool; 2],
) -> Result<[Option<Tensor>; 2]> {
    let parts = Parts::of(qkv, scale)?;
    let [grad_query, grad_key, grad_value] = split(grad, scale.dim(0)?)?;
    let [query, key, _] = &parts.unit;
    let [query_length, key_length] = &parts.lengths;
    // The part of a gradient along the vector changes its length alone, which is divided away.
    let across = |grad: &Tensor, unit: &Tensor, length: &Tensor| {
        let along = (grad * unit)?.sum_keepdim(D::Minus1)?;
        let moved = length.gt(f64::from(SHORTEST))?.to_dtype(DType::F32)?;
        (grad - unit.broadcast_mul(&along)?)?.broadcast_div(length)?.broadcast_mul(&moved)
    };
    let grad_scale = wanted[1].then(|| {
        let products = (&grad_query * query)?.sum(D::Minus1)?; // [batch, tokens, heads]
        products.flatten(0, 1)?.sum(0)?.to_dtype(scale.dtype())
    });
    let grad_qkv = wanted[0].then(|| {
        let grad_query = across(&grad_query, query, query_length)?.broadcast_mul(&parts.scale)?;
        parts.pack([&grad_query, &across(&grad_key, key, key_length)?, &grad_value], qkv.dtype())
    });
    Ok([grad_qkv.transpose()?, grad_scale.transpose()?])
}

/// The factor that gives `vector` the length 1, and whether it has a direction at all.
#[inline(always)]
fn inverse_length(vector: &[f32]) -> (f32, bool) {
    let length = sum(vector, |value| value * value).sqrt();
    (1.0 / length.max(SHORTEST), length > SHORTEST)
}

/// `qkv` of some tokens; a vector of `head_size` values after the other.
#[multiversion(targets = "simd")]
fn forward(out: &mut [f32], qkv: &[f32], scale: &[f32], head_size: usize) {
    let heads = scale.len();
    for (index, (out, vector)) in out.chunks_exact_mut(head_size).zip(qkv.chunks_exact(head_size)).enumerate()
    {
        let (part, head) = (index / heads % 3, index % heads);
        let factor = match part {
            0 => scale[head] * inverse_length(vector).0,
            1 => inverse_length(vector).0,
            _ => 1.0,
        };
        for (out, value) in out.iter_mut().zip(vector) {
            *out = factor * value;
        }
    }
}

/// The gradient of `qkv` of some tokens, and what they add to that of the scale.
#[multiversion(targets = "simd")]
fn backward(
    out: &mut [f32],
    scale_gradient: &mut [f32],
    qkv: &[f32],
    scale: &[f32],
    grad: &[f32],
    head_size: usize,
) {
    let heads = scale.len();
    let vectors = qkv.chunks_exact(head_size).zip(grad.chunks_exact(head_size));
    for (index, (out, (vector, grad))) in out.chunks_exact_mut(head_size).zip(vectors).enumerate() {
        let (part, head) = (index / heads % 3, index % heads);
        if part == 2 {
            out.copy_from_slice(grad);
            continue;
        }
        let (inverse, has_direction) = inverse_length(vector);
        // The part of a gradient along the vector changes its length alone, which is divided away.
        let along = sum_pairs(vector, grad, |value, grad| value * grad) * inverse;
        let factor = if part == 0 { scale[head] * inverse } else { inverse };
        if part == 0 {
            scale_gradient[head] += along;
        }
        if !has_direction {
            out.fill(0.0);
            continue;
        }
        let back = along * inverse;
        for (out, (value, grad)) in out.iter_mut().zip(vector.iter().zip(grad)) {
            *out = factor * (grad - back * value);
        }
    }
}
