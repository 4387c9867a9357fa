//! `y = x · Wᵀ + b`, with no gradient for what is frozen.
//!
//! candle's own product computes and keeps the gradient of a frozen weight; here a weight or bias that is no variable gets
//! none, which halves the backward pass of a LoRA step, and x is kept for a trained weight alone.

use super::graph::{Kept, record};
use super::launch::{Argument, File, Geometry, Kernel, has_cuda_kernel};
use super::matmul::{self, Into, Threads, View, ViewMut, matmul};
use super::profile::timed;
use super::residual::{Residual, residual};
use super::tensor_slice::{argument, has_cpu_kernel, with_values};
use candle_core::{CpuStorage, DType, InplaceOp3, Layout, Result, Shape, Tensor, bail};
use rayon::prelude::*;
use std::ops::Range;

/// Rows whose bias gradient is one partial sum: fixed, so that the sum does not depend on the number of threads.
const ROWS_A_PIECE: usize = 64;

/// `x` `[…, in]`, `weight` `[out, in]`, `bias` `[out]` → `[…, out]`.
///
/// # Errors
/// If the shapes or the number formats do not fit.
pub fn linear(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
    let (outputs, inputs) = weight.dims2()?;
    if x.dims().last() != Some(&inputs) {
        bail!("linear: the weight takes {inputs} inputs, the argument has shape {:?}", x.shape())
    }
    if let Some(bias) = bias.filter(|bias| bias.dims() != [outputs]) {
        bail!("linear: {outputs} outputs, the bias has shape {:?}", bias.shape())
    }
    timed("linear", x.device(), || {
        let (x, weight) = (x.contiguous()?, weight.contiguous()?);
        let bias = bias.map(Tensor::contiguous).transpose()?;
        let result = match &bias {
            _ if has_cpu_kernel(&x) => product(&x, &weight, bias.as_ref())?,
            None => composed_product(&x, &weight)?,
            Some(bias) if has_cuda_kernel(&x) => add_bias(&composed_product(&x, &weight)?, bias)?,
            Some(bias) => composed_product(&x, &weight)?.broadcast_add(&bias.detach())?,
        };
        let (factors, want_bias) =
            (Factors::of(&x, &weight, 1.0), bias.as_ref().is_some_and(Tensor::track_op));
        record("linear, backward", [Some(&x), Some(&weight), bias.as_ref()], result, move |grad| {
            let [grad_x, grad_weight] = factors.gradients(grad)?;
            Ok([grad_x, grad_weight, want_bias.then(|| bias_gradient(grad)).transpose()?])
        })
    })
}

/// `y + scale · x · Wᵀ`, in the memory of `y` where the CPU computes: nobody may read `y` any more. `y` `[…, out]`, `x` `[…, in]`,
/// `weight` `[out, in]`.
///
/// # Errors
/// If the shapes or the number formats do not fit.
pub fn linear_onto(y: Tensor, x: &Tensor, weight: &Tensor, scale: f32) -> Result<Tensor> {
    if !has_cpu_kernel(&y) || y.is_variable() {
        return residual(&y, &linear(x, weight, None)?, None, Residual::Constant(scale));
    }
    let (outputs, inputs) = weight.dims2()?;
    if x.dims().last() != Some(&inputs) || &with_last(x.shape(), outputs) != y.shape() {
        bail!("linear_onto: a weight {:?} from {:?} onto {:?}", weight.shape(), x.shape(), y.shape())
    }
    timed("linear", y.device(), || {
        let (y, x, weight) = (y.contiguous()?, x.contiguous()?, weight.contiguous()?);
        let result = y.detach();
        result.inplace_op3(&x.detach(), &weight.detach(), &AddProduct { scale })?;
        let factors = Factors::of(&x, &weight, scale);
        let want_y = y.track_op();
        record("linear, backward", [Some(&y), Some(&x), Some(&weight)], result, move |grad| {
            let [grad_x, grad_weight] = factors.gradients(grad)?;
            Ok([want_y.then(|| grad.clone()), grad_x, grad_weight])
        })
    })
}

struct AddProduct {
    scale: f32,
}

impl InplaceOp3 for AddProduct {
    fn name(&self) -> &'static str {
        "linear_onto"
    }

    fn cpu_fwd(
        &self,
        y: &mut CpuStorage,
        yl: &Layout,
        x: &CpuStorage,
        xl: &Layout,
        w: &CpuStorage,
        wl: &Layout,
    ) -> Result<()> {
        let (outputs, inputs) = wl.shape().dims2()?;
        let (x, w) = (argument("linear_onto", x, xl)?, argument("linear_onto", w, wl)?);
        let CpuStorage::F32(y) = y else { bail!("linear_onto: the CPU computes in f32") };
        let Some((start, end)) = yl.contiguous_offsets() else { bail!("linear_onto: y has gaps") };
        let (y, rows) = (&mut y[start..end], x.len() / inputs.max(1));
        let (x, w) = (View::new(x, rows, inputs), View::new(w, outputs, inputs).transposed());
        matmul(ViewMut::new(y, rows, outputs), x, w, self.scale, Into::Add, Threads::All);
        Ok(())
    }
}

/// `[…, columns]` → `[rows, columns]`.
pub(super) fn rows(x: &Tensor) -> Result<Tensor> {
    let columns = x.dims().last().copied().unwrap_or(1);
    x.detach().contiguous()?.reshape((x.elem_count() / columns.max(1), columns))
}

/// The shape of `x` with `last` in the place of its last side.
pub(super) fn with_last(x: &Shape, last: usize) -> Shape {
    let mut dims = x.dims().to_vec();
    if let Some(side) = dims.last_mut() {
        *side = last;
    }
    Shape::from(dims)
}

/// The kernel in elementwise.cu.
pub(super) fn add_bias(x: &Tensor, bias: &Tensor) -> Result<Tensor> {
    let count = x.elem_count();
    let arguments = [
        Argument::Tensor(0, count),
        Argument::Tensor(1, x.dims().last().copied().unwrap_or(1)),
        Argument::U64(count as u64),
        Argument::U32(bias.elem_count() as u32),
    ];
    let geometry = Geometry::Values(count);
    let kernel = Kernel { file: File::Elementwise, name: "add_bias", geometry, arguments: &arguments };
    kernel.run(&[x, &bias.contiguous()?])
}

fn composed_product(x: &Tensor, weight: &Tensor) -> Result<Tensor> {
    rows(x)?.matmul(&weight.detach().t()?)?.reshape(with_last(x.shape(), weight.dim(0)?))
}

/// The CPU's product.
fn product(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
    let (outputs, inputs) = weight.dims2()?;
    let shape = with_last(x.shape(), outputs);
    let rows = x.elem_count() / inputs.max(1);
    let y = match bias {
        None => with_values("linear", [x, weight], |[x, weight]| {
            let (x, weight) = (View::new(x, rows, inputs), View::new(weight, outputs, inputs).transposed());
            Ok(matmul::product(x, weight, 1.0, Threads::All))
        })?,
        Some(bias) => with_values("linear", [x, weight, bias], |[x, weight, bias]| {
            let mut y = repeated(bias, rows);
            let (x, weight) = (View::new(x, rows, inputs), View::new(weight, outputs, inputs).transposed());
            matmul(ViewMut::new(&mut y, rows, outputs), x, weight, 1.0, Into::Add, Threads::All);
            Ok(y)
        })?,
    };
    Tensor::from_vec(y, shape, weight.device())
}

/// `row`, so many times.
pub(super) fn repeated(row: &[f32], times: usize) -> Vec<f32> {
    let count = row.len() * times;
    let mut values: Vec<f32> = Vec::with_capacity(count);
    let rows = values.spare_capacity_mut()[..count].par_chunks_exact_mut(row.len().max(1));
    rows.with_min_len(ROWS_A_PIECE).for_each(|out| {
        for (out, value) in out.iter_mut().zip(row) {
            out.write(*value);
        }
    });
    // SAFETY: each of the `count` values was written, in rows that `count` is a multiple of.
    unsafe { values.set_len(count) };
    values
}

/// The factors of `scale · x · Wᵀ` as its backward pass reads them: each where the other's gradient is wanted.
struct Factors {
    x: Option<Kept>,
    weight: Option<Tensor>,
    shape_of_x: Shape,
    scale: f32,
}

impl Factors {
    fn of(x: &Tensor, weight: &Tensor, scale: f32) -> Self {
        Self {
            x: weight.track_op().then(|| Kept::of(x)),
            weight: x.track_op().then(|| weight.detach()),
            shape_of_x: x.shape().clone(),
            scale,
        }
    }

    /// Of x and of the weight, from that of the product.
    fn gradients(self, grad: &Tensor) -> Result<[Option<Tensor>; 2]> {
        let Self { x, weight, shape_of_x, scale } = self;
        let grad_x = weight.map(|weight| match has_cpu_kernel(&weight) {
            true => gradient_of_x(&weight, grad, &shape_of_x, scale),
            false => times(rows(grad)?.matmul(&weight)?, scale)?.reshape(&shape_of_x),
        });
        let grad_weight = x.map(|x| x.values()).transpose()?.map(|x| match has_cpu_kernel(&x) {
            true => gradient_of_weight(&x, grad, scale),
            false => times(rows(grad)?.t()?.matmul(&rows(&x)?)?, scale),
        });
        Ok([grad_x.transpose()?, grad_weight.transpose()?])
    }
}

fn times(product: Tensor, scale: f32) -> Result<Tensor> {
    if scale == 1.0 { Ok(product) } else { product.affine(f64::from(scale), 0.0) }
}

fn gradient_of_x(weight: &Tensor, grad: &Tensor, shape: &Shape, scale: f32) -> Result<Tensor> {
    let (outputs, inputs) = weight.dims2()?;
    let rows = shape.elem_count() / inputs.max(1);
    with_values("linear", [weight, grad], |[w, g]| {
        let (g, w) = (View::new(g, rows, outputs), View::new(w, outputs, inputs));
        Tensor::from_vec(matmul::product(g, w, scale, Threads::All), shape, weight.device())
    })
}

fn gradient_of_weight(x: &Tensor, grad: &Tensor, scale: f32) -> Result<Tensor> {
    let side = |tensor: &Tensor| tensor.dims().last().copied().unwrap_or(1);
    let (outputs, inputs) = (side(grad), side(x));
    let rows = x.elem_count() / inputs.max(1);
    with_values("linear", [x, grad], |[x, g]| {
        let (g, x) = (View::new(g, rows, outputs).transposed(), View::new(x, rows, inputs));
        Tensor::from_vec(matmul::product(g, x, scale, Threads::All), (outputs, inputs), grad.device())
    })
}

/// The gradient of the bias of a product: the sum over the rows of that of the product.
pub(super) fn bias_gradient(grad: &Tensor) -> Result<Tensor> {
    if !has_cpu_kernel(grad) {
        return rows(grad)?.to_dtype(DType::F32)?.sum(0)?.to_dtype(grad.dtype());
    }
    let columns = grad.dims().last().copied().unwrap_or(1);
    with_values("linear", [grad], |[g]| Tensor::from_vec(column_sums(g, columns), columns, grad.device()))
}

/// Sum over the rows.
pub(super) fn column_sums(values: &[f32], columns: usize) -> Vec<f32> {
    sums_of_pieces(values.len() / columns.max(1), columns, |rows, sums| {
        for row in values[rows.start * columns..rows.end * columns].chunks_exact(columns) {
            sums.iter_mut().zip(row).for_each(|(sum, value)| *sum += value);
        }
    })
}

/// Sums over `rows` rows: `add` adds those of a range to its second argument. Partial sums of fixed pieces, added in order.
pub(super) fn sums_of_pieces(
    rows: usize,
    columns: usize,
    add: impl Fn(Range<usize>, &mut [f32]) + Sync,
) -> Vec<f32> {
    let pieces: Vec<Vec<f32>> = (0..rows.div_ceil(ROWS_A_PIECE))
        .into_par_iter()
        .map(|piece| {
            let mut sums = vec![0f32; columns];
            add(piece * ROWS_A_PIECE..rows.min((piece + 1) * ROWS_A_PIECE), &mut sums);
            sums
        })
        .collect();
    let mut total = vec![0f32; columns];
    for piece in &pieces {
        total.iter_mut().zip(piece).for_each(|(sum, value)| *sum += value);
    }
    total
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::gelu;
    use candle_core::{Device, Var};

    #[test]
    fn x_is_kept_for_a_trained_weight_alone_and_not_where_it_is_soon_computed_again() {
        let variable = |values: &[[f32; 2]; 1]| Var::new(values, &Device::Cpu).unwrap();
        let (x, trained) = (variable(&[[1.0, -2.0]]), variable(&[[0.5, 1.0]]));
        let frozen = trained.as_detached_tensor();
        let x = gelu(&x).unwrap();
        assert!(Factors::of(&x, &frozen, 1.0).x.is_none());
        assert!(matches!(Factors::of(&x, &trained, 1.0).x, Some(Kept::Again(_))));
        assert!(matches!(Factors::of(&x.affine(2.0, 0.0).unwrap(), &trained, 1.0).x, Some(Kept::Values(_))));
        assert!(Factors::of(&frozen, &trained, 1.0).weight.is_none());
    }

    #[test]
    fn a_row_is_repeated() {
        assert_eq!(repeated(&[1.0, 2.0], 3), [1.0, 2.0, 1.0, 2.0, 1.0, 2.0]);
        assert_eq!((repeated(&[], 3), repeated(&[1.0], 0)), (vec![], vec![]));
    }
}
