//! From an output back to the variables.

use super::super::profile::timed;
use super::super::tensor_slice::{has_cpu_kernel, with_values};
use super::candle::walked_by_candle;
use super::{Node, Source, WayBack};
use candle_core::{Result, Tensor, TensorId, bail};
use rayon::prelude::*;
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, PoisonError};

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
