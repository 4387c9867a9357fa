//! The command line, and nothing else: what a person may type. `main` turns it into work.

use clap::{Args, Parser, Subcommand};
use std::path::PathBuf;

/// Vision transformers: look into a model folder, check it against reference outputs.
#[derive(Debug, Parser)]
#[command(name = "featherlight", version)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The subcommands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Architecture, parameters, trainable parameters, labels and memory of a model; config.json alone is enough
    Inspect(Inspect),
    /// Run `pixel_values` of a file through the model and compare with its `logits`; exit 1 beyond the tolerance
    Verify(Verify),
}

/// `featherlight inspect`.
#[derive(Debug, Args)]
pub struct Inspect {
    /// Model folder (or a folder with nothing but a config.json)
    #[arg(long, env = "FEATHERLIGHT_MODEL", value_name = "DIR")]
    pub model: PathBuf,
    /// Count what LoRA of this rank would train, the head included
    #[arg(long, value_name = "N", requires = "lora_target", value_parser = clap::value_parser!(u32).range(1..))]
    pub lora_rank: Option<u32>,
    /// Modules that LoRA would adapt, for instance query,value
    #[arg(long, value_name = "NAMES", value_delimiter = ',', requires = "lora_rank")]
    pub lora_target: Vec<String>,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

/// `featherlight verify`.
#[derive(Debug, Args)]
pub struct Verify {
    /// Model folder
    #[arg(long, env = "FEATHERLIGHT_MODEL", value_name = "DIR")]
    pub model: PathBuf,
    /// A safetensors file with `pixel_values` and `logits`
    #[arg(long, value_name = "FILE")]
    pub expected: PathBuf,
    /// The largest difference allowed
    #[arg(long, default_value_t = 1e-4, value_name = "X", value_parser = tolerance)]
    pub tolerance: f32,
}

/// A finite number of at least 0: a comparison with NaN would pass or fail whatever the logits.
fn tolerance(text: &str) -> Result<f32, String> {
    match text.parse::<f32>() {
        Ok(value) if value.is_finite() && value >= 0.0 => Ok(value),
        _ => Err("a number of at least 0 wanted".to_owned()),
    }
}
