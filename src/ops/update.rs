//! What an optimiser does to its tensors: sums of gradients, their norm, the step of AdamW. In place where the CPU has the kernel,
//! which takes no memory and shares the values among the threads; composed of candle's operations elsewhere.
//!
//! The trainer's optimiser calls these. Nothing here is recorded for a gradient.

use super::tensor_slice::{argument, has_cpu_kernel, with_values};
use candle_core::{CpuStorage, DType, InplaceOp1, InplaceOp2, InplaceOp3, Layout, Result, Tensor, Var, bail};
use rayon::prelude::*;

/// Values one task works on; fixed, so that sums do not depend on the number of threads.
const PIECE: usize = 1 << 16;

/// One step of AdamW (Loshchilov & Hutter 2019, algorithm 2) for one parameter.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamWStep {
    /// β₁ and β₂.
    pub betas: (f64, f64),
    /// 1 − β₁ᵗ and √(1 − β₂ᵗ), for step t from 1.
    pub corrections: (f64, f64),
    /// Added to the root of the second moment.
    pub eps: f64,
    /// The learning rate.
    pub learning_rate: f64,
    /// Share of the weight taken off, times the learning rate.
    pub weight_decay: f64,
}

impl AdamWStep {
    fn kept(&self) -> f64 {
        1.0 - self.learning_rate * self.weight_decay
    }
}

/// `sum += scale · gradient`. Nobody else may hold the gradient's memory: it may become that of the sum.
///
/// # Errors
/// If the shapes differ.
pub fn accumulate(sum: &mut Option<Tensor>, gradient: Tensor, scale: f64) -> Result<()> {
    let Some(sum) = sum else {
        *sum = Some(scaled(gradient, scale)?);
        return Ok(());
    };
    if in_place(sum) && has_cpu_kernel(&gradient) {
        return sum.inplace_op2(&gradient.contiguous()?, &AddScaled(scale as f32));
    }
    *sum = (&*sum + gradient.affine(scale, 0.0)?)?;
    Ok(())
}

/// `factor · tensor`, in its own memory where that is possible: nobody else may read that.
///
/// # Errors
/// candle's.
pub fn scaled(tensor: Tensor, factor: f64) -> Result<Tensor> {
    if factor == 1.0 {
        return Ok(tensor);
    }
    if in_place(&tensor) && !tensor.is_variable() {
        tensor.inplace_op1(&Scale(factor as f32))?;
        return Ok(tensor);
    }
    tensor.affine(factor, 0.0)
}

/// Sum of the squares of all values of all tensors.
///
/// # Errors
/// candle's.
pub fn squared_norm<'a>(tensors: impl Iterator<Item = &'a Tensor>) -> Result<f64> {
    let (mut total, mut elsewhere) = (0f64, Vec::new());
    for tensor in tensors {
        if has_cpu_kernel(tensor) {
            total += with_values("squared_norm", [tensor], |[values]| {
                let piece = |values: &[f32]| values.iter().map(|value| f64::from(*value).powi(2)).sum();
                let pieces: Vec<f64> = values.par_chunks(PIECE).map(piece).collect();
                Ok(pieces.into_iter().sum::<f64>())
            })?;
        } else {
            elsewhere.push(tensor.sqr()?.sum_all()?);
        }
    }
    if !elsewhere.is_empty() {
        // All at once: each look at a number waits for the device.
        let squares = Tensor::stack(&elsewhere, 0)?.to_dtype(DType::F32)?.to_vec1::<f32>()?;
        total += squares.into_iter().map(f64::from).sum::<f64>();
    }
    Ok(total)
}

/// One step of `weight` down its gradient; the moments follow.
///
/// # Errors
/// If the shapes differ.
pub fn adamw(
    weight: &Var,
    moments: (&mut Tensor, &mut Tensor),
    gradient: &Tensor,
    step: &AdamWStep,
) -> Result<()> {
    let (first, second) = moments;
    let (beta_1, beta_2) = step.betas;
    if [weight.as_tensor(), first, second].into_iter().all(in_place) && has_cpu_kernel(gradient) {
        let gradient = gradient.contiguous()?;
        first.inplace_op2(&gradient, &FirstMoment(beta_1))?;
        second.inplace_op2(&gradient, &SecondMoment(beta_2))?;
        return weight.inplace_op3(first, second, step);
    }
    *first = (first.affine(beta_1, 0.0)? + gradient.affine(1.0 - beta_1, 0.0)?)?;
    *second = (second.affine(beta_2, 0.0)? + gradient.sqr()?.affine(1.0 - beta_2, 0.0)?)?;
    let root = second.sqrt()?.affine(1.0 / step.corrections.1, step.eps)?;
    let change = (&*first / root)?.affine(step.learning_rate / step.corrections.0, 0.0)?;
    weight.set(&(weight.as_tensor().detach().affine(step.kept(), 0.0)? - change)?)
}

/// Whether the kernels can write to the tensor: all of its storage, from the first value on.
fn in_place(tensor: &Tensor) -> bool {
    has_cpu_kernel(tensor) && tensor.is_contiguous() && tensor.layout().start_offset() == 0
}

fn values_mut<'a>(storage: &'a mut CpuStorage, layout: &Layout) -> Result<&'a mut [f32]> {
    match (storage, layout.contiguous_offsets()) {
        (CpuStorage::F32(values), Some((start, end))) => Ok(&mut values[start..end]),
        _ => bail!("an optimiser's tensors are f32 and contiguous"),
    }
}

struct Scale(f32);

impl InplaceOp1 for Scale {
    fn name(&self) -> &'static str {
        "scale"
    }

    fn cpu_fwd(&self, storage: &mut CpuStorage, layout: &Layout) -> Result<()> {
        let factor = self.0;
        values_mut(storage, layout)?
            .par_chunks_mut(PIECE)
            .for_each(|values| values.iter_mut().for_each(|value| *value *= factor));
        Ok(())
    }
}

/// Runs `update` on every value of `into` and the one of `from` in its place.
fn zipped(
    into: (&mut CpuStorage, &Layout),
    from: (&CpuStorage, &Layout),
    update: impl Fn(&mut f32, f32) + Sync,
) -> Result<()> {
    let (into, from) = (values_mut(into.0, into.1)?, argument("update", from.0, from.1)?);
    if into.len() != from.len() {
        bail!("update: {} values for {}", from.len(), into.len())
    }
    into.par_chunks_mut(PIECE).zip(from.par_chunks(PIECE)).for_each(|(into, from)| {
        into.iter_mut().zip(from).for_each(|(into, from)| update(into, *from));
    });
    Ok(())
}

macro_rules! update {
    ($(#[$doc:meta])* $name:ident($number:ty), $op:literal, |$scale:ident, $into:ident, $from:ident| $update:expr) => {
        $(#[$doc])*
        struct $name($number);

        impl InplaceOp2 for $name {
            fn name(&self) -> &'static str {
                $op
            }

            fn cpu_fwd(
                &self,
                into: &mut CpuStorage,
                into_layout: &Layout,
                from: &CpuStorage,
                from_layout: &Layout,
            ) -> Result<()> {
                let $scale = self.0;
                zipped((into, into_layout), (from, from_layout), move |$into, $from| $update)
            }
        }
    };
}

update!(
    /// `into += scale · from`.
    AddScaled(f32), "add_scaled", |scale, into, from| *into += scale * from
);
update!(
    /// `m = β₁ m + (1 − β₁) g`.
    FirstMoment(f64), "first_moment", |beta, into, from| {
        *into = beta as f32 * *into + (1.0 - beta) as f32 * from;
    }
);
update!(
    /// `v = β₂ v + (1 − β₂) g²`.
    SecondMoment(f64), "second_moment", |beta, into, from| {
        *into = beta as f32 * *into + (1.0 - beta) as f32 * (from * from);
    }
);

impl InplaceOp3 for AdamWStep {
    fn name(&self) -> &'static str {
        "adamw"
    }

    fn cpu_fwd(
        &self,
        weight: &mut CpuStorage,
        weight_layout: &Layout,
        first: &CpuStorage,
        first_layout: &Layout,
        second: &CpuStorage,
        second_layout: &Layout,
    ) -> Result<()> {
        let weight = values_mut(weight, weight_layout)?;
        let first = argument("adamw", first, first_layout)?;
        let second = argument("adamw", second, second_layout)?;
        if weight.len() != first.len() || weight.len() != second.len() {
            bail!("adamw: moments of {} and {} values for {}", first.len(), second.len(), weight.len())
        }
        let (kept, eps) = (self.kept() as f32, self.eps as f32);
        let root = (1.0 / self.corrections.1) as f32;
        let rate = (self.learning_rate / self.corrections.0) as f32;
        let pieces = weight.par_chunks_mut(PIECE).zip(first.par_chunks(PIECE).zip(second.par_chunks(PIECE)));
        pieces.for_each(|(weight, (first, second))| {
            for ((weight, first), second) in weight.iter_mut().zip(first).zip(second) {
                *weight = kept * *weight - rate * (first / (root * second.sqrt() + eps));
            }
        });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    fn tensor(values: &[f64], dtype: DType) -> Tensor {
        Tensor::new(values, &Device::Cpu).unwrap().to_dtype(dtype).unwrap()
    }

    fn numbers(tensor: &Tensor) -> Vec<f64> {
        tensor.to_dtype(DType::F64).unwrap().to_vec1().unwrap()
    }

    fn close(a: &Tensor, b: &Tensor) {
        for (a, b) in numbers(a).into_iter().zip(numbers(b)) {
            assert!((a - b).abs() <= 1e-6 * b.abs().max(1.0), "{a} {b}");
        }
    }

    /// f64 has no kernel: it is composed.
    #[test]
    fn the_kernels_and_the_compositions_make_the_same_step() {
        let step = AdamWStep {
            betas: (0.9, 0.999),
            corrections: (1.0 - 0.9f64.powi(3), (1.0 - 0.999f64.powi(3)).sqrt()),
            eps: 1e-8,
            learning_rate: 0.05,
            weight_decay: 0.1,
        };
        let [fast, slow] = [DType::F32, DType::F64].map(|dtype| {
            let weight = Var::from_tensor(&tensor(&[1.0, -2.0, 0.5], dtype)).unwrap();
            let (mut first, mut second) =
                (tensor(&[0.1, 0.0, -0.3], dtype), tensor(&[0.2, 0.01, 0.4], dtype));
            let mut sum = None;
            accumulate(&mut sum, tensor(&[0.5, -1.0, 0.0], dtype), 0.5).unwrap();
            accumulate(&mut sum, tensor(&[1.0, 2.0, 3.0], dtype), 0.25).unwrap();
            let sum = sum.unwrap();
            let norm = squared_norm([&sum].into_iter()).unwrap();
            let sum = scaled(sum, 0.5).unwrap();
            adamw(&weight, (&mut first, &mut second), &sum, &step).unwrap();
            (weight.as_detached_tensor(), first, second, sum, norm)
        });
        close(&fast.0, &slow.0);
        close(&fast.1, &slow.1);
        close(&fast.2, &slow.2);
        close(&fast.3, &tensor(&[0.25, 0.0, 0.375], DType::F64));
        assert!((fast.4 - 0.8125).abs() < 1e-12, "{}", fast.4);
        assert!((numbers(&fast.0)[0] - 1.0).abs() > 1e-3, "a step was made");
    }

    #[test]
    fn a_moment_of_another_size_is_refused() {
        let weight = Var::from_tensor(&tensor(&[1.0, 2.0], DType::F32)).unwrap();
        let (mut first, mut second) = (tensor(&[0.0], DType::F32), tensor(&[0.0], DType::F32));
        let step = AdamWStep {
            betas: (0.9, 0.999),
            corrections: (0.1, 0.03),
            eps: 1e-8,
            learning_rate: 0.1,
            weight_decay: 0.0,
        };
        let gradient = tensor(&[1.0, 1.0], DType::F32);
        assert!(adamw(&weight, (&mut first, &mut second), &gradient, &step).is_err());
    }
}
