//! The mean cross-entropy of logits against class indices, with label smoothing as PyTorch defines it
//! (`(1 − ε) · nll + ε/K · Σ −log p`; Szegedy et al. 2016).

use super::math::{exp, max, sum};
use super::profile::timed;
use super::tensor_slice::{argument, storage, with_values};
use candle_core::{CpuStorage, CustomOp1, DType, Device, Layout, Result, Shape, Tensor, bail};

/// `logits` `[batch, classes]`, `labels` one a row → a scalar, the mean over the batch: on the CPU and in f32, wherever the
/// logits are. They are a few thousand numbers that the host waits for anyway.
///
/// # Errors
/// If a label is no class, or the counts differ.
pub fn cross_entropy(logits: &Tensor, labels: &[u32], smoothing: f32) -> Result<Tensor> {
    let (batch, classes) = logits.dims2()?;
    if labels.len() != batch || batch == 0 {
        bail!("cross_entropy: {} labels for a batch of {batch}", labels.len())
    }
    if let Some(label) = labels.iter().find(|label| **label as usize >= classes) {
        bail!("cross_entropy: label {label}, but there are {classes} classes")
    }
    timed("cross_entropy", logits.device(), || {
        let logits = logits.to_dtype(DType::F32)?.to_device(&Device::Cpu)?.contiguous()?;
        logits.apply_op1(CrossEntropy { labels: labels.to_vec(), smoothing })
    })
}

struct CrossEntropy {
    labels: Vec<u32>,
    smoothing: f32,
}

/// log Σ eˣ, the largest value taken out.
fn log_sum_exp(row: &[f32]) -> f32 {
    let largest = max(row);
    largest + sum(row, |value| exp(value - largest)).ln()
}

impl CustomOp1 for CrossEntropy {
    fn name(&self) -> &'static str {
        "cross_entropy"
    }

    fn cpu_fwd(&self, logits: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let classes = layout.dims()[1];
        let logits = argument("cross_entropy", logits, layout)?;
        let mut total = 0f64;
        for (row, label) in logits.chunks_exact(classes).zip(&self.labels) {
            let log_sum = log_sum_exp(row);
            let nll = log_sum - row[*label as usize];
            let smooth = log_sum - sum(row, |value| value) / classes as f32;
            total += f64::from((1.0 - self.smoothing) * nll + self.smoothing * smooth);
        }
        Ok((storage(vec![(total / self.labels.len() as f64) as f32]), Shape::from_dims(&[])))
    }

    /// d/dlogit = (softmax − target) / batch.
    fn bwd(&self, logits: &Tensor, _: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let classes = logits.dim(1)?;
        let scale = grad.to_scalar::<f32>()? / self.labels.len() as f32;
        with_values("cross_entropy", [logits], |[values]| {
            let mut out = vec![0f32; values.len()];
            let rows = out.chunks_exact_mut(classes).zip(values.chunks_exact(classes));
            for ((out, row), label) in rows.zip(&self.labels) {
                let log_sum = log_sum_exp(row);
                for (class, (out, value)) in out.iter_mut().zip(row).enumerate() {
                    let hit = if class == *label as usize { 1.0 - self.smoothing } else { 0.0 };
                    *out = scale * (exp(value - log_sum) - hit - self.smoothing / classes as f32);
                }
            }
            Ok(Some(Tensor::from_vec(out, logits.shape(), logits.device())?))
        })
    }
}
