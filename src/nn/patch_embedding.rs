//! A photo cut into patches, each mapped to the hidden size: a convolution whose stride is its kernel, done as one product.

use super::{Builder, Initialization, Parameter, ParameterError};
use crate::ops;
use candle_core::{Result, Tensor, bail};

/// The projection of patches (Dosovitskiy et al. 2020, §3.1).
#[derive(Clone, Debug)]
pub struct PatchEmbedding {
    weight: Parameter,
    bias: Option<Parameter>,
    edges: Edges,
}

/// What becomes of pixels beyond the last whole patch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Edges {
    /// They are left out, as a convolution leaves them.
    Cut,
    /// They begin a patch that ends in zeros.
    Pad,
}

impl PatchEmbedding {
    /// Reads `weight` `[hidden, channels, patch, patch]` and, with `bias`, `bias` `[hidden]` at the builder's path.
    ///
    /// # Errors
    /// Those of the source.
    pub fn new(
        builder: &Builder<'_>,
        (hidden, channels, patch): (usize, usize, usize),
        bias: bool,
        deviation: f32,
    ) -> std::result::Result<Self, ParameterError> {
        let weight = builder.parameter(
            "weight",
            &[hidden, channels, patch, patch],
            Initialization::Normal(deviation),
        )?;
        let bias = match bias {
            true => Some(builder.parameter("bias", &[hidden], Initialization::Constant(0.0))?),
            false => None,
        };
        Ok(Self { weight, bias, edges: Edges::Cut })
    }

    /// The same with another treatment of the edges.
    pub fn with_edges(self, edges: Edges) -> Self {
        Self { edges, ..self }
    }

    /// `pixel_values` `[batch, channels, height, width]` → `[batch, rows · columns, hidden]` and (rows, columns).
    ///
    /// # Errors
    /// If the photo is smaller than a patch, or has another number of channels.
    pub fn forward(&self, pixel_values: &Tensor) -> Result<(Tensor, (usize, usize))> {
        let (batch, channels, height, width) = pixel_values.dims4()?;
        let (hidden, want, p, _) = self.weight.tensor().dims4()?;
        let pixel_values = match self.edges {
            Edges::Cut => pixel_values.clone(),
            Edges::Pad => pixel_values
                .pad_with_zeros(2, 0, height.next_multiple_of(p) - height)?
                .pad_with_zeros(3, 0, width.next_multiple_of(p) - width)?,
        };
        let (rows, columns) = (pixel_values.dim(2)? / p, pixel_values.dim(3)? / p);
        if channels != want || rows == 0 || columns == 0 {
            bail!(
                "patch embedding: {want} channels and at least {p} × {p} wanted, found {:?}",
                pixel_values.shape()
            )
        }
        let weight = self.weight.value()?.reshape((hidden, channels * p * p))?;
        let bias = self.bias.as_ref().map(Parameter::value).transpose()?;
        let patches = pixel_values
            .to_dtype(weight.dtype())?
            .narrow(2, 0, rows * p)?
            .narrow(3, 0, columns * p)?
            .reshape((batch, channels, rows, p, columns, p))?
            .permute((0, 2, 4, 1, 3, 5))?
            .reshape((batch, rows * columns, channels * p * p))?;
        let embedded = ops::linear(&patches, &weight, bias.as_ref())?;
        Ok((embedded, (rows, columns)))
    }

    /// Its parameters, in order.
    pub fn parameters(&self) -> impl Iterator<Item = &Parameter> {
        std::iter::once(&self.weight).chain(&self.bias)
    }
}
