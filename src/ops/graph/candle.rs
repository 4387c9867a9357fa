//! Where the graph meets candle's: an op's result as a tensor that candle tracks, and candle's backward pass between two of them.

use super::Node;
use candle_core::backend::{BackendDevice, BackendStorage};
use candle_core::{
    CpuStorage, CudaStorage, CustomOp1, DType, Device, Error, InplaceOp1, Layout, Result, Shape, Storage,
    Tensor, TensorId, Var, bail,
};
use std::cell::RefCell;
use std::sync::{Arc, Mutex, PoisonError};

/// The ops' results that candle arrived at in one walk, with their gradients.
pub(super) type Arrived = Vec<(Arc<Node>, Tensor)>;

thread_local! {
    /// Gradients of ops' results, while candle walks for this thread.
    static ARRIVED: RefCell<Option<Arrived>> = const { RefCell::new(None) };
}

/// candle's backward pass from `tensor`, whose gradient is given: gradients of the variables, and of the ops' results behind it.
pub(super) fn walked_by_candle(
    tensor: &Tensor,
    gradient: &Tensor,
) -> Result<(Vec<(TensorId, Tensor)>, Arrived)> {
    let seed = tensor.apply_op1(Seed(gradient.clone()))?;
    let before = ARRIVED.replace(Some(Vec::new()));
    let walked = seed.backward();
    let arrived = ARRIVED.replace(before).unwrap_or_default();
    let store = walked?;
    // The store holds gradients of constants as well.
    let variables = seed.sorted_nodes().into_iter().filter(|node| node.is_variable());
    let found = variables.filter_map(|variable| Some((variable.id(), store.get(variable)?.clone())));
    Ok((found.collect(), arrived))
}

/// A number that depends on a tensor and whose gradient with respect to it is the one given.
struct Seed(Tensor);

impl CustomOp1 for Seed {
    fn name(&self) -> &'static str {
        "seed"
    }

    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout) -> Result<(CpuStorage, Shape)> {
        Ok((CpuStorage::F32(vec![0.0]), Shape::from(())))
    }

    fn cuda_fwd(&self, x: &CudaStorage, _: &Layout) -> Result<(CudaStorage, Shape)> {
        Ok((x.device().zeros_impl(&Shape::from(()), DType::F32)?, Shape::from(())))
    }

    fn bwd(&self, _: &Tensor, _: &Tensor, _: &Tensor) -> Result<Option<Tensor>> {
        Ok(Some(self.0.clone()))
    }
}

/// A variable of no meaning: what hangs on it is tracked by candle.
pub(super) fn anchor(device: &Device) -> Result<Tensor> {
    static ANCHORS: Mutex<Vec<Var>> = Mutex::new(Vec::new());
    let mut anchors = ANCHORS.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(anchor) = anchors.iter().find(|anchor| anchor.device().same_device(device)) {
        return Ok(anchor.as_tensor().clone());
    }
    let anchor = Var::zeros((), DType::F32, device)?;
    anchors.push(anchor.clone());
    Ok(anchor.into_inner())
}

/// An op's result in candle's graph, where it hangs on nothing but the anchor.
pub(super) struct Output {
    node: Arc<Node>,
    shape: Shape,
    result: Mutex<Option<Storage>>,
}

impl Output {
    pub(super) fn new(node: Arc<Node>, result: Tensor) -> Result<Self> {
        let result = result.contiguous()?;
        let shape = result.shape().clone();
        if result.layout().start_offset() != 0 || result.track_op() {
            bail!("a recorded result must be a fresh tensor")
        }
        let taken = Take(Mutex::new(None));
        result.inplace_op1(&taken)?;
        Ok(Self { node, shape, result: taken.0 })
    }

    fn take(&self) -> Result<Storage> {
        let result = self.result.lock().unwrap_or_else(PoisonError::into_inner).take();
        result.ok_or_else(|| Error::Msg("a recorded result can be used once".to_owned()))
    }
}

impl CustomOp1 for Output {
    fn name(&self) -> &'static str {
        "output"
    }

    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout) -> Result<(CpuStorage, Shape)> {
        match self.take()? {
            Storage::Cpu(storage) => Ok((storage, self.shape.clone())),
            _ => bail!("a recorded result lies on another device than its anchor"),
        }
    }

    fn cuda_fwd(&self, _: &CudaStorage, _: &Layout) -> Result<(CudaStorage, Shape)> {
        match self.take()? {
            Storage::Cuda(storage) => Ok((storage, self.shape.clone())),
            _ => bail!("a recorded result lies on another device than its anchor"),
        }
    }

    fn bwd(&self, _: &Tensor, _: &Tensor, gradient: &Tensor) -> Result<Option<Tensor>> {
        ARRIVED.with_borrow_mut(|arrived| match arrived {
            Some(arrived) => {
                arrived.push((Arc::clone(&self.node), gradient.clone()));
                Ok(None)
            }
            None => bail!("an op of this crate stands in the graph: ask `ops::backward` for its gradients"),
        })
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
