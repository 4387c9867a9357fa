//! The sizes that BEiT, ViT and CLIP's image tower have in common, and the parts that are built from nothing else.

use super::ModelError;
use super::fields::Fields;
use crate::nn::{
    Activation, AttentionBiases, AttentionNames, AttentionSizes, Builder, LayerNorm, Mlp, MlpSizes,
    ParameterError, PatchEmbedding, PreNormBlock, SelfAttention,
};

/// Sizes of a plain transformer over patches, with transformers' names.
#[derive(Clone, Debug)]
pub struct PlainConfig {
    /// Height and width it was trained at, in pixels.
    pub image_size: (usize, usize),
    /// Side of a patch, in pixels.
    pub patch_size: usize,
    /// Channels of a photo.
    pub num_channels: usize,
    /// Width of the hidden states.
    pub hidden_size: usize,
    /// Number of blocks.
    pub num_hidden_layers: usize,
    /// Heads a block.
    pub num_attention_heads: usize,
    /// Width inside the MLP.
    pub intermediate_size: usize,
    /// The function inside the MLP.
    pub hidden_act: Activation,
    /// Epsilon of the norms.
    pub layer_norm_eps: f64,
    /// Standard deviation of fresh weights; in CLIP of fresh embeddings alone.
    pub initializer_range: f64,
}

/// transformers' defaults where the architectures have different ones.
pub(super) struct PlainDefaults {
    pub(super) patch_size: usize,
    pub(super) hidden_act: Activation,
    pub(super) layer_norm_eps: f64,
}

/// What v4 calls the parts of a block.
pub(super) struct BlockNames {
    pub(super) norms: [&'static str; 2],
    pub(super) attention: AttentionNames,
    pub(super) mlp: [&'static str; 2],
}

/// Those of BEiT and ViT.
pub(super) const BLOCK: BlockNames = BlockNames {
    norms: ["layernorm_before", "layernorm_after"],
    attention: AttentionNames {
        query: "attention.attention.query",
        key: "attention.attention.key",
        value: "attention.attention.value",
        output: "attention.output.dense",
    },
    mlp: ["intermediate.dense", "output.dense"],
};

/// Standard deviations of a block's fresh weights.
#[derive(Clone, Copy)]
pub(super) struct Deviations {
    /// See [`AttentionSizes::deviations`].
    pub(super) attention: [f32; 2],
    /// See [`MlpSizes::deviations`].
    pub(super) mlp: [f32; 2],
}

impl PlainConfig {
    pub(super) fn from_fields(fields: Fields<'_>, defaults: PlainDefaults) -> Result<Self, ModelError> {
        let config = Self {
            image_size: fields.size("image_size", 224)?,
            patch_size: fields.side("patch_size", defaults.patch_size)?,
            num_channels: fields.count("num_channels", 3)?,
            hidden_size: fields.count("hidden_size", 768)?,
            num_hidden_layers: fields.count("num_hidden_layers", 12)?,
            num_attention_heads: fields.count("num_attention_heads", 12)?,
            intermediate_size: fields.count("intermediate_size", 3072)?,
            hidden_act: fields.activation(defaults.hidden_act)?,
            layer_norm_eps: fields.not_negative("layer_norm_eps", defaults.layer_norm_eps)?,
            initializer_range: fields.not_negative("initializer_range", 0.02)?,
        };
        config.check(fields)?;
        Ok(config)
    }

    /// Refuses sizes that make no model, wherever they were read.
    pub(super) fn check(&self, fields: Fields<'_>) -> Result<(), ModelError> {
        fields.check_heads("hidden_size", self.hidden_size, self.num_attention_heads)?;
        fields.check_photo(self.num_channels, self.image_size, self.patch_size)
    }

    /// Rows and columns of patches.
    pub(super) fn grid(&self) -> (usize, usize) {
        (self.image_size.0 / self.patch_size, self.image_size.1 / self.patch_size)
    }

    /// `initializer_range`, as the layers take it.
    pub(super) fn deviation(&self) -> f32 {
        self.initializer_range as f32
    }

    pub(super) fn norm(&self, builder: &Builder<'_>) -> Result<LayerNorm, ParameterError> {
        LayerNorm::new(builder, self.hidden_size, self.layer_norm_eps as f32)
    }

    pub(super) fn patch_embedding(
        &self,
        builder: &Builder<'_>,
        bias: bool,
        deviation: f32,
    ) -> Result<PatchEmbedding, ParameterError> {
        let sizes = (self.hidden_size, self.num_channels, self.patch_size);
        PatchEmbedding::new(builder, sizes, bias, deviation)
    }

    /// All blocks, each made by `block` at its own place below `layers`.
    pub(super) fn blocks(
        &self,
        layers: &Builder<'_>,
        block: impl Fn(&Builder<'_>, usize) -> Result<PreNormBlock, ParameterError>,
    ) -> Result<Vec<PreNormBlock>, ParameterError> {
        (0..self.num_hidden_layers).map(|index| block(&layers.at(index), index)).collect()
    }

    /// A block with nothing but norms, attention and MLP.
    pub(super) fn block(
        &self,
        builder: &Builder<'_>,
        names: BlockNames,
        biases: AttentionBiases,
        deviations: Deviations,
        index: usize,
    ) -> Result<PreNormBlock, ParameterError> {
        let hidden = self.hidden_size;
        let attention = AttentionSizes {
            hidden,
            heads: self.num_attention_heads,
            biases,
            deviations: deviations.attention,
        };
        let mlp = MlpSizes {
            hidden,
            inner: self.intermediate_size,
            activation: self.hidden_act,
            deviations: deviations.mlp,
        };
        Ok(PreNormBlock {
            norm_1: self.norm(&builder.at(names.norms[0]))?,
            attention: SelfAttention::new(builder, names.attention, attention)?,
            relative_position_bias: None,
            lambda_1: None,
            norm_2: self.norm(&builder.at(names.norms[1]))?,
            mlp: Mlp::new(builder, names.mlp, mlp)?,
            lambda_2: None,
            drop_path: 0.0,
            index: index as u64,
        })
    }
}
