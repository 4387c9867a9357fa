//! `config.json`: which architecture, its sizes, its labels. Absent fields take transformers' defaults.

use super::beit::BeitConfig;
use super::{ModelError, timm};
use serde_json::{Map, Value, json};
use std::path::{Path, PathBuf};

/// A model's architecture with its settings.
#[derive(Clone, Debug)]
pub enum Architecture {
    /// BEiT (Bao et al. 2021).
    Beit(BeitConfig),
}

impl Architecture {
    /// The `model_type` of transformers.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Beit(_) => "beit",
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
        let fields = Fields { json: &json, file };
        if json.get("architecture").is_some() && json.get("model_type").is_none() {
            return timm::config(&json, file);
        }
        let labels = labels(fields)?;
        let architecture = match fields.text("model_type")?.unwrap_or_default() {
            "beit" => Architecture::Beit(BeitConfig::from_fields(fields, labels.len())?),
            found => return Err(ModelError::Architecture { file: file.into(), found: found.to_owned() }),
        };
        let multi_label = fields.text("problem_type")? == Some("multi_label_classification");
        Ok(Self { architecture, labels, multi_label, timm: false, json })
    }

    /// The same model with a head for other labels.
    pub fn with_labels(&self, labels: &[String]) -> Self {
        let mut config = self.clone();
        labels.clone_into(&mut config.labels);
        match &mut config.architecture {
            Architecture::Beit(beit) => beit.num_labels = labels.len(),
        }
        config
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
        let Architecture::Beit(beit) = &self.architecture;
        let mut json = if self.timm { beit.to_json() } else { self.json.clone() };
        let names = self.labels.iter().enumerate();
        let id2label: Map<String, Value> =
            names.clone().map(|(index, label)| (index.to_string(), json!(label))).collect();
        let label2id: Map<String, Value> =
            names.map(|(index, label)| (label.clone(), json!(index))).collect();
        if let Some(fields) = json.as_object_mut() {
            // transformers derives it from id2label and warns where the two differ.
            fields.remove("num_labels");
            fields.insert("architectures".to_owned(), json!(["BeitForImageClassification"]));
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

/// The fields of a `config.json`, read with defaults and with errors that name the file and the field.
#[derive(Clone, Copy)]
pub(super) struct Fields<'a> {
    pub(super) json: &'a Value,
    pub(super) file: &'a Path,
}

impl<'a> Fields<'a> {
    pub(super) fn wrong(self, field: &'static str, problem: impl Into<String>) -> ModelError {
        ModelError::Config { file: PathBuf::from(self.file), field, problem: problem.into() }
    }

    fn get(self, field: &str) -> Option<&'a Value> {
        self.json.get(field).filter(|value| !value.is_null())
    }

    pub(super) fn text(self, field: &'static str) -> Result<Option<&'a str>, ModelError> {
        self.get(field)
            .map(|v| v.as_str().ok_or_else(|| self.wrong(field, format!("is {v}, text wanted"))))
            .transpose()
    }

    pub(super) fn flag(self, field: &'static str, default: bool) -> Result<bool, ModelError> {
        let value = self.get(field);
        value.map_or(Ok(default), |v| {
            v.as_bool().ok_or_else(|| self.wrong(field, format!("is {v}, true or false wanted")))
        })
    }

    /// A whole number of at least 1 and at most a million: sizes beyond would only exhaust memory.
    pub(super) fn count(self, field: &'static str, default: usize) -> Result<usize, ModelError> {
        let Some(value) = self.get(field) else { return Ok(default) };
        match value.as_u64() {
            Some(count @ 1..=1_000_000) => Ok(count as usize),
            _ => Err(self.wrong(field, format!("is {value}, a whole number from 1 to 1000000 wanted"))),
        }
    }

    pub(super) fn number(self, field: &'static str, default: f64) -> Result<f64, ModelError> {
        let value = self.get(field);
        value.map_or(Ok(default), |v| {
            v.as_f64().ok_or_else(|| self.wrong(field, format!("is {v}, a number wanted")))
        })
    }

    /// A side, or [height, width].
    pub(super) fn size(self, field: &'static str, default: usize) -> Result<(usize, usize), ModelError> {
        let Some(Value::Array(sides)) = self.get(field) else {
            let side = self.count(field, default)?;
            return Ok((side, side));
        };
        match sides.iter().map(Value::as_u64).collect::<Vec<_>>()[..] {
            [Some(height @ 1..=1_000_000), Some(width @ 1..=1_000_000)] => {
                Ok((height as usize, width as usize))
            }
            _ => Err(self.wrong(field, "is neither a side nor [height, width]")),
        }
    }
}
