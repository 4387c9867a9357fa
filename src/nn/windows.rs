//! A grid of tokens cut into square windows, shifted or not, and neighbours put beside each other (Liu et al. 2021, "Swin
//! Transformer", §3).

use crate::ops::{Regions, RowMap, pick_rows};
use candle_core::{Result, Tensor};
use std::sync::Arc;

/// A grid cut into windows. A grid that is no multiple of the window is continued with zeros below and to the right.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Windows {
    /// Rows and columns of tokens.
    pub grid: (usize, usize),
    /// Side of a window, in tokens.
    pub side: usize,
    /// By how much the grid is rolled up and to the left before it is cut; 0 where it is not.
    pub shift: usize,
}

impl Windows {
    /// Runs `attend` on the windows `[batch · windows, side², hidden]` of `x` `[batch, tokens, hidden]`, with the regions that a
    /// shift brings together, and puts the result back in place. `penalty`: what the scores between regions get.
    ///
    /// # Errors
    /// If `x` has another number of tokens than the grid; those of `attend`.
    pub fn attend(
        &self,
        x: &Tensor,
        penalty: f32,
        attend: impl FnOnce(&Tensor, Option<Arc<Regions>>) -> Result<Tensor>,
    ) -> Result<Tensor> {
        let (batch, _, hidden) = x.dims3()?;
        let (map, tokens) = (self.map()?, self.side * self.side);
        let windows = map.rows() / tokens;
        let regions = (self.shift > 0).then(|| Arc::new(Regions { of: self.regions(), tokens, penalty }));
        let cut = pick_rows(x, &map, hidden, (batch * windows, tokens, hidden))?;
        pick_rows(&attend(&cut, regions)?, &map.inverse(), hidden, x.dims())
    }

    /// Rows and columns, continued to whole windows.
    fn padded(&self) -> (usize, usize) {
        (self.grid.0.next_multiple_of(self.side), self.grid.1.next_multiple_of(self.side))
    }

    /// Every place of the rolled and cut grid, window by window, as (row, column) of the rolled grid.
    fn places(&self) -> impl Iterator<Item = (usize, usize)> + use<> {
        let (side, (rows, columns)) = (self.side, self.padded());
        let windows =
            (0..rows / side).flat_map(move |down| (0..columns / side).map(move |across| (down, across)));
        windows.flat_map(move |(down, across)| {
            (0..side).flat_map(move |y| (0..side).map(move |x| (down * side + y, across * side + x)))
        })
    }

    fn map(&self) -> Result<RowMap> {
        let ((rows, columns), (height, width), shift) = (self.padded(), self.grid, self.shift);
        let source = |(row, column)| {
            let (row, column) = ((row + shift) % rows, (column + shift) % columns);
            (row < height && column < width).then_some(row * width + column)
        };
        RowMap::new(self.places().map(source), height * width)
    }

    /// The region of each token of each window: which parts of the grid the roll has put beside each other.
    fn regions(&self) -> Vec<u8> {
        let (rows, columns) = self.padded();
        let part = |place: usize, length: usize| {
            u8::from(place >= length - self.side) + u8::from(place >= length - self.shift)
        };
        self.places().map(|(row, column)| part(row, rows) * 3 + part(column, columns)).collect()
    }
}

/// `x` `[batch, rows · columns, hidden]` → `[batch, ⌈rows/2⌉ · ⌈columns/2⌉, 4 · hidden]`: each square of four neighbours side by
/// side, the left two first, each from top to bottom; zeros beyond the border.
///
/// # Errors
/// If `x` has another number of tokens than the grid.
pub fn merge_neighbours(x: &Tensor, (height, width): (usize, usize)) -> Result<Tensor> {
    let (batch, _, hidden) = x.dims3()?;
    let (rows, columns) = (height.div_ceil(2), width.div_ceil(2));
    let squares = (0..rows).flat_map(|row| (0..columns).map(move |column| (2 * row, 2 * column)));
    let picks = squares.flat_map(|(row, column)| {
        let four = [(row, column), (row + 1, column), (row, column + 1), (row + 1, column + 1)];
        four.map(|(row, column)| (row < height && column < width).then_some(row * width + column))
    });
    let map = RowMap::new(picks, height * width)?;
    pick_rows(x, &map, hidden, (batch, rows * columns, 4 * hidden))
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    fn grid(height: usize, width: usize) -> Tensor {
        let values: Vec<f32> = (1..=height * width).map(|value| value as f32).collect();
        Tensor::from_vec(values, (1, height * width, 1), &Device::Cpu).expect("a tensor")
    }

    fn values(tensor: &Tensor) -> Vec<f32> {
        tensor.flatten_all().and_then(|tensor| tensor.to_vec1()).expect("values")
    }

    #[test]
    fn a_shifted_grid_is_cut_and_put_back() {
        let windows = Windows { grid: (3, 4), side: 2, shift: 1 };
        let mut seen = Vec::new();
        let back = windows.attend(&grid(3, 4), -100.0, |cut, regions| {
            seen = values(cut);
            let regions = regions.expect("a shifted grid has regions");
            assert_eq!(regions.of[..8], [0, 0, 0, 0, 1, 2, 1, 2], "the upper two windows");
            assert_eq!(regions.of[8..], [3, 3, 6, 6, 4, 5, 7, 8], "the lower two");
            Ok(cut.clone())
        });
        // Rolled by one, a row of zeros below: 6 7 8 5 | 10 11 12 9 | 0 0 0 0 | 2 3 4 1.
        assert_eq!(seen, [6., 7., 10., 11., 8., 5., 12., 9., 0., 0., 2., 3., 0., 0., 4., 1.]);
        assert_eq!(values(&back.expect("put back")), values(&grid(3, 4)));
    }

    #[test]
    fn neighbours_stand_column_by_column_with_zeros_beyond_the_border() {
        let merged = merge_neighbours(&grid(3, 3), (3, 3)).expect("merged");
        assert_eq!(merged.dims(), [1, 4, 4]);
        assert_eq!(values(&merged)[..8], [1., 4., 2., 5., 3., 6., 0., 0.]);
        assert_eq!(values(&merged)[8..], [7., 0., 8., 0., 9., 0., 0., 0.]);
    }
}
