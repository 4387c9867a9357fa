//! `featherlight serve`.

use super::named::{NamedFolder, named_folders};
use super::values::{Compute, count, switch};
use super::{Typed, usage_error};
use clap::{Args, ValueEnum};
use featherlight::engine::BatchLimit;
use featherlight::http::{MOST_PHOTOS_PER_REQUEST, Origin, check_key};
use std::path::PathBuf;

/// How log lines are written.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum Log {
    /// For people
    Text,
    /// One JSON object a line
    Json,
}

/// Whether something is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Toggle {
    /// It is
    On,
    /// It is not
    Off,
}

/// Milliseconds, at most, of what a client may take.
const A_DAY: u64 = 24 * 60 * 60 * 1000;

/// A key as it is typed.
fn key(text: &str) -> Result<String, &'static str> {
    check_key(text).map(|()| text.to_owned())
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
    /// Port of its own for health, metrics and reloads, which the other then does not serve; 0 lets the system choose
    #[arg(long, env = "FEATHERLIGHT_ADMIN_PORT", value_name = "PORT")]
    pub admin_port: Option<u16>,
    /// Address of the admin port [default: that of --host]
    #[arg(long, env = "FEATHERLIGHT_ADMIN_HOST", value_name = "HOST")]
    pub admin_host: Option<String>,
    /// Where and in what the model computes
    #[command(flatten)]
    pub compute: Compute,
    /// CPU workers that share the queue, the weights and the cores, with --device cpu
    #[arg(long, env = "FEATHERLIGHT_CPU_WORKERS", value_name = "N", value_parser = count(256), default_value_t = 1)]
    pub cpu_workers: u32,
    /// Photos in one forward pass, at most; auto measures, at most 20 s for each model, where more make it no faster [default: 8, on GPUs 32]
    #[arg(long, env = "FEATHERLIGHT_MAX_BATCH_SIZE", value_name = "N|auto", value_parser = batch_limit)]
    pub max_batch_size: Option<BatchLimit>,
    /// How long a small batch is held back for company
    #[arg(long, env = "FEATHERLIGHT_MAX_QUEUE_DELAY_MS", value_name = "MS", default_value_t = 0)]
    pub max_queue_delay_ms: u64,
    /// Photos admitted and not yet taken by the device, at most [default: 256]
    #[arg(long, env = "FEATHERLIGHT_MAX_QUEUE_SIZE", value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub max_queue_size: Option<u32>,
    /// Time from a request's head to its answer
    #[arg(long, env = "FEATHERLIGHT_REQUEST_TIMEOUT_MS", value_name = "MS", default_value_t = 30_000, value_parser = clap::value_parser!(u64).range(1..=A_DAY))]
    pub request_timeout_ms: u64,
    /// Largest body of one request (and never more than half of --max-inflight-bytes)
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
    /// Threads that decode photos [default: one a core, beside a model on the CPU at most 4]
    #[arg(long, env = "FEATHERLIGHT_DECODE_THREADS", value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub decode_threads: Option<u32>,
    /// Photos of one request, at most (and never more than the queue holds)
    #[arg(long, env = "FEATHERLIGHT_MAX_PHOTOS_PER_REQUEST", value_name = "N", default_value_t = 64, value_parser = count(MOST_PHOTOS_PER_REQUEST as i64))]
    pub max_photos_per_request: u32,
    /// Open connections of the public port, at most; further ones wait
    #[arg(long, env = "FEATHERLIGHT_MAX_CONNECTIONS", value_name = "N", default_value_t = 4096, value_parser = count(1_000_000))]
    pub max_connections: u32,
    /// Time from the first byte of a request's head to its last
    #[arg(long, env = "FEATHERLIGHT_HEADER_TIMEOUT_MS", value_name = "MS", default_value_t = 10_000, value_parser = clap::value_parser!(u64).range(1..=A_DAY))]
    pub header_timeout_ms: u64,
    /// Time from a request's head to the end of its body
    #[arg(long, env = "FEATHERLIGHT_BODY_TIMEOUT_MS", value_name = "MS", default_value_t = 30_000, value_parser = clap::value_parser!(u64).range(1..=A_DAY))]
    pub body_timeout_ms: u64,
    /// Time that an answer waits for a client that does not take it
    #[arg(long, env = "FEATHERLIGHT_WRITE_TIMEOUT_MS", value_name = "MS", default_value_t = 30_000, value_parser = clap::value_parser!(u64).range(1..=A_DAY))]
    pub write_timeout_ms: u64,
    /// How long a connection without a request is kept
    #[arg(long, env = "FEATHERLIGHT_IDLE_TIMEOUT_MS", value_name = "MS", default_value_t = 75_000, value_parser = clap::value_parser!(u64).range(1..=A_DAY))]
    pub idle_timeout_ms: u64,
    /// Key that clients must send; may be given more than once
    #[arg(
        long,
        env = "FEATHERLIGHT_API_KEY",
        value_name = "KEY",
        value_delimiter = ',',
        value_parser = key,
        hide_env_values = true
    )]
    pub api_key: Vec<String>,
    /// File of such keys, one a line (`#` begins a comment); read again at SIGHUP
    #[arg(long, env = "FEATHERLIGHT_API_KEY_FILE", value_name = "FILE")]
    pub api_key_file: Option<PathBuf>,
    /// Key for what changes the service; opens all that an API key opens; may be given more than once
    #[arg(
        long,
        env = "FEATHERLIGHT_ADMIN_KEY",
        value_name = "KEY",
        value_delimiter = ',',
        value_parser = key,
        hide_env_values = true
    )]
    pub admin_key: Vec<String>,
    /// File of such keys, as of --api-key-file
    #[arg(long, env = "FEATHERLIGHT_ADMIN_KEY_FILE", value_name = "FILE")]
    pub admin_key_file: Option<PathBuf>,
    /// Metrics, documentation and the page want a key too
    #[arg(long, env = "FEATHERLIGHT_PROTECT_ALL", value_parser = switch())]
    pub protect_all: bool,
    /// Take photos by their URL: the service fetches them, from public addresses alone
    #[arg(long, env = "FEATHERLIGHT_ALLOW_URL_INPUT", value_parser = switch())]
    pub allow_url_input: bool,
    /// Time to fetch a photo by its URL, redirects included
    #[arg(long, env = "FEATHERLIGHT_URL_TIMEOUT_MS", value_name = "MS", default_value_t = 10_000, value_parser = clap::value_parser!(u64).range(1..))]
    pub url_timeout_ms: u64,
    /// Origin whose pages may call the service, `https://photos.example`, or `*` for any; may be given more than once
    #[arg(long, env = "FEATHERLIGHT_CORS_ALLOW_ORIGIN", value_name = "URL", value_delimiter = ',')]
    pub cors_allow_origin: Vec<Origin>,
    /// How long the service still works, unready, after the signal to end
    #[arg(long, env = "FEATHERLIGHT_DRAIN_DELAY_MS", value_name = "MS", default_value_t = 0)]
    pub drain_delay_ms: u64,
    /// How long admitted photos are waited for after that
    #[arg(long, env = "FEATHERLIGHT_SHUTDOWN_GRACE_MS", value_name = "MS", default_value_t = 25_000)]
    pub shutdown_grace_ms: u64,
    /// How log lines are written
    #[arg(long, env = "FEATHERLIGHT_LOG_FORMAT", value_enum, default_value = "text")]
    pub log_format: Log,
    /// A log line for each request but probes that went well
    #[arg(long, env = "FEATHERLIGHT_ACCESS_LOG", value_enum, default_value = "on")]
    pub access_log: Toggle,
}

impl Serve {
    /// Refuses flags that mean nothing without others.
    pub(super) fn settle(&self, typed: &Typed<'_>) -> Result<(), clap::Error> {
        // Wherever it was said: who wants everything behind a key must not get a service without one.
        if self.protect_all && self.api_key.is_empty() && self.api_key_file.is_none() {
            return Err(usage_error(
                "the argument '--protect-all' goes with '--api-key' or '--api-key-file' only",
            ));
        }
        typed.refuse_without("admin_port", self.admin_port.is_some(), &["admin_host"])?;
        typed.refuse_without("allow_url_input", self.allow_url_input, &["url_timeout_ms"])?;
        let folders = !self.model.is_empty() || self.model_repository.is_some();
        match typed.any(&["watch"]) {
            Some(_) if !folders => {
                Err(usage_error("the argument '--watch' goes with '--model' or '--model-repository' only"))
            }
            _ => Ok(()),
        }
    }
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
