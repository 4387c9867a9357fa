//! CLIP's image tower with a classification head (Radford et al. 2021, "Learning Transferable Visual Models From Natural
//! Language Supervision").
//!
//! Reference code: transformers `modeling_clip.py`, `CLIPForImageClassification`. The head sees the mean of the patches of the
//! last hidden state; the tower's own last norm is read and written, and not used. The text tower of a checkpoint is left alone.

use super::ModelError;
use super::fields::Fields;
use super::plain::{Plain, Pooling};
use super::plain_config::{BlockNames, Deviations, PlainConfig, PlainDefaults};
use crate::nn::{
    Activation, AttentionBiases, AttentionNames, Builder, HEAD, Initialization, Linear, ParameterError,
    PositionEmbedding,
};
use serde_json::Value;

/// The sizes of an image tower, with the names and defaults of transformers' `vision_config`.
#[derive(Clone, Debug)]
pub struct ClipConfig {
    /// Those of every plain transformer.
    pub plain: PlainConfig,
    /// Factor of every fresh weight's deviation.
    pub initializer_factor: f64,
}

/// Where a config has the sizes of its image tower, and what they say. Old files have them twice: transformers takes
/// `vision_config_dict` then, and the defaults for what it lacks.
pub(super) fn vision(json: &Value) -> (&'static str, &Value) {
    ["vision_config_dict", "vision_config"]
        .into_iter()
        .find_map(|name| Some((name, json.get(name).filter(|value| !value.is_null())?)))
        .unwrap_or(("vision_config", &Value::Null))
}

impl ClipConfig {
    pub(super) fn from_fields(fields: Fields<'_>) -> Result<Self, ModelError> {
        let (name, json) = vision(fields.json);
        if !json.is_object() && !json.is_null() {
            return Err(fields.wrong(name, "is not an object"));
        }
        // transformers' factor of the whole model, where the tower has none of its own.
        let factor = fields.not_negative("initializer_factor", 1.0)?;
        let fields = Fields { json, within: Some(name), ..fields };
        let defaults =
            PlainDefaults { patch_size: 32, hidden_act: Activation::QuickGelu, layer_norm_eps: 1e-5 };
        Ok(Self {
            plain: PlainConfig::from_fields(fields, defaults)?,
            initializer_factor: fields.not_negative("initializer_factor", factor)?,
        })
    }

    /// 1/√hidden, the measure of fresh weights.
    fn deviation(&self) -> f32 {
        (self.initializer_factor / (self.plain.hidden_size as f64).sqrt()) as f32
    }

    fn deviations(&self) -> Deviations {
        let deviation = self.deviation();
        // What adds to the residual stream is the smaller, the more blocks do.
        let small = deviation / (2.0 * self.plain.num_hidden_layers as f32).sqrt();
        Deviations { attention: [small, deviation], mlp: [deviation / 2f32.sqrt(), small] }
    }
}

/// What v4 calls the parts of a block.
const BLOCK: BlockNames = BlockNames {
    norms: ["layer_norm1", "layer_norm2"],
    attention: AttentionNames {
        query: "self_attn.q_proj",
        key: "self_attn.k_proj",
        value: "self_attn.v_proj",
        output: "self_attn.out_proj",
    },
    mlp: ["mlp.fc1", "mlp.fc2"],
};

/// Builds the model from a builder at the root of the names.
///
/// # Errors
/// If the source lacks a tensor, or one has another shape.
pub(super) fn build(
    builder: &Builder<'_>,
    config: &ClipConfig,
    labels: usize,
) -> Result<Plain, ParameterError> {
    let plain = &config.plain;
    let (hidden, deviation) = (plain.hidden_size, config.deviation());
    let embedding = (plain.initializer_range * config.initializer_factor) as f32;
    let root = builder.at("vision_model");
    let embeddings = root.at("embeddings");
    let (patches, table) = (embeddings.at("patch_embedding"), embeddings.at("position_embedding"));
    let positions = (plain.grid(), hidden);
    let biases = AttentionBiases { query_value: true, key: true };
    let norm = |name: &str| plain.norm(&root.at(name));
    Ok(Plain {
        class_token: embeddings.parameter("class_embedding", &[hidden], Initialization::Normal(deviation))?,
        patch_embedding: plain.patch_embedding(&patches, false, embedding)?,
        positions: Some(PositionEmbedding::new(&table, "weight", 0, positions, embedding)?),
        norm_before: Some(norm("pre_layrnorm")?), // sic
        blocks: plain.blocks(&root.at("encoder.layers"), |builder, index| {
            plain.block(builder, BLOCK, biases, config.deviations(), index)
        })?,
        pooling: Pooling::MeanOfPatches,
        norm_after: None,
        unused: Some(norm("post_layernorm")?),
        classifier: Linear::new(&builder.at(HEAD), hidden, labels, true, deviation)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use std::path::Path;

    fn read(json: &Value) -> Result<ClipConfig, ModelError> {
        ClipConfig::from_fields(Fields { json, within: None, file: Path::new("config.json") })
    }

    #[test]
    fn a_field_of_the_image_tower_is_named_with_where_it_stands() {
        let error = read(&json!({"vision_config": {"hidden_size": "wide"}})).expect_err("text").to_string();
        assert!(error.contains("`vision_config.hidden_size` is \"wide\""), "{error}");
    }

    #[test]
    fn the_old_name_of_the_image_tower_s_sizes_takes_the_new_one_s_place() {
        let sizes = json!({
            "vision_config": {"hidden_size": 64, "num_attention_heads": 2, "patch_size": 16},
            "vision_config_dict": {"hidden_size": 96, "num_attention_heads": 3},
        });
        let plain = read(&sizes).expect("sizes").plain;
        assert_eq!((plain.hidden_size, plain.num_attention_heads, plain.patch_size), (96, 3, 32));
        let plain = read(&json!({"vision_config": sizes["vision_config"], "vision_config_dict": null}));
        assert_eq!(plain.expect("sizes").plain.hidden_size, 64);
    }
}
