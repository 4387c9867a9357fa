//! BEiT's table of relative position biases, and its interpolation to other input sizes.

use super::{Builder, Initialization, Parameter, ParameterError};
use crate::ops::RelativePositions;
use candle_core::{DType, Device, Result, Tensor};

/// A table `[(2h − 1)(2w − 1) + 3, heads]` for a grid of h × w patches (Bao et al. 2021, §2.1).
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

    /// The table for another grid: offsets between patches resized bilinearly, the class token's three entries kept.
    ///
    /// # Errors
    /// candle's.
    pub fn for_grid(&self, grid: RelativePositions) -> Result<Tensor> {
        let table = self.table.value()?;
        if grid == self.grid {
            return Ok(table);
        }
        let (compute, table) = (table.dtype(), table.to_dtype(DType::F32)?);
        let heads = table.dim(1)?;
        let size = |grid: RelativePositions| (2 * grid.height - 1, 2 * grid.width - 1);
        let ((old_rows, old_columns), (rows, columns)) = (size(self.grid), size(grid));
        let down = bilinear(old_rows, rows, table.device())?;
        let across = bilinear(old_columns, columns, table.device())?;
        let offsets = table.narrow(0, 0, self.grid.offsets())?.contiguous()?;
        let resized = down.matmul(&offsets.reshape((old_rows, old_columns * heads))?)?; // [rows, old_columns · heads]
        let resized = across
            .broadcast_left(rows)?
            .contiguous()?
            .matmul(&resized.reshape((rows, old_columns, heads))?)? // [rows, columns, heads]
            .reshape((rows * columns, heads))?;
        Tensor::cat(&[&resized, &table.narrow(0, self.grid.offsets(), 3)?], 0)?.to_dtype(compute)
    }

    /// Its parameter.
    pub fn parameters(&self) -> impl Iterator<Item = &Parameter> {
        std::iter::once(&self.table)
    }
}

/// `[new, old]`: the weights of a bilinear resize of a line, pixel centres aligned (PyTorch's `align_corners=False`).
fn bilinear(old: usize, new: usize, device: &Device) -> Result<Tensor> {
    let mut weights = vec![0f32; new * old];
    for (index, row) in weights.chunks_exact_mut(old).enumerate() {
        let place = ((index as f32 + 0.5) * (old as f32 / new as f32) - 0.5).max(0.0);
        let low = (place as usize).min(old - 1);
        let high = (low + 1).min(old - 1);
        let share = place - low as f32;
        row[low] += 1.0 - share;
        row[high] += share;
    }
    Tensor::from_vec(weights, (new, old), device)
}
