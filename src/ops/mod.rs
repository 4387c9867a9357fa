//! Fused kernels on candle's tensors, forward and backward.
//!
//! An op is a kernel over slices, plus a thin face: a function over tensors that records its result in the graph where an argument
//! needs a gradient. A frozen argument gets none, so that nothing is computed or kept for it. [`backward`] walks the graph; candle's
//! own `backward` refuses a graph with our ops in it. This is the only room that knows the device and the only one with `unsafe`.
//!
//! Every kernel gives the same bits whatever the number of threads and whatever the instruction set: work is split into
//! fixed pieces, and reductions add fixed partial sums in a fixed order. (The matrix product is `gemm`'s own, which is
//! deterministic on one kind of machine.)

mod allocator;
mod attention;
mod composed_attention;
mod cores;
mod cross_entropy;
pub mod device;
mod dropout;
mod elementwise;
mod gelu;
mod graph;
mod launch;
mod layer_norm;
mod linear;
mod math;
mod matmul;
mod normalize;
mod packed_linear;
mod pick_rows;
mod positions;
mod profile;
mod quick_gelu;
mod residual;
mod side_by_side;
#[cfg(test)]
mod signatures;
mod tensor_slice;
mod unit_heads;
pub mod update;

pub use allocator::{keep_freed_memory, release_freed_memory};
pub use attention::{Attention, attention};
pub use cores::Cores;
pub use cross_entropy::{cross_entropy, soft_cross_entropy};
pub use dropout::dropout;
pub use gelu::gelu;
pub use graph::{GradStore, backward, backward_from, no_grad};
pub use layer_norm::layer_norm;
pub use linear::{linear, linear_onto};
pub use normalize::normalize;
pub use packed_linear::{PackedWeight, packed_linear};
pub use pick_rows::{RowMap, pick_rows};
pub use positions::{Regions, RelativePositions};
pub use profile::{Profile, profiled};
pub use quick_gelu::quick_gelu;
pub use residual::{Residual, residual};
pub use side_by_side::side_by_side;
pub use unit_heads::unit_heads;
