//! BEiT for image classification (Bao et al. 2021, "BEiT: BERT Pre-Training of Image Transformers").
//!
//! Reference code: transformers `modeling_beit.py`. One code for training and inference; any image size, patch size, depth
//! and label count; the relative position bias is interpolated to other input sizes.

use super::ModelError;
use super::fields::Fields;
use super::plain::{Plain, Pooling};
use crate::nn::{
    Activation, AttentionBiases, AttentionNames, AttentionSizes, Builder, HEAD, Initialization, LayerNorm,
    Linear, Mlp, MlpSizes, ParameterError, PatchEmbedding, PreNormBlock, RelativePositionBias, SelfAttention,
};
use crate::ops::RelativePositions;
use serde_json::{Value, json};

/// The sizes of a BEiT, with transformers' names and defaults.
#[derive(Clone, Debug)]
pub struct BeitConfig {
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
    /// Epsilon of the norms.
    pub layer_norm_eps: f64,
    /// First value of the layer scale; 0 means there is none.
    pub layer_scale_init_value: f64,
    /// Probability that the last block's branches are dropped in training.
    pub drop_path_rate: f64,
    /// Standard deviation of fresh weights.
    pub initializer_range: f64,
    /// Pool the mean of the patches (with a norm of its own) rather than the class token.
    pub use_mean_pooling: bool,
    /// Whether each block has a table of relative position biases.
    pub use_relative_position_bias: bool,
    /// The function inside the MLP.
    pub hidden_act: Activation,
}

impl BeitConfig {
    pub(super) fn from_fields(fields: Fields<'_>) -> std::result::Result<Self, ModelError> {
        fields.refuse_flags(&["use_absolute_position_embeddings", "use_shared_relative_position_bias"])?;
        let config = Self {
            image_size: fields.size("image_size", 224)?,
            patch_size: fields.side("patch_size", 16)?,
            num_channels: fields.count("num_channels", 3)?,
            hidden_size: fields.count("hidden_size", 768)?,
            num_hidden_layers: fields.count("num_hidden_layers", 12)?,
            num_attention_heads: fields.count("num_attention_heads", 12)?,
            intermediate_size: fields.count("intermediate_size", 3072)?,
            layer_norm_eps: fields.not_negative("layer_norm_eps", 1e-12)?,
            layer_scale_init_value: fields.number("layer_scale_init_value", 0.1)?,
            drop_path_rate: fields.share("drop_path_rate", 0.1)?,
            initializer_range: fields.not_negative("initializer_range", 0.02)?,
            use_mean_pooling: fields.flag("use_mean_pooling", true)?,
            use_relative_position_bias: fields.flag("use_relative_position_bias", false)?,
            hidden_act: fields.activation(Activation::Gelu)?,
        };
        config.checked(fields)
    }

    /// Refuses sizes that make no model, wherever they were read.
    pub(super) fn checked(self, fields: Fields<'_>) -> std::result::Result<Self, ModelError> {
        fields.check_heads("hidden_size", self.hidden_size, self.num_attention_heads)?;
        fields.check_photo(self.num_channels, self.image_size, self.patch_size)?;
        Ok(self)
    }

    /// The sizes as a `config.json` of transformers has them, labels left out.
    pub(super) fn to_json(&self) -> Value {
        let (height, width) = self.image_size;
        json!({
            "model_type": "beit",
            "image_size": if height == width { json!(height) } else { json!([height, width]) },
            "patch_size": self.patch_size,
            "num_channels": self.num_channels,
            "hidden_size": self.hidden_size,
            "num_hidden_layers": self.num_hidden_layers,
            "num_attention_heads": self.num_attention_heads,
            "intermediate_size": self.intermediate_size,
            "hidden_act": "gelu",
            "layer_norm_eps": self.layer_norm_eps,
            "layer_scale_init_value": self.layer_scale_init_value,
            "drop_path_rate": self.drop_path_rate,
            "initializer_range": self.initializer_range,
            "use_mean_pooling": self.use_mean_pooling,
            "use_relative_position_bias": self.use_relative_position_bias,
            "use_absolute_position_embeddings": false,
            "use_shared_relative_position_bias": false,
        })
    }

    fn grid(&self) -> RelativePositions {
        RelativePositions {
            height: self.image_size.0 / self.patch_size,
            width: self.image_size.1 / self.patch_size,
            class_token: true,
        }
    }
}

/// What v4 calls the attention of a block of BEiT or ViT.
pub(super) const ATTENTION: AttentionNames = AttentionNames {
    query: "attention.attention.query",
    key: "attention.attention.key",
    value: "attention.attention.value",
    output: "attention.output.dense",
};

/// What v4 calls the MLP of a block of BEiT or ViT.
pub(super) const MLP: [&str; 2] = ["intermediate.dense", "output.dense"];

/// Builds the model from a builder at the root of the names.
///
/// # Errors
/// If the source lacks a tensor, or one has another shape.
pub(super) fn build(
    builder: &Builder<'_>,
    config: &BeitConfig,
    labels: usize,
) -> std::result::Result<Plain, ParameterError> {
    let hidden = config.hidden_size;
    let deviation = config.initializer_range as f32;
    let root = builder.at("beit");
    let embeddings = root.at("embeddings");
    let sizes = (hidden, config.num_channels, config.patch_size);
    let (pooling, norm) = match config.use_mean_pooling {
        true => (Pooling::MeanOfPatches, "pooler.layernorm"),
        false => (Pooling::ClassToken, "layernorm"),
    };
    let layers = root.at("encoder.layer");
    Ok(Plain {
        class_token: embeddings.parameter("cls_token", &[1, 1, hidden], Initialization::Constant(0.0))?,
        patch_embedding: PatchEmbedding::new(
            &embeddings.at("patch_embeddings.projection"),
            sizes,
            true,
            deviation,
        )?,
        positions: None,
        norm_before: None,
        blocks: (0..config.num_hidden_layers)
            .map(|index| block(&layers.at(index), config, index))
            .collect::<std::result::Result<_, _>>()?,
        pooling,
        norm_after: Some(LayerNorm::new(&root.at(norm), hidden, config.layer_norm_eps as f32)?),
        unused: None,
        classifier: Linear::new(&builder.at(HEAD), hidden, labels, true, deviation)?,
    })
}

fn block(
    builder: &Builder<'_>,
    config: &BeitConfig,
    index: usize,
) -> std::result::Result<PreNormBlock, ParameterError> {
    let (hidden, heads) = (config.hidden_size, config.num_attention_heads);
    let deviations = [config.initializer_range as f32; 2];
    let norm = |name: &str| LayerNorm::new(&builder.at(name), hidden, config.layer_norm_eps as f32);
    let lambda = |name: &str| match config.layer_scale_init_value {
        value if value > 0.0 => {
            builder.parameter(name, &[hidden], Initialization::Constant(value as f32)).map(Some)
        }
        _ => Ok(None),
    };
    let bias = builder.at("attention.attention.relative_position_bias");
    let biases = AttentionBiases { query_value: true, key: false };
    let attention = AttentionSizes { hidden, heads, biases, deviations };
    let mlp = MlpSizes { hidden, inner: config.intermediate_size, activation: config.hidden_act, deviations };
    let deepest = (config.num_hidden_layers - 1).max(1) as f64;
    Ok(PreNormBlock {
        norm_1: norm("layernorm_before")?,
        attention: SelfAttention::new(builder, ATTENTION, attention)?,
        relative_position_bias: match config.use_relative_position_bias {
            true => Some(RelativePositionBias::new(&bias, config.grid(), heads)?),
            false => None,
        },
        lambda_1: lambda("lambda_1")?,
        norm_2: norm("layernorm_after")?,
        mlp: Mlp::new(builder, MLP, mlp)?,
        lambda_2: lambda("lambda_2")?,
        drop_path: config.drop_path_rate * index as f64 / deepest,
        index: index as u64,
    })
}
