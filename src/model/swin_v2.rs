//! Swin Transformer V2 for image classification (Liu et al. 2022, "Swin Transformer V2: Scaling Up Capacity and Resolution").
//!
//! Reference code: transformers `modeling_swinv2.py`. Norms behind the branches, cosine attention, position biases computed from
//! the offsets. Any input size: grids are continued with zeros to whole windows, whose side the config's image size decides.

use super::hierarchy::{ATTENTION, BlockPlace, Hierarchy, MLP, MergerNorm, WindowBlock};
use super::swin_config::SwinV2Config;
use crate::nn::{
    AttentionBiases, AttentionSizes, Builder, ContinuousPositionBias, LayerNorm, Linear, Mlp, MlpSizes,
    Parameter, ParameterError, Pass, SelfAttention, Windows,
};
use crate::ops::{self, RelativePositions};
use candle_core::{Result, Tensor};

/// What scores get between tokens that only the shift has put into one window: the reference adds its −100 twice.
const PENALTY: f32 = -200.0;

/// Builds the model from a builder at the root of the names.
///
/// # Errors
/// If the source lacks a tensor, or one has another shape.
pub(super) fn build(
    builder: &Builder<'_>,
    config: &SwinV2Config,
    labels: usize,
) -> std::result::Result<Hierarchy<SwinV2Block>, ParameterError> {
    let block = |builder: &Builder<'_>, place| SwinV2Block::new(builder, config, place);
    Hierarchy::new(builder, ("swinv2", MergerNorm::After), &config.swin, labels, block)
}

/// A block: windowed attention and MLP, a norm behind each.
pub(super) struct SwinV2Block {
    attention: SelfAttention,
    position_bias: ContinuousPositionBias,
    norm_1: LayerNorm,
    mlp: Mlp,
    norm_2: LayerNorm,
    window: usize,
    shift: usize,
    drop_path: f64,
    index: u64,
}

impl SwinV2Block {
    fn new(
        builder: &Builder<'_>,
        config: &SwinV2Config,
        place: BlockPlace,
    ) -> std::result::Result<Self, ParameterError> {
        let SwinV2Config { swin, pretrained_window_sizes } = config;
        let (hidden, heads) = (swin.width(place.stage), swin.num_heads[place.stage]);
        let deviations = [swin.initializer_range as f32; 2];
        let norm = |name: &str| LayerNorm::new(&builder.at(name), hidden, swin.layer_norm_eps as f32);
        let own = builder.at("attention.self");
        let biases = AttentionBiases { query_value: swin.qkv_bias, key: false };
        let sizes = AttentionSizes { hidden, heads, biases, deviations };
        let (window, shifts) = config.windows(place.stage);
        let trained = match pretrained_window_sizes[place.stage] {
            0 => window,
            side => side,
        };
        let activation = swin.hidden_act;
        let mlp = MlpSizes { hidden, inner: swin.inner(place.stage), activation, deviations };
        Ok(Self {
            attention: SelfAttention::new(builder, ATTENTION, sizes)?.with_cosines(&own)?,
            position_bias: ContinuousPositionBias::new(
                &own.at("continuous_position_bias_mlp"),
                heads,
                (window, trained),
                deviations[0],
            )?,
            norm_1: norm("layernorm_before")?,
            mlp: Mlp::new(builder, MLP, mlp)?,
            norm_2: norm("layernorm_after")?,
            window,
            shift: if shifts && place.index % 2 == 1 { swin.window_size / 2 } else { 0 },
            drop_path: swin.drop_path(place.before),
            index: place.before as u64,
        })
    }
}

impl WindowBlock for SwinV2Block {
    /// `x += drop_path(norm(attention(x)))`, then `x += drop_path(norm(mlp(x)))`.
    fn forward(&self, x: &Tensor, grid: (usize, usize), pass: &Pass) -> Result<Tensor> {
        let (batch, positions) = (x.dim(0)?, RelativePositions::window(self.window));
        let windows = Windows { grid, side: self.window, shift: self.shift };
        let table = self.position_bias.table(pass)?;
        let y = windows.attend(x, PENALTY, |x, regions| {
            self.attention.forward(x, Some((&table, positions)), regions, pass)
        })?;
        let dropped = pass.drop_path(self.drop_path, batch, 2 * self.index);
        let x = ops::residual(x, &self.norm_1.forward(&y)?, None, dropped)?;
        let y = self.norm_2.forward(&self.mlp.forward(&x, pass)?)?;
        let dropped = pass.drop_path(self.drop_path, batch, 2 * self.index + 1);
        ops::residual(&x, &y, None, dropped)
    }

    fn parameters(&self) -> Vec<&Parameter> {
        self.attention
            .parameters()
            .chain(self.position_bias.parameters())
            .chain(self.norm_1.parameters())
            .chain(self.mlp.parameters())
            .chain(self.norm_2.parameters())
            .collect()
    }

    fn linears(&self) -> Vec<&Linear> {
        let positions = self.position_bias.linears();
        self.attention.linears().into_iter().chain(positions).chain(self.mlp.linears()).collect()
    }

    fn linears_mut(&mut self) -> Vec<&mut Linear> {
        let positions = self.position_bias.linears_mut();
        self.attention.linears_mut().into_iter().chain(positions).chain(self.mlp.linears_mut()).collect()
    }
}
