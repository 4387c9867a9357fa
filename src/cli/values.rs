//! Values that several subcommands share, and how they are read.

use super::usage_error;
use clap::Args;
use clap::builder::{BoolishValueParser, TypedValueParser};
use featherlight::ops::device::{DeviceRequest, PrecisionRequest};

/// Where and in what a model computes.
#[derive(Clone, Debug, Args)]
pub struct Compute {
    /// Where the model runs: auto (the first CUDA device, else the CPU), cpu, cuda, cuda:N; serve and predict share their photos
    /// among a list, cuda:N,M
    #[arg(long, env = "FEATHERLIGHT_DEVICE", value_name = "DEVICE", default_value = "auto")]
    pub device: DeviceRequest,
    /// What it computes in: auto (bf16 on CUDA devices from compute capability 8.0, f16 on older ones, f32 on the CPU), f32,
    /// bf16, f16; the last two are slow on the CPU, and show there what a GPU will answer
    #[arg(long, env = "FEATHERLIGHT_DTYPE", value_name = "DTYPE", default_value = "auto")]
    pub dtype: PrecisionRequest,
}

impl Compute {
    /// Refuses a list of devices, for a `command` that uses one.
    pub(super) fn refuse_list(&self, command: &str) -> Result<(), clap::Error> {
        self.device.clone().single().map(drop).map_err(|problem| {
            usage_error(format!(
                "invalid value '{}' for '--device <DEVICE>' of {command}: {problem}",
                self.device
            ))
        })
    }
}

/// The key of a running service.
#[derive(Clone, Debug, Args)]
pub struct Key {
    /// Key of the service, with --server
    #[arg(long, env = "FEATHERLIGHT_API_KEY", value_name = "KEY", hide_env_values = true)]
    pub api_key: Option<String>,
}

impl Key {
    /// The flag, which means nothing without a service.
    pub(super) const FLAG: &str = "api_key";
}

/// A switch; its environment variable may say yes, true, on, 1 and their opposites.
pub(super) fn switch() -> impl TypedValueParser<Value = bool> {
    BoolishValueParser::new()
}

/// A whole number from 1 to `most`.
pub(super) fn count(most: i64) -> impl TypedValueParser<Value = u32> {
    clap::value_parser!(u32).range(1..=most)
}
