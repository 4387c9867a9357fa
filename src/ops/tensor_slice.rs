//! From candle's tensors to the slices kernels work on.
//!
//! Called by the ops' faces. Everything here is for contiguous f32 data on the CPU; anything else is an error that names the
//! op, never a silent conversion.

use candle_core::{CpuStorage, DType, Layout, Result, Storage, Tensor, bail};

/// Whether an op's own CPU kernel computes this argument; anything else is composed of candle's operations, over detached
/// arguments.
pub(super) fn has_cpu_kernel(tensor: &Tensor) -> bool {
    tensor.device().is_cpu() && tensor.dtype() == DType::F32
}

/// The contiguous values of an argument.
pub(super) fn argument<'a>(op: &'static str, storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [f32]> {
    let CpuStorage::F32(values) = storage else {
        bail!(
            "{op}: the CPU computes in f32, the argument is {:?}",
            candle_core::backend::BackendStorage::dtype(storage)
        )
    };
    match layout.contiguous_offsets() {
        Some((start, end)) => Ok(&values[start..end]),
        None => bail!("{op}: the argument is not contiguous (shape {:?})", layout.shape()),
    }
}

/// Runs `kernel` over the values of tensors: candle hands out neither slices nor storages.
pub(super) fn with_values<const N: usize, T>(
    op: &'static str,
    tensors: [&Tensor; N],
    kernel: impl FnOnce([&[f32]; N]) -> Result<T>,
) -> Result<T> {
    let contiguous: Vec<Tensor> = tensors.iter().map(|t| t.contiguous()).collect::<Result<_>>()?;
    let guards: Vec<_> = contiguous.iter().map(|t| t.storage_and_layout()).collect();
    let mut values: [&[f32]; N] = [&[]; N];
    for (slot, (storage, layout)) in values.iter_mut().zip(&guards) {
        *slot = match &**storage {
            Storage::Cpu(storage) => argument(op, storage, layout)?,
            _ => bail!("{op}: no backward pass on this device"),
        };
    }
    kernel(values)
}
