//! The command line of `featherlight-train bench`.

use super::method::{Lora, MethodName};
use super::{FrozenType, Where};
use clap::Args;
use clap::builder::BoolishValueParser;
use featherlight::ops::device::{DeviceInfo, Precision};
use featherlight::randomness::Randomness;
use featherlight_train::bench::BenchSettings;
use std::num::NonZeroUsize;
use std::path::PathBuf;

/// `featherlight-train bench`.
#[derive(Debug, Args)]
pub struct Bench {
    /// A folder with a config.json: its architecture is trained from random weights
    #[arg(long, env = "FEATHERLIGHT_CONFIG", value_name = "DIR")]
    pub config: PathBuf,
    /// What to train
    #[arg(long, env = "FEATHERLIGHT_METHOD", value_enum, default_value = "lora")]
    pub method: MethodName,
    /// How LoRA adapts.
    #[command(flatten)]
    pub lora: Lora,
    /// Photos in a step
    #[arg(long, env = "FEATHERLIGHT_BATCH_SIZE", value_name = "N", default_value = "8")]
    pub batch_size: NonZeroUsize,
    /// Steps to time, after one that is not
    #[arg(long, env = "FEATHERLIGHT_STEPS", value_name = "N", default_value = "10", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub steps: u32,
    /// Compute a block's activations anew in the backward pass instead of keeping them
    #[arg(long, env = "FEATHERLIGHT_CHECKPOINT_ACTIVATIONS", value_parser = BoolishValueParser::new())]
    pub checkpoint_activations: bool,
    /// Say where the time goes in one more step, op by op
    #[arg(long, env = "FEATHERLIGHT_PROFILE", value_parser = BoolishValueParser::new())]
    pub profile: bool,
    /// Of weights, photos and dropout
    #[arg(long, env = "FEATHERLIGHT_SEED", value_name = "N", default_value = "42")]
    pub seed: u64,
    /// Print one JSON object
    #[arg(long, env = "FEATHERLIGHT_JSON", value_parser = BoolishValueParser::new())]
    pub json: bool,
    /// What matrices that are not trained are held in: int8 needs a quarter of f32's memory
    #[arg(long, env = "FEATHERLIGHT_FROZEN_DTYPE", value_enum, default_value = "auto")]
    pub frozen_dtype: FrozenType,
    /// Where to compute.
    #[command(flatten)]
    pub place: Where,
}

impl Bench {
    /// What the flags mean.
    ///
    /// # Errors
    /// Flags that contradict each other, in words for the person who typed them.
    pub fn settings(self, device: DeviceInfo, precision: Precision) -> Result<BenchSettings, String> {
        Ok(BenchSettings {
            method: self.lora.method(self.method)?,
            config: self.config,
            batch_size: self.batch_size,
            steps: NonZeroUsize::MIN.saturating_add(self.steps as usize - 1),
            checkpoint_activations: self.checkpoint_activations,
            profile: self.profile,
            randomness: Randomness::new(self.seed),
            device,
            precision,
            frozen: self.frozen_dtype.format(precision, self.method == MethodName::Full)?,
        })
    }
}
