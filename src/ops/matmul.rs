//! The matrix product over strided views, its output passed in: the crate `gemm`, which candle's own product uses too.
//!
//! Called by the linear and attention kernels. Views are checked when they are made, so the product itself cannot leave them.

use gemm::Parallelism;

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

    /// A contiguous row-major matrix.
    pub(super) fn new(values: &'a mut [f32], rows: usize, columns: usize) -> Self {
        Self::strided(values, rows, columns, columns)
    }
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
    let parallelism = match threads {
        Threads::One => Parallelism::None,
        Threads::All => Parallelism::Rayon(rayon::current_num_threads()),
    };
    // SAFETY: each view was checked to lie inside its slice when it was made; the output is borrowed mutably, its rows do
    // not overlap, and the shapes agree (asserted above).
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
