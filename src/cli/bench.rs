//! `featherlight bench`.

use super::Typed;
use super::load::Load;
use super::values::{Compute, count, switch};
use clap::Args;
use std::path::PathBuf;
use std::time::Duration;

/// `featherlight bench`.
#[derive(Debug, Args)]
pub struct Bench {
    /// A folder with a config.json: measure this architecture with random weights
    #[arg(long, env = "FEATHERLIGHT_CONFIG", value_name = "DIR")]
    config: Option<PathBuf>,
    /// Model folder [default: the demo model compiled in]
    #[arg(long, env = "FEATHERLIGHT_MODEL", value_name = "DIR")]
    model: Option<PathBuf>,
    /// Measure this running service, for instance http://127.0.0.1:8080
    #[arg(long, env = "FEATHERLIGHT_SERVER", value_name = "URL")]
    server: Option<String>,
    /// How it is loaded
    #[command(flatten)]
    pub load: Load,
    /// Photos in one forward pass, each size measured for itself
    #[arg(
        long, env = "FEATHERLIGHT_BATCH_SIZE", value_name = "N,N", value_delimiter = ',', default_value = "1,4",
        value_parser = count(4096)
    )]
    pub batch_size: Vec<u32>,
    /// How long each measurement takes
    #[arg(long, env = "FEATHERLIGHT_SECONDS", value_name = "S", default_value = "10", value_parser = seconds)]
    pub seconds: Duration,
    /// A folder of photos: measure decoding and the model together, or send these to the service
    #[arg(long, env = "FEATHERLIGHT_DECODE", value_name = "DIR")]
    pub decode: Option<PathBuf>,
    /// Say where the time goes in a pass of the largest batch, op by op
    #[arg(long, env = "FEATHERLIGHT_PROFILE", value_parser = switch())]
    pub profile: bool,
    /// Print one JSON object
    #[arg(long, env = "FEATHERLIGHT_JSON", value_parser = switch())]
    pub json: bool,
    /// Where and in what the model computes
    #[command(flatten)]
    pub compute: Compute,
}

/// What is measured.
pub enum Subject<'a> {
    /// This architecture, with random weights.
    Config(&'a PathBuf),
    /// This model, or the demo.
    Model(Option<&'a PathBuf>),
    /// A service at this address.
    Server(&'a str),
}

impl Bench {
    /// What is measured.
    pub fn subject(&self) -> Subject<'_> {
        match (&self.server, &self.config) {
            (Some(server), _) => Subject::Server(server),
            (None, Some(config)) => Subject::Config(config),
            (None, None) => Subject::Model(self.model.as_ref()),
        }
    }

    /// Refuses two subjects; one from the environment gives way to one that was typed.
    pub(super) fn settle(&mut self, typed: &Typed<'_>) -> Result<(), clap::Error> {
        typed.refuse_beside("server", &["config", "model", "batch_size", "profile", "device", "dtype"])?;
        typed.refuse_beside("config", &["model"])?;
        if typed.any(&["config", "model"]).is_some() {
            self.server = None;
        }
        if typed.has("model") {
            self.config = None;
        }
        // A device from the environment means nothing to a service elsewhere.
        if self.server.is_none() {
            self.compute.refuse_list("bench")?;
        }
        typed.refuse_without("server", self.server.is_some(), &Load::FLAGS)?;
        self.load.settle(typed)
    }
}

fn seconds(text: &str) -> Result<Duration, String> {
    let number = text.parse::<f64>().ok().filter(|number| (0.1..=3600.0).contains(number));
    number
        .map(Duration::from_secs_f64)
        .ok_or_else(|| "a number of seconds from 0.1 to 3600 wanted".to_owned())
}
