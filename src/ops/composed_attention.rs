//! Attention where the CPU's kernel is not for it: candle's two products, and between them the softmax, on CUDA a kernel
//! (attention.cu), elsewhere composed.
//!
//! Products run in the tensors' own format and write scores and probabilities in it; the softmax between is computed in f32.
//! Samples are taken a few at a time, so that the matrices of tokens × tokens stay within a budget.

use super::attention::Attention;
use super::launch::{Argument, File, Geometry, Kernel, has_cuda_kernel};
use super::positions::{Regions, RelativePositions};
use candle_core::{D, DType, Device, Result, Tensor};
use std::cell::RefCell;

/// Scores held at once, a matrix of tokens × tokens for each head of each sample: 512 MiB in f32.
const MOST_SCORES: usize = 128 << 20;

/// The context `[batch, tokens, hidden]`.
pub(super) fn forward(
    qkv: &Tensor,
    bias: Option<(&Tensor, RelativePositions)>,
    settings: &Attention,
) -> Result<Tensor> {
    let bias = Bias::of(bias, settings, qkv)?;
    let contexts = pieces(qkv, settings)?
        .into_iter()
        .map(|(start, samples)| {
            let parts = Parts::of(&qkv.detach().narrow(0, start, samples)?, settings)?;
            let probabilities = parts.probabilities(&bias)?;
            parts.join(&probabilities.matmul(&parts.value)?)
        })
        .collect::<Result<Vec<_>>>()?;
    Tensor::cat(&contexts, 0)
}

/// Gradients of `qkv` and, where it is wanted, of the table. Probabilities are computed again.
pub(super) fn backward(
    qkv: &Tensor,
    bias: Option<(&Tensor, RelativePositions)>,
    grad: &Tensor,
    settings: &Attention,
    want_table: bool,
) -> Result<(Tensor, Option<Tensor>)> {
    let matrices = Bias::of(bias, settings, qkv)?;
    let wanted = bias.filter(|_| want_table);
    let (mut grads, mut matrix_grad) = (Vec::new(), None::<Tensor>);
    for (start, samples) in pieces(qkv, settings)? {
        let parts = Parts::of(&qkv.detach().narrow(0, start, samples)?, settings)?;
        let grad = parts.split(&grad.narrow(0, start, samples)?.contiguous()?)?;
        let p = parts.probabilities(&matrices)?;
        let grad_value = p.t()?.matmul(&grad)?;
        let grad_p = grad.matmul(&parts.value.t()?)?;
        if has_cuda_kernel(qkv) && wanted.is_none() {
            let grad_scores = score_gradients(&p, &grad_p)?;
            grads.push(parts.gradients(&grad_scores, grad_value)?);
            continue;
        }
        let (p, grad_p) = (p.to_dtype(DType::F32)?, grad_p.to_dtype(DType::F32)?);
        let dot = (&grad_p * &p)?.sum_keepdim(D::Minus1)?;
        let grad_scores = (p * grad_p.broadcast_sub(&dot)?)?;
        if wanted.is_some() {
            let (heads, tokens) = (settings.heads, parts.tokens);
            let sum = grad_scores.reshape((samples, heads, tokens, tokens))?.sum(0)?;
            matrix_grad = Some(match matrix_grad {
                Some(total) => (total + sum)?,
                None => sum,
            });
        }
        let grad_scores = grad_scores.to_dtype(qkv.dtype())?;
        grads.push(parts.gradients(&grad_scores, grad_value)?);
    }
    let grad_table = match (wanted, matrix_grad) {
        (Some((table, grid)), Some(matrix)) => Some(table_gradient(&matrix, grid)?.to_dtype(table.dtype())?),
        _ => None,
    };
    Ok((Tensor::cat(&grads, 0)?, grad_table))
}

/// The kernel in attention.cu: the softmax of `scores` `[samples · heads, tokens, tokens]` plus `bias` `[n, tokens, tokens]`,
/// whose matrices are taken in turn.
pub(super) fn probabilities(scores: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
    let tokens = scores.dim(D::Minus1)?;
    let rows = scores.elem_count() / tokens.max(1);
    let matrices = bias.map_or(Ok(1), |bias| bias.dim(0))?;
    let arguments = [
        Argument::Tensor(0, scores.elem_count()),
        if bias.is_some() { Argument::Wide(1, matrices * tokens * tokens) } else { Argument::Absent },
        Argument::U64(rows as u64),
        Argument::U32(matrices as u32),
        Argument::U32(tokens as u32),
    ];
    let geometry = Geometry::Rows(rows);
    let kernel = Kernel { file: File::Attention, name: "probabilities", geometry, arguments: &arguments };
    kernel.run(&std::iter::once(scores).chain(bias).collect::<Vec<_>>())
}

/// The kernel in attention.cu: p ∘ (dp − Σ dp ∘ p).
pub(super) fn score_gradients(p: &Tensor, grad_p: &Tensor) -> Result<Tensor> {
    let tokens = p.dim(D::Minus1)?;
    let rows = p.elem_count() / tokens.max(1);
    let arguments = [
        Argument::Tensor(0, p.elem_count()),
        Argument::Tensor(1, p.elem_count()),
        Argument::U64(rows as u64),
        Argument::U32(tokens as u32),
    ];
    let geometry = Geometry::Rows(rows);
    let kernel = Kernel { file: File::Attention, name: "score_gradients", geometry, arguments: &arguments };
    kernel.run(&[p, grad_p])
}

/// (first sample, samples) of each piece; the windows of a photo stay together.
fn pieces(qkv: &Tensor, settings: &Attention) -> Result<Vec<(usize, usize)>> {
    let (batch, tokens, _) = qkv.dims3()?;
    let together = settings.regions.as_ref().map_or(1, |regions| regions.windows());
    let most = MOST_SCORES / (settings.heads * tokens * tokens).max(1) / together * together;
    let most = most.max(together);
    Ok((0..batch).step_by(most).map(|start| (start, most.min(batch - start))).collect())
}

/// Query, key and value of some samples, `[samples · heads, tokens, head_size]` each. The query has its scale already: scores
/// are written in the tensors' own format, and unscaled ones could leave the range of f16.
struct Parts {
    query: Tensor,
    key: Tensor,
    value: Tensor,
    samples: usize,
    tokens: usize,
    heads: usize,
    head_size: usize,
    scale: f64,
}

impl Parts {
    fn of(qkv: &Tensor, settings: &Attention) -> Result<Self> {
        let (heads, scale) = (settings.heads, f64::from(settings.scale));
        let (samples, tokens, packed) = qkv.dims3()?;
        let head_size = packed / (3 * heads);
        let parts = qkv.reshape((samples, tokens, 3, heads, head_size))?.permute((2, 0, 3, 1, 4))?;
        let parts = parts.contiguous()?.reshape((3, samples * heads, tokens, head_size))?;
        let part = |index| parts.get(index);
        let (query, key, value) = (part(0)?.affine(scale, 0.0)?, part(1)?, part(2)?);
        Ok(Self { query, key, value, samples, tokens, heads, head_size, scale })
    }

    /// softmax(q · kᵀ + bias), `[samples · heads, tokens, tokens]`.
    fn probabilities(&self, bias: &Bias) -> Result<Tensor> {
        let scores = self.query.matmul(&self.key.t()?)?;
        if has_cuda_kernel(&scores) {
            return probabilities(&scores, bias.0.as_ref());
        }
        let (compute, scores) = (scores.dtype(), scores.to_dtype(DType::F32)?);
        let scores = match &bias.0 {
            Some(bias) => {
                let (matrices, tokens) = (bias.dim(0)?, self.tokens);
                scores
                    .reshape((self.samples * self.heads / matrices, matrices, tokens, tokens))?
                    .broadcast_add(bias)?
                    .reshape((self.samples * self.heads, tokens, tokens))?
            }
            None => scores,
        };
        let exponentials = scores.broadcast_sub(&scores.max_keepdim(D::Minus1)?)?.exp()?;
        exponentials.broadcast_div(&exponentials.sum_keepdim(D::Minus1)?)?.to_dtype(compute)
    }

    /// The gradients of query, key and value from those of the scores, packed as `qkv` is.
    fn gradients(&self, grad_scores: &Tensor, grad_value: Tensor) -> Result<Tensor> {
        let grad_query = grad_scores.matmul(&self.key)?.affine(self.scale, 0.0)?;
        let grad_key = grad_scores.t()?.matmul(&self.query)?;
        self.pack(&[grad_query, grad_key, grad_value])
    }

    /// `[samples · heads, tokens, head_size]` → `[samples, tokens, hidden]`.
    fn join(&self, values: &Tensor) -> Result<Tensor> {
        let values = values.reshape((self.samples, self.heads, self.tokens, self.head_size))?;
        values.transpose(1, 2)?.reshape((self.samples, self.tokens, self.heads * self.head_size))
    }

    /// The inverse of [`Parts::join`].
    fn split(&self, values: &Tensor) -> Result<Tensor> {
        let values = values.reshape((self.samples, self.tokens, self.heads, self.head_size))?;
        values.transpose(1, 2)?.reshape((self.samples * self.heads, self.tokens, self.head_size))
    }

    /// Three of them side by side, as `qkv` is packed.
    fn pack(&self, parts: &[Tensor; 3]) -> Result<Tensor> {
        let joined = parts.iter().map(|part| self.join(part)).collect::<Result<Vec<_>>>()?;
        Tensor::cat(&joined, 2)
    }
}

/// What is added to the scores: `[n, tokens, tokens]`, f32, a matrix a head, or a head of each window.
struct Bias(Option<Tensor>);

impl Bias {
    fn of(table: Option<(&Tensor, RelativePositions)>, settings: &Attention, qkv: &Tensor) -> Result<Self> {
        let positions = table.map(|(table, grid)| bias_matrix(&table.detach(), grid)).transpose()?;
        let Some(regions) = &settings.regions else { return Ok(Self(positions)) };
        let (windows, tokens) = (regions.windows(), regions.tokens);
        let penalties = penalties(regions, qkv.device())?; // [windows, 1, tokens, tokens]
        let both = match positions {
            Some(positions) => penalties.broadcast_add(&positions)?,
            None => penalties.broadcast_as((windows, settings.heads, tokens, tokens))?,
        };
        Ok(Self(Some(both.contiguous()?.reshape((windows * settings.heads, tokens, tokens))?)))
    }
}

/// `[windows, 1, tokens, tokens]`: the penalty between tokens of different regions.
fn penalties(regions: &Regions, device: &Device) -> Result<Tensor> {
    let of = Tensor::from_slice(&regions.of, (regions.windows(), 1, regions.tokens), device)?;
    let shape = (regions.windows(), regions.tokens, regions.tokens);
    let other = of.broadcast_as(shape)?.ne(&of.transpose(1, 2)?.broadcast_as(shape)?)?;
    other.to_dtype(DType::F32)?.affine(f64::from(regions.penalty), 0.0)?.unsqueeze(1)
}

/// Which entry of the table belongs to each pair of tokens, row by row.
fn entries_of_pairs(grid: RelativePositions) -> Vec<u32> {
    let RelativePositions { height, width, .. } = grid;
    let (tokens, offsets, before) = (grid.tokens(), grid.offsets(), grid.before());
    let mut entries = Vec::with_capacity(tokens * tokens);
    for query in 0..tokens {
        for key in 0..tokens {
            entries.push(match (query.checked_sub(before), key.checked_sub(before)) {
                (None, None) => offsets + 2,
                (None, Some(_)) => offsets,
                (Some(_), None) => offsets + 1,
                (Some(query), Some(key)) => {
                    let down = query / width + height - 1 - key / width;
                    let across = query % width + width - 1 - key % width;
                    down * (2 * width - 1) + across
                }
            } as u32);
        }
    }
    entries
}

thread_local! {
    /// The pairs' entries of each grid on each device that this thread computes on: the same for every layer and pass.
    static PAIRS: RefCell<Vec<(RelativePositions, Tensor)>> = const { RefCell::new(Vec::new()) };
}

/// The table `[entries, heads]` spread over all pairs of tokens: `[heads, tokens, tokens]`, f32.
fn bias_matrix(table: &Tensor, grid: RelativePositions) -> Result<Tensor> {
    let tokens = grid.tokens();
    let pairs = PAIRS.with_borrow_mut(|known| {
        let here = |(of, pairs): &&(RelativePositions, Tensor)| {
            *of == grid && pairs.device().same_device(table.device())
        };
        if let Some((_, pairs)) = known.iter().find(here) {
            return Ok(pairs.clone());
        }
        let pairs = Tensor::from_vec(entries_of_pairs(grid), tokens * tokens, table.device())?;
        known.push((grid, pairs.clone()));
        Result::Ok(pairs)
    })?;
    let spread = table.to_dtype(DType::F32)?.t()?.contiguous()?.index_select(&pairs, 1)?; // [heads, tokens²]
    spread.reshape((table.dim(1)?, tokens, tokens))
}

/// The gradient of [`bias_matrix`]: `[heads, tokens, tokens]` → `[entries, heads]`. Sums along diagonals, in a fixed order
/// and without the serial scatter of an indexed addition.
fn table_gradient(matrix: &Tensor, grid: RelativePositions) -> Result<Tensor> {
    let RelativePositions { height, width, class_token } = grid;
    let (heads, patches, before) = (matrix.dim(0)?, height * width, grid.before());
    let between = matrix.narrow(1, before, patches)?.narrow(2, before, patches)?.contiguous()?;
    let by_columns = between.reshape((heads, height, width, height, width))?.permute((0, 1, 3, 2, 4))?;
    let across =
        diagonal_sums(&by_columns.contiguous()?.reshape((heads * height * height, width, width))?)?;
    let by_rows = across.reshape((heads, height, height, 2 * width - 1))?.permute((0, 3, 1, 2))?;
    let down = diagonal_sums(&by_rows.contiguous()?.reshape((heads * (2 * width - 1), height, height))?)?;
    let offsets = down.reshape((heads, 2 * width - 1, 2 * height - 1))?.transpose(1, 2)?;
    let offsets = offsets.contiguous()?.reshape((heads, grid.offsets()))?;
    if !class_token {
        return offsets.t()?.contiguous();
    }
    let class = matrix.narrow(1, 0, 1)?.squeeze(1)?; // the class token's row, [heads, tokens]
    let to_patches = class.narrow(1, 1, patches)?.sum_keepdim(1)?;
    let to_class = matrix.narrow(1, 1, patches)?.narrow(2, 0, 1)?.squeeze(2)?.sum_keepdim(1)?;
    let to_itself = class.narrow(1, 0, 1)?;
    Tensor::cat(&[&offsets, &to_patches, &to_class, &to_itself], 1)?.t()?.contiguous()
}

/// `[n, size, size]` → `[n, 2 · size − 1]`: entry c sums the values whose row − column is c − size + 1. With its columns
/// reversed and size zeros behind each row, the matrix read again with rows one shorter has its diagonals below each other.
fn diagonal_sums(matrices: &Tensor) -> Result<Tensor> {
    let (n, size, _) = matrices.dims3()?;
    let padded = matrices.flip(&[2])?.contiguous()?.pad_with_zeros(2, 0, size)?;
    let skewed = padded.reshape((n, 2 * size * size))?.narrow(1, 0, size * (2 * size - 1))?;
    skewed.contiguous()?.reshape((n, size, 2 * size - 1))?.sum(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    #[test]
    fn the_table_s_gradient_sums_every_pair_into_its_entry() {
        for class_token in [true, false] {
            check_sums(RelativePositions { height: 2, width: 3, class_token });
        }
    }

    fn check_sums(grid: RelativePositions) {
        let (tokens, heads) = (grid.tokens(), 2);
        let values: Vec<f32> = (0..heads * tokens * tokens).map(|v| (v * v % 31) as f32).collect();
        let matrix = Tensor::from_slice(&values, (heads, tokens, tokens), &Device::Cpu).expect("a tensor");
        let mut want = vec![vec![0f32; heads]; grid.entries()];
        for (head, values) in values.chunks(tokens * tokens).enumerate() {
            for (entry, value) in entries_of_pairs(grid).into_iter().zip(values) {
                want[entry as usize][head] += value;
            }
        }
        let found = table_gradient(&matrix, grid).and_then(|table| table.to_vec2::<f32>());
        assert_eq!(found.expect("sums"), want);
    }
}
