//! What attention adds to its scores: biases of relative positions, read from a table, and the penalty between regions of a
//! window.
//!
//! The attention kernels read both straight from here; where attention is composed they become matrices
//! (`composed_attention`).

use super::math::sum;
use multiversion::multiversion;

/// The patch grid behind the tokens: the class token first, if there is one, then the patch (y, x) as number `y · width + x`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RelativePositions {
    /// Rows of patches.
    pub height: usize,
    /// Columns of patches.
    pub width: usize,
    /// Whether a class token stands before the patches.
    pub class_token: bool,
}

impl RelativePositions {
    /// The patches of a square window, without a class token.
    pub fn window(side: usize) -> Self {
        Self { height: side, width: side, class_token: false }
    }

    /// Entries of the table: every offset between two patches, then, with a class token, class→patch, patch→class and
    /// class→class.
    pub fn entries(self) -> usize {
        self.offsets() + if self.class_token { 3 } else { 0 }
    }

    /// Entries for offsets between two patches.
    pub fn offsets(self) -> usize {
        (2 * self.height - 1) * (2 * self.width - 1)
    }

    /// Tokens before the first patch.
    pub(super) fn before(self) -> usize {
        usize::from(self.class_token)
    }

    pub(super) fn tokens(self) -> usize {
        self.height * self.width + self.before()
    }
}

/// Tokens that share a window without being neighbours: the scores between those of different regions get a penalty.
#[derive(Clone, Debug, PartialEq)]
pub struct Regions {
    /// The region of each token of each window, window by window. Sample `s` of a batch is window `s` modulo their number.
    pub of: Vec<u8>,
    /// Tokens a window.
    pub tokens: usize,
    /// What is added to the scores between regions.
    pub penalty: f32,
}

impl Regions {
    /// Number of windows.
    pub fn windows(&self) -> usize {
        self.of.len() / self.tokens.max(1)
    }

    /// The regions of a sample's window, or `None` where there is but one.
    pub(super) fn of_sample(&self, sample: usize) -> Option<&[u8]> {
        let window = sample % self.windows().max(1);
        let regions = self.of.get(window * self.tokens..(window + 1) * self.tokens)?;
        regions.iter().any(|region| *region != regions[0]).then_some(regions)
    }
}

/// A head's column of the table with the patch offsets reversed: then the biases of one query against a row of keys are
/// neighbours in memory.
pub(super) fn reversed_column(table: &[f32], heads: usize, head: usize, grid: RelativePositions) -> Vec<f32> {
    let offsets = grid.offsets();
    let at = |entry: usize| table[entry * heads + head];
    (0..offsets).rev().map(at).chain((offsets..grid.entries()).map(at)).collect()
}

/// Where, in a reversed column, the biases of query patch (y, x) against the keys of patch row `key_row` start.
#[inline(always)]
fn segment(grid: RelativePositions, y: usize, x: usize, key_row: usize) -> usize {
    let offset = (y + grid.height - 1 - key_row) * (2 * grid.width - 1) + x + grid.width - 1;
    grid.offsets() - 1 - offset
}

/// Calls `pair(scores, column)` for every stretch of one query's scores and the table entries that belong to it.
#[inline(always)]
pub(super) fn for_segments(
    grid: RelativePositions,
    query: usize,
    mut pair: impl FnMut(std::ops::Range<usize>, usize),
) {
    let (offsets, before) = (grid.offsets(), grid.before());
    let Some(patch) = query.checked_sub(before) else {
        pair(0..1, offsets + 2);
        return;
    };
    if grid.class_token {
        pair(0..1, offsets + 1);
    }
    for key_row in 0..grid.height {
        let start = before + key_row * grid.width;
        pair(start..start + grid.width, segment(grid, patch / grid.width, patch % grid.width, key_row));
    }
}

#[multiversion(targets = "simd")]
pub(super) fn add_bias_gradient(column: &mut [f32], grad: &[f32], grid: RelativePositions) {
    for (query, row) in grad.chunks_exact(grid.tokens()).enumerate() {
        for_segments(grid, query, |range, start| {
            let size = range.len();
            for (sum, grad) in column[start..start + size].iter_mut().zip(&row[range]) {
                *sum += grad;
            }
        });
        if query == 0 && grid.class_token {
            column[grid.offsets()] += sum(&row[1..], |value| value);
        }
    }
}
