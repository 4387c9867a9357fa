//! The cross-entropy of logits against classes, or against a distribution over the classes that each row wants.
//!
//! Label smoothing is PyTorch's (`(1 − ε) · nll + ε/K · Σ −log p`; Szegedy et al. 2016). Mixed photos, smoothed labels and weights
//! of classes are all one to the op: a target weight for every row and class.

use super::graph::record;
use super::math::{exp, max, sum};
use super::profile::timed;
use super::tensor_slice::with_values;
use candle_core::{DType, Device, Result, Tensor, bail};

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
    let mut targets = vec![smoothing / classes as f32; batch * classes];
    for (row, label) in targets.chunks_exact_mut(classes).zip(labels) {
        row[*label as usize] += 1.0 - smoothing;
    }
    soft_cross_entropy(logits, targets, batch as f64)
}

/// `Σ targets · −log softmax(logits) / total`, a scalar on the CPU in f32; both are `[batch, classes]`. A row's targets need not add
/// up to 1: they carry the weight of its photo.
///
/// # Errors
/// If there are more or fewer targets than logits, or `total` is not positive.
pub fn soft_cross_entropy(logits: &Tensor, targets: Vec<f32>, total: f64) -> Result<Tensor> {
    let (batch, classes) = logits.dims2()?;
    if targets.len() != batch * classes || targets.is_empty() {
        bail!("cross_entropy: {} targets for {batch} rows of {classes} classes", targets.len())
    }
    if total.is_nan() || total <= 0.0 {
        bail!("cross_entropy: the weights add up to {total}")
    }
    timed("cross_entropy", logits.device(), || {
        let logits = logits.to_dtype(DType::F32)?.to_device(&Device::Cpu)?.contiguous()?;
        let (op, kept) = (CrossEntropy { targets, total }, logits.detach());
        let result = op.of(&kept)?;
        record("cross_entropy, backward", [Some(&logits)], result, move |grad| {
            Ok([Some(op.gradient(&kept, grad)?)])
        })
    })
}

struct CrossEntropy {
    targets: Vec<f32>,
    total: f64,
}

/// log Σ eˣ, the largest value taken out.
fn log_sum_exp(row: &[f32]) -> f32 {
    let largest = max(row);
    largest + sum(row, |value| exp(value - largest)).ln()
}

impl CrossEntropy {
    fn of(&self, logits: &Tensor) -> Result<Tensor> {
        let classes = logits.dim(1)?;
        with_values("cross_entropy", [logits], |[values]| {
            let mut total = 0f64;
            for (row, targets) in values.chunks_exact(classes).zip(self.targets.chunks_exact(classes)) {
                let log_sum = log_sum_exp(row);
                let wanted = row.iter().zip(targets).filter(|(_, target)| **target != 0.0);
                total += wanted.map(|(logit, target)| f64::from(target * (log_sum - logit))).sum::<f64>();
            }
            Tensor::new((total / self.total) as f32, logits.device())
        })
    }

    /// d/dlogit = (softmax · Σ targets − target) / total.
    fn gradient(&self, logits: &Tensor, grad: &Tensor) -> Result<Tensor> {
        let classes = logits.dim(1)?;
        let scale = grad.to_scalar::<f32>()? / self.total as f32;
        with_values("cross_entropy", [logits], |[values]| {
            let mut out = vec![0f32; values.len()];
            let rows = out.chunks_exact_mut(classes).zip(values.chunks_exact(classes));
            for ((out, row), targets) in rows.zip(self.targets.chunks_exact(classes)) {
                let (log_sum, weight) = (log_sum_exp(row), sum(targets, |target| target));
                for ((out, value), target) in out.iter_mut().zip(row).zip(targets) {
                    *out = scale * (weight * exp(value - log_sum) - target);
                }
            }
            Tensor::from_vec(out, logits.shape(), logits.device())
        })
    }
}
