//! The two linear maps between attentions, and the function between them.

use super::{Builder, Linear, Parameter, ParameterError, Pass};
use crate::ops;
use candle_core::{Result, Tensor};

/// The function between the two maps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// x · Φ(x), exactly.
    Gelu,
    /// x · σ(1.702 · x).
    QuickGelu,
}

impl Activation {
    /// Every activation under transformers' name of it.
    pub const NAMES: [(&'static str, Self); 2] = [("gelu", Self::Gelu), ("quick_gelu", Self::QuickGelu)];

    fn of(self, x: &Tensor) -> Result<Tensor> {
        match self {
            Self::Gelu => ops::gelu(x),
            Self::QuickGelu => ops::quick_gelu(x),
        }
    }
}

/// The sizes of an MLP.
#[derive(Clone, Copy, Debug)]
pub struct MlpSizes {
    /// Width of the hidden states.
    pub hidden: usize,
    /// Width between the two maps.
    pub inner: usize,
    /// The function there.
    pub activation: Activation,
    /// Standard deviation of fresh weights: of the first map, and of the second.
    pub deviations: [f32; 2],
}

/// A token's two-layer perceptron (Vaswani et al. 2017, §3.3).
#[derive(Clone, Debug)]
pub struct Mlp {
    up: Linear,
    down: Linear,
    activation: Activation,
}

impl Mlp {
    /// Reads the two maps under `names`, the wider output first, at the builder's path.
    ///
    /// # Errors
    /// Those of the source.
    pub fn new(
        builder: &Builder<'_>,
        names: [&str; 2],
        sizes: MlpSizes,
    ) -> std::result::Result<Self, ParameterError> {
        let MlpSizes { hidden, inner, activation, deviations } = sizes;
        Ok(Self {
            up: Linear::new(&builder.at(names[0]), hidden, inner, true, deviations[0])?,
            down: Linear::new(&builder.at(names[1]), inner, hidden, true, deviations[1])?,
            activation,
        })
    }

    /// `x` `[…, hidden]` → the same shape.
    ///
    /// # Errors
    /// If the shapes do not fit.
    pub fn forward(&self, x: &Tensor, pass: &Pass) -> Result<Tensor> {
        self.down.forward(&self.activation.of(&self.up.forward(x, pass)?)?, pass)
    }

    /// Its parameters, in order.
    pub fn parameters(&self) -> impl Iterator<Item = &Parameter> {
        self.up.parameters().chain(self.down.parameters())
    }

    /// Its linear maps, in order.
    pub fn linears(&self) -> [&Linear; 2] {
        [&self.up, &self.down]
    }

    /// The same, to be changed.
    pub fn linears_mut(&mut self) -> [&mut Linear; 2] {
        [&mut self.up, &mut self.down]
    }
}
