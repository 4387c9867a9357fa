//! The magnitudes of a weight's rows, learnt apart from their directions: DoRA (Liu et al. 2024), as PEFT has it.
//!
//! An adapted weight is `g ∘ (W + s·B·A)`, where `g = m / ‖W + s·B·A‖` has a number for each row: m is trained, and the norms of the
//! rows stand for constants (section 4.3 of the paper). [`super::Linear`] calls this; nothing here multiplies a row by anything.

use super::Parameter;
use candle_core::{D, DType, Result, Tensor};
use std::sync::OnceLock;

/// Added to squared norms: a row of zeros (pruned) has none to be divided by.
const LEAST: f64 = 1e-30;

/// Trained magnitudes of the rows of one weight.
#[derive(Clone, Debug)]
pub struct Magnitude {
    vector: Parameter,
    /// Of the rows of the weight, once they are known: a frozen weight keeps them.
    squares: OnceLock<Tensor>,
}

impl Magnitude {
    /// Magnitudes `[out]`.
    pub fn new(vector: Parameter) -> Self {
        Self { vector, squares: OnceLock::new() }
    }

    /// m, `[out]`.
    pub fn vector(&self) -> &Parameter {
        &self.vector
    }

    /// g, `[out]`, in f32, with the gradient of m; A is `down` `[rank, in]`, B `up` `[out, rank]`, s `scale`.
    ///
    /// `‖W + sBA‖² = ‖W‖² + s·Σ((2·W·Aᵀ + s·B·A·Aᵀ) ∘ B)` over each row: nothing as large as W is made, but of a W in 16 bits.
    ///
    /// # Errors
    /// candle's.
    pub(super) fn factors(
        &self,
        weight: &Parameter,
        down: &Parameter,
        up: &Parameter,
        scale: f32,
    ) -> Result<Tensor> {
        let (w, down, up) = (weight.in_f32()?, down.in_f32()?, up.in_f32()?);
        let squares = match self.squares.get().filter(|_| !weight.is_trainable()) {
            Some(squares) => squares.clone(),
            None => {
                let squares = squared_norms(&w)?;
                if !weight.is_trainable() {
                    self.squares.get_or_init(|| squares.clone());
                }
                squares
            }
        };
        let (scale, transposed) = (f64::from(scale), down.t()?);
        let with_weight = w.matmul(&transposed)?.affine(2.0, 0.0)?;
        let with_itself = up.matmul(&down.matmul(&transposed)?)?.affine(scale, 0.0)?;
        let change = ((with_weight + with_itself)? * up)?.sum(D::Minus1)?.affine(scale, 0.0)?;
        self.over((squares + change)?)
    }

    /// The weight `[out, in]` times g, where `sum` is `W + sBA`, in f32.
    ///
    /// # Errors
    /// candle's.
    pub(super) fn applied(&self, sum: &Tensor) -> Result<Tensor> {
        sum.broadcast_mul(&self.over(squared_norms(sum)?)?.unsqueeze(1)?)
    }

    /// m over the norms.
    fn over(&self, squares: Tensor) -> Result<Tensor> {
        self.vector.tensor().to_dtype(DType::F32)? / norms(&squares)?
    }
}

/// Norms of the rows of `weight` `[out, in]`, in f32: the magnitudes of a weight that no training has changed.
///
/// # Errors
/// candle's.
pub fn row_norms(weight: &Tensor) -> Result<Tensor> {
    norms(&squared_norms(&weight.detach().to_dtype(DType::F32)?)?)
}

fn norms(squares: &Tensor) -> Result<Tensor> {
    // Rounding may take a sum below zero.
    squares.relu()?.affine(1.0, LEAST)?.sqrt()
}

fn squared_norms(rows: &Tensor) -> Result<Tensor> {
    rows.sqr()?.sum(D::Minus1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::{Initialization, Linear, LowRank, Pass, Training, Weight};
    use crate::ops::device::Placement;
    use crate::ops::{backward, dropout};
    use crate::randomness::Randomness;
    use candle_core::{Device, Var};

    const DROPOUT: f32 = 0.3;

    fn random(name: &str, shape: &[usize]) -> Tensor {
        Initialization::Normal(0.5).tensor(Randomness::new(3), name, shape).unwrap()
    }

    fn parameter(name: &str, tensor: Tensor, trainable: bool, dtype: DType) -> Parameter {
        let placement = Placement::new(Device::Cpu, dtype);
        Parameter::new(name.to_owned(), tensor, trainable, &placement).unwrap()
    }

    /// 7 inputs, 5 outputs, rank 3, the magnitudes off the norms by up to a half.
    fn linear(bias: bool, dtype: DType) -> Linear {
        let weight = random("weight", &[5, 7]);
        let off = random("off", &[5]).tanh().unwrap().affine(0.5, 1.0).unwrap();
        let magnitude = (row_norms(&weight).unwrap() * off).unwrap();
        Linear {
            weight: Weight::Dense(parameter("weight", weight, false, dtype)),
            bias: bias.then(|| parameter("bias", random("bias", &[5]), false, dtype)),
            adapter: Some(LowRank {
                down: parameter("a", random("a", &[3, 7]), true, dtype),
                up: parameter("b", random("b", &[5, 3]), true, dtype),
                magnitude: Some(Magnitude::new(parameter("m", magnitude, true, DType::F32))),
                scale: 0.7,
                dropout: DROPOUT,
                layer: 2,
            }),
        }
    }

    fn largest(tensor: &Tensor) -> f64 {
        let tensor = tensor.to_dtype(DType::F64).unwrap();
        tensor.abs().unwrap().flatten_all().unwrap().max(0).unwrap().to_scalar().unwrap()
    }

    fn assert_close(found: &Tensor, want: &Tensor, allowed: f64, what: &str) {
        let difference = (found.to_dtype(DType::F64).unwrap() - want.to_dtype(DType::F64).unwrap()).unwrap();
        let (difference, want) = (largest(&difference), largest(want));
        assert!(difference <= allowed * want, "{what}: off by {difference}, largest {want}");
    }

    /// What PEFT computes, line by line, of candle's own operations; gradients of x, A, B and m.
    fn reference(linear: &Linear, x: &Var, pass: &Pass, mix: &Tensor) -> (Tensor, Vec<Tensor>) {
        let value = |parameter: &Parameter| parameter.tensor().to_dtype(x.dtype());
        let adapter = linear.adapter.as_ref().unwrap();
        let Weight::Dense(weight) = &linear.weight;
        let weight = value(weight).unwrap();
        let (a, b) = (value(&adapter.down).unwrap(), value(&adapter.up).unwrap());
        let m = value(adapter.magnitude.as_ref().unwrap().vector()).unwrap();
        let s = f64::from(adapter.scale);
        let sum = (&weight + b.matmul(&a).unwrap().affine(s, 0.0).unwrap()).unwrap();
        let g = (m / sum.sqr().unwrap().sum(1).unwrap().sqrt().unwrap().detach()).unwrap();
        let x_rows = x.as_tensor();
        let plain = x_rows.matmul(&weight.t().unwrap()).unwrap();
        let dropped = match pass.dropout(adapter.layer) {
            Some(stream) => dropout(x_rows, DROPOUT, stream).unwrap(),
            None => x_rows.clone(),
        };
        let base = dropped.matmul(&weight.t().unwrap()).unwrap();
        let low = dropped.matmul(&a.t().unwrap()).unwrap().matmul(&b.t().unwrap()).unwrap();
        let more = (base.broadcast_mul(&g.affine(1.0, -1.0).unwrap()).unwrap()
            + low.affine(s, 0.0).unwrap().broadcast_mul(&g).unwrap())
        .unwrap();
        let mut y = (plain + more).unwrap();
        if let Some(bias) = &linear.bias {
            y = y.broadcast_add(&value(bias).unwrap()).unwrap();
        }
        let gradients = gradients(linear, x, &y, mix);
        (y, gradients)
    }

    fn gradients(linear: &Linear, x: &Var, y: &Tensor, mix: &Tensor) -> Vec<Tensor> {
        let store = backward(&(y * mix).unwrap().sum_all().unwrap()).unwrap();
        let of = |tensor: &Tensor| store.get(tensor).expect("a gradient").clone();
        std::iter::once(of(x)).chain(linear.adapter_parameters().map(|own| of(own.tensor()))).collect()
    }

    #[test]
    fn values_and_gradients_are_those_of_the_formula_with_and_without_dropout_by_kernels_and_composed() {
        let training = Pass::Train(Training { randomness: Randomness::new(3), epoch: 1, step: 4 });
        for dtype in [DType::F32, DType::F64] {
            let x = Var::from_tensor(&random("x", &[4, 7]).to_dtype(dtype).unwrap()).unwrap();
            let mix = random("mix", &[4, 5]).to_dtype(dtype).unwrap();
            for (bias, pass) in [(true, Pass::Eval), (false, Pass::Eval), (true, training), (false, training)]
            {
                let linear = linear(bias, dtype);
                let (want, want_gradients) = reference(&linear, &x, &pass, &mix);
                let found = linear.forward(&x, &pass).unwrap();
                let what = format!("{dtype:?}, bias {bias}, {pass:?}");
                assert_close(&found, &want, 1e-5, &what);
                let found = gradients(&linear, &x, &found, &mix);
                for ((found, want), of) in found.iter().zip(&want_gradients).zip(["x", "A", "B", "m"]) {
                    assert_close(found, want, 1e-5, &format!("{what}: gradient of {of}"));
                }
            }
        }
    }

    #[test]
    fn merged_weights_give_what_the_adapter_gave() {
        let mut linear = linear(true, DType::F32);
        let x = random("x", &[4, 7]);
        let unmerged = linear.forward(&x, &Pass::Eval).unwrap();
        let adapter = linear.adapter.take().unwrap();
        let Weight::Dense(weight) = &linear.weight;
        let merged = adapter.merged_into(weight.tensor()).unwrap();
        // A row has the length that its magnitude says.
        let magnitude = adapter.magnitude.as_ref().unwrap().vector().tensor();
        assert_close(&row_norms(&merged).unwrap(), magnitude, 1e-6, "norms");
        linear.weight = Weight::Dense(parameter("weight", merged, false, DType::F32));
        assert_close(&linear.forward(&x, &Pass::Eval).unwrap(), &unmerged, 1e-5, "merged");
    }

    #[test]
    fn in_16_bits_the_norms_are_those_of_the_weights_as_they_are_stored_and_summed_in_f32() {
        let linear = linear(false, DType::BF16);
        let LowRank { down, up, magnitude, scale, .. } = linear.adapter.as_ref().unwrap();
        let Weight::Dense(weight) = &linear.weight;
        let magnitude = magnitude.as_ref().unwrap();
        // The second time the weight's part is remembered.
        for _ in 0..2 {
            let found = magnitude.factors(weight, down, up, *scale).unwrap();
            let merged = linear.adapter.as_ref().unwrap().merged_into(weight.tensor()).unwrap();
            let found = found.unsqueeze(1).unwrap();
            let product = up.tensor().matmul(down.tensor()).unwrap().affine(f64::from(*scale), 0.0).unwrap();
            let sum = (weight.tensor().to_dtype(DType::F32).unwrap() + product).unwrap();
            assert_close(&sum.broadcast_mul(&found).unwrap(), &merged, 1e-6, "factors");
        }
    }

    #[test]
    fn a_row_of_zeros_stays_one_and_is_no_nan() {
        let mut linear = linear(true, DType::F32);
        let mut values = vec![0f32; 35];
        values[7..].copy_from_slice(&[0.5; 28]);
        let weight = Tensor::from_vec(values, (5, 7), &Device::Cpu).unwrap();
        let adapter = linear.adapter.as_mut().unwrap();
        let norms = row_norms(&weight).unwrap();
        adapter.up =
            parameter("b", Tensor::zeros((5, 3), DType::F32, &Device::Cpu).unwrap(), true, DType::F32);
        adapter.magnitude = Some(Magnitude::new(parameter("m", norms, true, DType::F32)));
        linear.weight = Weight::Dense(parameter("weight", weight, false, DType::F32));
        let x = random("x", &[4, 7]);
        let with = linear.forward(&x, &Pass::Eval).unwrap().to_vec2::<f32>().unwrap();
        linear.adapter = None;
        // A fresh adapter changes no bit.
        assert_eq!(with, linear.forward(&x, &Pass::Eval).unwrap().to_vec2::<f32>().unwrap());
    }
}
