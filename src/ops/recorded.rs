//! Compositions of candle's operations that are one op to the gradient: how an op runs where it has no kernel of its own.
//!
//! A face computes its result from candle's operations over detached arguments, which keeps nothing, and hands it to
//! [`record1`], [`record2`] or [`record3`]: the op then stands in the graph with its own backward pass, exactly as it would
//! after a kernel. (candle's graph would keep every intermediate value, and compute gradients of frozen weights.) A kernel
//! for a device replaces the composition in the op's file; nothing else changes.

use candle_core::backend::{BackendDevice, BackendStorage};
use candle_core::{
    CpuStorage, CudaStorage, CustomOp1, CustomOp2, CustomOp3, DType, Error, InplaceOp1, Layout, Result,
    Shape, Storage, Tensor, bail,
};
use std::sync::{Mutex, PoisonError};

/// Whether an op's own CPU kernel computes this argument; anything else is composed.
pub(super) fn has_cpu_kernel(tensor: &Tensor) -> bool {
    tensor.device().is_cpu() && tensor.dtype() == DType::F32
}

/// `result`, computed already, as the output of `op` over `x`.
pub(super) fn record1<O>(op: O, x: &Tensor, result: Tensor) -> Result<Tensor>
where
    O: CustomOp1 + Send + Sync + 'static,
{
    if x.track_op() { x.apply_op1(Recorded::new(op, result)?) } else { Ok(result) }
}

/// `result`, computed already, as the output of `op` over `x` and `y`.
pub(super) fn record2<O>(op: O, x: &Tensor, y: &Tensor, result: Tensor) -> Result<Tensor>
where
    O: CustomOp2 + Send + Sync + 'static,
{
    let tracked = x.track_op() || y.track_op();
    if tracked { x.apply_op2(y, Recorded::new(op, result)?) } else { Ok(result) }
}

/// `result`, computed already, as the output of `op` over `x`, `y` and `z`.
pub(super) fn record3<O>(op: O, x: &Tensor, y: &Tensor, z: &Tensor, result: Tensor) -> Result<Tensor>
where
    O: CustomOp3 + Send + Sync + 'static,
{
    let tracked = x.track_op() || y.track_op() || z.track_op();
    if tracked { x.apply_op3(y, z, Recorded::new(op, result)?) } else { Ok(result) }
}

/// An op whose forward pass is over.
struct Recorded<O> {
    op: O,
    shape: Shape,
    result: Mutex<Option<Storage>>,
}

impl<O> Recorded<O> {
    fn new(op: O, result: Tensor) -> Result<Self> {
        let result = result.contiguous()?;
        let shape = result.shape().clone();
        if result.layout().start_offset() != 0 || result.track_op() {
            bail!("a recorded result must be a fresh tensor")
        }
        let taken = Take(Mutex::new(None));
        result.inplace_op1(&taken)?;
        Ok(Self { op, shape, result: taken.0 })
    }

    fn take(&self) -> Result<Storage> {
        let result = self.result.lock().unwrap_or_else(PoisonError::into_inner).take();
        result.ok_or_else(|| Error::Msg("a recorded result can be used once".to_owned()))
    }

    fn cpu(&self) -> Result<(CpuStorage, Shape)> {
        match self.take()? {
            Storage::Cpu(storage) => Ok((storage, self.shape.clone())),
            _ => bail!("a recorded result lies on another device than its arguments"),
        }
    }

    fn cuda(&self) -> Result<(CudaStorage, Shape)> {
        match self.take()? {
            Storage::Cuda(storage) => Ok((storage, self.shape.clone())),
            _ => bail!("a recorded result lies on another device than its arguments"),
        }
    }
}

/// Takes the storage out of a tensor that nobody will read again: candle hands out no other way.
struct Take(Mutex<Option<Storage>>);

impl Take {
    fn put(&self, storage: Storage) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(storage);
    }
}

impl InplaceOp1 for Take {
    fn name(&self) -> &'static str {
        "take"
    }

    fn cpu_fwd(&self, storage: &mut CpuStorage, _: &Layout) -> Result<()> {
        self.put(Storage::Cpu(std::mem::replace(storage, CpuStorage::U8(Vec::new()))));
        Ok(())
    }

    fn cuda_fwd(&self, storage: &mut CudaStorage, _: &Layout) -> Result<()> {
        let empty = storage.device().zeros_impl(&Shape::from(1), storage.dtype())?;
        self.put(Storage::Cuda(std::mem::replace(storage, empty)));
        Ok(())
    }
}

impl<O: CustomOp1> CustomOp1 for Recorded<O> {
    fn name(&self) -> &'static str {
        self.op.name()
    }

    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout) -> Result<(CpuStorage, Shape)> {
        self.cpu()
    }

    fn cuda_fwd(&self, _: &CudaStorage, _: &Layout) -> Result<(CudaStorage, Shape)> {
        self.cuda()
    }

    fn bwd(&self, x: &Tensor, result: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        self.op.bwd(x, result, grad)
    }
}

impl<O: CustomOp2> CustomOp2 for Recorded<O> {
    fn name(&self) -> &'static str {
        self.op.name()
    }

    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout, _: &CpuStorage, _: &Layout) -> Result<(CpuStorage, Shape)> {
        self.cpu()
    }

    fn cuda_fwd(
        &self,
        _: &CudaStorage,
        _: &Layout,
        _: &CudaStorage,
        _: &Layout,
    ) -> Result<(CudaStorage, Shape)> {
        self.cuda()
    }

    fn bwd(
        &self,
        x: &Tensor,
        y: &Tensor,
        result: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        self.op.bwd(x, y, result, grad)
    }
}

impl<O: CustomOp3> CustomOp3 for Recorded<O> {
    fn name(&self) -> &'static str {
        self.op.name()
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
        self.cpu()
    }

    fn cuda_fwd(
        &self,
        _: &CudaStorage,
        _: &Layout,
        _: &CudaStorage,
        _: &Layout,
        _: &CudaStorage,
        _: &Layout,
    ) -> Result<(CudaStorage, Shape)> {
        self.cuda()
    }

    fn bwd(
        &self,
        x: &Tensor,
        y: &Tensor,
        z: &Tensor,
        result: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        self.op.bwd(x, y, z, result, grad)
    }
}
