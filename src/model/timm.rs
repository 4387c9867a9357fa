//! timm's BEiT folders: `config.json` with an `architecture`, sizes read from the tensors' shapes, names of its own.

use super::beit::BeitConfig;
use super::fields::Fields;
use super::plain_config::PlainConfig;
use super::{Architecture, Checkpoint, Config, ModelError};
use crate::nn::{Activation, Initialization, ParameterError, Source};
use candle_core::Tensor;
use serde_json::Value;
use std::path::Path;

/// The config of a timm folder. The sizes come from the weights beside `file`.
pub(super) fn config(json: &Value, file: &Path) -> Result<Config, ModelError> {
    let fields = Fields { json, within: None, file };
    let name = fields.text("architecture")?.unwrap_or_default();
    if !name.starts_with("beit_") && !name.starts_with("beitv2_") {
        return Err(ModelError::TimmArchitecture { file: file.into(), found: name.to_owned() });
    }
    let folder = file.parent().unwrap_or(Path::new("."));
    let checkpoint = Checkpoint::open(folder)?;
    let shape = |name: &str| {
        checkpoint.shape(name).ok_or_else(|| ModelError::Parameter {
            file: checkpoint.file().into(),
            source: ParameterError::Missing { name: name.to_owned(), want: Vec::new() },
        })
    };
    let dimension = |name: &'static str, index: usize| {
        let shape = shape(name)?;
        shape.get(index).copied().ok_or_else(|| ModelError::Damaged {
            file: checkpoint.file().into(),
            problem: format!("tensor `{name}` has shape {shape:?}, too few dimensions"),
        })
    };
    let input = json.pointer("/pretrained_cfg/input_size").and_then(Value::as_array);
    let image_size = match input.map(|size| size.iter().map(Value::as_u64).collect::<Vec<_>>()).as_deref() {
        Some([Some(3), Some(height @ 1..), Some(width @ 1..)]) => (*height as usize, *width as usize),
        _ => return Err(fields.wrong("pretrained_cfg.input_size", "is not [3, height, width]")),
    };
    let depth = (0..).take_while(|index| checkpoint.has(&format!("blocks.{index}.norm1.weight"))).count();
    if checkpoint.has("pos_embed") {
        let problem =
            format!("is {name} with absolute positions (tensor `pos_embed`), which are not supported");
        return Err(fields.wrong("architecture", problem));
    }
    // A headless one has as many labels as transformers gives a model that says nothing.
    let num_labels = match checkpoint.has("head.weight") {
        true => dimension("head.weight", 0)?.max(1),
        false => 2,
    };
    let plain = PlainConfig {
        image_size,
        patch_size: dimension("patch_embed.proj.weight", 2)?,
        num_channels: dimension("patch_embed.proj.weight", 1)?,
        hidden_size: dimension("patch_embed.proj.weight", 0)?,
        num_hidden_layers: depth.max(1),
        num_attention_heads: dimension("blocks.0.attn.relative_position_bias_table", 1)?.max(1),
        intermediate_size: dimension("blocks.0.mlp.fc1.weight", 0)?.max(1),
        hidden_act: Activation::Gelu,
        layer_norm_eps: 1e-6,
        initializer_range: 0.02,
    };
    plain.check(fields)?;
    let beit = BeitConfig {
        plain,
        layer_scale_init_value: if checkpoint.has("blocks.0.gamma_1") { 0.1 } else { 0.0 },
        drop_path_rate: 0.0,
        use_mean_pooling: checkpoint.has("fc_norm.weight"),
        use_relative_position_bias: true,
    };
    Ok(Config {
        architecture: Architecture::Beit(beit),
        labels: (0..num_labels).map(|index| format!("LABEL_{index}")).collect(),
        multi_label: false,
        timm: true,
        json: json.clone(),
    })
}

/// A timm checkpoint read under v4 names.
pub(super) struct TimmSource<'a>(pub(super) &'a dyn Source);

/// timm's name of a v4 tensor, and which third of its rows it is.
fn timm_name(v4: &str) -> (String, Option<usize>) {
    let Some(rest) = v4.strip_prefix("beit.encoder.layer.") else {
        let name = v4
            .replace("beit.embeddings.cls_token", "cls_token")
            .replace("beit.embeddings.patch_embeddings.projection", "patch_embed.proj")
            .replace("beit.pooler.layernorm", "fc_norm")
            .replace("beit.layernorm", "norm")
            .replace("classifier", "head");
        return (name, None);
    };
    let (layer, rest) = rest.split_once('.').unwrap_or((rest, ""));
    let (name, third) = match rest {
        "attention.attention.query.weight" => ("attn.qkv.weight", Some(0)),
        "attention.attention.key.weight" => ("attn.qkv.weight", Some(1)),
        "attention.attention.value.weight" => ("attn.qkv.weight", Some(2)),
        "attention.attention.query.bias" => ("attn.q_bias", None),
        "attention.attention.value.bias" => ("attn.v_bias", None),
        "attention.attention.relative_position_bias.relative_position_bias_table" => {
            ("attn.relative_position_bias_table", None)
        }
        "lambda_1" => ("gamma_1", None),
        "lambda_2" => ("gamma_2", None),
        other => {
            let name = other
                .replace("attention.output.dense", "attn.proj")
                .replace("layernorm_before", "norm1")
                .replace("layernorm_after", "norm2")
                .replace("intermediate.dense", "mlp.fc1")
                .replace("output.dense", "mlp.fc2");
            return (format!("blocks.{layer}.{name}"), None);
        }
    };
    (format!("blocks.{layer}.{name}"), third)
}

impl Source for TimmSource<'_> {
    fn tensor(&self, name: &str, shape: &[usize], init: Initialization) -> Result<Tensor, ParameterError> {
        let (timm, third) = timm_name(name);
        let Some(third) = third else { return self.0.tensor(&timm, shape, init) };
        let mut packed = shape.to_vec();
        let rows = packed.first().copied().unwrap_or(0);
        if let Some(first) = packed.first_mut() {
            *first = 3 * rows;
        }
        self.0
            .tensor(&timm, &packed, init)?
            .narrow(0, third * rows, rows)
            .and_then(|part| part.contiguous())
            .map_err(|source| ParameterError::Unreadable { name: timm, source })
    }

    fn has(&self, name: &str) -> bool {
        self.0.has(&timm_name(name).0)
    }
}
