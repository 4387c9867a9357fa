//! `y = x · Wᵀ + b`, with no gradient for what is frozen.
//!
//! candle's own product computes and keeps the gradient of a frozen weight; here a weight or bias that is no variable gets
//! none, which halves the backward pass of a LoRA step.

use super::launch::{Argument, File, Geometry, Kernel, has_cuda_kernel};
use super::matmul::{Into, Threads, View, ViewMut, matmul};
use super::profile::timed;
use super::recorded::{has_cpu_kernel, record2, record3};
use super::tensor_slice::{argument, storage, with_values};
use candle_core::{CpuStorage, CustomOp2, CustomOp3, DType, Layout, Result, Shape, Tensor, bail};
use rayon::prelude::*;

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
        match bias {
            Some(bias) if has_cpu_kernel(&x) => x.apply_op3(&weight, &bias.contiguous()?, Linear),
            None if has_cpu_kernel(&x) => x.apply_op2(&weight, Linear),
            Some(bias) => {
                let product = composed_product(&x, &weight)?;
                let result = if has_cuda_kernel(&x) {
                    add_bias(&product, bias)?
                } else {
                    product.broadcast_add(&bias.detach())?
                };
                record3(Linear, &x, &weight, bias, result)
            }
            None => record2(Linear, &x, &weight, composed_product(&x, &weight)?),
        }
    })
}

/// `[…, columns]` → `[rows, columns]`.
fn rows(x: &Tensor) -> Result<Tensor> {
    let columns = x.dims().last().copied().unwrap_or(1);
    x.detach().contiguous()?.reshape((x.elem_count() / columns.max(1), columns))
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
    let mut dims = x.dims().to_vec();
    if let Some(last) = dims.last_mut() {
        *last = weight.dim(0)?;
    }
    rows(x)?.matmul(&weight.detach().t()?)?.reshape(dims)
}

/// Gradients of `x` and `weight`, each only where it is wanted.
fn backward_elsewhere(
    x: &Tensor,
    weight: &Tensor,
    grad: &Tensor,
) -> Result<(Option<Tensor>, Option<Tensor>)> {
    let grad = rows(grad)?;
    let grad_x = x.track_op().then(|| grad.matmul(&weight.detach())?.reshape(x.shape()));
    let grad_weight = weight.track_op().then(|| grad.t()?.matmul(&rows(x)?));
    Ok((grad_x.transpose()?, grad_weight.transpose()?))
}

struct Linear;

/// The product itself: `x` is `rows × inputs`, `weight` `outputs × inputs`, `y` `rows × outputs`.
fn forward(y: &mut [f32], x: &[f32], weight: &[f32], bias: Option<&[f32]>, inputs: usize, outputs: usize) {
    let rows = x.len() / inputs;
    let into = match bias {
        Some(bias) => {
            y.par_chunks_mut(outputs).with_min_len(ROWS_A_PIECE).for_each(|row| row.copy_from_slice(bias));
            Into::Add
        }
        None => Into::Replace,
    };
    let (x, weight) = (View::new(x, rows, inputs), View::new(weight, outputs, inputs).transposed());
    matmul(ViewMut::new(y, rows, outputs), x, weight, 1.0, into, Threads::All);
}

fn run(
    x: &CpuStorage,
    xl: &Layout,
    w: &CpuStorage,
    wl: &Layout,
    bias: Option<&[f32]>,
) -> Result<(CpuStorage, Shape)> {
    let (outputs, inputs) = wl.shape().dims2()?;
    let (x, w) = (argument("linear", x, xl)?, argument("linear", w, wl)?);
    let mut dims = xl.dims().to_vec();
    if let Some(last) = dims.last_mut() {
        *last = outputs;
    }
    let mut y = vec![0f32; x.len() / inputs * outputs];
    forward(&mut y, x, w, bias, inputs, outputs);
    Ok((storage(y), Shape::from_dims(&dims)))
}

/// Gradients of `x` and `weight`, each only where it is wanted.
fn backward(x: &Tensor, weight: &Tensor, grad: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
    if !has_cpu_kernel(x) {
        return backward_elsewhere(x, weight, grad);
    }
    let (outputs, inputs) = weight.dims2()?;
    let rows = x.elem_count() / inputs;
    let (want_x, want_weight) = (x.track_op(), weight.track_op());
    with_values("linear", [x, weight, grad], |[xs, ws, gs]| {
        let g = View::new(gs, rows, outputs);
        let grad_x = want_x.then(|| {
            let mut out = vec![0f32; rows * inputs];
            let w = View::new(ws, outputs, inputs);
            matmul(ViewMut::new(&mut out, rows, inputs), g, w, 1.0, Into::Replace, Threads::All);
            Tensor::from_vec(out, x.shape(), x.device())
        });
        let grad_weight = want_weight.then(|| {
            let mut out = vec![0f32; outputs * inputs];
            let xs = View::new(xs, rows, inputs);
            matmul(
                ViewMut::new(&mut out, outputs, inputs),
                g.transposed(),
                xs,
                1.0,
                Into::Replace,
                Threads::All,
            );
            Tensor::from_vec(out, weight.shape(), weight.device())
        });
        Ok((grad_x.transpose()?, grad_weight.transpose()?))
    })
}

/// The gradient of the bias `b` of a product over `x`: the sum over the rows of that of the output, where it is wanted.
pub(super) fn bias_gradient(x: &Tensor, b: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
    match b.track_op() {
        false => Ok(None),
        true if !has_cpu_kernel(x) => rows(grad)?.to_dtype(DType::F32)?.sum(0)?.to_dtype(b.dtype()).map(Some),
        true => with_values("linear", [grad], |[g]| {
            Tensor::from_vec(column_sums(g, b.elem_count()), b.shape(), b.device()).map(Some)
        }),
    }
}

/// Sum over the rows: partial sums of fixed pieces, added in order.
pub(super) fn column_sums(values: &[f32], columns: usize) -> Vec<f32> {
    let pieces: Vec<Vec<f32>> = values
        .par_chunks(columns * ROWS_A_PIECE)
        .map(|piece| {
            let mut sums = vec![0f32; columns];
            for row in piece.chunks_exact(columns) {
                sums.iter_mut().zip(row).for_each(|(sum, value)| *sum += value);
            }
            sums
        })
        .collect();
    let mut total = vec![0f32; columns];
    for piece in &pieces {
        total.iter_mut().zip(piece).for_each(|(sum, value)| *sum += value);
    }
    total
}

impl CustomOp2 for Linear {
    fn name(&self) -> &'static str {
        "linear"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        xl: &Layout,
        w: &CpuStorage,
        wl: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        run(x, xl, w, wl, None)
    }

    fn bwd(
        &self,
        x: &Tensor,
        w: &Tensor,
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        backward(x, w, grad)
    }
}

impl CustomOp3 for Linear {
    fn name(&self) -> &'static str {
        "linear"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        xl: &Layout,
        w: &CpuStorage,
        wl: &Layout,
        b: &CpuStorage,
        bl: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        run(x, xl, w, wl, Some(argument("linear", b, bl)?))
    }

    fn bwd(
        &self,
        x: &Tensor,
        w: &Tensor,
        b: &Tensor,
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let (grad_x, grad_w) = backward(x, w, grad)?;
        let grad_b = bias_gradient(x, b, grad)?;
        Ok((grad_x, grad_w, grad_b))
    }
}
