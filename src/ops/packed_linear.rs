//! `y = x · Wᵀ + b` with a frozen W that is held in fewer bits than the product is computed in: a whole layer of numbers is never there
//! in full. On the CPU rows of W are widened a tile at a time, forward and backward; elsewhere W is widened for each product.
//!
//! 8 bits: a row's numbers are integers from −127 to 127 times the row's scale (symmetric, per output channel, as in Jacob et al. 2018,
//! "Quantization and Training of Neural Networks", §2.1, with a zero point of zero), rounded to the nearest.

use super::graph::record;
use super::launch::has_cuda_kernel;
use super::linear::{add_bias, bias_gradient, repeated, rows, with_last};
use super::matmul::{Into, Threads, View, ViewMut, matmul};
use super::profile::timed;
use super::tensor_slice::{has_cpu_kernel, with_values};
use candle_core::{CpuStorage, DType, Device, Result, Shape, Storage, Tensor, bail};
use half::bf16;
use rayon::prelude::*;

/// Rows of the weight that are widened at a time: few enough to stay in the cache, enough for the product to be worth its while.
const TILE: usize = 256;

/// What candle stores for the integer 0: it has no signed bytes.
const ZERO: i32 = 128;

/// A frozen matrix `[out, in]` in few bits.
#[derive(Clone, Debug)]
pub struct PackedWeight {
    /// bf16, or u8: integers, 128 more than they are.
    values: Tensor,
    /// Of 8 bits: what the integers of a row are multiplied by, f32, `[out, 1]`.
    scales: Option<Tensor>,
}

impl PackedWeight {
    /// `weight` `[out, in]` in bf16, on `device`.
    ///
    /// # Errors
    /// candle's.
    pub fn bf16(weight: &Tensor, device: &Device) -> Result<Self> {
        Ok(Self { values: weight.detach().to_dtype(DType::BF16)?.to_device(device)?, scales: None })
    }

    /// `weight` `[out, in]` in 8 bits, on `device`.
    ///
    /// # Errors
    /// candle's; or if a number is none.
    pub fn int8(weight: &Tensor, device: &Device) -> Result<Self> {
        let (outputs, inputs) = weight.dims2()?;
        let rows =
            weight.detach().to_dtype(DType::F32)?.to_device(&Device::Cpu)?.flatten_all()?.to_vec1::<f32>()?;
        let mut scales = Vec::with_capacity(outputs);
        let mut values = Vec::with_capacity(rows.len());
        for row in rows.chunks_exact(inputs.max(1)) {
            let largest = row.iter().fold(0f32, |largest, value| largest.max(value.abs()));
            if row.iter().any(|value| !value.is_finite()) {
                bail!("a weight that is no finite number has no 8 bits")
            }
            let scale = if largest > 0.0 { largest / 127.0 } else { 1.0 };
            values.extend(row.iter().map(|value| ((value / scale).round_ties_even() as i32 + ZERO) as u8));
            scales.push(scale);
        }
        Ok(Self {
            values: Tensor::from_vec(values, (outputs, inputs), &Device::Cpu)?.to_device(device)?,
            scales: Some(Tensor::from_vec(scales, (outputs, 1), &Device::Cpu)?.to_device(device)?),
        })
    }

    /// What is stored, `[out, in]`.
    pub fn values(&self) -> &Tensor {
        &self.values
    }

    /// The weight in `dtype`, in full.
    ///
    /// # Errors
    /// candle's.
    pub fn widened(&self, dtype: DType) -> Result<Tensor> {
        match &self.scales {
            None => self.values.to_dtype(dtype),
            Some(scales) => {
                let integers = self.values.to_dtype(DType::F32)?.affine(1.0, -f64::from(ZERO))?;
                integers.broadcast_mul(scales)?.to_dtype(dtype)
            }
        }
    }
}

/// `x` `[…, in]`, `bias` `[out]` → `[…, out]`. The weight gets no gradient.
///
/// # Errors
/// If the shapes or the number formats do not fit.
pub fn packed_linear(x: &Tensor, weight: &PackedWeight, bias: Option<&Tensor>) -> Result<Tensor> {
    let (outputs, inputs) = weight.values.dims2()?;
    if x.dims().last() != Some(&inputs) {
        bail!("packed_linear: the weight takes {inputs} inputs, the argument has shape {:?}", x.shape())
    }
    if let Some(bias) = bias.filter(|bias| bias.dims() != [outputs]) {
        bail!("packed_linear: {outputs} outputs, the bias has shape {:?}", bias.shape())
    }
    timed("packed_linear", x.device(), || {
        let (x, op) = (x.contiguous()?, PackedLinear { weight: weight.clone() });
        let bias = bias.map(Tensor::contiguous).transpose()?;
        let result = op.of(&x, bias.as_ref())?;
        let (shape, want_x) = (x.shape().clone(), x.track_op());
        let want_bias = bias.as_ref().is_some_and(Tensor::track_op);
        record("packed_linear, backward", [Some(&x), bias.as_ref()], result, move |grad| {
            let grad_x = want_x.then(|| op.gradient_of_x(grad, &shape)).transpose()?;
            Ok([grad_x, want_bias.then(|| bias_gradient(grad)).transpose()?])
        })
    })
}

struct PackedLinear {
    weight: PackedWeight,
}

/// The stored numbers, as the kernel reads them.
enum Stored<'a> {
    Bf16(&'a [bf16]),
    Int8(&'a [u8], Vec<f32>),
}

impl Stored<'_> {
    /// Rows `first` … of the weight in f32, as many as `tile` has room for.
    fn widen(&self, tile: &mut [f32], first: usize, inputs: usize) {
        tile.par_chunks_mut(inputs).enumerate().for_each(|(row, out)| {
            let row = first + row;
            let range = row * inputs..(row + 1) * inputs;
            match self {
                Self::Bf16(values) => {
                    // A bf16 is the upper half of an f32.
                    for (out, value) in out.iter_mut().zip(&values[range]) {
                        *out = f32::from_bits(u32::from(value.to_bits()) << 16);
                    }
                }
                Self::Int8(values, scales) => {
                    let scale = scales[row];
                    for (out, value) in out.iter_mut().zip(&values[range]) {
                        *out = (i32::from(*value) - ZERO) as f32 * scale;
                    }
                }
            }
        });
    }
}

impl PackedLinear {
    fn stored<'a>(&self, values: &'a CpuStorage) -> Result<Stored<'a>> {
        match (values, &self.weight.scales) {
            (CpuStorage::BF16(values), None) => Ok(Stored::Bf16(values)),
            (CpuStorage::U8(values), Some(scales)) => {
                Ok(Stored::Int8(values, scales.flatten_all()?.to_vec1::<f32>()?))
            }
            _ => bail!("packed_linear: the weight is neither bf16 nor 8 bits with scales"),
        }
    }

    fn forward(&self, x: &[f32], values: &CpuStorage, bias: Option<&[f32]>) -> Result<Vec<f32>> {
        let (outputs, inputs) = self.weight.values.dims2()?;
        let (stored, rows) = (self.stored(values)?, x.len() / inputs);
        let (mut y, into) = match bias {
            Some(bias) => (repeated(bias, rows), Into::Add),
            None => (vec![0f32; rows * outputs], Into::Replace),
        };
        if rows == 0 {
            return Ok(y);
        }
        let mut tile = vec![0f32; TILE.min(outputs) * inputs];
        for first in (0..outputs).step_by(TILE) {
            let count = TILE.min(outputs - first);
            let tile = &mut tile[..count * inputs];
            stored.widen(tile, first, inputs);
            let out = ViewMut::strided(&mut y[first..], rows, count, outputs);
            let weight = View::new(tile, count, inputs).transposed();
            matmul(out, View::new(x, rows, inputs), weight, 1.0, into, Threads::All);
        }
        Ok(y)
    }

    /// The gradient of x, a tile's part after the other.
    fn backward(&self, grad: &[f32], values: &CpuStorage) -> Result<Vec<f32>> {
        let (outputs, inputs) = self.weight.values.dims2()?;
        let (stored, rows) = (self.stored(values)?, grad.len() / outputs);
        let mut out = vec![0f32; rows * inputs];
        if rows == 0 {
            return Ok(out);
        }
        let mut tile = vec![0f32; TILE.min(outputs) * inputs];
        for first in (0..outputs).step_by(TILE) {
            let count = TILE.min(outputs - first);
            let tile = &mut tile[..count * inputs];
            stored.widen(tile, first, inputs);
            let into = if first == 0 { Into::Replace } else { Into::Add };
            let grad = View::strided(&grad[first..], rows, count, outputs);
            let weight = View::new(tile, count, inputs);
            matmul(ViewMut::new(&mut out, rows, inputs), grad, weight, 1.0, into, Threads::All);
        }
        Ok(out)
    }

    fn composed(&self, x: &Tensor) -> Result<Tensor> {
        let shape = with_last(x.shape(), self.weight.values.dim(0)?);
        rows(x)?.matmul(&self.weight.widened(x.dtype())?.t()?)?.reshape(shape)
    }

    fn of(&self, x: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
        if !has_cpu_kernel(x) {
            let product = self.composed(x)?;
            return match bias {
                None => Ok(product),
                Some(bias) if has_cuda_kernel(x) => add_bias(&product, bias),
                Some(bias) => product.broadcast_add(&bias.detach()),
            };
        }
        let shape = with_last(x.shape(), self.weight.values.dim(0)?);
        let y = self.with_stored(|values| match bias {
            Some(bias) => {
                with_values("packed_linear", [x, bias], |[x, bias]| self.forward(x, values, Some(bias)))
            }
            None => with_values("packed_linear", [x], |[x]| self.forward(x, values, None)),
        })?;
        Tensor::from_vec(y, shape, x.device())
    }

    fn gradient_of_x(&self, grad: &Tensor, shape: &Shape) -> Result<Tensor> {
        if !has_cpu_kernel(grad) {
            return rows(grad)?.matmul(&self.weight.widened(grad.dtype())?)?.reshape(shape);
        }
        let out =
            self.with_stored(|values| with_values("packed_linear", [grad], |[g]| self.backward(g, values)))?;
        Tensor::from_vec(out, shape, grad.device())
    }

    /// Calls `work` with the weight's storage.
    fn with_stored<T>(&self, work: impl FnOnce(&CpuStorage) -> Result<T>) -> Result<T> {
        let (guard, layout) = self.weight.values.storage_and_layout();
        if layout.contiguous_offsets() != Some((0, layout.shape().elem_count())) {
            bail!("packed_linear: the weight is a part of another tensor")
        }
        match &*guard {
            Storage::Cpu(values) => work(values),
            _ => bail!("packed_linear: the weight is on another device"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::{backward, linear};
    use candle_core::Var;

    fn random(shape: (usize, usize), seed: u64) -> Tensor {
        use crate::randomness::{Purpose, Randomness};
        let mut stream = Randomness::new(seed).stream(Purpose::Initialize, 0, 0, 0);
        let values: Vec<f32> = (0..shape.0 * shape.1).map(|_| stream.normal()).collect();
        Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
    }

    fn largest_difference(a: &Tensor, b: &Tensor) -> f32 {
        let (a, b) = (a.to_dtype(DType::F32).unwrap(), b.to_dtype(DType::F32).unwrap());
        (a - b).unwrap().abs().unwrap().flatten_all().unwrap().max(0).unwrap().to_scalar().unwrap()
    }

    /// More rows than a tile, and no multiple of it.
    const OUTPUTS: usize = 2 * TILE + 7;

    #[test]
    fn a_packed_product_and_its_gradients_are_those_of_the_widened_weight() {
        let (x, weight, bias) = (random((5, 33), 1), random((OUTPUTS, 33), 2), random((1, OUTPUTS), 3));
        let packed =
            [PackedWeight::int8, PackedWeight::bf16].map(|pack| pack(&weight, &Device::Cpu).unwrap());
        for packed in packed {
            for dtype in [DType::F32, DType::F64] {
                let x = Var::from_tensor(&x.to_dtype(dtype).unwrap()).unwrap();
                let bias = Var::from_tensor(&bias.flatten_all().unwrap().to_dtype(dtype).unwrap()).unwrap();
                let pull = random((5, OUTPUTS), 4).to_dtype(dtype).unwrap();
                let widened = packed.widened(dtype).unwrap();
                let results = [
                    packed_linear(&x, &packed, Some(&bias)).unwrap(),
                    linear(&x, &widened, Some(&bias)).unwrap(),
                ];
                let gradients = results.each_ref().map(|y| {
                    let store = backward(&(y * &pull).unwrap().sum_all().unwrap()).unwrap();
                    [&x, &bias].map(|variable| store.get(variable.as_tensor()).unwrap().clone())
                });
                assert!(largest_difference(&results[0], &results[1]) < 1e-4, "{dtype:?}");
                for (ours, want) in gradients[0].iter().zip(&gradients[1]) {
                    assert!(largest_difference(ours, want) < 1e-3, "{dtype:?}");
                }
            }
        }
    }

    #[test]
    fn eight_bits_keep_every_number_within_half_a_step_of_its_row() {
        let weight = random((9, 50), 5);
        let packed = PackedWeight::int8(&weight, &Device::Cpu).unwrap();
        assert_eq!(packed.values().dtype(), DType::U8);
        let widened = packed.widened(DType::F32).unwrap().to_vec2::<f32>().unwrap();
        for (row, widened) in weight.to_vec2::<f32>().unwrap().iter().zip(widened) {
            let step = row.iter().fold(0f32, |largest, value| largest.max(value.abs())) / 127.0;
            for (value, widened) in row.iter().zip(widened) {
                assert!((value - widened).abs() <= 0.5001 * step, "{value} {widened} {step}");
            }
        }
        let zeros =
            PackedWeight::int8(&Tensor::zeros((2, 3), DType::F32, &Device::Cpu).unwrap(), &Device::Cpu);
        let zeros = zeros.unwrap().widened(DType::F32).unwrap();
        assert_eq!(zeros.to_vec2::<f32>().unwrap(), [[0.0; 3]; 2]);
        let infinite = Tensor::new(&[[f32::INFINITY, 1.0]], &Device::Cpu).unwrap();
        assert!(PackedWeight::int8(&infinite, &Device::Cpu).is_err());
    }
}
