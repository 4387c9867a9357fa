//! Swin Transformer for image classification (Liu et al. 2021, "Swin Transformer: Hierarchical Vision Transformer using Shifted
//! Windows").
//!
//! Reference code: transformers `modeling_swin.py`. Any input size: grids are continued with zeros to whole windows.

use super::hierarchy::{ATTENTION, BlockPlace, Hierarchy, MLP, MergerNorm, WindowBlock};
use super::swin_config::SwinConfig;
use crate::nn::{
    AttentionBiases, AttentionSizes, Builder, LayerNorm, Linear, Mlp, MlpSizes, Parameter, ParameterError,
    Pass, RelativePositionBias, SelfAttention, Windows,
};
use crate::ops::{self, RelativePositions, Residual};
use candle_core::{Result, Tensor};

/// What scores get between tokens that only the shift has put into one window.
const PENALTY: f32 = -100.0;

/// Builds the model from a builder at the root of the names.
///
/// # Errors
/// If the source lacks a tensor, or one has another shape.
pub(super) fn build(
    builder: &Builder<'_>,
    config: &SwinConfig,
    labels: usize,
) -> std::result::Result<Hierarchy<SwinBlock>, ParameterError> {
    let block = |builder: &Builder<'_>, place| SwinBlock::new(builder, config, place);
    Hierarchy::new(builder, ("swin", MergerNorm::Before), config, labels, block)
}

/// A block: windowed attention and MLP, each behind a norm.
pub(super) struct SwinBlock {
    norm_1: LayerNorm,
    attention: SelfAttention,
    relative_position_bias: RelativePositionBias,
    norm_2: LayerNorm,
    mlp: Mlp,
    window: usize,
    shifted: bool,
    drop_path: f64,
    index: u64,
}

impl SwinBlock {
    fn new(
        builder: &Builder<'_>,
        config: &SwinConfig,
        place: BlockPlace,
    ) -> std::result::Result<Self, ParameterError> {
        let (hidden, heads) = (config.width(place.stage), config.num_heads[place.stage]);
        let deviations = [config.initializer_range as f32; 2];
        let norm = |name: &str| LayerNorm::new(&builder.at(name), hidden, config.layer_norm_eps as f32);
        let biases = AttentionBiases { query_value: config.qkv_bias, key: config.qkv_bias };
        let window = config.window_size;
        let activation = config.hidden_act;
        let mlp = MlpSizes { hidden, inner: config.inner(place.stage), activation, deviations };
        Ok(Self {
            norm_1: norm("layernorm_before")?,
            attention: SelfAttention::new(
                builder,
                ATTENTION,
                AttentionSizes { hidden, heads, biases, deviations },
            )?,
            relative_position_bias: RelativePositionBias::new(
                &builder.at("attention.self"),
                RelativePositions::window(window),
                heads,
            )?,
            norm_2: norm("layernorm_after")?,
            mlp: Mlp::new(builder, MLP, mlp)?,
            window,
            shifted: place.index % 2 == 1,
            drop_path: config.drop_path(place.before),
            index: place.before as u64,
        })
    }

    /// A grid no larger than a window is one window, which is not shifted.
    fn windows(&self, grid: (usize, usize)) -> Windows {
        let least = grid.0.min(grid.1);
        match least <= self.window {
            true => Windows { grid, side: least, shift: 0 },
            false => {
                Windows { grid, side: self.window, shift: if self.shifted { self.window / 2 } else { 0 } }
            }
        }
    }
}

impl WindowBlock for SwinBlock {
    /// `x += drop_path(attention(norm(x)))`, then `x += mlp(norm(x))`: the reference drops the first branch alone.
    fn forward(&self, x: &Tensor, grid: (usize, usize), pass: &Pass) -> Result<Tensor> {
        let windows = self.windows(grid);
        let positions = RelativePositions::window(windows.side);
        let table = self.relative_position_bias.for_grid(positions)?;
        let y = windows.attend(&self.norm_1.forward(x)?, PENALTY, |x, regions| {
            self.attention.forward(x, Some((&table, positions)), regions, pass)
        })?;
        let dropped = pass.drop_path(self.drop_path, x.dim(0)?, 2 * self.index);
        let x = ops::residual(x, &y, None, dropped)?;
        let y = self.mlp.forward(&self.norm_2.forward(&x)?, pass)?;
        ops::residual(&x, &y, None, Residual::Constant(1.0))
    }

    fn parameters(&self) -> Vec<&Parameter> {
        self.norm_1
            .parameters()
            .chain(self.attention.parameters())
            .chain(self.relative_position_bias.parameters())
            .chain(self.norm_2.parameters())
            .chain(self.mlp.parameters())
            .collect()
    }

    fn linears(&self) -> Vec<&Linear> {
        self.attention.linears().into_iter().chain(self.mlp.linears()).collect()
    }

    fn linears_mut(&mut self) -> Vec<&mut Linear> {
        self.attention.linears_mut().into_iter().chain(self.mlp.linears_mut()).collect()
    }
}
