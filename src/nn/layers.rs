//! The linear map with its adapter, and the layer norm.

use super::{Builder, Initialization, Parameter, ParameterError, Pass};
use crate::ops::{self, Residual};
use candle_core::{Result, Tensor};

/// How a weight is stored; how it is adapted is another thing ([`LowRank`]).
#[derive(Clone, Debug)]
pub enum Weight {
    /// `[out, in]`, as in the checkpoint.
    Dense(Parameter),
}

/// A low-rank adapter (Hu et al. 2021): `y += scale · B · A · dropout(x)`.
#[derive(Clone, Debug)]
pub struct LowRank {
    /// A, `[rank, in]`.
    pub down: Parameter,
    /// B, `[out, rank]`.
    pub up: Parameter,
    /// alpha/rank, or alpha/√rank for rsLoRA.
    pub scale: f32,
    /// Probability that a value of x is dropped in training.
    pub dropout: f32,
    /// Number of this adapter in the model: its place among the dropout streams.
    pub layer: u64,
}

impl LowRank {
    /// `scale · B · A`, `[out, in]`: what merging adds to the weight.
    ///
    /// # Errors
    /// candle's.
    pub fn delta(&self) -> Result<Tensor> {
        self.up.tensor().matmul(self.down.tensor())?.affine(f64::from(self.scale), 0.0)
    }
}

/// `y = x · Wᵀ + b`, and its adapter's part.
#[derive(Clone, Debug)]
pub struct Linear {
    /// The weight.
    pub weight: Weight,
    /// `[out]`.
    pub bias: Option<Parameter>,
    /// The adapter, where one is attached.
    pub adapter: Option<LowRank>,
}

impl Linear {
    /// Reads `weight` and, with `bias`, `bias` at the builder's path.
    ///
    /// # Errors
    /// Those of the source.
    pub fn new(
        builder: &Builder<'_>,
        inputs: usize,
        outputs: usize,
        bias: bool,
        deviation: f32,
    ) -> std::result::Result<Self, ParameterError> {
        let weight = builder.parameter("weight", &[outputs, inputs], Initialization::Normal(deviation))?;
        let bias = match bias {
            true => Some(builder.parameter("bias", &[outputs], Initialization::Constant(0.0))?),
            false => None,
        };
        Ok(Self { weight: Weight::Dense(weight), bias, adapter: None })
    }

    /// `x` `[…, in]` → `[…, out]`.
    ///
    /// # Errors
    /// If the shapes do not fit.
    pub fn forward(&self, x: &Tensor, pass: &Pass) -> Result<Tensor> {
        let Weight::Dense(weight) = &self.weight;
        let bias = self.bias.as_ref().map(Parameter::value).transpose()?;
        let y = ops::linear(x, &weight.value()?, bias.as_ref())?;
        let Some(adapter) = &self.adapter else { return Ok(y) };
        let dropped = match pass.dropout(adapter.layer).filter(|_| adapter.dropout > 0.0) {
            Some(stream) => ops::dropout(x, adapter.dropout, stream)?,
            None => x.clone(),
        };
        let low = ops::linear(&dropped, &adapter.down.value()?, None)?;
        let delta = ops::linear(&low, &adapter.up.value()?, None)?;
        ops::residual(&y, &delta, None, Residual::Constant(adapter.scale))
    }

    /// Its own parameters, in order; an adapter's are listed with [`Linear::adapter_parameters`].
    pub fn parameters(&self) -> impl Iterator<Item = &Parameter> {
        let Weight::Dense(weight) = &self.weight;
        std::iter::once(weight).chain(&self.bias)
    }

    /// A and B of the adapter, if there is one.
    pub fn adapter_parameters(&self) -> impl Iterator<Item = &Parameter> {
        self.adapter.iter().flat_map(|adapter| [&adapter.down, &adapter.up])
    }

    /// The name of the module: the weight's, less `.weight`.
    pub fn name(&self) -> &str {
        let Weight::Dense(weight) = &self.weight;
        weight.name().strip_suffix(".weight").unwrap_or(weight.name())
    }
}

/// Layer normalisation over the last dimension.
#[derive(Clone, Debug)]
pub struct LayerNorm {
    weight: Parameter,
    bias: Parameter,
    eps: f32,
}

impl LayerNorm {
    /// Reads `weight` and `bias` `[hidden]` at the builder's path.
    ///
    /// # Errors
    /// Those of the source.
    pub fn new(builder: &Builder<'_>, hidden: usize, eps: f32) -> std::result::Result<Self, ParameterError> {
        let weight = builder.parameter("weight", &[hidden], Initialization::Constant(1.0))?;
        let bias = builder.parameter("bias", &[hidden], Initialization::Constant(0.0))?;
        Ok(Self { weight, bias, eps })
    }

    /// `x` `[…, hidden]` → the same shape.
    ///
    /// # Errors
    /// If the shapes do not fit.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        ops::layer_norm(x, &self.weight.value()?, &self.bias.value()?, self.eps)
    }

    /// Its parameters, in order.
    pub fn parameters(&self) -> impl Iterator<Item = &Parameter> {
        [&self.weight, &self.bias].into_iter()
    }
}
