//! What a run came to: read from the files that `fit` and `evaluate` wrote, kept in `result.json`.

use super::jobs::Job;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

/// The photos that the accuracy is measured on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MeasuredOn {
    /// Photos that no training saw, after it.
    Test,
    /// The photos that the training measures itself on, after its last epoch.
    Validation,
}

impl MeasuredOn {
    /// In a word.
    pub fn name(self) -> &'static str {
        match self {
            Self::Test => "test",
            Self::Validation => "validation",
        }
    }
}

/// The figures of a run. Those that a system does not tell are missing.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunResult {
    /// What the training was made of; see [`Job::training`].
    pub training: Value,
    /// What the measurement was made of; see [`Job::evaluation`].
    pub evaluation: Value,
    /// The program's version.
    pub version: String,
    /// The model's architecture.
    pub architecture: String,
    /// The device, with its hardware.
    pub device: String,
    /// What it computed in.
    pub dtype: String,
    /// Threads that computed.
    pub threads: u64,
    /// Which photos `top1`, `top5` and `loss` are of.
    pub measured_on: MeasuredOn,
    /// How many these are.
    pub photos: u64,
    /// Share of photos with the right label first.
    pub top1: f64,
    /// Share of photos with the right label among the first five.
    pub top5: f64,
    /// Mean cross-entropy; missing where it is no number.
    pub loss: Option<f64>,
    /// Parameters of the model itself, adapters left out.
    pub parameters: u64,
    /// How many of them were trained.
    pub trainable_parameters: u64,
    /// The most main memory that the training's process held, bytes.
    pub peak_memory_bytes: Option<u64>,
    /// The most that its tensors held of the device's memory, bytes; none on the CPU.
    pub peak_device_memory_bytes: Option<u64>,
    /// From the first photo to the last file: evaluations and saving included.
    pub training_seconds: f64,
    /// Of the median step, loading included.
    pub training_images_per_second: Option<f64>,
    /// Of the merged model alone: median forward pass over photos that lie decoded in memory.
    pub inference_images_per_second: Option<f64>,
    /// Photos of such a pass.
    pub inference_batch_size: Option<u64>,
}

/// A run whose files do not hold what they should.
#[derive(Debug, thiserror::Error)]
pub enum ResultError {
    /// A file that cannot be read.
    #[error("{}: {source}", file.display())]
    Io {
        /// The file.
        file: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// A file that is no JSON, or another.
    #[error("{}: {source}", file.display())]
    Json {
        /// The file.
        file: PathBuf,
        /// Where it goes wrong.
        source: serde_json::Error,
    },
    /// A figure that is not there.
    #[error("{}: no `{field}`", file.display())]
    Missing {
        /// The file.
        file: PathBuf,
        /// Its name.
        field: String,
    },
}

/// The content of a JSON file; `None` where there is no such file.
///
/// # Errors
/// If it cannot be read, or is no JSON.
pub fn read_json(file: &Path) -> Result<Option<Value>, ResultError> {
    let text = match std::fs::read_to_string(file) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        other => other.map_err(|source| ResultError::Io { file: file.to_owned(), source })?,
    };
    let parsed = serde_json::from_str(&text);
    parsed.map(Some).map_err(|source| ResultError::Json { file: file.to_owned(), source })
}

/// A JSON file that must be there, and its fields.
struct Fields {
    file: PathBuf,
    json: Value,
}

impl Fields {
    fn read(file: PathBuf) -> Result<Self, ResultError> {
        match read_json(&file)? {
            Some(json) => Ok(Self { file, json }),
            None => Err(ResultError::Io { file, source: std::io::ErrorKind::NotFound.into() }),
        }
    }

    fn get<T>(&self, pointer: &str, read: impl Fn(&Value) -> Option<T>) -> Result<T, ResultError> {
        let missing = || ResultError::Missing {
            file: self.file.clone(),
            field: pointer.trim_start_matches('/').to_owned(),
        };
        self.json.pointer(pointer).and_then(read).ok_or_else(missing)
    }

    fn number(&self, pointer: &str) -> Result<f64, ResultError> {
        self.get(pointer, Value::as_f64)
    }

    fn count(&self, pointer: &str) -> Result<u64, ResultError> {
        self.get(pointer, Value::as_u64)
    }

    fn text(&self, pointer: &str) -> Result<String, ResultError> {
        self.get(pointer, |value| value.as_str().map(str::to_owned))
    }
}

impl RunResult {
    /// Puts together what the training and the measurement of `job` wrote into its folder.
    ///
    /// # Errors
    /// If a file or a figure is missing.
    pub fn collect(job: &Job) -> Result<Self, ResultError> {
        let run = Fields::read(job.folder.join("run.json"))?;
        let measured = Fields::read(job.folder.join("evaluation.json"))?;
        let on_test = !job.evaluation["test"].is_null();
        let (measured_on, accuracy, at) = if on_test {
            (MeasuredOn::Test, &measured, "")
        } else {
            (MeasuredOn::Validation, &run, "/evaluation")
        };
        Ok(Self {
            training: job.training.clone(),
            evaluation: job.evaluation.clone(),
            version: run.text("/version")?,
            architecture: run.text("/architecture")?,
            device: job.settings.device.to_string(),
            dtype: run.text("/settings/dtype")?,
            threads: run.count("/threads")?,
            measured_on,
            photos: accuracy.count(&format!("{at}/photos"))?,
            top1: accuracy.number(&format!("{at}/top1"))?,
            top5: accuracy.number(&format!("{at}/top5"))?,
            loss: accuracy.number(&format!("{at}/loss")).ok(),
            parameters: run.count("/parameters")?,
            trainable_parameters: run.count("/trainable_parameters")?,
            peak_memory_bytes: run.count("/peak_memory_bytes").ok(),
            peak_device_memory_bytes: run.count("/peak_device_memory_bytes").ok(),
            training_seconds: run.number("/seconds")?,
            training_images_per_second: median_speed(&job.folder.join("metrics.jsonl"))?,
            inference_images_per_second: measured.number("/inference_images_per_second").ok(),
            inference_batch_size: measured.count("/inference_batch_size").ok(),
        })
    }

    /// `result.json` of the folder, if there is one that can be read.
    pub fn read(folder: &Path) -> Option<Self> {
        serde_json::from_value(read_json(&folder.join("result.json")).ok()??).ok()
    }

    /// For `result.json`.
    pub fn to_json(&self) -> Value {
        // A struct of numbers and texts is always JSON.
        serde_json::to_value(self).unwrap_or_else(|_| json!({}))
    }
}

/// Photos a second of the median step.
fn median_speed(metrics: &Path) -> Result<Option<f64>, ResultError> {
    let text = std::fs::read_to_string(metrics)
        .map_err(|source| ResultError::Io { file: metrics.to_owned(), source })?;
    let speed = |line: &str| serde_json::from_str::<Value>(line).ok()?.get("images_per_second")?.as_f64();
    let mut speeds: Vec<f64> = text.lines().filter_map(speed).collect();
    speeds.sort_unstable_by(f64::total_cmp);
    Ok(speeds.get(speeds.len() / 2).copied())
}
