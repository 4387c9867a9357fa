//! A table of relative position biases, and its interpolation to other grids.

use super::interpolation::{Interpolation, resize_grid};
use super::{Builder, Initialization, Parameter, ParameterError};
use crate::ops::RelativePositions;
use candle_core::{DType, Result, Tensor};

/// A table `[(2h − 1)(2w − 1), heads]` for a grid of h × w patches (Liu et al. 2021, §3.2); with a class token three entries
/// more (Bao et al. 2021, §2.1).
#[derive(Clone, Debug)]
pub struct RelativePositionBias {
    table: Parameter,
    grid: RelativePositions,
}

impl RelativePositionBias {
    /// Reads `relative_position_bias_table` at the builder's path.
    ///
    /// # Errors
    /// Those of the source.
    pub fn new(
        builder: &Builder<'_>,
        grid: RelativePositions,
        heads: usize,
    ) -> std::result::Result<Self, ParameterError> {
        let shape = [grid.entries(), heads];
        let table =
            builder.parameter("relative_position_bias_table", &shape, Initialization::Constant(0.0))?;
        Ok(Self { table, grid })
    }

    /// The table for a grid, another one maybe: offsets between patches resized bilinearly, the class token's three entries kept.
    ///
    /// Of a model trained with photos that are not square, transformers 5.23 reads the table with rows and columns exchanged
    /// (`modeling_beit.py`, even at the size of the training); here as in timm they are not, and the logits differ from its.
    ///
    /// # Errors
    /// candle's.
    pub fn for_grid(&self, grid: RelativePositions) -> Result<Tensor> {
        let table = self.table.value()?;
        if grid == self.grid {
            return Ok(table);
        }
        let (compute, table) = (table.dtype(), table.to_dtype(DType::F32)?);
        let size = |grid: RelativePositions| (2 * grid.height - 1, 2 * grid.width - 1);
        let offsets = table.narrow(0, 0, self.grid.offsets())?;
        let resized = resize_grid(&offsets, size(self.grid), size(grid), Interpolation::Bilinear)?;
        if !grid.class_token {
            return resized.to_dtype(compute);
        }
        Tensor::cat(&[&resized, &table.narrow(0, self.grid.offsets(), 3)?], 0)?.to_dtype(compute)
    }

    /// Its parameter.
    pub fn parameters(&self) -> impl Iterator<Item = &Parameter> {
        std::iter::once(&self.table)
    }
}
