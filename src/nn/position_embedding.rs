//! Positions that are learnt a token at a time, and their interpolation to other input sizes.

use super::interpolation::{Interpolation, resize_grid};
use super::{Builder, Initialization, Parameter, ParameterError};
use candle_core::{DType, Result, Tensor};

/// A vector for the class token and one for each patch of a grid (Dosovitskiy et al. 2020, §3.1).
#[derive(Clone, Debug)]
pub struct PositionEmbedding {
    positions: Parameter,
    grid: (usize, usize),
}

impl PositionEmbedding {
    /// Reads `name`, of shape `[1 + rows · columns, hidden]` behind as many dimensions of 1 as `leading` says.
    ///
    /// # Errors
    /// Those of the source.
    pub fn new(
        builder: &Builder<'_>,
        name: &str,
        leading: usize,
        (grid, hidden): ((usize, usize), usize),
        deviation: f32,
    ) -> std::result::Result<Self, ParameterError> {
        let mut shape = vec![1; leading];
        shape.extend([1 + grid.0 * grid.1, hidden]);
        let positions = builder.parameter(name, &shape, Initialization::Normal(deviation))?;
        Ok(Self { positions, grid })
    }

    /// `[1 + rows · columns, hidden]` for a grid, another one maybe: the patches' positions resized bicubically, the class
    /// token's kept.
    ///
    /// # Errors
    /// candle's.
    pub fn for_grid(&self, grid: (usize, usize)) -> Result<Tensor> {
        let positions = self.positions.value()?;
        let hidden = positions.dims().last().copied().unwrap_or(1);
        let positions = positions.reshape((1 + self.grid.0 * self.grid.1, hidden))?;
        if grid == self.grid {
            return Ok(positions);
        }
        let (compute, positions) = (positions.dtype(), positions.to_dtype(DType::F32)?);
        let patches = positions.narrow(0, 1, self.grid.0 * self.grid.1)?;
        let resized = resize_grid(&patches, self.grid, grid, Interpolation::Bicubic)?;
        Tensor::cat(&[&positions.narrow(0, 0, 1)?, &resized], 0)?.to_dtype(compute)
    }

    /// Its parameter.
    pub fn parameters(&self) -> impl Iterator<Item = &Parameter> {
        std::iter::once(&self.positions)
    }
}
