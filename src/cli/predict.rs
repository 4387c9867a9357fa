//! `featherlight predict`.

use super::Typed;
use super::values::{Compute, Key, count};
use clap::Args;
use std::path::PathBuf;

/// `featherlight predict`.
#[derive(Debug, Args)]
pub struct Predict {
    /// Model folder [default: the demo model compiled in]
    #[arg(long, env = "FEATHERLIGHT_MODEL", value_name = "DIR")]
    pub model: Option<PathBuf>,
    /// PEFT adapter folder, merged into the model when it is loaded
    #[arg(long, env = "FEATHERLIGHT_ADAPTER", value_name = "DIR")]
    pub adapter: Option<PathBuf>,
    /// Let this running service classify instead, for instance http://127.0.0.1:8080
    #[arg(long, env = "FEATHERLIGHT_SERVER", value_name = "URL")]
    server: Option<String>,
    /// Requests in flight, with --server
    #[arg(long, env = "FEATHERLIGHT_CONCURRENCY", value_name = "N", default_value_t = 8, value_parser = count(1024))]
    pub concurrency: u32,
    /// Key of the service
    #[command(flatten)]
    pub key: Key,
    /// A folder (looked through to its depths), a photo, or a CSV with a column `file`
    #[arg(long, env = "FEATHERLIGHT_INPUT", value_name = "DIR|FILE|CSV")]
    pub input: PathBuf,
    /// What the files of a CSV are relative to [default: the CSV's own folder]
    #[arg(long, env = "FEATHERLIGHT_IMAGE_ROOT", value_name = "DIR")]
    pub image_root: Option<PathBuf>,
    /// Where the CSV goes; - is standard output
    #[arg(long, env = "FEATHERLIGHT_OUTPUT", value_name = "FILE.csv")]
    pub output: PathBuf,
    /// Labels a photo, best first
    #[arg(long, env = "FEATHERLIGHT_TOP_K", value_name = "K", default_value_t = 1, value_parser = count(100_000))]
    pub top_k: u32,
    /// Photos in one forward pass, at most
    #[arg(long, env = "FEATHERLIGHT_BATCH_SIZE", value_name = "N", default_value_t = 8, value_parser = count(4096))]
    pub batch_size: u32,
    /// Where and in what the model computes
    #[command(flatten)]
    pub compute: Compute,
}

/// What classifies.
pub enum Target<'a> {
    /// A model in this process.
    Model,
    /// A service at this address.
    Server(&'a str),
}

/// The flags of a model in this process.
const LOCAL: [&str; 5] = ["model", "adapter", "batch_size", "device", "dtype"];

impl Predict {
    /// What classifies.
    pub fn target(&self) -> Target<'_> {
        self.server.as_deref().map_or(Target::Model, Target::Server)
    }

    /// Refuses flags that do not go together; a service from the environment gives way to a model that was typed.
    pub(super) fn settle(&mut self, typed: &Typed<'_>) -> Result<(), clap::Error> {
        typed.refuse_beside("server", &LOCAL)?;
        if typed.any(&LOCAL).is_some() {
            self.server = None;
        }
        typed.refuse_without("server", self.server.is_some(), &["concurrency", Key::FLAG])
    }
}
