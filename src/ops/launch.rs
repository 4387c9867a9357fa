//! Launching our CUDA kernels: tensors in, a tensor out.
//!
//! An op's face describes the call as a [`Kernel`] and runs it; the kernels lie in the `.cu` files beside the ops and are
//! compiled to PTX when the crate is built. Builds without CUDA have the description and refuse the call, which they never
//! make: [`has_cuda_kernel`] is false there.

use candle_core::{
    CpuStorage, CudaStorage, CustomOp1, CustomOp2, CustomOp3, DType, Layout, Result, Shape, Tensor, bail,
};

/// Whether a kernel computes this argument.
pub(super) fn has_cuda_kernel(tensor: &Tensor) -> bool {
    let known = matches!(tensor.dtype(), DType::F32 | DType::F16 | DType::BF16);
    cfg!(feature = "cuda") && tensor.device().is_cuda() && known
}

/// A `.cu` file.
#[derive(Clone, Copy)]
pub(super) enum File {
    Attention,
    Elementwise,
    LayerNorm,
}

/// What runs at once.
#[derive(Clone, Copy)]
#[cfg_attr(not(feature = "cuda"), allow(dead_code, reason = "read where kernels are launched"))]
pub(super) enum Geometry {
    /// A warp for each of so many rows.
    Rows(usize),
    /// A thread for each of so many values.
    Values(usize),
}

/// An argument after the result, in the kernel's order.
#[derive(Clone, Copy)]
#[cfg_attr(not(feature = "cuda"), allow(dead_code, reason = "read where kernels are launched"))]
pub(super) enum Argument {
    /// The values of a tensor in the kernel's number format, by its place among those of the call, and how many there must be.
    Tensor(usize, usize),
    /// The same of a tensor that is f32 whatever the format.
    Wide(usize, usize),
    /// A tensor that is absent.
    Absent,
    /// A C `float`.
    F32(f32),
    /// A C `unsigned`.
    U32(u32),
    /// A C `size_t` or `uint64_t`.
    U64(u64),
}

/// A call of a kernel.
#[cfg_attr(not(feature = "cuda"), allow(dead_code, reason = "read where kernels are launched"))]
pub(super) struct Kernel<'a> {
    pub(super) file: File,
    /// Its name without the number format.
    pub(super) name: &'static str,
    pub(super) geometry: Geometry,
    pub(super) arguments: &'a [Argument],
}

impl Kernel<'_> {
    /// Runs the kernel for the number format of the first tensor. The result has that tensor's shape and format.
    ///
    /// # Errors
    /// If a tensor is not contiguous, there are not one to three, or the driver refuses.
    pub(super) fn run(&self, tensors: &[&Tensor]) -> Result<Tensor> {
        match tensors {
            [x] => x.apply_op1_no_bwd(self),
            [x, y] => x.apply_op2_no_bwd(y, self),
            [x, y, z] => x.apply_op3_no_bwd(y, z, self),
            _ => bail!("{}: {} tensors; a kernel takes one to three", self.name, tensors.len()),
        }
    }

    /// On the CPU there is nothing to run; tests compare the call with its kernel.
    fn refuse(&self) -> Result<(CpuStorage, Shape)> {
        #[cfg(test)]
        super::signatures::check(self);
        bail!("{}: a CUDA kernel", self.name)
    }

    #[cfg(feature = "cuda")]
    fn launch(&self, tensors: &[(&CudaStorage, &Layout)]) -> Result<(CudaStorage, Shape)> {
        device::launch(self, tensors)
    }

    #[cfg(not(feature = "cuda"))]
    fn launch(&self, _: &[(&CudaStorage, &Layout)]) -> Result<(CudaStorage, Shape)> {
        bail!("{}: this build has no CUDA in it", self.name)
    }
}

impl CustomOp1 for Kernel<'_> {
    fn name(&self) -> &'static str {
        self.name
    }

    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout) -> Result<(CpuStorage, Shape)> {
        self.refuse()
    }

    fn cuda_fwd(&self, x: &CudaStorage, xl: &Layout) -> Result<(CudaStorage, Shape)> {
        self.launch(&[(x, xl)])
    }
}

impl CustomOp2 for Kernel<'_> {
    fn name(&self) -> &'static str {
        self.name
    }

    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout, _: &CpuStorage, _: &Layout) -> Result<(CpuStorage, Shape)> {
        self.refuse()
    }

    fn cuda_fwd(
        &self,
        x: &CudaStorage,
        xl: &Layout,
        y: &CudaStorage,
        yl: &Layout,
    ) -> Result<(CudaStorage, Shape)> {
        self.launch(&[(x, xl), (y, yl)])
    }
}

impl CustomOp3 for Kernel<'_> {
    fn name(&self) -> &'static str {
        self.name
    }

    fn cpu_fwd(
        &self,
        _: &CpuStorage,
        _: &Layout,
        _: &CpuStorage,
        _: &Layout,
        _: &CpuStorage,
        _: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        self.refuse()
    }

    fn cuda_fwd(
        &self,
        x: &CudaStorage,
        xl: &Layout,
        y: &CudaStorage,
        yl: &Layout,
        z: &CudaStorage,
        zl: &Layout,
    ) -> Result<(CudaStorage, Shape)> {
        self.launch(&[(x, xl), (y, yl), (z, zl)])
    }
}

#[cfg(feature = "cuda")]
mod device {
    use super::{Argument, File, Geometry, Kernel};
    use candle_core::backend::{BackendDevice, BackendStorage};
    use candle_core::cuda_backend::WrapErr;
    use candle_core::cuda_backend::cudarc::driver::{DevicePtr, LaunchConfig, PushKernelArg};
    use candle_core::{CudaDevice, CudaStorage, DType, Layout, Result, Shape, bail};
    use half::{bf16, f16};

    /// Rows, each a warp, in a block.
    const ROWS_A_BLOCK: u32 = 8;
    /// Values, each a thread, in a block.
    const VALUES_A_BLOCK: u32 = 256;

    impl File {
        /// Its module's name, and the compiled kernels.
        fn ptx(self) -> (&'static str, &'static str) {
            match self {
                Self::Attention => {
                    ("featherlight_attention", include_str!(concat!(env!("OUT_DIR"), "/attention.ptx")))
                }
                Self::Elementwise => {
                    ("featherlight_elementwise", include_str!(concat!(env!("OUT_DIR"), "/elementwise.ptx")))
                }
                Self::LayerNorm => {
                    ("featherlight_layer_norm", include_str!(concat!(env!("OUT_DIR"), "/layer_norm.ptx")))
                }
            }
        }
    }

    impl Geometry {
        fn config(self) -> Result<LaunchConfig> {
            let (work, block_dim) = match self {
                Self::Rows(rows) => (rows.div_ceil(ROWS_A_BLOCK as usize), (32, ROWS_A_BLOCK, 1)),
                Self::Values(values) => (values.div_ceil(VALUES_A_BLOCK as usize), (VALUES_A_BLOCK, 1, 1)),
            };
            match u32::try_from(work) {
                Ok(blocks) if blocks <= i32::MAX as u32 => {
                    Ok(LaunchConfig { grid_dim: (blocks.max(1), 1, 1), block_dim, shared_mem_bytes: 0 })
                }
                _ => bail!("{work} blocks are more than a kernel can have"),
            }
        }
    }

    /// Where the contiguous values of a storage start on the device.
    fn address(name: &str, storage: &CudaStorage, layout: &Layout) -> Result<u64> {
        if layout.contiguous_offsets().is_none() {
            bail!("{name}: the argument is not contiguous (shape {:?})", layout.shape())
        }
        let stream = storage.device().cuda_stream();
        let start = match storage.dtype() {
            DType::F32 => storage.as_cuda_slice::<f32>()?.device_ptr(&stream).0,
            DType::F16 => storage.as_cuda_slice::<f16>()?.device_ptr(&stream).0,
            DType::BF16 => storage.as_cuda_slice::<bf16>()?.device_ptr(&stream).0,
            other => bail!("{name}: no kernel for {other:?}"),
        };
        Ok(start + (layout.start_offset() * storage.dtype().size_in_bytes()) as u64)
    }

    /// A kernel's argument as the driver copies it.
    enum Value {
        Word(u64),
        U32(u32),
        F32(f32),
    }

    pub(super) fn launch(
        kernel: &Kernel<'_>,
        tensors: &[(&CudaStorage, &Layout)],
    ) -> Result<(CudaStorage, Shape)> {
        let Some((first, layout)) = tensors.first() else { bail!("{}: no tensor", kernel.name) };
        let device: CudaDevice = first.device().clone();
        // SAFETY: every kernel writes every value of its result.
        let result = unsafe { device.alloc_uninit(layout.shape(), first.dtype())? };
        let whole = Layout::contiguous(layout.shape());
        let values_of = |index: usize, count: usize, dtype: DType| match tensors.get(index) {
            Some((storage, layout)) if storage.dtype() == dtype && layout.shape().elem_count() == count => {
                address(kernel.name, storage, layout)
            }
            Some((storage, layout)) => {
                let (found, shape) = (storage.dtype(), layout.shape());
                bail!(
                    "{}: {count} values in {dtype:?} wanted, found {found:?} of shape {shape:?}",
                    kernel.name
                )
            }
            None => bail!("{}: no tensor {index}", kernel.name),
        };
        let mut values = vec![Value::Word(address(kernel.name, &result, &whole)?)];
        for argument in kernel.arguments {
            values.push(match *argument {
                Argument::Tensor(index, count) => Value::Word(values_of(index, count, first.dtype())?),
                Argument::Wide(index, count) => Value::Word(values_of(index, count, DType::F32)?),
                Argument::Absent => Value::Word(0),
                Argument::F32(value) => Value::F32(value),
                Argument::U32(value) => Value::U32(value),
                Argument::U64(value) => Value::Word(value),
            });
        }
        let (module, ptx) = kernel.file.ptx();
        let name = format!("{}_{}", kernel.name, first.dtype().as_str());
        let function = device.get_or_load_custom_func(&name, module, ptx)?;
        let mut builder = function.builder();
        for value in &values {
            match value {
                Value::Word(value) => builder.arg(value),
                Value::U32(value) => builder.arg(value),
                Value::F32(value) => builder.arg(value),
            };
        }
        // SAFETY: the faces give the arguments of the kernel's signature in its `.cu` file, and each tensor has the format and
        // the number of values that they state; the storages outlive the call, and the stream orders it before they are given
        // back.
        unsafe { builder.launch(kernel.geometry.config()?) }.w()?;
        Ok((result, layout.shape().clone()))
    }
}
