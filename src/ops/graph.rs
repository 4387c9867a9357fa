//! The graph that a backward pass walks back through, for the ops of this room.
//!
//! An op computes its result, and hands it to [`record`] with a closure that gives the gradients of its arguments. The closure
//! holds what it will read and nothing else, and is gone once it was called. candle's own graph keeps every argument of every
//! operation until the loss is dropped, and zeroes and adds a tensor for each of them, on one thread.
//!
//! candle's operations may stand between ours: the result of an op is a tensor that candle tracks, and where candle's own backward
//! pass arrives at it, it hands over the gradient and ends ([`Output`]). A tensor that candle's operations made of our results is
//! the other way round a node here, walked by candle ([`WayBack::Candle`]).

use super::profile::timed;
use super::tensor_slice::{has_cpu_kernel, with_values};
use candle_core::backend::{BackendDevice, BackendStorage};
use candle_core::{
    CpuStorage, CudaStorage, CustomOp1, DType, Device, Error, InplaceOp1, Layout, Result, Shape, Storage,
    Tensor, TensorId, Var, bail,
};
use rayon::prelude::*;
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, OnceLock, PoisonError, Weak};

/// Values one task adds.
const PIECE: usize = 1 << 16;

/// Gradients of the variables that an output depends on.
#[derive(Debug, Default)]
pub struct GradStore(HashMap<TensorId, Tensor>);

impl GradStore {
    /// The gradient of `variable`, if the output depends on it.
    pub fn get(&self, variable: &Tensor) -> Option<&Tensor> {
        self.0.get(&variable.id())
    }

    /// The same, taken out of the store. Nobody else holds its memory.
    pub fn remove(&mut self, variable: &Tensor) -> Option<Tensor> {
        self.0.remove(&variable.id())
    }
}

/// Gradients of `output`, a number, with respect to every variable. What the forward pass kept is given back on the way: there is
/// no second time.
///
/// # Errors
/// If an op fails, or this was called before.
pub fn backward(output: &Tensor) -> Result<GradStore> {
    backward_from(output, output.ones_like()?)
}

/// The same from an output of any shape whose own gradient is known.
///
/// # Errors
/// Those of [`backward`].
pub fn backward_from(output: &Tensor, gradient: Tensor) -> Result<GradStore> {
    let mut walk = Walk::default();
    if let Some(source) = Source::of(output) {
        walk.arrive(&source, gradient.detach())?;
    }
    // A node's arguments were made before it, so that the latest node has no gradient to come any more.
    while let Some((_, (node, gradient))) = walk.waiting.pop_last() {
        walk.pass(&node, &gradient)?;
    }
    Ok(GradStore(walk.found))
}

thread_local! {
    /// Whether ops stay out of the graph.
    static OFF: Cell<bool> = const { Cell::new(false) };
}

/// Runs `work` on this thread with no graph: what an op gives in it has no gradient, and nothing is kept for one.
pub fn no_grad<T>(work: impl FnOnce() -> T) -> T {
    struct Before(bool);
    impl Drop for Before {
        fn drop(&mut self) {
            OFF.set(self.0);
        }
    }
    let _before = Before(OFF.replace(true));
    work()
}

/// `result` as the output of an op over `inputs`, whose gradients `gradients` computes from that of the result. The result must be
/// fresh: its memory goes over to what is returned.
pub(super) fn record<const N: usize>(
    name: &'static str,
    inputs: [Option<&Tensor>; N],
    result: Tensor,
    gradients: impl FnOnce(&Tensor) -> Result<[Option<Tensor>; N]> + Send + 'static,
) -> Result<Tensor> {
    recorded(name, &inputs, result, None, move |gradient| gradients(gradient).map(Vec::from))
}

/// The same for an op whose result costs little: nobody keeps it, `again` computes it again where a backward pass reads it.
pub(super) fn record_cheap<const N: usize>(
    name: &'static str,
    inputs: [Option<&Tensor>; N],
    result: Tensor,
    again: impl Fn() -> Result<Tensor> + Send + Sync + 'static,
    gradients: impl FnOnce(&Tensor) -> Result<[Option<Tensor>; N]> + Send + 'static,
) -> Result<Tensor> {
    recorded(name, &inputs, result, Some(Arc::new(again)), move |gradient| gradients(gradient).map(Vec::from))
}

fn recorded(
    name: &'static str,
    inputs: &[Option<&Tensor>],
    result: Tensor,
    again: Option<Again>,
    gradients: impl FnOnce(&Tensor) -> Result<Vec<Option<Tensor>>> + Send + 'static,
) -> Result<Tensor> {
    if OFF.get() {
        return Ok(result);
    }
    let inputs: Vec<Option<Source>> = inputs.iter().map(|input| input.and_then(Source::of)).collect();
    if inputs.iter().all(Option::is_none) {
        return Ok(result);
    }
    let node = Node::new(WayBack::Op { name, inputs, gradients: Box::new(gradients) }, again);
    let output = anchor(result.device())?.apply_op1(Output::new(Arc::clone(&node), result)?)?;
    node.stands_for(&output);
    Ok(output)
}

/// What a backward pass will read of an argument: its values, or how they come from what is kept anyway.
#[derive(Clone)]
pub(super) enum Kept {
    Values(Tensor),
    Again(Again),
}

impl Kept {
    pub(super) fn of(tensor: &Tensor) -> Self {
        match Node::of(tensor).and_then(|node| node.again.clone()) {
            Some(again) => Self::Again(again),
            None => Self::Values(tensor.detach()),
        }
    }

    pub(super) fn values(&self) -> Result<Tensor> {
        match self {
            Self::Values(tensor) => Ok(tensor.clone()),
            Self::Again(again) => again(),
        }
    }
}

type Again = Arc<dyn Fn() -> Result<Tensor> + Send + Sync>;

type Gradients = Box<dyn FnOnce(&Tensor) -> Result<Vec<Option<Tensor>>> + Send>;

/// The result of an op, or what candle's operations made of some.
struct Node {
    /// Nodes are numbered as they are made.
    number: u64,
    way_back: Mutex<Option<WayBack>>,
    again: Option<Again>,
    tensor: OnceLock<TensorId>,
}

enum WayBack {
    Op {
        name: &'static str,
        inputs: Vec<Option<Source>>,
        gradients: Gradients,
    },
    /// candle's graph behind this tensor, up to the results of ops.
    Candle(Tensor),
}

/// The nodes of the tensors that there are.
static NODES: LazyLock<Mutex<HashMap<TensorId, Weak<Node>>>> = LazyLock::new(Mutex::default);

fn nodes() -> MutexGuard<'static, HashMap<TensorId, Weak<Node>>> {
    NODES.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Node {
    fn new(way_back: WayBack, again: Option<Again>) -> Arc<Self> {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        Arc::new(Self { number, way_back: Mutex::new(Some(way_back)), again, tensor: OnceLock::new() })
    }

    fn stands_for(self: &Arc<Self>, tensor: &Tensor) {
        nodes().insert(*self.tensor.get_or_init(|| tensor.id()), Arc::downgrade(self));
    }

    fn of(tensor: &Tensor) -> Option<Arc<Self>> {
        if tensor.track_op() { nodes().get(&tensor.id()).and_then(Weak::upgrade) } else { None }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Some(tensor) = self.tensor.get() {
            nodes().remove(tensor);
        }
    }
}

/// Where the gradient of an argument goes.
enum Source {
    Variable(TensorId),
    Node(Arc<Node>),
}

impl Source {
    /// `None` for a constant.
    fn of(tensor: &Tensor) -> Option<Self> {
        if !tensor.track_op() {
            return None;
        }
        if tensor.is_variable() {
            return Some(Self::Variable(tensor.id()));
        }
        Some(Self::Node(Node::of(tensor).unwrap_or_else(|| {
            let node = Node::new(WayBack::Candle(tensor.clone()), None);
            node.stands_for(tensor);
            node
        })))
    }
}

/// A backward pass under way.
#[derive(Default)]
struct Walk {
    found: HashMap<TensorId, Tensor>,
    /// Nodes whose gradient is not passed on yet, by number.
    waiting: BTreeMap<u64, (Arc<Node>, Tensor)>,
}

impl Walk {
    fn arrive(&mut self, source: &Source, gradient: Tensor) -> Result<()> {
        match source {
            Source::Variable(id) => {
                let sum = match self.found.remove(id) {
                    Some(before) => sum(&before, &gradient)?,
                    None => gradient,
                };
                self.found.insert(*id, sum);
            }
            Source::Node(node) => {
                let sum = match self.waiting.remove(&node.number) {
                    Some((_, before)) => sum(&before, &gradient)?,
                    None => gradient,
                };
                self.waiting.insert(node.number, (Arc::clone(node), sum));
            }
        }
        Ok(())
    }

    /// From a node to its arguments.
    fn pass(&mut self, node: &Node, gradient: &Tensor) -> Result<()> {
        let way_back = node.way_back.lock().unwrap_or_else(PoisonError::into_inner).take();
        match way_back {
            None => bail!("the backward pass of this graph is over"),
            Some(WayBack::Op { name, inputs, gradients }) => {
                let found = timed(name, gradient.device(), || gradients(gradient))?;
                for (source, gradient) in inputs.iter().zip(found) {
                    if let (Some(source), Some(gradient)) = (source, gradient) {
                        self.arrive(source, gradient)?;
                    }
                }
            }
            Some(WayBack::Candle(tensor)) => {
                let walk = || walked_by_candle(&tensor, gradient);
                let (variables, outputs) = timed("candle, backward", gradient.device(), walk)?;
                for (id, gradient) in variables {
                    self.arrive(&Source::Variable(id), gradient)?;
                }
                for (node, gradient) in outputs {
                    self.arrive(&Source::Node(node), gradient)?;
                }
            }
        }
        Ok(())
    }
}

/// Two gradients of one tensor together, in memory of its own: one of them may be another tensor's as well.
fn sum(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    timed("sum of gradients", a.device(), || sum_of(a, b))
}

fn sum_of(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    if !has_cpu_kernel(a) || !has_cpu_kernel(b) || a.dims() != b.dims() {
        return a + b;
    }
    with_values("sum of gradients", [a, b], |[xs, ys]| {
        let mut out = vec![0f32; xs.len()];
        out.par_chunks_mut(PIECE).zip(xs.par_chunks(PIECE).zip(ys.par_chunks(PIECE))).for_each(
            |(out, (xs, ys))| {
                for (out, (x, y)) in out.iter_mut().zip(xs.iter().zip(ys)) {
                    *out = x + y;
                }
            },
        );
        Tensor::from_vec(out, a.shape(), a.device())
    })
}

/// What candle hands over in one walk.
type Arrived = Vec<(Arc<Node>, Tensor)>;

thread_local! {
    /// Gradients of ops' results, while candle walks for this thread.
    static ARRIVED: RefCell<Option<Arrived>> = const { RefCell::new(None) };
}

fn walked_by_candle(tensor: &Tensor, gradient: &Tensor) -> Result<(Vec<(TensorId, Tensor)>, Arrived)> {
    let before = ARRIVED.replace(Some(Vec::new()));
    let walked = tensor.apply_op1(Seed(gradient.clone())).and_then(|seed| seed.backward());
    let arrived = ARRIVED.replace(before).unwrap_or_default();
    let store = walked?;
    let ids: Vec<TensorId> = store.get_ids().copied().collect();
    let taken = ids.into_iter().filter_map(|id| Some((id, store.get_id(id)?.clone()))).collect();
    Ok((taken, arrived))
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
fn anchor(device: &Device) -> Result<Tensor> {
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
struct Output {
    node: Arc<Node>,
    shape: Shape,
    result: Mutex<Option<Storage>>,
}

impl Output {
    fn new(node: Arc<Node>, result: Tensor) -> Result<Self> {
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

#[cfg(test)]
mod tests {
    use super::super::{gelu, linear, linear_onto};
    use super::*;

    fn variable(values: &[f32], shape: (usize, usize)) -> Var {
        let tensor = Tensor::from_slice(values, shape, &Device::Cpu).unwrap();
        Var::from_tensor(&tensor).unwrap()
    }

    fn values(tensor: &Tensor) -> Vec<f32> {
        tensor.flatten_all().unwrap().to_vec1().unwrap()
    }

    #[test]
    fn gradients_go_through_candles_operations_between_ours_and_add_up_where_ways_meet() {
        let (x, w) = (variable(&[1.0, -2.0], (1, 2)), variable(&[0.5, 1.0, -1.0, 2.0], (2, 2)));
        // y = x·Wᵀ = [-1.5, -5]; z = y² by candle; loss = Σ (z + y)·Wᵀ + Σ z
        let y = linear(&x, &w, None).unwrap();
        let z = y.sqr().unwrap();
        let last = linear(&(&z + &y).unwrap(), &w, None).unwrap();
        let loss = (last.sum_all().unwrap() + z.sum_all().unwrap()).unwrap();
        let store = backward(&loss).unwrap();
        // d/dy = (2y + 1) ∘ column sums of W + 2y = [-2·-0.5 - 3, -9·3 - 10] = [-2, -37]
        let expected_x = [-2.0 * 0.5 + 37.0, -2.0 - 37.0 * 2.0];
        assert_eq!(values(store.get(&x).unwrap()), expected_x);
        // (z + y) in each row, and d/dy · x
        let (a, b) = (2.25 - 1.5, 25.0 - 5.0);
        assert_eq!(values(store.get(&w).unwrap()), [a - 2.0, b + 4.0, a - 37.0, b + 74.0]);
    }

    #[test]
    fn a_gradient_is_found_from_an_output_of_any_shape() {
        let (x, w) = (variable(&[1.0, -2.0], (1, 2)), variable(&[0.5, 1.0, -1.0, 2.0], (2, 2)));
        let y = linear(&x, &w, None).unwrap();
        let pull = Tensor::new(&[[1f32, 10.0]], &Device::Cpu).unwrap();
        let mut store = backward_from(&y, pull).unwrap();
        assert_eq!(values(&store.remove(&x).unwrap()), [0.5 - 10.0, 1.0 + 20.0]);
        assert!(store.remove(&x).is_none());
    }

    #[test]
    fn there_is_one_way_back_and_candles_own_is_refused_in_words() {
        let (x, w) = (variable(&[1.0, -2.0], (1, 2)), variable(&[0.5, 1.0], (1, 2)));
        let loss = linear(&x, &w, None).unwrap().sum_all().unwrap();
        let error = loss.backward().unwrap_err().to_string();
        assert!(error.contains("ops::backward"), "{error}");
        backward(&loss).unwrap();
        let error = backward(&loss).err().unwrap().to_string();
        assert!(error.contains("over"), "{error}");
    }

    #[test]
    fn without_a_graph_there_is_a_result_and_no_gradient_and_after_it_there_are_both() {
        let (x, w) = (variable(&[1.0, -2.0], (1, 2)), variable(&[0.5, 1.0], (1, 2)));
        let product = || linear(&x, &w, None).unwrap();
        let y = no_grad(product);
        assert!(values(&y) == [-1.5] && !y.track_op());
        let _ = std::panic::catch_unwind(|| no_grad(|| panic!("on the way")));
        assert!(product().track_op());
    }

    #[test]
    fn a_graph_goes_with_its_output() {
        let (x, w) = (variable(&[1.0, -2.0], (1, 2)), variable(&[0.5, 1.0], (1, 2)));
        let y = gelu(&linear(&x, &w, None).unwrap()).unwrap();
        let node = Arc::downgrade(&Node::of(&y).unwrap());
        assert!(nodes().contains_key(&y.id()));
        let id = y.id();
        drop(y);
        assert!(node.upgrade().is_none() && !nodes().contains_key(&id));
    }

    #[test]
    fn a_sum_onto_a_product_has_the_gradients_of_both() {
        let (x, w) = (variable(&[1.0, -2.0], (1, 2)), variable(&[0.5, 1.0], (1, 2)));
        let low = variable(&[3.0], (1, 1));
        let up = variable(&[4.0], (1, 1));
        let y = linear_onto(linear(&x, &w, None).unwrap(), &low, &up, 0.5).unwrap();
        assert_eq!(values(&y), [0.5 - 2.0 + 6.0]);
        let store = backward(&y.sum_all().unwrap()).unwrap();
        assert_eq!(values(store.get(&x).unwrap()), [0.5, 1.0]);
        assert_eq!(values(store.get(&low).unwrap()), [2.0]);
        assert_eq!(values(store.get(&up).unwrap()), [1.5]);
        // A variable is no memory to write to.
        let sum = linear_onto(low.as_tensor().clone(), &low, &up, 1.0).unwrap();
        assert_eq!((values(&sum), values(&low)), (vec![15.0], vec![3.0]));
    }
}
