//! ViT for image classification (Dosovitskiy et al. 2020, "An Image is Worth 16x16 Words").
//!
//! Reference code: transformers `modeling_vit.py`. Learnt positions, interpolated to other input sizes; the head sees the class
//! token.

use super::ModelError;
use super::fields::Fields;
use super::plain::{Plain, Pooling};
use super::plain_config::{BLOCK, Deviations, PlainConfig, PlainDefaults};
use crate::nn::{
    Activation, AttentionBiases, Builder, HEAD, Initialization, Linear, ParameterError, PositionEmbedding,
};

/// The sizes of a ViT, with transformers' names and defaults.
#[derive(Clone, Debug)]
pub struct VitConfig {
    /// Those of every plain transformer.
    pub plain: PlainConfig,
    /// Whether the maps to queries, keys and values have a bias.
    pub qkv_bias: bool,
}

impl VitConfig {
    pub(super) fn from_fields(fields: Fields<'_>) -> Result<Self, ModelError> {
        let defaults = PlainDefaults { patch_size: 16, hidden_act: Activation::Gelu, layer_norm_eps: 1e-12 };
        Ok(Self {
            plain: PlainConfig::from_fields(fields, defaults)?,
            qkv_bias: fields.flag("qkv_bias", true)?,
        })
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
    let plain = &config.plain;
    let (hidden, deviation) = (plain.hidden_size, plain.deviation());
    let root = builder.at("vit");
    let embeddings = root.at("embeddings");
    let patches = embeddings.at("patch_embeddings.projection");
    let positions = (plain.grid(), hidden);
    let biases = AttentionBiases { query_value: config.qkv_bias, key: config.qkv_bias };
    let deviations = Deviations { attention: [deviation; 2], mlp: [deviation; 2] };
    Ok(Plain {
        class_token: embeddings.parameter("cls_token", &[1, 1, hidden], Initialization::Normal(deviation))?,
        patch_embedding: plain.patch_embedding(&patches, true, deviation)?,
        positions: Some(PositionEmbedding::new(&embeddings, "position_embeddings", 1, positions, deviation)?),
        norm_before: None,
        blocks: plain.blocks(&root.at("encoder.layer"), |builder, index| {
            plain.block(builder, BLOCK, biases, deviations, index)
        })?,
        pooling: Pooling::ClassToken,
        norm_after: Some(plain.norm(&root.at("layernorm"))?),
        unused: None,
        classifier: Linear::new(&builder.at(HEAD), hidden, labels, true, deviation)?,
    })
}
