//! ViT for image classification (Dosovitskiy et al. 2020, "An Image is Worth 16x16 Words").
//!
//! Reference code: transformers `modeling_vit.py`. Learnt positions, interpolated to other input sizes; the head sees the class
//! token.

use super::ModelError;
use super::beit::{ATTENTION, MLP};
use super::fields::Fields;
use super::plain::{Plain, Pooling};
use crate::nn::{
    Activation, AttentionBiases, AttentionSizes, Builder, HEAD, Initialization, LayerNorm, Linear, Mlp,
    MlpSizes, ParameterError, PatchEmbedding, PositionEmbedding, PreNormBlock, SelfAttention,
};

/// The sizes of a ViT, with transformers' names and defaults.
#[derive(Clone, Debug)]
pub struct VitConfig {
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
    /// Whether the maps to queries, keys and values have a bias.
    pub qkv_bias: bool,
    /// Epsilon of the norms.
    pub layer_norm_eps: f64,
    /// Standard deviation of fresh weights.
    pub initializer_range: f64,
}

impl VitConfig {
    pub(super) fn from_fields(fields: Fields<'_>) -> Result<Self, ModelError> {
        let config = Self {
            image_size: fields.size("image_size", 224)?,
            patch_size: fields.side("patch_size", 16)?,
            num_channels: fields.count("num_channels", 3)?,
            hidden_size: fields.count("hidden_size", 768)?,
            num_hidden_layers: fields.count("num_hidden_layers", 12)?,
            num_attention_heads: fields.count("num_attention_heads", 12)?,
            intermediate_size: fields.count("intermediate_size", 3072)?,
            hidden_act: fields.activation(Activation::Gelu)?,
            qkv_bias: fields.flag("qkv_bias", true)?,
            layer_norm_eps: fields.not_negative("layer_norm_eps", 1e-12)?,
            initializer_range: fields.not_negative("initializer_range", 0.02)?,
        };
        fields.check_heads("hidden_size", config.hidden_size, config.num_attention_heads)?;
        fields.check_photo(config.num_channels, config.image_size, config.patch_size)?;
        Ok(config)
    }
}

/// Builds the model from a builder at the root of the names.
///
/// # Errors
/// If the source lacks a tensor, or one has another shape.
pub(super) fn build(
    builder: &Builder<'_>,
    config: &VitConfig,
    labels: usize,
) -> Result<Plain, ParameterError> {
    let (hidden, deviation) = (config.hidden_size, config.initializer_range as f32);
    let root = builder.at("vit");
    let embeddings = root.at("embeddings");
    let grid = (config.image_size.0 / config.patch_size, config.image_size.1 / config.patch_size);
    let layers = root.at("encoder.layer");
    Ok(Plain {
        class_token: embeddings.parameter("cls_token", &[1, 1, hidden], Initialization::Normal(deviation))?,
        patch_embedding: PatchEmbedding::new(
            &embeddings.at("patch_embeddings.projection"),
            (hidden, config.num_channels, config.patch_size),
            true,
            deviation,
        )?,
        positions: Some(PositionEmbedding::new(
            &embeddings,
            "position_embeddings",
            1,
            (grid, hidden),
            deviation,
        )?),
        norm_before: None,
        blocks: (0..config.num_hidden_layers)
            .map(|index| block(&layers.at(index), config, index))
            .collect::<Result<_, _>>()?,
        pooling: Pooling::ClassToken,
        norm_after: Some(LayerNorm::new(&root.at("layernorm"), hidden, config.layer_norm_eps as f32)?),
        unused: None,
        classifier: Linear::new(&builder.at(HEAD), hidden, labels, true, deviation)?,
    })
}

fn block(builder: &Builder<'_>, config: &VitConfig, index: usize) -> Result<PreNormBlock, ParameterError> {
    let (hidden, deviations) = (config.hidden_size, [config.initializer_range as f32; 2]);
    let norm = |name: &str| LayerNorm::new(&builder.at(name), hidden, config.layer_norm_eps as f32);
    let biases = AttentionBiases { query_value: config.qkv_bias, key: config.qkv_bias };
    let attention = AttentionSizes { hidden, heads: config.num_attention_heads, biases, deviations };
    let mlp = MlpSizes { hidden, inner: config.intermediate_size, activation: config.hidden_act, deviations };
    Ok(PreNormBlock {
        norm_1: norm("layernorm_before")?,
        attention: SelfAttention::new(builder, ATTENTION, attention)?,
        relative_position_bias: None,
        lambda_1: None,
        norm_2: norm("layernorm_after")?,
        mlp: Mlp::new(builder, MLP, mlp)?,
        lambda_2: None,
        drop_path: 0.0,
        index: index as u64,
    })
}
