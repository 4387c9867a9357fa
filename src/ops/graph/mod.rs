//! The graph that a backward pass walks back through, for the ops of this room.
//!
//! An op computes its result, and hands it to [`record`] with a closure that gives the gradients of its arguments. The closure
//! holds what it will read and nothing else, and is gone once it was called. candle's own graph keeps every argument of every
//! operation until the loss is dropped, and zeroes and adds a tensor for each of them, on one thread.
//!
//! candle's operations may stand between ours: the result of an op is a tensor that candle tracks, and where candle's own backward
//! pass arrives at it, it hands over the gradient and ends ([`candle`]). A tensor that candle's operations made of our results is
//! the other way round a node here, walked by candle ([`WayBack::Candle`]).

mod candle;
mod walk;

pub use walk::{GradStore, backward, backward_from};

use candle::{Output, anchor};
use candle_core::{Result, Tensor, TensorId};
use std::cell::Cell;
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, OnceLock, PoisonError, Weak};

thread_local! {
    /// Whether ops stay out of the graph.
    static OFF: Cell<bool> = const { Cell::new(false) };
}

/// Runs `work` on this thread with no graph: what an op gives in it has no gradient, and nothing is kept for one. candle's own
/// operations on variables are tracked in it all the same: detach what comes out before it goes into a graph.
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

#[cfg(test)]
mod tests {
    use super::super::{gelu, linear, linear_onto};
    use super::*;
    use candle_core::{Device, Var};

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
