//! `featherlight serve`.

use super::named::{NamedFolder, named_folders};
use super::values::{Compute, count, switch};
use clap::{Args, ValueEnum};
use featherlight::engine::BatchLimit;
use std::path::PathBuf;

/// How log lines are written.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum Log {
    /// For people
    Text,
    /// One JSON object a line
    Json,
}

/// `featherlight serve`.
#[derive(Debug, Args)]
pub struct Serve {
    /// Model folder, with the name that clients call it if it is to have another than the folder's; may be given more than once,
    /// and the first is what /classify asks [default: the demo model compiled in]
    #[arg(long, env = "FEATHERLIGHT_MODEL", value_name = "[NAME=]DIR", value_parser = named_folders)]
    pub model: Vec<Vec<NamedFolder>>,
    /// PEFT adapter folder, merged into the model (of that name, where there are several) when it is loaded
    #[arg(long, env = "FEATHERLIGHT_ADAPTER", value_name = "[NAME=]DIR", value_parser = named_folders)]
    pub adapter: Vec<Vec<NamedFolder>>,
    /// Folder of model folders: each is served under its folder's name
    #[arg(long, env = "FEATHERLIGHT_MODEL_REPOSITORY", value_name = "DIR")]
    pub model_repository: Option<PathBuf>,
    /// Load a model anew when its folder changes, and new folders of the repository
    #[arg(long, env = "FEATHERLIGHT_WATCH", value_parser = switch())]
    pub watch: bool,
    /// Address to listen on
    #[arg(long, env = "FEATHERLIGHT_HOST", default_value = "127.0.0.1")]
    pub host: String,
    /// Port to listen on; 0 lets the system choose
    #[arg(long, env = "FEATHERLIGHT_HTTP_PORT", default_value_t = 8080)]
    pub port: u16,
    /// Where and in what the model computes
    #[command(flatten)]
    pub compute: Compute,
    /// CPU workers that share the queue, the weights and the cores, with --device cpu
    #[arg(long, env = "FEATHERLIGHT_CPU_WORKERS", value_name = "N", value_parser = count(256), default_value_t = 1)]
    pub cpu_workers: u32,
    /// Photos in one forward pass, at most; auto measures, at most 20 s for each model, where more make it no faster [default: 8]
    #[arg(long, env = "FEATHERLIGHT_MAX_BATCH_SIZE", value_name = "N|auto", value_parser = batch_limit)]
    pub max_batch_size: Option<BatchLimit>,
    /// How long a small batch is held back for company
    #[arg(long, env = "FEATHERLIGHT_MAX_QUEUE_DELAY_MS", value_name = "MS", default_value_t = 0)]
    pub max_queue_delay_ms: u64,
    /// Photos admitted and not yet taken by the device, at most [default: 256]
    #[arg(long, env = "FEATHERLIGHT_MAX_QUEUE_SIZE", value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub max_queue_size: Option<u32>,
    /// Time from a request's head to its answer
    #[arg(long, env = "FEATHERLIGHT_REQUEST_TIMEOUT_MS", value_name = "MS", default_value_t = 30_000, value_parser = clap::value_parser!(u64).range(1..))]
    pub request_timeout_ms: u64,
    /// Largest body of one request
    #[arg(long, env = "FEATHERLIGHT_MAX_BODY_BYTES", value_name = "BYTES", default_value_t = 20_971_520)]
    pub max_body_bytes: u64,
    /// Most pixels of one photo, from its header
    #[arg(long, env = "FEATHERLIGHT_MAX_PIXELS", value_name = "N", default_value_t = 178_956_970)]
    pub max_pixels: u64,
    /// All bodies in memory together [default: 512 MiB]
    #[arg(long, env = "FEATHERLIGHT_MAX_INFLIGHT_BYTES", value_name = "BYTES")]
    pub max_inflight_bytes: Option<u64>,
    /// All pixels being decoded together [default: 2 GiB]
    #[arg(long, env = "FEATHERLIGHT_DECODE_MEMORY_BYTES", value_name = "BYTES")]
    pub decode_memory_bytes: Option<u64>,
    /// Threads that decode photos [default: one a core, at most 4]
    #[arg(long, env = "FEATHERLIGHT_DECODE_THREADS", value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub decode_threads: Option<u32>,
    /// Key that clients must send; may be given more than once
    #[arg(
        long,
        env = "FEATHERLIGHT_API_KEY",
        value_name = "KEY",
        value_delimiter = ',',
        value_parser = clap::builder::NonEmptyStringValueParser::new(),
        hide_env_values = true
    )]
    pub api_key: Vec<String>,
    /// Origin whose pages may call the service; may be given more than once
    #[arg(long, env = "FEATHERLIGHT_CORS_ALLOW_ORIGIN", value_name = "URL", value_delimiter = ',')]
    pub cors_allow_origin: Vec<String>,
    /// How long the service still works, unready, after the signal to end
    #[arg(long, env = "FEATHERLIGHT_DRAIN_DELAY_MS", value_name = "MS", default_value_t = 0)]
    pub drain_delay_ms: u64,
    /// How long admitted photos are waited for after that
    #[arg(long, env = "FEATHERLIGHT_SHUTDOWN_GRACE_MS", value_name = "MS", default_value_t = 25_000)]
    pub shutdown_grace_ms: u64,
    /// How log lines are written
    #[arg(long, env = "FEATHERLIGHT_LOG_FORMAT", value_enum, default_value = "text")]
    pub log_format: Log,
}

/// A whole number from 1, or `auto`.
fn batch_limit(text: &str) -> Result<BatchLimit, String> {
    if text == "auto" {
        return Ok(BatchLimit::Auto);
    }
    let size = text.parse::<u32>().ok().filter(|size| *size > 0);
    size.map(|size| BatchLimit::Fixed(size as usize))
        .ok_or_else(|| "a whole number from 1, or auto, wanted".to_owned())
}
