//! The matrix product over strided views, its output passed in: the crate `gemm`, which candle's own product uses too.
//!
//! Called by the linear and attention kernels. Views are checked when they are made, so the product itself cannot leave them.

use gemm::Parallelism;
use rayon::prelude::*;
use std::mem::MaybeUninit;

/// A read-only matrix inside a slice: element (r, c) is at `r · row_stride + c · column_stride`.
#[derive(Clone, Copy)]
pub(super) struct View<'a> {
    values: &'a [f32],
    rows: usize,
    columns: usize,
    row_stride: usize,
    column_stride: usize,
}

impl<'a> View<'a> {
    /// A matrix whose rows start `row_stride` apart; `values` may go on after its last element.
    pub(super) fn strided(values: &'a [f32], rows: usize, columns: usize, row_stride: usize) -> Self {
        assert!(
            rows == 0 || columns == 0 || (rows - 1) * row_stride + columns <= values.len(),
            "view out of range"
        );
        Self { values, rows, columns, row_stride, column_stride: 1 }
    }

    /// A contiguous row-major matrix.
    pub(super) fn new(values: &'a [f32], rows: usize, columns: usize) -> Self {
        Self::strided(values, rows, columns, columns)
    }

    /// The transposed matrix, without a copy.
    pub(super) fn transposed(self) -> Self {
        Self {
            rows: self.columns,
            columns: self.rows,
            row_stride: self.column_stride,
            column_stride: self.row_stride,
            ..self
        }
    }
}

/// A matrix to write to; its rows start `row_stride` apart, its columns are neighbours.
pub(super) struct ViewMut<'a> {
    values: *mut f32,
    rows: usize,
    columns: usize,
    row_stride: usize,
    _borrow: std::marker::PhantomData<&'a mut [f32]>,
}

impl<'a> ViewMut<'a> {
    /// A matrix whose rows start `row_stride` apart.
    pub(super) fn strided(values: &'a mut [f32], rows: usize, columns: usize, row_stride: usize) -> Self {
        assert!(
            rows == 0 || columns == 0 || (rows - 1) * row_stride + columns <= values.len(),
            "view out of range"
        );
        assert!(rows <= 1 || columns <= row_stride, "rows overlap");
        Self { values: values.as_mut_ptr(), rows, columns, row_stride, _borrow: std::marker::PhantomData }
    }

    /// A contiguous row-major matrix that is to be filled.
    ///
    /// # Safety
    /// [`Into::Replace`] alone may write to it.
    unsafe fn unwritten(values: &'a mut [MaybeUninit<f32>], rows: usize, columns: usize) -> Self {
        assert_eq!(values.len(), rows * columns, "view out of range");
        let values = values.as_mut_ptr().cast();
        Self { values, rows, columns, row_stride: columns, _borrow: std::marker::PhantomData }
    }

    /// A contiguous row-major matrix.
    pub(super) fn new(values: &'a mut [f32], rows: usize, columns: usize) -> Self {
        Self::strided(values, rows, columns, columns)
    }
}

/// `scale · left · right` in memory of its own, row by row.
pub(super) fn product(left: View<'_>, right: View<'_>, scale: f32, threads: Threads) -> Vec<f32> {
    let count = left.rows * right.columns;
    if left.columns == 0 {
        return vec![0.0; count];
    }
    // Not zeroed first: that is one more pass over the memory, on one thread.
    let mut values: Vec<f32> = Vec::with_capacity(count);
    let place = &mut values.spare_capacity_mut()[..count];
    // SAFETY: replaced below, and nothing else.
    let output = unsafe { ViewMut::unwritten(place, left.rows, right.columns) };
    matmul(output, left, right, scale, Into::Replace, threads);
    // SAFETY: the product wrote every one of the `count` values that there is room for, and read none.
    unsafe { values.set_len(count) };
    values
}

/// What becomes of the values already in the output.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Into {
    /// They are overwritten, never read.
    Replace,
    /// The product is added to them.
    Add,
}

/// Where a product runs.
#[derive(Clone, Copy)]
pub(super) enum Threads {
    /// On the calling thread: the caller is already one task of many.
    One,
    /// Split over the pool that the calling thread belongs to, or else rayon's global one.
    All,
}

/// `output = scale · left · right`, or `output += scale · left · right`.
pub(super) fn matmul(
    output: ViewMut<'_>,
    left: View<'_>,
    right: View<'_>,
    scale: f32,
    into: Into,
    threads: Threads,
) {
    assert_eq!(left.columns, right.rows, "inner dimensions");
    assert_eq!((output.rows, output.columns), (left.rows, right.columns), "output dimensions");
    if output.rows == 0 || output.columns == 0 {
        return;
    }
    if right.falls_into_one_set() {
        return in_blocks(output, left, right, scale, into, threads);
    }
    // SAFETY: each view was checked to lie inside its slice when it was made; the output is borrowed mutably, its rows do
    // not overlap, and the shapes agree (asserted above).
    unsafe { run(&output, left, right, scale, into, threads) }
}

/// Bytes after which addresses share a set of the first-level cache.
const PERIOD: usize = 4096;

/// Rows of the right side that are copied at a time.
const BLOCK: usize = 512;

/// Values between the rows of a copy: their addresses then differ in more than multiples of the period.
const GAP: usize = 16;

impl View<'_> {
    /// Whether it is read across rows that lie a multiple of the cache's period apart, as a transposed weight of 1024 or 4096 inputs
    /// is: each value then pushes out the one before. Copied first, such a product takes half of the time for few rows on the left,
    /// and four fifths for many.
    fn falls_into_one_set(self) -> bool {
        self.row_stride == 1
            && self.rows > 0
            && self.columns > GAP
            && (self.column_stride * size_of::<f32>()).is_multiple_of(PERIOD)
    }
}

/// The product, some rows of the right side at a time, copied to where they do not share a set.
fn in_blocks(output: ViewMut<'_>, left: View<'_>, right: View<'_>, scale: f32, into: Into, threads: Threads) {
    let stride = BLOCK.min(right.rows) + GAP;
    let mut copy = vec![0f32; right.columns * stride];
    for first in (0..right.rows).step_by(BLOCK) {
        let count = BLOCK.min(right.rows - first);
        let fill = |(column, copy): (usize, &mut [f32])| {
            let start = column * right.column_stride + first;
            copy[..count].copy_from_slice(&right.values[start..start + count]);
        };
        match threads {
            Threads::One => copy.chunks_exact_mut(stride).enumerate().for_each(fill),
            Threads::All => copy.par_chunks_exact_mut(stride).enumerate().with_min_len(64).for_each(fill),
        }
        let left = View { values: &left.values[first * left.column_stride..], columns: count, ..left };
        let right = View { values: &copy, rows: count, column_stride: stride, ..right };
        let into = if first == 0 { into } else { Into::Add };
        // SAFETY: `left` is a part of a view that was checked when it was made, and `right` was just filled; the output is borrowed
        // mutably, its rows do not overlap, and the shapes agree.
        unsafe { run(&output, left, right, scale, into, threads) }
    }
}

/// # Safety
/// The views lie inside their slices, and their shapes agree; values of the output may be uninitialised where they are replaced.
unsafe fn run(
    output: &ViewMut<'_>,
    left: View<'_>,
    right: View<'_>,
    scale: f32,
    into: Into,
    threads: Threads,
) {
    let parallelism = match threads {
        Threads::One => Parallelism::None,
        Threads::All => Parallelism::Rayon(rayon::current_num_threads()),
    };
    // SAFETY: the caller's.
    unsafe {
        gemm::gemm(
            output.rows,
            output.columns,
            left.columns,
            output.values,
            1,
            output.row_stride as isize,
            into == Into::Add,
            left.values.as_ptr(),
            left.column_stride as isize,
            left.row_stride as isize,
            right.values.as_ptr(),
            right.column_stride as isize,
            right.row_stride as isize,
            1.0,
            scale,
            false,
            false,
            false,
            parallelism,
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whole numbers small enough for every sum of products to be exact.
    fn whole(count: usize) -> Vec<f32> {
        (0..count).map(|v| ((v * 7 + v / 13) % 9) as f32 - 4.0).collect()
    }

    #[test]
    fn a_transposed_right_side_of_1024_inputs_a_row_is_multiplied_in_blocks_to_the_same_product() {
        for (rows, inputs, columns) in [(3, 1024, 20), (2, 2048, 17), (5, 3072, 40)] {
            let (a, b) = (whole(rows * inputs), whole(columns * inputs));
            let (left, right) = (View::new(&a, rows, inputs), View::new(&b, columns, inputs).transposed());
            assert!(right.falls_into_one_set());
            let want: Vec<f32> = (0..rows * columns)
                .map(|at| {
                    let pairs = a[at / columns * inputs..][..inputs].iter().zip(&b[at % columns * inputs..]);
                    pairs.map(|(a, b)| a * b).sum::<f32>() * 0.5
                })
                .collect();
            assert_eq!(product(left, right, 0.5, Threads::One), want);
            let mut out = vec![1.0; rows * columns];
            matmul(ViewMut::new(&mut out, rows, columns), left, right, 0.5, Into::Add, Threads::All);
            assert!(out.iter().zip(&want).all(|(out, want)| *out == want + 1.0));
        }
    }

    #[test]
    fn a_product_over_nothing_is_zero() {
        let nothing = View::new(&[], 2, 0);
        assert_eq!(product(nothing, nothing.transposed(), 1.0, Threads::One), [0.0; 4]);
    }

    #[test]
    fn strides_transposes_and_addition_follow_the_definition() {
        let a: Vec<f32> = (0..12).map(|v| v as f32).collect(); // 3 × 4, of which the left 3 × 2
        let b: Vec<f32> = (0..10).map(|v| (v * v) as f32).collect(); // 5 × 2, transposed to 2 × 5
        let mut out = vec![1.0; 3 * 5];
        let left = View::strided(&a, 3, 2, 4);
        let right = View::new(&b, 5, 2).transposed();
        matmul(ViewMut::new(&mut out, 3, 5), left, right, 2.0, Into::Add, Threads::All);
        for r in 0..3 {
            for c in 0..5 {
                let want: f32 = (0..2).map(|k| a[r * 4 + k] * b[c * 2 + k]).sum();
                assert_eq!(out[r * 5 + c], 1.0 + 2.0 * want);
            }
        }
        matmul(ViewMut::new(&mut out, 3, 5), left, right, 1.0, Into::Replace, Threads::One);
        assert_eq!(out[14], a[8] * b[8] + a[9] * b[9]);
    }
}
