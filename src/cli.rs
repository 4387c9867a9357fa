//! The command line, and nothing else: what a person may type. `main` turns it into work.

use clap::{Args, Parser, Subcommand, ValueEnum};
use std::path::PathBuf;

/// Vision transformers: serve a model over HTTP, look into a model folder, check it against reference outputs.
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
    /// Serve a model over HTTP until SIGTERM
    Serve(Box<Serve>),
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
    /// Model folder
    #[arg(long, env = "FEATHERLIGHT_MODEL", value_name = "DIR")]
    pub model: PathBuf,
    /// PEFT adapter folder, merged into the model when it is loaded
    #[arg(long, env = "FEATHERLIGHT_ADAPTER", value_name = "DIR")]
    pub adapter: Option<PathBuf>,
    /// Address to listen on
    #[arg(long, env = "FEATHERLIGHT_HOST", default_value = "127.0.0.1")]
    pub host: String,
    /// Port to listen on; 0 lets the system choose
    #[arg(long, env = "FEATHERLIGHT_HTTP_PORT", default_value_t = 8080)]
    pub port: u16,
    /// Photos in one forward pass, at most [default: 8]
    #[arg(long, env = "FEATHERLIGHT_MAX_BATCH_SIZE", value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub max_batch_size: Option<u32>,
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
