//! The linear map with its adapter, and the layer norm.

use super::{Builder, Initialization, Magnitude, Parameter, ParameterError, Pass};
use crate::ops::device::Placement;
use crate::ops::{self, Residual};
use candle_core::{DType, Result, Tensor};

/// How a weight is stored; how it is adapted is another thing ([`LowRank`]).
#[derive(Clone, Debug)]
pub enum Weight {
    /// `[out, in]`, as in the checkpoint.
    Dense(Parameter),
}

/// A low-rank adapter (Hu et al. 2021): `y += scale · B · A · dropout(x)`; with magnitudes, DoRA.
#[derive(Clone, Debug)]
pub struct LowRank {
    /// A, `[rank, in]`.
    pub down: Parameter,
    /// B, `[out, rank]`.
    pub up: Parameter,
    /// m of DoRA, `[out]`.
    pub magnitude: Option<Magnitude>,
    /// alpha/rank, or alpha/√rank for rsLoRA.
    pub scale: f32,
    /// Probability that a value of x is dropped in training.
    pub dropout: f32,
    /// Number of this adapter in the model: its place among the dropout streams.
    pub layer: u64,
}

impl LowRank {
    /// What becomes of `weight` `[out, in]` when the adapter is merged into it, in f32: `W + scale · B · A`, its rows brought to
    /// their magnitudes where there are any.
    ///
    /// # Errors
    /// candle's.
    pub fn merged_into(&self, weight: &Tensor) -> Result<Tensor> {
        let in_f32 = |tensor: &Tensor| tensor.to_dtype(DType::F32);
        let product = in_f32(self.up.tensor())?.matmul(&in_f32(self.down.tensor())?)?;
        let sum = (in_f32(weight)? + product.affine(f64::from(self.scale), 0.0)?)?;
        match &self.magnitude {
            Some(magnitude) => magnitude.applied(&sum),
            None => Ok(sum),
        }
    }

    /// The same in f32, as constants on the CPU.
    ///
    /// # Errors
    /// candle's.
    pub fn on_cpu(&self) -> Result<Self> {
        let at =
            |own: &Parameter| Parameter::new(own.name().to_owned(), own.in_f32()?, false, &Placement::CPU);
        let magnitude = self.magnitude.as_ref().map(|magnitude| at(magnitude.vector()).map(Magnitude::new));
        Ok(Self { down: at(&self.down)?, up: at(&self.up)?, magnitude: magnitude.transpose()?, ..*self })
    }

    /// A, B and, with DoRA, m.
    pub fn parameters(&self) -> impl Iterator<Item = &Parameter> {
        [&self.down, &self.up].into_iter().chain(self.magnitude.as_ref().map(Magnitude::vector))
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
        let weight = builder.matrix("weight", [outputs, inputs], Initialization::Normal(deviation))?;
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
        let y = product(x, weight, bias.as_ref())?;
        let Some(adapter) = &self.adapter else { return Ok(y) };
        let dropped = match pass.dropout(adapter.layer).filter(|_| adapter.dropout > 0.0) {
            Some(stream) => Some(ops::dropout(x, adapter.dropout, stream)?),
            None => None,
        };
        let low = ops::linear(dropped.as_ref().unwrap_or(x), &adapter.down.value()?, None)?;
        let Some(magnitude) = &adapter.magnitude else {
            return ops::linear_onto(y, &low, &adapter.up.value()?, adapter.scale);
        };

        // y + (g − 1) ∘ W·x + g ∘ s·B·A·x, where both x are dropped from. As g is near 1, what is beyond it is rounded, not g.
        let factors = magnitude.factors(weight, &adapter.down, &adapter.up, adapter.scale)?;
        let beyond = factors.affine(1.0, -1.0)?;
        let scales = factors.affine(f64::from(adapter.scale), 0.0)?.unsqueeze(1)?;
        let up = adapter.up.tensor().to_dtype(DType::F32)?.broadcast_mul(&scales)?.to_dtype(y.dtype())?;
        let (product, correction) = match (&dropped, &bias) {
            (Some(dropped), _) => (product(dropped, weight, None)?, None),
            // The same x: y less its bias, which is taken out again with what the factors add.
            (None, Some(bias)) => {
                let correction = (beyond.neg()? * bias.to_dtype(DType::F32)?)?;
                (y.clone(), Some(correction.to_dtype(y.dtype())?))
            }
            (None, None) => (y.clone(), None),
        };
        let beyond = beyond.to_dtype(y.dtype())?;
        let y = ops::residual(&y, &product, Some(&beyond), Residual::Constant(1.0))?;
        let delta = ops::linear(&low, &up, correction.as_ref())?;
        ops::residual(&y, &delta, None, Residual::Constant(1.0))
    }

    /// Its own parameters, in order; an adapter's are listed with [`Linear::adapter_parameters`].
    pub fn parameters(&self) -> impl Iterator<Item = &Parameter> {
        let Weight::Dense(weight) = &self.weight;
        std::iter::once(weight).chain(&self.bias)
    }

    /// Those of the adapter, if there is one.
    pub fn adapter_parameters(&self) -> impl Iterator<Item = &Parameter> {
        self.adapter.iter().flat_map(LowRank::parameters)
    }

    /// The name of the module: the weight's, less `.weight`.
    pub fn name(&self) -> &str {
        let Weight::Dense(weight) = &self.weight;
        weight.name().strip_suffix(".weight").unwrap_or(weight.name())
    }
}

/// `x · Wᵀ + b`, whatever the weight is stored in.
fn product(x: &Tensor, weight: &Parameter, bias: Option<&Tensor>) -> Result<Tensor> {
    match weight.packed() {
        Some(packed) => ops::packed_linear(x, packed, bias),
        None => ops::linear(x, &weight.value()?, bias),
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
