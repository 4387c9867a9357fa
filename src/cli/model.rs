//! `featherlight inspect` and `featherlight verify`: a look at a model folder.

use super::Typed;
use super::values::{Compute, count, switch};
use clap::Args;
use featherlight::model::parse_target;
use std::path::PathBuf;

/// `featherlight inspect`.
#[derive(Debug, Args)]
pub struct Inspect {
    /// Model folder, or a folder with nothing but a config.json [default: the demo model compiled in]
    #[arg(long, env = "FEATHERLIGHT_MODEL", value_name = "DIR")]
    pub model: Option<PathBuf>,
    /// PEFT adapter folder: count what it trained
    #[arg(long, env = "FEATHERLIGHT_ADAPTER", value_name = "DIR")]
    pub adapter: Option<PathBuf>,
    /// Count what LoRA of this rank would train, the head included
    #[arg(long, env = "FEATHERLIGHT_LORA_RANK", value_name = "N", value_parser = count(65_536))]
    pub lora_rank: Option<u32>,
    /// Modules that LoRA would adapt, or all-linear [default: the maps to queries and values]
    #[arg(long, env = "FEATHERLIGHT_LORA_TARGET", value_name = "NAMES", value_delimiter = ',', value_parser = parse_target)]
    pub lora_target: Vec<String>,
    /// Print one JSON object
    #[arg(long, env = "FEATHERLIGHT_JSON", value_parser = switch())]
    pub json: bool,
}

/// The flags that plan an adapter.
const PLAN: [&str; 2] = ["lora_rank", "lora_target"];

impl Inspect {
    /// An adapter is there or planned, not both; one from the environment gives way to a plan that was typed.
    pub(super) fn settle(&mut self, typed: &Typed<'_>) -> Result<(), clap::Error> {
        typed.refuse_beside("adapter", &PLAN)?;
        let rank = self.lora_rank.is_some();
        typed.refuse_without("lora_rank", rank, &["lora_target"])?;
        if typed.any(&PLAN).is_some() {
            self.adapter = None;
        } else if self.adapter.is_some() {
            self.lora_rank = None;
        }
        Ok(())
    }
}

/// `featherlight verify`.
#[derive(Debug, Args)]
pub struct Verify {
    /// Model folder
    #[arg(long, env = "FEATHERLIGHT_MODEL", value_name = "DIR")]
    pub model: PathBuf,
    /// PEFT adapter folder, merged into the model
    #[arg(long, env = "FEATHERLIGHT_ADAPTER", value_name = "DIR")]
    pub adapter: Option<PathBuf>,
    /// A safetensors file with `pixel_values` and `logits`
    #[arg(long, env = "FEATHERLIGHT_EXPECTED", value_name = "FILE")]
    pub expected: PathBuf,
    /// The largest difference allowed [default: 1e-4 in f32, 1e-2 in f16, 1e-1 in bf16]
    #[arg(long, env = "FEATHERLIGHT_TOLERANCE", value_name = "X", value_parser = tolerance)]
    pub tolerance: Option<f32>,
    /// Where and in what the model computes
    #[command(flatten)]
    pub compute: Compute,
}

/// A finite number of at least 0: a comparison with NaN would pass or fail whatever the logits.
fn tolerance(text: &str) -> Result<f32, String> {
    match text.parse::<f32>() {
        Ok(value) if value.is_finite() && value >= 0.0 => Ok(value),
        _ => Err("a number of at least 0 wanted".to_owned()),
    }
}
