//! BEiT for image classification (Bao et al. 2021, "BEiT: BERT Pre-Training of Image Transformers").
//!
//! Reference code: transformers `modeling_beit.py`. One code for training and inference; any image size, patch size, depth
//! and label count; the relative position bias is interpolated to other input sizes.

use super::ModelError;
use super::fields::Fields;
use super::plain::{Plain, Pooling};
use super::plain_config::{BLOCK, Deviations, PlainConfig, PlainDefaults};
use crate::nn::{
    Activation, AttentionBiases, Builder, HEAD, Initialization, Linear, ParameterError, PreNormBlock,
    RelativePositionBias,
};
use crate::ops::RelativePositions;
use serde_json::{Value, json};

/// The sizes of a BEiT, with transformers' names and defaults.
#[derive(Clone, Debug)]
pub struct BeitConfig {
    /// Those of every plain transformer.
    pub plain: PlainConfig,
    /// First value of the layer scale; 0 means there is none.
    pub layer_scale_init_value: f64,
    /// Probability that the last block's branches are dropped in training.
    pub drop_path_rate: f64,
    /// Pool the mean of the patches (with a norm of its own) rather than the class token.
    pub use_mean_pooling: bool,
    /// Whether each block has a table of relative position biases.
    pub use_relative_position_bias: bool,
}

impl BeitConfig {
    pub(super) fn from_fields(fields: Fields<'_>) -> Result<Self, ModelError> {
        fields.refuse_flags(&["use_absolute_position_embeddings", "use_shared_relative_position_bias"])?;
        let defaults = PlainDefaults { patch_size: 16, hidden_act: Activation::Gelu, layer_norm_eps: 1e-12 };
        Ok(Self {
            plain: PlainConfig::from_fields(fields, defaults)?,
            layer_scale_init_value: fields.number("layer_scale_init_value", 0.1)?,
            drop_path_rate: fields.share("drop_path_rate", 0.1)?,
            use_mean_pooling: fields.flag("use_mean_pooling", true)?,
            use_relative_position_bias: fields.flag("use_relative_position_bias", false)?,
        })
    }

    /// The sizes as a `config.json` of transformers has them, labels left out.
    pub(super) fn to_json(&self) -> Value {
        let plain = &self.plain;
        let (height, width) = plain.image_size;
        json!({
            "model_type": "beit",
            "image_size": if height == width { json!(height) } else { json!([height, width]) },
            "patch_size": plain.patch_size,
            "num_channels": plain.num_channels,
            "hidden_size": plain.hidden_size,
            "num_hidden_layers": plain.num_hidden_layers,
            "num_attention_heads": plain.num_attention_heads,
            "intermediate_size": plain.intermediate_size,
            "hidden_act": "gelu",
            "layer_norm_eps": plain.layer_norm_eps,
            "layer_scale_init_value": self.layer_scale_init_value,
            "drop_path_rate": self.drop_path_rate,
            "initializer_range": plain.initializer_range,
            "use_mean_pooling": self.use_mean_pooling,
            "use_relative_position_bias": self.use_relative_position_bias,
            "use_absolute_position_embeddings": false,
            "use_shared_relative_position_bias": false,
        })
    }

    /// Built where a block has such a table.
    fn relative_position_bias(
        &self,
        builder: &Builder<'_>,
    ) -> Result<Option<RelativePositionBias>, ParameterError> {
        if !self.use_relative_position_bias {
            return Ok(None);
        }
        let (height, width) = self.plain.grid();
        let positions = RelativePositions { height, width, class_token: true };
        RelativePositionBias::new(builder, positions, self.plain.num_attention_heads).map(Some)
    }
}

/// Builds the model from a builder at the root of the names.
///
/// # Errors
/// If the source lacks a tensor, or one has another shape.
pub(super) fn build(
    builder: &Builder<'_>,
    config: &BeitConfig,
    labels: usize,
) -> Result<Plain, ParameterError> {
    let plain = &config.plain;
    let (hidden, deviation) = (plain.hidden_size, plain.deviation());
    let root = builder.at("beit");
    let embeddings = root.at("embeddings");
    let patches = embeddings.at("patch_embeddings.projection");
    let (pooling, norm) = match config.use_mean_pooling {
        true => (Pooling::MeanOfPatches, "pooler.layernorm"),
        false => (Pooling::ClassToken, "layernorm"),
    };
    Ok(Plain {
        class_token: embeddings.parameter("cls_token", &[1, 1, hidden], Initialization::Constant(0.0))?,
        patch_embedding: plain.patch_embedding(&patches, true, deviation)?,
        positions: None,
        norm_before: None,
        blocks: plain.blocks(&root.at("encoder.layer"), |builder, index| block(builder, config, index))?,
        pooling,
        norm_after: Some(plain.norm(&root.at(norm))?),
        unused: None,
        classifier: Linear::new(&builder.at(HEAD), hidden, labels, true, deviation)?,
    })
}

fn block(builder: &Builder<'_>, config: &BeitConfig, index: usize) -> Result<PreNormBlock, ParameterError> {
    let plain = &config.plain;
    let lambda = |name: &str| match config.layer_scale_init_value {
        value if value > 0.0 => {
            builder.parameter(name, &[plain.hidden_size], Initialization::Constant(value as f32)).map(Some)
        }
        _ => Ok(None),
    };
    let biases = AttentionBiases { query_value: true, key: false };
    let deviations = Deviations { attention: [plain.deviation(); 2], mlp: [plain.deviation(); 2] };
    let deepest = (plain.num_hidden_layers - 1).max(1) as f64;
    Ok(PreNormBlock {
        relative_position_bias: config
            .relative_position_bias(&builder.at("attention.attention.relative_position_bias"))?,
        lambda_1: lambda("lambda_1")?,
        lambda_2: lambda("lambda_2")?,
        drop_path: config.drop_path_rate * index as f64 / deepest,
        ..plain.block(builder, BLOCK, biases, deviations, index)?
    })
}
