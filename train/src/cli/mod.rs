//! The command line of `featherlight-train`, and nothing else: what a person may type.

mod bench;
mod compare;
mod fit;
mod method;
mod variation;

pub use bench::Bench;
pub use compare::{Compare, fit_command};
pub use fit::Fit;

use candle_core::DType;
use clap::builder::BoolishValueParser;
use clap::{Args, Parser, Subcommand, ValueEnum};
use featherlight::ops::device::{
    DeviceError, DeviceInfo, DeviceRequest, FrozenFormat, Precision, PrecisionRequest,
};
use std::num::NonZeroUsize;
use std::path::PathBuf;

/// Fine-tune vision transformers on a folder of labelled photos, merge the result, measure it.
#[derive(Debug, Parser)]
#[command(name = "featherlight-train", version)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
    /// Threads that compute [default: one a core]
    #[arg(long, global = true, env = "FEATHERLIGHT_THREADS", value_name = "N")]
    pub threads: Option<NonZeroUsize>,
}

/// The subcommands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Train a model on labelled photos
    #[command(allow_negative_numbers = true)]
    Fit(Box<Fit>),
    /// Merge a PEFT adapter into its model: a folder ready to serve
    Merge(Merge),
    /// Turn a timm folder, pytorch_model.bin or shards into a clean model folder in safetensors, and read it back
    Convert(Convert),
    /// Measure a model on labelled photos
    Evaluate(Evaluate),
    /// Train and measure variants on one data set, each in a process of its own: tables and a page
    Compare(Compare),
    /// Compare gradients and whole training runs with reference outputs
    Verify(Verify),
    /// Measure training steps: time and memory
    #[command(allow_negative_numbers = true)]
    Bench(Box<Bench>),
}

/// Number types that weights can be written in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum SaveType {
    /// 32 bits
    F32,
    /// 16 bits, 10 of them after the point: half the size
    F16,
    /// 16 bits with the range of f32
    Bf16,
}

/// Number types that matrices which are not trained can be held in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum FrozenType {
    /// What is computed in
    Auto,
    /// 32 bits
    F32,
    /// 16 bits with the range of f32
    Bf16,
    /// 8 bits, with a scale for each row
    Int8,
}

impl FrozenType {
    /// What it comes to where `precision` is computed in and `everything` may be trained.
    ///
    /// # Errors
    /// If there is nothing frozen, or it would be held in more bits than are computed with.
    pub fn format(self, precision: Precision, everything: bool) -> Result<FrozenFormat, String> {
        match (self, precision) {
            (Self::Auto, _) => Ok(FrozenFormat::Compute),
            _ if everything => {
                Err("--frozen-dtype goes with --method lora or head: full trains every weight".to_owned())
            }
            (Self::F32, Precision::F32) | (Self::Bf16, Precision::Bf16) => Ok(FrozenFormat::Compute),
            (Self::Int8, _) => Ok(FrozenFormat::Int8),
            (Self::Bf16, Precision::F32) => Ok(FrozenFormat::Bf16),
            (Self::F32 | Self::Bf16, _) => Err(format!(
                "--frozen-dtype is wider than, or another 16 bits than, --dtype {precision}, in which they would be used: auto or int8 wanted"
            )),
        }
    }
}

/// Where a job computes.
#[derive(Debug, Args)]
pub struct Where {
    /// Where to compute: auto, cpu, cuda or cuda:N
    #[arg(long, env = "FEATHERLIGHT_DEVICE", value_name = "DEVICE", default_value = "auto", value_parser = one_device)]
    pub device: DeviceRequest,
    /// What to compute in: auto, f32, bf16 or f16; what is trained is kept in f32 all the same
    #[arg(long, env = "FEATHERLIGHT_DTYPE", value_name = "DTYPE", default_value = "auto")]
    pub dtype: PrecisionRequest,
}

impl Where {
    /// The device and the number format that this comes to here.
    ///
    /// # Errors
    /// If the device is not there, or does not compute in the format.
    pub fn find(&self) -> Result<(DeviceInfo, Precision), DeviceError> {
        let found = self.device.find()?;
        if let Some(line) = found.fallback {
            tracing::warn!("{line}");
        }
        let device = found.devices.into_iter().next().unwrap_or(DeviceInfo::Cpu);
        let precision = self.dtype.on(&device)?;
        Ok((device, precision))
    }
}

/// A device, not a list of them: a job computes on one.
fn one_device(text: &str) -> Result<DeviceRequest, String> {
    text.parse::<DeviceRequest>()?.single()
}

/// `featherlight-train merge`.
#[derive(Debug, Args)]
pub struct Merge {
    /// Model folder
    #[arg(long, env = "FEATHERLIGHT_MODEL", value_name = "DIR")]
    pub model: PathBuf,
    /// PEFT adapter folder
    #[arg(long, env = "FEATHERLIGHT_ADAPTER", value_name = "DIR")]
    pub adapter: PathBuf,
    /// Folder for the merged model
    #[arg(long, env = "FEATHERLIGHT_OUTPUT", value_name = "DIR")]
    pub output: PathBuf,
    /// Replace a model that is in --output already
    #[arg(long, env = "FEATHERLIGHT_OVERWRITE", value_parser = BoolishValueParser::new())]
    pub overwrite: bool,
    /// Number type of the weights
    #[arg(long, env = "FEATHERLIGHT_SAVE_DTYPE", value_enum, default_value = "f32")]
    pub save_dtype: SaveType,
}

/// `featherlight-train convert`.
#[derive(Debug, Args)]
pub struct Convert {
    /// Model folder, of timm or of transformers
    #[arg(long, env = "FEATHERLIGHT_MODEL", value_name = "DIR")]
    pub model: PathBuf,
    /// Folder for the converted model
    #[arg(long, env = "FEATHERLIGHT_OUTPUT", value_name = "DIR")]
    pub output: PathBuf,
    /// Replace a model that is in --output already
    #[arg(long, env = "FEATHERLIGHT_OVERWRITE", value_parser = BoolishValueParser::new())]
    pub overwrite: bool,
    /// Number type of the weights
    #[arg(long, env = "FEATHERLIGHT_SAVE_DTYPE", value_enum, default_value = "f32")]
    pub save_dtype: SaveType,
}

/// `featherlight-train evaluate`.
#[derive(Debug, Args)]
pub struct Evaluate {
    /// Model folder
    #[arg(long, env = "FEATHERLIGHT_MODEL", value_name = "DIR")]
    pub model: PathBuf,
    /// PEFT adapter folder
    #[arg(long, env = "FEATHERLIGHT_ADAPTER", value_name = "DIR")]
    pub adapter: Option<PathBuf>,
    /// One folder a class (DIR/<label>/photo.jpg), or a CSV with the columns file,label
    #[arg(long, env = "FEATHERLIGHT_DATA", value_name = "DIR|CSV")]
    pub data: PathBuf,
    /// What the files of a CSV are relative to [default: the CSV's folder]
    #[arg(long, env = "FEATHERLIGHT_IMAGE_ROOT", value_name = "DIR")]
    pub image_root: Option<PathBuf>,
    /// Photos in one forward pass
    #[arg(long, env = "FEATHERLIGHT_BATCH_SIZE", value_name = "N", default_value = "8")]
    pub batch_size: NonZeroUsize,
    /// Threads that decode photos [default: one a core, at most 4]
    #[arg(long, env = "FEATHERLIGHT_LOADER_THREADS", value_name = "N")]
    pub loader_threads: Option<NonZeroUsize>,
    /// Take no more photos than these, evenly over the set
    #[arg(long, env = "FEATHERLIGHT_MAX_PHOTOS", value_name = "N")]
    pub max_photos: Option<NonZeroUsize>,
    /// Judge each photo twice, as it is and mirrored, by the mean of the two probabilities (test-time augmentation)
    #[arg(long, env = "FEATHERLIGHT_TTA", value_parser = BoolishValueParser::new())]
    pub tta: bool,
    /// Write a page for a browser: confusion matrix, precision and recall by class, the worst mistakes as pictures
    #[arg(long, env = "FEATHERLIGHT_REPORT", value_name = "FILE.html")]
    pub report: Option<PathBuf>,
    /// Time the model alone as well: forward passes over photos that lie decoded in memory
    #[arg(long, env = "FEATHERLIGHT_SPEED", value_parser = BoolishValueParser::new())]
    pub speed: bool,
    /// Print one JSON object
    #[arg(long, env = "FEATHERLIGHT_JSON", value_parser = BoolishValueParser::new())]
    pub json: bool,
    /// Where to compute.
    #[command(flatten)]
    pub place: Where,
}

/// `featherlight-train verify`.
#[derive(Debug, Args)]
pub struct Verify {
    /// A folder of reference outputs, as tests/goldens
    #[arg(long, env = "FEATHERLIGHT_GOLDENS", value_name = "DIR")]
    pub goldens: PathBuf,
    /// Where to compute.
    #[command(flatten)]
    pub place: Where,
}

/// A part of a whole: 0 up to, but not, 1.
fn share(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(value) if (0.0..1.0).contains(&value) => Ok(value),
        _ => Err("a number from 0 up to, but not, 1 wanted".to_owned()),
    }
}

fn not_negative(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(value) if value.is_finite() && value >= 0.0 => Ok(value),
        _ => Err("a number of at least 0 wanted".to_owned()),
    }
}

fn positive(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(value) if value.is_finite() && value > 0.0 => Ok(value),
        _ => Err("a number above 0 wanted".to_owned()),
    }
}

fn probability(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(value) if (0.0..=1.0).contains(&value) => Ok(value),
        _ => Err("a number from 0 to 1 wanted".to_owned()),
    }
}

fn layer_decay(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(value) if value > 0.0 && value <= 1.0 => Ok(value),
        _ => Err("a number above 0 and up to 1 wanted".to_owned()),
    }
}

/// `given`, or one thread a core, at most 4: decoding rarely keeps more busy.
pub fn loader_threads(given: Option<NonZeroUsize>) -> NonZeroUsize {
    let cores = || std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
    given.unwrap_or_else(|| cores().min(NonZeroUsize::MIN.saturating_add(3)))
}

impl SaveType {
    /// candle's name of it.
    pub fn dtype(self) -> DType {
        match self {
            Self::F32 => DType::F32,
            Self::F16 => DType::F16,
            Self::Bf16 => DType::BF16,
        }
    }
}
