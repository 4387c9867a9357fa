//! Multi-head self-attention with its four linear maps, whatever an architecture calls them.

use super::{Builder, Initialization, Linear, Parameter, ParameterError, Pass};
use crate::ops::{self, Attention, Regions, RelativePositions};
use candle_core::{Result, Tensor};
use std::sync::Arc;

/// What an architecture calls the four maps, below its block.
#[derive(Clone, Copy, Debug)]
pub struct AttentionNames {
    /// The map to queries.
    pub query: &'static str,
    /// The map to keys.
    pub key: &'static str,
    /// The map to values.
    pub value: &'static str,
    /// The map of the heads' contexts.
    pub output: &'static str,
}

/// Which of the maps have a bias.
#[derive(Clone, Copy, Debug)]
pub struct AttentionBiases {
    /// Those to queries and values.
    pub query_value: bool,
    /// The one to keys.
    pub key: bool,
}

/// The sizes of a self-attention.
#[derive(Clone, Copy, Debug)]
pub struct AttentionSizes {
    /// Width of the hidden states.
    pub hidden: usize,
    /// Number of heads.
    pub heads: usize,
    /// Which maps have a bias; the last always has one.
    pub biases: AttentionBiases,
    /// Standard deviation of fresh weights: of the first three maps, and of the last.
    pub deviations: [f32; 2],
}

/// How far a head may turn its scores up: the scale of cosine attention is at most 100 (Liu et al. 2022, §3.2).
const LARGEST_LOGIT_SCALE: f64 = 4.605_170_185_988_092; // ln 100

/// Multi-head self-attention (Vaswani et al. 2017, §3.2.2).
#[derive(Clone, Debug)]
pub struct SelfAttention {
    query: Linear,
    key: Linear,
    value: Linear,
    output: Linear,
    /// In cosine attention, the logarithm of each head's scale, `[heads, 1, 1]`.
    logit_scale: Option<Parameter>,
    heads: usize,
}

impl SelfAttention {
    /// Reads the four maps, under `names`, at the builder's path.
    ///
    /// # Errors
    /// Those of the source.
    pub fn new(
        builder: &Builder<'_>,
        names: AttentionNames,
        sizes: AttentionSizes,
    ) -> std::result::Result<Self, ParameterError> {
        let AttentionSizes { hidden, heads, biases, deviations } = sizes;
        let map =
            |name: &str, bias, deviation| Linear::new(&builder.at(name), hidden, hidden, bias, deviation);
        Ok(Self {
            query: map(names.query, biases.query_value, deviations[0])?,
            key: map(names.key, biases.key, deviations[0])?,
            value: map(names.value, biases.query_value, deviations[0])?,
            output: map(names.output, true, deviations[1])?,
            logit_scale: None,
            heads,
        })
    }

    /// The same with scores that are cosines, times a learnt scale a head, read as `logit_scale` at the builder's path.
    ///
    /// # Errors
    /// Those of the source.
    pub fn with_cosines(mut self, builder: &Builder<'_>) -> std::result::Result<Self, ParameterError> {
        let start = Initialization::Constant(10f32.ln());
        self.logit_scale = Some(builder.parameter("logit_scale", &[self.heads, 1, 1], start)?);
        Ok(self)
    }

    /// `x` `[batch, tokens, hidden]` → the same shape. `positions`: a table of biases and its grid, see [`ops::attention`];
    /// `regions`: where the samples are windows of a shifted grid.
    ///
    /// # Errors
    /// If the shapes do not fit.
    pub fn forward(
        &self,
        x: &Tensor,
        positions: Option<(&Tensor, RelativePositions)>,
        regions: Option<Arc<Regions>>,
        pass: &Pass,
    ) -> Result<Tensor> {
        let [q, k, v] = [&self.query, &self.key, &self.value].map(|linear| linear.forward(x, pass));
        let qkv = ops::side_by_side([&q?, &k?, &v?])?; // [batch, tokens, 3 · hidden]
        let head_size = x.dim(2)? / self.heads;
        let scaled = Attention { heads: self.heads, scale: 1.0 / (head_size as f32).sqrt(), regions };
        let context = match &self.logit_scale {
            Some(logarithm) => {
                let scale = logarithm.value()?.flatten_all()?.minimum(LARGEST_LOGIT_SCALE)?.exp()?;
                let cosines = Attention { scale: 1.0, ..scaled };
                ops::attention(&ops::unit_heads(&qkv, &scale)?, positions, cosines)?
            }
            None => ops::attention(&qkv, positions, scaled)?,
        };
        self.output.forward(&context, pass)
    }

    /// Its parameters, in order.
    pub fn parameters(&self) -> impl Iterator<Item = &Parameter> {
        self.logit_scale.iter().chain(self.linears().into_iter().flat_map(Linear::parameters))
    }

    /// Its linear maps, in order.
    pub fn linears(&self) -> [&Linear; 4] {
        [&self.query, &self.key, &self.value, &self.output]
    }

    /// The same, to be changed.
    pub fn linears_mut(&mut self) -> [&mut Linear; 4] {
        [&mut self.query, &mut self.key, &mut self.value, &mut self.output]
    }
}
