//! CLIP's image tower with a classification head (Radford et al. 2021, "Learning Transferable Visual Models From Natural
//! Language Supervision").
//!
//! Reference code: transformers `modeling_clip.py`, `CLIPForImageClassification`. The head sees the mean of the patches of the
//! last hidden state; the tower's own last norm is read and written, and not used. The text tower of a checkpoint is left alone.

use super::ModelError;
use super::fields::Fields;
use super::plain::{Plain, Pooling};
use crate::nn::{
    Activation, AttentionBiases, AttentionNames, AttentionSizes, Builder, HEAD, Initialization, LayerNorm,
    Linear, Mlp, MlpSizes, ParameterError, PatchEmbedding, PositionEmbedding, PreNormBlock, SelfAttention,
};
use serde_json::Value;

const ATTENTION: AttentionNames = AttentionNames {
    query: "self_attn.q_proj",
    key: "self_attn.k_proj",
    value: "self_attn.v_proj",
    output: "self_attn.out_proj",
};

/// The sizes of an image tower, with the names and defaults of transformers' `vision_config`.
#[derive(Clone, Debug)]
pub struct ClipConfig {
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
    /// Standard deviation of fresh embeddings.
    pub initializer_range: f64,
    /// Factor of every fresh weight's deviation.
    pub initializer_factor: f64,
}

impl ClipConfig {
    pub(super) fn from_fields(fields: Fields<'_>) -> Result<Self, ModelError> {
        let vision = match fields.json.get("vision_config") {
            Some(vision @ Value::Object(_)) => vision,
            None | Some(Value::Null) => &Value::Null,
            Some(_) => return Err(fields.wrong("vision_config", "is not an object")),
        };
        // transformers' factor of the whole model, where the tower has none of its own.
        let factor = fields.not_negative("initializer_factor", 1.0)?;
        let fields = Fields { json: vision, ..fields };
        let config = Self {
            image_size: fields.size("image_size", 224)?,
            patch_size: fields.side("patch_size", 32)?,
            num_channels: fields.count("num_channels", 3)?,
            hidden_size: fields.count("hidden_size", 768)?,
            num_hidden_layers: fields.count("num_hidden_layers", 12)?,
            num_attention_heads: fields.count("num_attention_heads", 12)?,
            intermediate_size: fields.count("intermediate_size", 3072)?,
            hidden_act: fields.activation(Activation::QuickGelu)?,
            layer_norm_eps: fields.not_negative("layer_norm_eps", 1e-5)?,
            initializer_range: fields.not_negative("initializer_range", 0.02)?,
            initializer_factor: fields.not_negative("initializer_factor", factor)?,
        };
        fields.check_heads("hidden_size", config.hidden_size, config.num_attention_heads)?;
        fields.check_photo(config.num_channels, config.image_size, config.patch_size)?;
        Ok(config)
    }

    /// 1/√hidden, the measure of fresh weights.
    fn deviation(&self) -> f32 {
        (self.initializer_factor / (self.hidden_size as f64).sqrt()) as f32
    }
}

/// Builds the model from a builder at the root of the names.
///
/// # Errors
/// If the source lacks a tensor, or one has another shape.
pub(super) fn build(
    builder: &Builder<'_>,
    config: &ClipConfig,
    labels: usize,
) -> Result<Plain, ParameterError> {
    let (hidden, deviation) = (config.hidden_size, config.deviation());
    let embedding = (config.initializer_range * config.initializer_factor) as f32;
    let root = builder.at("vision_model");
    let embeddings = root.at("embeddings");
    let grid = (config.image_size.0 / config.patch_size, config.image_size.1 / config.patch_size);
    let norm = |name: &str| LayerNorm::new(&root.at(name), hidden, config.layer_norm_eps as f32);
    let layers = root.at("encoder.layers");
    Ok(Plain {
        class_token: embeddings.parameter("class_embedding", &[hidden], Initialization::Normal(deviation))?,
        patch_embedding: PatchEmbedding::new(
            &embeddings.at("patch_embedding"),
            (hidden, config.num_channels, config.patch_size),
            false,
            embedding,
        )?,
        positions: Some(PositionEmbedding::new(
            &embeddings.at("position_embedding"),
            "weight",
            0,
            (grid, hidden),
            embedding,
        )?),
        norm_before: Some(norm("pre_layrnorm")?), // sic
        blocks: (0..config.num_hidden_layers)
            .map(|index| block(&layers.at(index), config, index))
            .collect::<Result<_, _>>()?,
        pooling: Pooling::MeanOfPatches,
        norm_after: None,
        unused: Some(norm("post_layernorm")?),
        classifier: Linear::new(&builder.at(HEAD), hidden, labels, true, deviation)?,
    })
}

fn block(builder: &Builder<'_>, config: &ClipConfig, index: usize) -> Result<PreNormBlock, ParameterError> {
    let (hidden, deviation) = (config.hidden_size, config.deviation());
    // What adds to the residual stream is the smaller, the more blocks do.
    let small = deviation / (2.0 * config.num_hidden_layers as f32).sqrt();
    let norm = |name: &str| LayerNorm::new(&builder.at(name), hidden, config.layer_norm_eps as f32);
    let attention = AttentionSizes {
        hidden,
        heads: config.num_attention_heads,
        biases: AttentionBiases { query_value: true, key: true },
        deviations: [small, deviation],
    };
    let mlp = MlpSizes {
        hidden,
        inner: config.intermediate_size,
        activation: config.hidden_act,
        deviations: [deviation / 2f32.sqrt(), small],
    };
    Ok(PreNormBlock {
        norm_1: norm("layer_norm1")?,
        attention: SelfAttention::new(builder, ATTENTION, attention)?,
        relative_position_bias: None,
        lambda_1: None,
        norm_2: norm("layer_norm2")?,
        mlp: Mlp::new(builder, ["mlp.fc1", "mlp.fc2"], mlp)?,
        lambda_2: None,
        drop_path: 0.0,
        index: index as u64,
    })
}
