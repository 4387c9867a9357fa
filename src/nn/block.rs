//! The block that BEiT, ViT and CLIP are made of: attention and MLP, each behind a norm and beside a residual connection.

use super::{LayerNorm, Linear, Mlp, Parameter, Pass, RelativePositionBias, SelfAttention};
use crate::ops::{self, RelativePositions};
use candle_core::{Result, Tensor};

/// A pre-norm transformer block: `x += drop_path(λ₁ · attention(norm(x)))`, then `x += drop_path(λ₂ · mlp(norm(x)))`.
#[derive(Clone, Debug)]
pub struct PreNormBlock {
    /// Before attention.
    pub norm_1: LayerNorm,
    /// The attention.
    pub attention: SelfAttention,
    /// What its scores are biased with.
    pub relative_position_bias: Option<RelativePositionBias>,
    /// Layer scale of attention.
    pub lambda_1: Option<Parameter>,
    /// Before the MLP.
    pub norm_2: LayerNorm,
    /// The MLP.
    pub mlp: Mlp,
    /// Layer scale of the MLP.
    pub lambda_2: Option<Parameter>,
    /// Probability that a branch is dropped in training.
    pub drop_path: f64,
    /// Its number in the model: its place among the streams of drop path.
    pub index: u64,
}

impl PreNormBlock {
    /// `x` `[batch, tokens, hidden]` → the same shape; `grid`: rows and columns of the patches behind the tokens.
    ///
    /// # Errors
    /// If the shapes do not fit.
    pub fn forward(&self, x: &Tensor, grid: (usize, usize), pass: &Pass) -> Result<Tensor> {
        let batch = x.dim(0)?;
        let grid = RelativePositions { height: grid.0, width: grid.1, class_token: true };
        let table = self.relative_position_bias.as_ref().map(|bias| bias.for_grid(grid)).transpose()?;
        let positions = table.as_ref().map(|table| (table, grid));
        let y = self.attention.forward(&self.norm_1.forward(x)?, positions, None, pass)?;
        let dropped = pass.drop_path(self.drop_path, batch, 2 * self.index);
        let x = ops::residual(x, &y, scale(&self.lambda_1)?.as_ref(), dropped)?;
        let y = self.mlp.forward(&self.norm_2.forward(&x)?, pass)?;
        let dropped = pass.drop_path(self.drop_path, batch, 2 * self.index + 1);
        ops::residual(&x, &y, scale(&self.lambda_2)?.as_ref(), dropped)
    }

    /// Its parameters, in order.
    pub fn parameters(&self) -> impl Iterator<Item = &Parameter> {
        let bias = self.relative_position_bias.iter().flat_map(RelativePositionBias::parameters);
        self.lambda_1
            .iter()
            .chain(&self.lambda_2)
            .chain(self.norm_1.parameters())
            .chain(self.attention.parameters())
            .chain(bias)
            .chain(self.norm_2.parameters())
            .chain(self.mlp.parameters())
    }

    /// Its linear maps, in order.
    pub fn linears(&self) -> impl Iterator<Item = &Linear> {
        self.attention.linears().into_iter().chain(self.mlp.linears())
    }

    /// The same, to be changed.
    pub fn linears_mut(&mut self) -> impl Iterator<Item = &mut Linear> {
        self.attention.linears_mut().into_iter().chain(self.mlp.linears_mut())
    }
}

fn scale(lambda: &Option<Parameter>) -> Result<Option<Tensor>> {
    lambda.as_ref().map(Parameter::value).transpose()
}
