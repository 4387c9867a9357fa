//! What can be wrong with a model folder.

use crate::image::ProcessorError;
use crate::nn::ParameterError;
use candle_core::DType;
use std::path::PathBuf;

/// Why a model could not be loaded.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// A file could not be read.
    #[error("{file}: {source}", file = file.display())]
    Io {
        /// The file.
        file: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// A file is no valid JSON.
    #[error("{file}: not valid JSON: {source}", file = file.display())]
    Json {
        /// The file.
        file: PathBuf,
        /// Where and why.
        source: serde_json::Error,
    },
    /// A field of `config.json` is missing or has a value that makes no model.
    #[error("{file}: `{field}` {problem}", file = file.display())]
    Config {
        /// The file.
        file: PathBuf,
        /// The field, after the one that it stands in.
        field: String,
        /// What is wrong and what would be right.
        problem: String,
    },
    /// The architecture is none that is known here.
    #[error(
        "{file}: model_type `{found}` is not supported; supported: {known}",
        file = file.display(),
        known = super::config::MODEL_TYPES.join(", ")
    )]
    Architecture {
        /// The file.
        file: PathBuf,
        /// The type in the file.
        found: String,
    },
    /// The architecture of a timm folder is none that is known here.
    #[error(
        "{file}: timm's architecture `{found}` is not supported; supported of timm's: beit_… and beitv2_…; in transformers' layout: {known}",
        file = file.display(),
        known = super::config::MODEL_TYPES.join(", ")
    )]
    TimmArchitecture {
        /// The file.
        file: PathBuf,
        /// The architecture in the file.
        found: String,
    },
    /// There are no weights in the folder.
    #[error(
        "{folder}: no weights (model.safetensors, model.safetensors.index.json with its shards, or pytorch_model.bin)",
        folder = folder.display()
    )]
    NoWeights {
        /// The folder.
        folder: PathBuf,
    },
    /// A weights file is damaged.
    #[error("{file}: {problem}", file = file.display())]
    Damaged {
        /// The file.
        file: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// A number that the type to be written cannot hold.
    #[error(
        "{file}: tensor `{tensor}` holds {value:e}, more than {} can; f32 can", dtype.as_str(), file = file.display()
    )]
    Overflow {
        /// The file to be written.
        file: PathBuf,
        /// The tensor's name.
        tensor: String,
        /// Its largest magnitude.
        value: f32,
        /// The type asked for.
        dtype: DType,
    },
    /// A tensor is missing, misshapen or unreadable.
    #[error("{file}: {source}", file = file.display())]
    Parameter {
        /// The weights file.
        file: PathBuf,
        /// Which tensor and why.
        source: ParameterError,
    },
    /// An adapter's target is no module of the model.
    #[error("no module `{target}` to adapt; there are: {known}")]
    Target {
        /// The name asked for.
        target: String,
        /// The modules of a block.
        known: String,
    },
    /// The processor's settings cannot be used.
    #[error(transparent)]
    Processor(#[from] ProcessorError),
}
