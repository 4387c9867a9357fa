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
        let constant = |parameter: &Parameter| parameter.tensor().detach().to_dtype(DType::F32);
        let (down, up) = (constant(down)?, constant(up)?);
        let w = constant(weight)?;
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
