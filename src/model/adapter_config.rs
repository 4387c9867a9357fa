//! `adapter_config.json` of PEFT: what is adapted and how, read and written.
//!
//! `adapter` calls it. What would change the result and is not built is refused here, by name.

use super::ModelError;
use super::names::{ALL_LINEAR, Naming};
use crate::nn::HEAD;
use serde_json::{Value, json};
use std::path::Path;

/// What `adapter_config.json` says.
#[derive(Clone, Debug, PartialEq)]
pub struct AdapterConfig {
    /// Rank of the two factors.
    pub rank: usize,
    /// Numerator of the scale.
    pub alpha: f64,
    /// Divide by √rank rather than by rank (rsLoRA; Kalajdzievski 2023).
    pub rank_stabilized: bool,
    /// Train the magnitudes of the weights' rows as well (DoRA; Liu et al. 2024).
    pub dora: bool,
    /// Probability of dropping an input in training.
    pub dropout: f64,
    /// Names of the adapted modules, of either naming, or [`ALL_LINEAR`]. As read from a file maybe PEFT's pattern, for people: which
    /// modules it means stands in the tensors.
    pub targets: Vec<String>,
}

impl AdapterConfig {
    /// The factor of B·A.
    pub fn scale(&self) -> f32 {
        let rank = self.rank as f64;
        (self.alpha / if self.rank_stabilized { rank.sqrt() } else { rank }) as f32
    }

    /// Reads `adapter_config.json`.
    ///
    /// # Errors
    /// If a field is missing or asks for what is not supported.
    pub fn from_file(file: &Path) -> Result<Self, ModelError> {
        let text =
            std::fs::read_to_string(file).map_err(|source| ModelError::Io { file: file.into(), source })?;
        let json: Value =
            serde_json::from_str(&text).map_err(|source| ModelError::Json { file: file.into(), source })?;
        let wrong = |field: &str, problem: String| ModelError::Config {
            file: file.into(),
            field: field.to_owned(),
            problem,
        };
        if json.get("peft_type").and_then(Value::as_str) != Some("LORA") {
            return Err(wrong("peft_type", "is not LORA, the only kind supported".to_owned()));
        }
        refuse_unsupported(&json, &wrong)?;
        let rank = json.get("r").and_then(Value::as_u64).filter(|rank| (1..=65_536).contains(rank));
        let rank = rank.ok_or_else(|| wrong("r", "is no rank of at least 1".to_owned()))? as usize;
        let alpha = json.get("lora_alpha").and_then(Value::as_f64);
        let targets = match json.get("target_modules") {
            // A regular expression, which the tensors spell out.
            Some(Value::String(pattern)) => Some(vec![pattern.clone()]),
            Some(Value::Array(list)) => list.iter().map(|name| name.as_str().map(str::to_owned)).collect(),
            _ => None,
        };
        let says = |field: &str| json.get(field).and_then(Value::as_bool).unwrap_or(false);
        Ok(Self {
            rank,
            alpha: alpha.ok_or_else(|| wrong("lora_alpha", "is no number".to_owned()))?,
            rank_stabilized: says("use_rslora"),
            dora: says("use_dora"),
            dropout: json.get("lora_dropout").and_then(Value::as_f64).unwrap_or(0.0),
            targets: targets.ok_or_else(|| {
                wrong("target_modules", "is neither a list of module names nor a pattern".to_owned())
            })?,
        })
    }

    /// As PEFT reads it, for adapters on `modules`. Each target stands under its v4 and its v5 name, for PEFT looks for them in
    /// the running model, whose modules are named by the version of transformers; a name that is not there does no harm.
    pub(super) fn to_json(&self, base: &str, naming: Option<&Naming>, modules: &[&str]) -> Value {
        // Named one by one, as PEFT understands the word for all of them only where it makes an adapter.
        let all: Vec<String> = modules.iter().map(|module| below_block(module)).collect();
        let chosen =
            if self.targets.iter().any(|target| target == ALL_LINEAR) { &all } else { &self.targets };

        let mut targets: Vec<String> = Vec::new();
        let both = |target: &String| {
            naming.map_or_else(|| vec![target.clone()], |naming| naming.names_in_both(target))
        };
        for name in chosen.iter().flat_map(both) {
            if !targets.contains(&name) {
                targets.push(name);
            }
        }
        json!({
            "peft_type": "LORA", "base_model_name_or_path": base, "bias": "none", "fan_in_fan_out": false,
            "inference_mode": true, "init_lora_weights": true, "lora_alpha": self.alpha, "lora_dropout": self.dropout,
            "modules_to_save": [HEAD], "r": self.rank, "target_modules": targets, "task_type": null,
            "use_dora": self.dora, "use_rslora": self.rank_stabilized,
        })
    }
}

/// PEFT options that change the result and are not built.
fn refuse_unsupported(
    json: &Value,
    wrong: &dyn Fn(&'static str, String) -> ModelError,
) -> Result<(), ModelError> {
    for field in ["use_qalora", "use_bdlora", "lora_bias", "fan_in_fan_out"] {
        if json.get(field).and_then(Value::as_bool) == Some(true) {
            return Err(wrong(field, "is true, which is not supported".to_owned()));
        }
    }
    for field in ["rank_pattern", "alpha_pattern"] {
        if json.get(field).and_then(Value::as_object).is_some_and(|map| !map.is_empty()) {
            return Err(wrong(field, "is set; one rank and alpha for all modules is supported".to_owned()));
        }
    }
    match json.get("bias").and_then(Value::as_str) {
        None | Some("none") => Ok(()),
        Some(other) => Err(wrong("bias", format!("is {other}; supported: none"))),
    }
}

/// A module's name below its block: `attention.attention.query` of `beit.encoder.layer.0.attention.attention.query`.
pub(super) fn below_block(name: &str) -> String {
    let parts: Vec<&str> = name.split('.').collect();
    // The last part may be a number itself: a module of a list, no block.
    let above = &parts[..parts.len().saturating_sub(1)];
    let block = above.iter().rposition(|part| part.parse::<usize>().is_ok());
    parts[block.map_or(0, |index| index + 1)..].join(".")
}
