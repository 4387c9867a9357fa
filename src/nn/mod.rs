//! Layers built on the ops: parameters with names, linear maps with adapters, norms, positions, patches.
//!
//! The architectures in `model` are made of these. A layer knows shapes and formulas, never files: its parameters come from
//! a [`Source`]. One code serves training and inference; a [`Pass`] says which it is.

mod layers;
mod parameter;
mod pass;
mod patch_embedding;
mod relative_position_bias;

pub use layers::{LayerNorm, Linear, LowRank, Weight};
pub use parameter::{
    Builder, HEAD, Initialization, Parameter, ParameterError, RandomSource, ShapeSource, Source, Trainable,
};
pub use pass::{Pass, Training};
pub use patch_embedding::PatchEmbedding;
pub use relative_position_bias::RelativePositionBias;
