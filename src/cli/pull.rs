//! `featherlight pull`.

use super::values::switch;
use clap::Args;
use featherlight::pull::{Repository, Revision};
use std::path::PathBuf;

/// `featherlight pull`.
#[derive(Debug, Args)]
#[command(after_help = "\
The hub's own variables are honoured: HF_ENDPOINT, HF_TOKEN (else the token in the file HF_TOKEN_PATH, which `hf auth login` writes), \
HF_HOME, HF_HUB_OFFLINE; so are HTTPS_PROXY and SSL_CERT_FILE. A pull that breaks off leaves nothing half-written: run the same command again, and it goes on from there.")]
pub struct Pull {
    /// The model: as in microsoft/beit-base-patch16-224
    #[arg(value_name = "ORG/NAME")]
    pub repository: Repository,
    /// A branch, a tag, a commit, or a reference such as refs/pr/1
    #[arg(long, env = "FEATHERLIGHT_REVISION", value_name = "REV", default_value_t)]
    pub revision: Revision,
    /// The model folder to make or to bring up to date [default: featherlight/ORG--NAME in HF_HOME, with @REV beside main]
    #[arg(long, env = "FEATHERLIGHT_OUTPUT", value_name = "DIR")]
    pub output: Option<PathBuf>,
    /// Replace files of --output that are another model's or were changed
    #[arg(long, env = "FEATHERLIGHT_OVERWRITE", value_parser = switch())]
    pub overwrite: bool,
    /// Ask nobody: only look whether the folder is complete (also HF_HUB_OFFLINE=1)
    #[arg(long, env = "FEATHERLIGHT_OFFLINE", value_parser = switch())]
    pub offline: bool,
}
