//! `config.json`: which architecture, its sizes, its labels. Absent fields take transformers' defaults.

use super::beit::BeitConfig;
use super::clip::{self, ClipConfig};
use super::fields::Fields;
use super::swin_config::{SwinConfig, SwinV2Config};
use super::vit::VitConfig;
use super::{ModelError, timm};
use serde_json::{Map, Value, json};
use std::path::Path;

/// A model's architecture with its settings.
#[derive(Clone, Debug)]
pub enum Architecture {
    /// BEiT (Bao et al. 2021).
    Beit(BeitConfig),
    /// The image tower of CLIP (Radford et al. 2021) with a head.
    Clip(ClipConfig),
    /// Swin Transformer (Liu et al. 2021).
    Swin(SwinConfig),
    /// Swin Transformer V2 (Liu et al. 2022).
    SwinV2(SwinV2Config),
    /// ViT (Dosovitskiy et al. 2020).
    Vit(VitConfig),
}

/// Every `model_type` that is known.
pub const MODEL_TYPES: [&str; 5] = ["beit", "clip", "swin", "swinv2", "vit"];

impl Architecture {
    fn from_fields(fields: Fields<'_>) -> Result<Self, ModelError> {
        match fields.text("model_type")?.unwrap_or_default() {
            "beit" => BeitConfig::from_fields(fields).map(Self::Beit),
            "clip" => ClipConfig::from_fields(fields).map(Self::Clip),
            "swin" => SwinConfig::from_fields(fields).map(Self::Swin),
            "swinv2" => SwinV2Config::from_fields(fields).map(Self::SwinV2),
            "vit" => VitConfig::from_fields(fields).map(Self::Vit),
            found => Err(ModelError::Architecture { file: fields.file.into(), found: found.to_owned() }),
        }
    }

    /// The `model_type` of transformers.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Beit(_) => "beit",
            Self::Clip(_) => "clip",
            Self::Swin(_) => "swin",
            Self::SwinV2(_) => "swinv2",
            Self::Vit(_) => "vit",
        }
    }

    /// What v4's names of the backbone begin with.
    pub(super) fn root(&self) -> &'static str {
        match self {
            Self::Clip(_) => "vision_model",
            Self::Beit(_) | Self::Swin(_) | Self::SwinV2(_) | Self::Vit(_) => self.name(),
        }
    }

    /// transformers' name of the classifier.
    fn class_name(&self) -> &'static str {
        match self {
            Self::Beit(_) => "BeitForImageClassification",
            Self::Clip(_) => "CLIPForImageClassification",
            Self::Swin(_) => "SwinForImageClassification",
            Self::SwinV2(_) => "Swinv2ForImageClassification",
            Self::Vit(_) => "ViTForImageClassification",
        }
    }

    /// Height and width of the photos it was made for, pixels.
    pub fn image_size(&self) -> (usize, usize) {
        match self {
            Self::Beit(beit) => beit.plain.image_size,
            Self::Clip(clip) => clip.plain.image_size,
            Self::Swin(swin) => swin.image_size,
            Self::SwinV2(swin_v2) => swin_v2.swin.image_size,
            Self::Vit(vit) => vit.plain.image_size,
        }
    }

    /// The shortest side of a photo that it takes, pixels: a patch, but for those that fill up the last patch with zeros.
    pub(super) fn least_side(&self) -> usize {
        match self {
            Self::Beit(beit) => beit.plain.patch_size,
            Self::Clip(clip) => clip.plain.patch_size,
            Self::Vit(vit) => vit.plain.patch_size,
            Self::Swin(_) | Self::SwinV2(_) => 1,
        }
    }

    /// The modules that LoRA adapts where nobody says which: the maps to queries and values (Hu et al. 2021, §4.2), under their
    /// v4 names.
    pub fn default_targets(&self) -> [&'static str; 2] {
        match self {
            Self::Clip(_) => ["q_proj", "v_proj"],
            Self::Beit(_) | Self::Swin(_) | Self::SwinV2(_) | Self::Vit(_) => ["query", "value"],
        }
    }
}

/// A read `config.json`.
#[derive(Clone, Debug)]
pub struct Config {
    /// Architecture and sizes.
    pub architecture: Architecture,
    /// Names of the labels, by index.
    pub labels: Vec<String>,
    /// Whether scores are independent of each other (`problem_type: multi_label_classification`).
    pub multi_label: bool,
    /// Whether the folder has timm's naming.
    pub timm: bool,
    /// The whole file, to be written back with a changed head.
    pub json: Value,
}

impl Config {
    /// Reads `config.json`.
    ///
    /// # Errors
    /// If it cannot be read, names an unknown architecture, or a field has a wrong value.
    pub fn from_file(file: &Path) -> Result<Self, ModelError> {
        let text =
            std::fs::read_to_string(file).map_err(|source| ModelError::Io { file: file.into(), source })?;
        let json =
            serde_json::from_str(&text).map_err(|source| ModelError::Json { file: file.into(), source })?;
        Self::from_json(json, file)
    }

    /// The same from a parsed file; `file` is for messages.
    ///
    /// # Errors
    /// Those of [`Config::from_file`].
    pub fn from_json(json: Value, file: &Path) -> Result<Self, ModelError> {
        let fields = Fields { json: &json, within: None, file };
        if json.get("architecture").is_some() && json.get("model_type").is_none() {
            return timm::config(&json, file);
        }
        let labels = labels(fields)?;
        let architecture = Architecture::from_fields(fields)?;
        let multi_label = fields.text("problem_type")? == Some("multi_label_classification");
        Ok(Self { architecture, labels, multi_label, timm: false, json })
    }

    /// The same model with a head for other labels.
    pub fn with_labels(&self, labels: &[String]) -> Self {
        let mut config = self.clone();
        labels.clone_into(&mut config.labels);
        config
    }

    /// The dropout fields of the config that are not 0, which inference ignores: name and value.
    pub fn dropout(&self) -> Option<(&'static str, f64)> {
        let fields = match &self.architecture {
            Architecture::Clip(_) => clip::vision(&self.json).1,
            _ => &self.json,
        };
        ["hidden_dropout_prob", "attention_probs_dropout_prob", "attention_dropout"]
            .into_iter()
            .map(|field| (field, fields.get(field).and_then(Value::as_f64).unwrap_or(0.0)))
            .find(|(_, value)| *value != 0.0)
    }

    /// The same model for photos of which each has one label.
    pub fn with_single_label(mut self) -> Self {
        self.multi_label = false;
        if let Some(fields) = self.json.as_object_mut() {
            fields.remove("problem_type");
        }
        self
    }

    /// The `config.json` that transformers and [`Config::from_file`] read back as this model: the file's own fields, a
    /// timm folder's translated, with these labels.
    pub fn to_json(&self) -> Value {
        let mut json = match &self.architecture {
            Architecture::Beit(beit) if self.timm => beit.to_json(),
            _ => self.json.clone(),
        };
        let names = self.labels.iter().enumerate();
        let id2label: Map<String, Value> =
            names.clone().map(|(index, label)| (index.to_string(), json!(label))).collect();
        let label2id: Map<String, Value> =
            names.map(|(index, label)| (label.clone(), json!(index))).collect();
        if let Some(fields) = json.as_object_mut() {
            // transformers derives it from id2label and warns where the two differ.
            fields.remove("num_labels");
            fields.insert("architectures".to_owned(), json!([self.architecture.class_name()]));
            fields.insert("id2label".to_owned(), Value::Object(id2label));
            fields.insert("label2id".to_owned(), Value::Object(label2id));
        }
        json
    }
}

/// Labels of `id2label`, which must be 0 … n−1; without it, `num_labels` (default 2) named `LABEL_i`.
fn labels(fields: Fields<'_>) -> Result<Vec<String>, ModelError> {
    let Some(map) = fields.json.get("id2label").filter(|value| !value.is_null()) else {
        let count = fields.count("num_labels", 2)?;
        return Ok((0..count).map(|index| format!("LABEL_{index}")).collect());
    };
    let map = map.as_object().ok_or_else(|| fields.wrong("id2label", "is not an object of index → label"))?;
    if map.is_empty() {
        return Err(fields.wrong("id2label", "has no label"));
    }
    (0..map.len())
        .map(|index| {
            let label = map.get(&index.to_string()).and_then(Value::as_str);
            label.map(str::to_owned).ok_or_else(|| {
                fields.wrong(
                    "id2label",
                    format!("has {} labels but none (as text) for index {index}", map.len()),
                )
            })
        })
        .collect()
}
