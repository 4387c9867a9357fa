//! Multi-head attention in one op: `softmax(q · kᵀ · scale + bias) · v`, the bias read straight from a table of relative
//! positions (Bao et al. 2021, §2.1; Liu et al. 2021, §3.2) rather than from a matrix of tokens × tokens kept for every layer.
//! In windows over a shifted grid, tokens that are no neighbours in the photo are kept apart by a penalty.
//!
//! Probabilities are recomputed in the backward pass, so a step keeps none of them. Work is split by (sample, head) forward
//! and by head backward, where a head's samples follow each other: the bias gradient is summed in a fixed order.

use super::composed_attention;
use super::graph::{Kept, record};
use super::math::{exp, max, sum, sum_pairs};
use super::matmul::{Into, Threads, View, ViewMut, matmul};
use super::positions::{Regions, RelativePositions, add_bias_gradient, for_segments, reversed_column};
use super::profile::timed;
use super::tensor_slice::{has_cpu_kernel, with_values};
use candle_core::{Result, Tensor, bail};
use multiversion::multiversion;
use rayon::prelude::*;
use std::sync::Arc;

/// How attention is computed.
#[derive(Clone, Debug)]
pub struct Attention {
    /// Number of heads.
    pub heads: usize,
    /// Factor of the scores, 1/√(head size).
    pub scale: f32,
    /// The regions within windows, where a sample is a window of a shifted grid.
    pub regions: Option<Arc<Regions>>,
}

/// `qkv` `[batch, tokens, 3 · hidden]` (query, key, value side by side, heads side by side in each) → `[batch, tokens,
/// hidden]`. `bias`: the table `[entries, heads]` and its grid.
///
/// # Errors
/// If the shapes do not fit.
pub fn attention(
    qkv: &Tensor,
    bias: Option<(&Tensor, RelativePositions)>,
    settings: Attention,
) -> Result<Tensor> {
    let (samples, tokens, packed) = qkv.dims3()?;
    if settings.heads == 0 || !packed.is_multiple_of(3 * settings.heads) {
        bail!("attention: {packed} values a token are not query, key and value of {} heads", settings.heads)
    }
    if let Some((table, grid)) = bias
        && (grid.tokens() != tokens || table.dims() != [grid.entries(), settings.heads])
    {
        bail!("attention: table {:?} for {tokens} tokens in a grid {grid:?}", table.shape())
    }
    if let Some(regions) = &settings.regions
        && (regions.tokens != tokens || regions.windows() == 0 || !samples.is_multiple_of(regions.windows()))
    {
        let (windows, of) = (regions.windows(), regions.tokens);
        bail!("attention: {samples} samples of {tokens} tokens, regions of {windows} windows of {of}")
    }
    timed("attention", qkv.device(), || {
        let qkv = qkv.contiguous()?;
        let op = Fused { settings, grid: bias.map(|(_, grid)| grid) };
        let table = bias.map(|(table, _)| table.contiguous()).transpose()?;
        let constant = table.as_ref().map(Tensor::detach);
        let result = op.context(&qkv.detach(), constant.as_ref())?;
        let (kept, want_table) = (Kept::of(&qkv), table.as_ref().is_some_and(Tensor::track_op));
        record("attention, backward", [Some(&qkv), table.as_ref()], result, move |grad| {
            let (grad_qkv, grad_table) = op.backward(&kept.values()?, constant.as_ref(), grad, want_table)?;
            Ok([Some(grad_qkv), grad_table])
        })
    })
}

/// Tasks that a backward pass is cut into, about.
const BACKWARD_TASKS: usize = 32;

struct Fused {
    settings: Attention,
    grid: Option<RelativePositions>,
}

/// Sizes of one call.
#[derive(Clone, Copy)]
struct Sizes {
    batch: usize,
    tokens: usize,
    heads: usize,
    head_size: usize,
}

impl Sizes {
    fn of(dims: &[usize], heads: usize) -> Self {
        Self { batch: dims[0], tokens: dims[1], heads, head_size: dims[2] / (3 * heads) }
    }

    fn hidden(self) -> usize {
        self.heads * self.head_size
    }

    /// Samples that one task of the backward pass takes: few heads of many samples, as those of windows, are shared as well
    /// as many heads. The same whatever the number of threads, so that sums over samples are, too.
    fn stretch(self) -> usize {
        let stretches = (BACKWARD_TASKS / self.heads).clamp(1, self.batch.max(1));
        self.batch.div_ceil(stretches).max(1)
    }

    /// Stretches that the samples come to.
    fn stretches(self) -> usize {
        self.batch.div_ceil(self.stretch()).max(1)
    }

    /// Query (0), key (1) or value (2) of one head of one sample, `tokens × head_size`.
    fn part(self, qkv: &[f32], sample: usize, head: usize, part: usize) -> View<'_> {
        let start = sample * self.tokens * 3 * self.hidden() + part * self.hidden() + head * self.head_size;
        View::strided(&qkv[start..], self.tokens, self.head_size, 3 * self.hidden())
    }
}

/// What one task of the backward pass finds.
struct StretchGradient {
    /// Of q, k and v: `[samples, 3, tokens, head_size]`.
    parts: Vec<f32>,
    /// Of the head's column of the table, reversed; empty where nobody wants it.
    column: Vec<f32>,
}

/// Scores to exponentials, row by row; returns each row's sum. The bias is added first, and the penalty between regions.
#[multiversion(targets = "simd")]
fn exponentials(
    scores: &mut [f32],
    sums: &mut [f32],
    bias: Option<(&[f32], RelativePositions)>,
    regions: Option<(&[u8], f32)>,
) {
    let tokens = sums.len();
    for (query, (row, total)) in scores.chunks_exact_mut(tokens).zip(sums.iter_mut()).enumerate() {
        if let Some((column, grid)) = bias {
            for_segments(grid, query, |range, start| {
                let size = range.len();
                for (score, bias) in row[range].iter_mut().zip(&column[start..start + size]) {
                    *score += bias;
                }
            });
            if query == 0 && grid.class_token {
                let class_to_patch = column[grid.offsets()];
                row[1..].iter_mut().for_each(|score| *score += class_to_patch);
            }
        }
        if let Some((regions, penalty)) = regions {
            let own = regions[query];
            for (score, region) in row.iter_mut().zip(regions) {
                *score += if *region == own { 0.0 } else { penalty };
            }
        }
        let largest = max(row);
        for score in row.iter_mut() {
            *score = exp(*score - largest);
        }
        *total = sum(row, |value| value);
    }
}

/// Probabilities and their gradients to the gradients of the scores, in place: `p ∘ (dp − Σ dp ∘ p)`.
#[multiversion(targets = "simd")]
fn softmax_backward(grad: &mut [f32], probabilities: &[f32], tokens: usize) {
    for (grad, p) in grad.chunks_exact_mut(tokens).zip(probabilities.chunks_exact(tokens)) {
        let dot = sum_pairs(grad, p, |a, b| a * b);
        for (grad, p) in grad.iter_mut().zip(p) {
            *grad = p * (*grad - dot);
        }
    }
}

impl Fused {
    /// `[batch, tokens, hidden]`.
    fn context(&self, qkv: &Tensor, table: Option<&Tensor>) -> Result<Tensor> {
        if !has_cpu_kernel(qkv) {
            return composed_attention::forward(qkv, table.zip(self.grid), &self.settings);
        }
        let sizes = Sizes::of(qkv.dims(), self.settings.heads);
        let out = match table {
            Some(table) => {
                with_values("attention", [qkv, table], |[q, t]| Ok(self.forward(q, Some(t), sizes)))?
            }
            None => with_values("attention", [qkv], |[q]| Ok(self.forward(q, None, sizes)))?,
        };
        Tensor::from_vec(out, (sizes.batch, sizes.tokens, sizes.hidden()), qkv.device())
    }

    /// The context, a (sample, head) a task.
    fn forward(&self, qkv: &[f32], table: Option<&[f32]>, sizes: Sizes) -> Vec<f32> {
        let Sizes { batch, tokens, heads, head_size } = sizes;
        let columns = self.columns(table);
        let mut by_head = vec![0f32; batch * tokens * sizes.hidden()];
        by_head.par_chunks_mut(tokens * head_size).enumerate().for_each_init(
            || (vec![0f32; tokens * tokens], vec![0f32; tokens]),
            |(scores, sums), (task, out)| {
                let (sample, head) = (task / heads, task % heads);
                self.scores(scores, sums, qkv, &columns, sizes, (sample, head));
                let (p, v) = (View::new(scores, tokens, tokens), sizes.part(qkv, sample, head, 2));
                matmul(ViewMut::new(out, tokens, head_size), p, v, 1.0, Into::Replace, Threads::One);
                for (row, sum) in out.chunks_exact_mut(head_size).zip(sums.iter()) {
                    row.iter_mut().for_each(|value| *value /= sum);
                }
            },
        );
        // heads side by side again: [batch, tokens, heads · head_size]
        let mut out = vec![0f32; by_head.len()];
        out.par_chunks_mut(sizes.hidden()).enumerate().for_each(|(row, out)| {
            let (sample, token) = (row / tokens, row % tokens);
            for (head, out) in out.chunks_exact_mut(head_size).enumerate() {
                let start = ((sample * heads + head) * tokens + token) * head_size;
                out.copy_from_slice(&by_head[start..start + head_size]);
            }
        });
        out
    }

    fn columns(&self, table: Option<&[f32]>) -> Vec<Vec<f32>> {
        match (table, self.grid) {
            (Some(table), Some(grid)) => (0..self.settings.heads)
                .map(|head| reversed_column(table, self.settings.heads, head, grid))
                .collect(),
            _ => Vec::new(),
        }
    }

    /// Unnormalised probabilities of one head of one sample, and their row sums.
    fn scores(
        &self,
        scores: &mut [f32],
        sums: &mut [f32],
        qkv: &[f32],
        columns: &[Vec<f32>],
        sizes: Sizes,
        (sample, head): (usize, usize),
    ) {
        let (q, k) = (sizes.part(qkv, sample, head, 0), sizes.part(qkv, sample, head, 1).transposed());
        let out = ViewMut::new(scores, sizes.tokens, sizes.tokens);
        matmul(out, q, k, self.settings.scale, Into::Replace, Threads::One);
        let bias = columns.get(head).map(Vec::as_slice).zip(self.grid);
        let regions = self.settings.regions.as_deref();
        let regions = regions.and_then(|regions| Some((regions.of_sample(sample)?, regions.penalty)));
        exponentials(scores, sums, bias, regions);
    }

    /// Gradients of `qkv` and of the table.
    fn backward(
        &self,
        qkv: &Tensor,
        table: Option<&Tensor>,
        grad: &Tensor,
        want_table: bool,
    ) -> Result<(Tensor, Option<Tensor>)> {
        if !has_cpu_kernel(qkv) {
            let bias = table.zip(self.grid);
            return composed_attention::backward(qkv, bias, grad, &self.settings, want_table);
        }
        let sizes = Sizes::of(qkv.dims(), self.settings.heads);
        let run = |qkv: &[f32], table: Option<&[f32]>, grad: &[f32]| {
            let columns = self.columns(table);
            let stretches: Vec<StretchGradient> = (0..sizes.heads * sizes.stretches())
                .into_par_iter()
                .map(|index| self.stretch_backward(qkv, &columns, grad, sizes, index, want_table))
                .collect();
            (self.gather(&stretches, sizes), self.table_gradient(&stretches, sizes, want_table))
        };
        let (grad_qkv, grad_table) = match table {
            Some(t) => with_values("attention", [qkv, t, grad], |[q, t, g]| Ok(run(q, Some(t), g)))?,
            None => with_values("attention", [qkv, grad], |[q, g]| Ok(run(q, None, g)))?,
        };
        let grad_table = match (table, grad_table) {
            (Some(table), Some(values)) => Some(Tensor::from_vec(values, table.shape(), table.device())?),
            _ => None,
        };
        Ok((Tensor::from_vec(grad_qkv, qkv.shape(), qkv.device())?, grad_table))
    }

    /// Gradients of one head over one stretch of samples.
    fn stretch_backward(
        &self,
        qkv: &[f32],
        columns: &[Vec<f32>],
        grad: &[f32],
        sizes: Sizes,
        index: usize,
        want_table: bool,
    ) -> StretchGradient {
        let Sizes { batch, tokens, head_size, .. } = sizes;
        let (head, first) = (index / sizes.stretches(), index % sizes.stretches() * sizes.stretch());
        let samples = first..batch.min(first + sizes.stretch());
        let (mut p, mut dp) = (vec![0f32; tokens * tokens], vec![0f32; tokens * tokens]);
        let mut sums = vec![0f32; tokens];
        let mut parts = vec![0f32; samples.len() * 3 * tokens * head_size];
        let mut column = vec![0f32; if want_table { columns[head].len() } else { 0 }];
        for (sample, parts) in samples.zip(parts.chunks_exact_mut(3 * tokens * head_size)) {
            self.scores(&mut p, &mut sums, qkv, columns, sizes, (sample, head));
            for (row, sum) in p.chunks_exact_mut(tokens).zip(&sums) {
                row.iter_mut().for_each(|value| *value /= sum);
            }
            let start = sample * tokens * sizes.hidden() + head * head_size;
            let g = View::strided(&grad[start..], tokens, head_size, sizes.hidden());
            let (q, k, v) = (
                sizes.part(qkv, sample, head, 0),
                sizes.part(qkv, sample, head, 1),
                sizes.part(qkv, sample, head, 2),
            );
            let (dq, rest) = parts.split_at_mut(tokens * head_size);
            let (dk, dv) = rest.split_at_mut(tokens * head_size);
            let square = |values| View::new(values, tokens, tokens);
            let part = |values| ViewMut::new(values, tokens, head_size);
            matmul(part(dv), square(&p).transposed(), g, 1.0, Into::Replace, Threads::One);
            let out = ViewMut::new(&mut dp, tokens, tokens);
            matmul(out, g, v.transposed(), 1.0, Into::Replace, Threads::One);
            softmax_backward(&mut dp, &p, tokens);
            matmul(part(dq), square(&dp), k, self.settings.scale, Into::Replace, Threads::One);
            matmul(part(dk), square(&dp).transposed(), q, self.settings.scale, Into::Replace, Threads::One);
            if let (true, Some(grid)) = (want_table, self.grid) {
                add_bias_gradient(&mut column, &dp, grid);
            }
        }
        StretchGradient { parts, column }
    }

    /// The gradients of all stretches, packed as `qkv` is.
    fn gather(&self, stretches: &[StretchGradient], sizes: Sizes) -> Vec<f32> {
        let Sizes { batch, tokens, head_size, .. } = sizes;
        let mut out = vec![0f32; batch * tokens * 3 * sizes.hidden()];
        out.par_chunks_mut(3 * sizes.hidden()).enumerate().for_each(|(row, out)| {
            let (sample, token) = (row / tokens, row % tokens);
            for (index, out) in out.chunks_exact_mut(head_size).enumerate() {
                let (part, head) = (index / sizes.heads, index % sizes.heads);
                let stretch = head * sizes.stretches() + sample / sizes.stretch();
                let start = ((sample % sizes.stretch() * 3 + part) * tokens + token) * head_size;
                out.copy_from_slice(&stretches[stretch].parts[start..start + head_size]);
            }
        });
        out
    }

    /// The table's gradient: a head's column is the sum of its stretches', in their order.
    fn table_gradient(&self, stretches: &[StretchGradient], sizes: Sizes, wanted: bool) -> Option<Vec<f32>> {
        let grid = self.grid.filter(|_| wanted)?;
        let offsets = grid.offsets();
        let mut out = vec![0f32; grid.entries() * sizes.heads];
        for (entry, row) in out.chunks_exact_mut(sizes.heads).enumerate() {
            let place = if entry < offsets { offsets - 1 - entry } else { entry };
            for (out, head) in row.iter_mut().zip(stretches.chunks_exact(sizes.stretches())) {
                *out = head.iter().map(|stretch| stretch.column[place]).sum();
            }
        }
        Some(out)
    }
}
