//! Values that several subcommands share, and how they are read.

use clap::Args;
use clap::builder::{BoolishValueParser, TypedValueParser};

/// Where and in what a model computes.
#[derive(Clone, Copy, Debug, Args)]
pub struct Compute {
    /// Where the model runs: auto or cpu
    #[arg(long, env = "FEATHERLIGHT_DEVICE", value_name = "DEVICE", default_value = "auto", value_parser = device)]
    pub device: Device,
    /// What it computes in: auto or f32
    #[arg(long, env = "FEATHERLIGHT_DTYPE", value_name = "DTYPE", default_value = "auto", value_parser = dtype)]
    pub dtype: Dtype,
}

/// How a running service is called.
#[derive(Clone, Debug, Args)]
pub struct Calls {
    /// Requests in flight, with --server
    #[arg(long, env = "FEATHERLIGHT_CONCURRENCY", value_name = "N", default_value_t = 8, value_parser = count(1024))]
    pub concurrency: u32,
    /// Key of the service, with --server
    #[arg(long, env = "FEATHERLIGHT_API_KEY", value_name = "KEY", hide_env_values = true)]
    pub api_key: Option<String>,
}

impl Calls {
    /// The flags that mean nothing without a service.
    pub(super) const FLAGS: [&str; 2] = ["concurrency", "api_key"];
}

/// A device of this build.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Device {
    /// The processor; what `auto` finds, too.
    Cpu,
}

/// A number format of this build.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dtype {
    /// 32-bit floating point; what `auto` chooses, too.
    F32,
}

impl Device {
    /// As `/info` and the metrics show it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
        }
    }
}

impl Dtype {
    /// As `/info` and the metrics show it.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
        }
    }
}

fn device(text: &str) -> Result<Device, String> {
    match text {
        "auto" | "cpu" => Ok(Device::Cpu),
        _ => Err("this build runs on: auto, cpu".to_owned()),
    }
}

fn dtype(text: &str) -> Result<Dtype, String> {
    match text {
        "auto" | "f32" => Ok(Dtype::F32),
        _ => Err("this build computes in: auto, f32".to_owned()),
    }
}

/// A switch; its environment variable may say yes, true, on, 1 and their opposites.
pub(super) fn switch() -> impl TypedValueParser<Value = bool> {
    BoolishValueParser::new()
}

/// A whole number from 1 to `most`.
pub(super) fn count(most: i64) -> impl TypedValueParser<Value = u32> {
    clap::value_parser!(u32).range(1..=most)
}
