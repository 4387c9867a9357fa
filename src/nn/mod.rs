//! Layers built on the ops: parameters with names, linear maps with adapters, norms, positions, patches.
//!
//! The architectures in `model` are made of these. A layer knows shapes and formulas, never files: its parameters come from
//! a [`Source`]. One code serves training and inference; a [`Pass`] says which it is.

mod attention;
mod block;
mod continuous_position_bias;
mod interpolation;
mod layers;
mod magnitude;
mod mlp;
mod parameter;
mod pass;
mod patch_embedding;
mod position_embedding;
mod relative_position_bias;
mod windows;

pub use attention::{AttentionBiases, AttentionNames, AttentionSizes, SelfAttention};
pub use block::PreNormBlock;
pub use continuous_position_bias::ContinuousPositionBias;
pub use layers::{LayerNorm, Linear, LowRank, Weight};
pub use magnitude::{Magnitude, row_norms};
pub use mlp::{Activation, Mlp, MlpSizes};
pub use parameter::{
    Builder, HEAD, Initialization, Parameter, ParameterError, RandomSource, ShapeSource, Source, Trainable,
    is_head,
};
pub use pass::{Pass, Training};
pub use patch_embedding::{Edges, PatchEmbedding};
pub use position_embedding::PositionEmbedding;
pub use relative_position_bias::RelativePositionBias;
pub use windows::{Windows, merge_neighbours};
