//! What is trained, and how LoRA adapts it: flags of `fit` and `bench`.

use super::{not_negative, positive, share};
use clap::builder::BoolishValueParser;
use clap::{Args, ValueEnum};
use featherlight::model::{AdapterConfig, parse_target};
use featherlight_train::settings::Method;

/// What is trained.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum MethodName {
    /// Low-rank adapters and the head
    Lora,
    /// Every parameter
    Full,
    /// The classification head alone
    Head,
}

/// The flags of LoRA; given with another method they are refused.
#[derive(Debug, Args)]
pub struct Lora {
    /// Rank of the adapters [default: 16]
    #[arg(long, env = "FEATHERLIGHT_LORA_RANK", value_name = "N", value_parser = clap::value_parser!(u32).range(1..=65_536))]
    pub lora_rank: Option<u32>,
    /// Scale of the adapters is alpha / rank [default: 16]
    #[arg(long, env = "FEATHERLIGHT_LORA_ALPHA", value_name = "X", value_parser = not_negative)]
    pub lora_alpha: Option<f64>,
    /// Probability that an input of an adapter is dropped in training [default: 0.1]
    #[arg(long, env = "FEATHERLIGHT_LORA_DROPOUT", value_name = "X", value_parser = share)]
    pub lora_dropout: Option<f64>,
    /// Modules to adapt, by transformers' names, old or new, or all-linear [default: the maps to queries and values]
    #[arg(long, env = "FEATHERLIGHT_LORA_TARGET", value_name = "NAMES", value_delimiter = ',', value_parser = parse_target)]
    pub lora_target: Option<Vec<String>>,
    /// Learning rate of LoRA's B and of vectors as a multiple of A's, as in 16 (LoRA+) [default: 1]
    #[arg(long, env = "FEATHERLIGHT_LORA_PLUS_RATIO", value_name = "X", value_parser = positive)]
    pub lora_plus_ratio: Option<f64>,
    /// Scale by alpha / √rank instead (rsLoRA)
    #[arg(long, env = "FEATHERLIGHT_USE_RSLORA", value_parser = BoolishValueParser::new())]
    pub use_rslora: bool,
    /// Train the magnitudes of the adapted weights' rows apart from their directions (DoRA)
    #[arg(long, env = "FEATHERLIGHT_USE_DORA", value_parser = BoolishValueParser::new())]
    pub use_dora: bool,
}

impl Lora {
    /// The method of that name, adapted as these flags say.
    ///
    /// # Errors
    /// If one of them is given with a method that has no adapters.
    pub fn method(self, name: MethodName) -> Result<Method, String> {
        let given = [
            ("--lora-rank", self.lora_rank.is_some()),
            ("--lora-alpha", self.lora_alpha.is_some()),
            ("--lora-dropout", self.lora_dropout.is_some()),
            ("--lora-target", self.lora_target.is_some()),
            ("--lora-plus-ratio", self.lora_plus_ratio.is_some()),
            ("--use-rslora", self.use_rslora),
            ("--use-dora", self.use_dora),
        ];
        match (name, given.iter().find(|(_, given)| *given)) {
            (MethodName::Lora, _) => Ok(Method::Lora(AdapterConfig {
                rank: self.lora_rank.unwrap_or(16) as usize,
                alpha: self.lora_alpha.unwrap_or(16.0),
                rank_stabilized: self.use_rslora,
                dora: self.use_dora,
                dropout: self.lora_dropout.unwrap_or(0.1),
                targets: self.lora_target.unwrap_or_default(),
            })),
            (_, Some((flag, _))) => Err(format!("{flag} goes with --method lora alone")),
            (MethodName::Full, None) => Ok(Method::Full),
            (MethodName::Head, None) => Ok(Method::Head),
        }
    }
}
