//! The command line of `featherlight-train fit`: what a person may type, and what it means.

use super::method::{Lora, MethodName};
use super::variation::VariationFlags;
use super::{FrozenType, SaveType, Where, layer_decay, loader_threads, not_negative, share};
use clap::builder::BoolishValueParser;
use clap::{Args, ValueEnum};
use featherlight::ops::device::{DeviceInfo, Precision};
use featherlight::randomness::Randomness;
use featherlight_train::groups::LearningRates;
use featherlight_train::loader::{ByteCount, Cache};
use featherlight_train::objective::ClassWeights;
use featherlight_train::sampler::Sampling;
use featherlight_train::schedule::Decay;
use featherlight_train::settings::{CACHE_FOLDER, FitSettings, StartingWeights, Validation};
use featherlight_train::start::StartError;
use featherlight_train::trainer::{BestMetric, TrainerSettings};
use std::num::{NonZeroU64, NonZeroUsize};
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// Where the first weights come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Init {
    /// The model folder's
    Pretrained,
    /// Fresh ones (with --method full)
    Random,
}

/// Where decoded photos are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum CacheName {
    /// In memory
    Ram,
    /// In files in --output/cache, until the run is complete
    Disk,
    /// Nowhere: each photo is decoded in each epoch
    None,
}

impl CacheName {
    /// The cache of a run that writes to `output`.
    ///
    /// # Errors
    /// If a limit is given where nothing is kept.
    fn cache(self, limit: Option<ByteCount>, output: &Path) -> Result<Cache, String> {
        let bytes = |default: u64| limit.map_or(default, |limit| limit.0);
        match self {
            Self::Ram => Ok(Cache::Ram(bytes(1 << 30))),
            Self::Disk => Ok(Cache::Disk { folder: output.join(CACHE_FOLDER), limit: bytes(20 << 30) }),
            Self::None if limit.is_some() => Err("--cache-limit has no meaning with --cache none".to_owned()),
            Self::None => Ok(Cache::None),
        }
    }
}

/// `featherlight-train fit`.
#[derive(Debug, Args)]
pub struct Fit {
    /// One folder a class (DIR/<label>/photo.jpg), or a CSV with the columns file,label
    #[arg(long, env = "FEATHERLIGHT_DATA", value_name = "DIR|CSV")]
    pub data: PathBuf,
    /// What the files of a CSV are relative to [default: the CSV's folder]
    #[arg(long, env = "FEATHERLIGHT_IMAGE_ROOT", value_name = "DIR")]
    pub image_root: Option<PathBuf>,
    /// Photos to measure on after every epoch, laid out like --data
    #[arg(long, env = "FEATHERLIGHT_VAL", value_name = "DIR|CSV", conflicts_with = "val_split")]
    pub val: Option<PathBuf>,
    /// Share of --data kept aside for that, the same of every class; 0 keeps none [default: 0.05]
    #[arg(long, env = "FEATHERLIGHT_VAL_SPLIT", value_name = "X", value_parser = share)]
    pub val_split: Option<f64>,
    /// Model folder to start from
    #[arg(long, env = "FEATHERLIGHT_MODEL", value_name = "DIR")]
    pub model: PathBuf,
    /// First weights: the folder's, or fresh ones from a bare config.json
    #[arg(long, env = "FEATHERLIGHT_INIT", value_enum, default_value = "pretrained")]
    pub init: Init,
    /// Folder for adapter/, merged/, checkpoints/, report.html, metrics.jsonl, run.json …
    #[arg(long, env = "FEATHERLIGHT_OUTPUT", value_name = "DIR")]
    pub output: PathBuf,
    /// Replace an earlier run in --output
    #[arg(long, env = "FEATHERLIGHT_OVERWRITE", value_parser = BoolishValueParser::new())]
    pub overwrite: bool,
    /// Go on with the run in --output from its last checkpoint; from the beginning where it has none yet
    #[arg(long, env = "FEATHERLIGHT_RESUME", value_parser = BoolishValueParser::new(), conflicts_with = "overwrite")]
    pub resume: bool,
    /// Save a checkpoint after every N steps as well, not only after every epoch
    #[arg(long, env = "FEATHERLIGHT_SAVE_EVERY", value_name = "N")]
    pub save_every: Option<NonZeroU64>,
    /// What to train
    #[arg(long, env = "FEATHERLIGHT_METHOD", value_enum, default_value = "lora")]
    pub method: MethodName,
    /// How LoRA adapts.
    #[command(flatten)]
    pub lora: Lora,
    /// Passes over the photos
    #[arg(long, env = "FEATHERLIGHT_EPOCHS", value_name = "N", default_value = "25", value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    pub epochs: u64,
    /// Photos in a micro-batch; auto: as many as the memory has room for, of the 8 × --accumulation-steps photos of a step
    #[arg(long, env = "FEATHERLIGHT_BATCH_SIZE", value_name = "N|auto", default_value = "8")]
    pub batch_size: BatchSize,
    /// Micro-batches a step
    #[arg(long, env = "FEATHERLIGHT_ACCUMULATION_STEPS", value_name = "N", default_value = "8")]
    pub accumulation_steps: NonZeroUsize,
    /// Highest learning rate
    #[arg(long, env = "FEATHERLIGHT_LEARNING_RATE", value_name = "X", default_value = "5e-5", value_parser = not_negative)]
    pub learning_rate: f64,
    /// AdamW's weight decay; norms, biases and tables of position biases are left alone
    #[arg(long, env = "FEATHERLIGHT_WEIGHT_DECAY", value_name = "X", default_value = "0", value_parser = not_negative)]
    pub weight_decay: f64,
    /// Share of the steps in which the learning rate climbs
    #[arg(long, env = "FEATHERLIGHT_WARMUP_RATIO", value_name = "X", default_value = "0.05", value_parser = share)]
    pub warmup_ratio: f64,
    /// How the learning rate falls: linear, cosine, constant
    #[arg(long, env = "FEATHERLIGHT_SCHEDULER", value_name = "NAME", default_value = "linear")]
    pub scheduler: Decay,
    /// Norm that gradients are clipped to; 0 clips nothing
    #[arg(long, env = "FEATHERLIGHT_MAX_GRAD_NORM", value_name = "X", default_value = "1", value_parser = not_negative)]
    pub max_grad_norm: f64,
    /// Share of the target spread over all labels
    #[arg(long, env = "FEATHERLIGHT_LABEL_SMOOTHING", value_name = "X", default_value = "0", value_parser = share)]
    pub label_smoothing: f64,
    /// The loss of a class: none, or balanced by the number of its photos
    #[arg(long, env = "FEATHERLIGHT_CLASS_WEIGHTS", value_name = "NAME", default_value = "none")]
    pub class_weights: ClassWeights,
    /// Draw as many photos of every class, with replacement
    #[arg(long, env = "FEATHERLIGHT_BALANCED_SAMPLING", value_parser = BoolishValueParser::new())]
    pub balanced_sampling: bool,
    /// Learning rate of a block as a share of the one behind it, as in 0.75 [default: 1]
    #[arg(long, env = "FEATHERLIGHT_LAYER_DECAY", value_name = "X", default_value = "1", hide_default_value = true, value_parser = layer_decay)]
    pub layer_decay: f64,
    /// Evaluate and save a moving average of the weights with this decay, as in 0.999
    #[arg(long, env = "FEATHERLIGHT_EMA_DECAY", value_name = "X", value_parser = share)]
    pub ema_decay: Option<f64>,
    /// What tells the best epoch: top1, loss
    #[arg(long, env = "FEATHERLIGHT_BEST_METRIC", value_name = "NAME", default_value = "top1")]
    pub best_metric: BestMetric,
    /// Keep the best epoch's weights instead of the last's
    #[arg(long, env = "FEATHERLIGHT_LOAD_BEST_MODEL_AT_END", value_parser = BoolishValueParser::new())]
    pub load_best_model_at_end: bool,
    /// End after so many epochs without a new best one, whose weights are kept
    #[arg(long, env = "FEATHERLIGHT_EARLY_STOPPING_PATIENCE", value_name = "N")]
    pub early_stopping_patience: Option<NonZeroU64>,
    /// Compute a block's activations anew in the backward pass instead of keeping them: less memory, more time
    #[arg(long, env = "FEATHERLIGHT_CHECKPOINT_ACTIVATIONS", value_parser = BoolishValueParser::new())]
    pub checkpoint_activations: bool,
    /// Of order, crops, fresh weights, dropout: the same seed gives the same run
    #[arg(long, env = "FEATHERLIGHT_SEED", value_name = "N", default_value = "42")]
    pub seed: u64,
    /// How photos are varied.
    #[command(flatten)]
    pub variation: VariationFlags,
    /// Threads that decode and vary photos [default: one a core, at most 4]
    #[arg(long, env = "FEATHERLIGHT_LOADER_THREADS", value_name = "N")]
    pub loader_threads: Option<NonZeroUsize>,
    /// Write event files for TensorBoard to --output/tensorboard
    #[arg(long, env = "FEATHERLIGHT_TENSORBOARD", value_parser = BoolishValueParser::new())]
    pub tensorboard: bool,
    /// Where decoded photos are kept from epoch to epoch
    #[arg(long, env = "FEATHERLIGHT_CACHE", value_enum, default_value = "ram")]
    pub cache: CacheName,
    /// Bytes of decoded photos that are kept, as in 4GiB [default: 1GiB of memory, 20GiB on the disk]
    #[arg(long, env = "FEATHERLIGHT_CACHE_LIMIT", value_name = "BYTES")]
    pub cache_limit: Option<ByteCount>,
    /// Number type of the weights in merged/
    #[arg(long, env = "FEATHERLIGHT_SAVE_DTYPE", value_enum, default_value = "f32")]
    pub save_dtype: SaveType,
    /// What matrices that are not trained are held in: int8 needs a quarter of f32's memory
    #[arg(long, env = "FEATHERLIGHT_FROZEN_DTYPE", value_enum, default_value = "auto")]
    pub frozen_dtype: FrozenType,
    /// Where to compute.
    #[command(flatten)]
    pub place: Where,
}

impl Fit {
    /// What the flags mean, on the device that was found for them.
    ///
    /// # Errors
    /// Flags that contradict each other, in words for the person who typed them.
    pub fn settings(self, (device, precision): (DeviceInfo, Precision)) -> Result<FitSettings, String> {
        if self.init == Init::Random && self.method != MethodName::Full {
            let method = self.lora.method(self.method)?;
            return Err(StartError::RandomNotFull(method.to_string()).to_string());
        }
        let learning_rates = LearningRates {
            lora_plus_ratio: self.lora.lora_plus_ratio.unwrap_or(1.0),
            layer_decay: self.layer_decay,
        };
        let has_validation = self.val.is_some() || self.val_split != Some(0.0);
        for (flag, given) in [
            ("--early-stopping-patience", self.early_stopping_patience.is_some()),
            ("--load-best-model-at-end", self.load_best_model_at_end),
        ] {
            if given && !has_validation {
                return Err(format!("{flag} needs photos to validate on: --val-split 0 keeps none"));
            }
        }
        let mixing = self.variation.mixing()?;
        if !mixing.is_off() && self.batch_size == BatchSize::Photos(NonZeroUsize::MIN) {
            return Err(
                "--mixup-alpha and --cutmix-alpha mix the photos of a batch: --batch-size 1 has only one"
                    .to_owned(),
            );
        }
        Ok(FitSettings {
            validation: match (self.val, self.val_split) {
                (Some(set), _) => Validation::Set(set),
                (None, split) => Validation::Split(split.unwrap_or(0.05)),
            },
            starting_weights: match self.init {
                Init::Pretrained => StartingWeights::Pretrained,
                Init::Random => StartingWeights::Random,
            },
            method: self.lora.method(self.method)?,
            augmentation: self.variation.augmentation(),
            trainer: TrainerSettings {
                epochs: self.epochs,
                accumulation_steps: self.accumulation_steps,
                learning_rate: self.learning_rate,
                learning_rates,
                weight_decay: self.weight_decay,
                warmup_ratio: self.warmup_ratio,
                scheduler: self.scheduler,
                max_grad_norm: self.max_grad_norm,
                label_smoothing: self.label_smoothing,
                class_weights: self.class_weights,
                sampling: if self.balanced_sampling { Sampling::Balanced } else { Sampling::Shuffled },
                mixing,
                ema_decay: self.ema_decay,
                best_metric: self.best_metric,
                early_stopping_patience: self.early_stopping_patience,
                save_every: self.save_every,
                checkpoint_activations: self.checkpoint_activations,
                randomness: Randomness::new(self.seed),
            },
            cache: self.cache.cache(self.cache_limit, &self.output)?,
            data: self.data,
            image_root: self.image_root,
            model: self.model,
            output: self.output,
            overwrite: self.overwrite,
            resume: self.resume,
            tensorboard: self.tensorboard,
            load_best_model_at_end: self.load_best_model_at_end,
            batch_size: self.batch_size.photos(),
            find_batch_size: self.batch_size == BatchSize::Auto,
            loader_threads: loader_threads(self.loader_threads),
            save_dtype: self.save_dtype.dtype(),
            device,
            precision,
            frozen: self.frozen_dtype.format(precision, self.method == MethodName::Full)?,
        })
    }
}

/// Photos in a micro-batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BatchSize {
    /// So many.
    Photos(NonZeroUsize),
    /// As many as there is memory for.
    Auto,
}

/// The photos of a micro-batch where nothing else is said, and those that `auto` reckons a step from.
const USUAL_BATCH: NonZeroUsize = NonZeroUsize::MIN.saturating_add(7);

impl BatchSize {
    fn photos(self) -> NonZeroUsize {
        match self {
            Self::Photos(photos) => photos,
            Self::Auto => USUAL_BATCH,
        }
    }
}

impl FromStr for BatchSize {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(Self::Auto),
            _ => text
                .parse()
                .map(Self::Photos)
                .map_err(|_| "a number of at least 1 wanted, or auto".to_owned()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{Cli, Command};
    use clap::Parser;
    use featherlight_train::settings::Method;

    fn fit(flags: &[&str]) -> Result<FitSettings, String> {
        let required = ["featherlight-train", "fit", "--data", "d", "--model", "m", "--output", "o"];
        let cli = Cli::try_parse_from(required.iter().chain(flags)).map_err(|error| error.to_string())?;
        match cli.command {
            Command::Fit(fit) => fit.settings((DeviceInfo::Cpu, Precision::F32)),
            other => Err(format!("{other:?}")),
        }
    }

    #[test]
    fn the_defaults_are_those_of_the_recipe_that_the_project_grew_out_of() {
        let settings = fit(&[]).unwrap();
        let Method::Lora(lora) = &settings.method else { panic!("{:?}", settings.method) };
        assert_eq!((lora.rank, lora.alpha, lora.dropout), (16, 16.0, 0.1));
        assert!(lora.targets.is_empty(), "the architecture's: {:?}", lora.targets);
        assert_eq!(settings.validation, Validation::Split(0.05));
        assert_eq!((settings.trainer.epochs, settings.batch_size.get()), (25, 8));
        assert!(!settings.find_batch_size);
        assert_eq!(settings.trainer.accumulation_steps.get(), 8);
        assert_eq!((settings.trainer.learning_rate, settings.trainer.warmup_ratio), (5e-5, 0.05));
        assert_eq!(settings.trainer.randomness.seed(), 42);
    }

    #[test]
    fn flags_that_contradict_each_other_are_refused_by_name() {
        for (flags, named) in [
            (&["--method", "full", "--lora-rank", "4"][..], "--lora-rank"),
            (&["--method", "head", "--use-rslora"], "--use-rslora"),
            (&["--method", "full", "--use-dora"], "--use-dora"),
            (&["--init", "random"], "--method full"),
            (&["--no-augment", "--crop-scale", "0.4"], "--crop-scale"),
            (&["--val", "v", "--val-split", "0.1"], "--val-split"),
            (&["--resume", "--overwrite"], "--overwrite"),
            (&["--no-augment", "--mixup-alpha", "0.2"], "--mixup-alpha"),
            (&["--batch-size", "1", "--cutmix-alpha", "1"], "--batch-size 1"),
            (&["--method", "full", "--frozen-dtype", "int8"], "--frozen-dtype"),
            (&["--cache", "none", "--cache-limit", "1GiB"], "--cache-limit"),
            (&["--no-augment", "--rand-augment", "2,9"], "--rand-augment"),
            (&["--val-split", "0", "--early-stopping-patience", "3"], "--early-stopping-patience"),
            (&["--method", "full", "--lora-plus-ratio", "16"], "--lora-plus-ratio"),
        ] {
            let error = fit(flags).unwrap_err();
            assert!(error.contains(named), "{flags:?}: {error}");
        }
    }

    #[test]
    fn a_value_that_makes_no_sense_names_the_flag_and_what_is_wanted() {
        for (flags, wanted) in [
            (["--val-split", "1"], "up to, but not, 1"),
            (["--learning-rate", "-1"], "at least 0"),
            (["--learning-rate", "NaN"], "at least 0"),
            (["--epochs", "0"], "1"),
            (["--batch-size", "0"], "at least 1"),
            (["--batch-size", "automatic"], "or auto"),
            (["--cache-limit", "2 elephants"], "2GiB"),
            (["--cache", "tape"], "ram, disk, none"),
            (["--scheduler", "step"], "linear, cosine"),
            (["--best-metric", "f1"], "top1, loss"),
            (["--class-weights", "sqrt"], "none, balanced"),
            (["--layer-decay", "0"], "above 0"),
            (["--rand-augment", "2,31"], "30"),
            (["--random-erase", "1.5"], "from 0 to 1"),
            (["--ema-decay", "1"], "up to, but not, 1"),
            (["--lora-plus-ratio", "0"], "above 0"),
            (["--crop-scale", "2"], "at most 1"),
            (["--device", "gpu"], "auto, cpu, cuda"),
            (["--device", "cuda:0,1"], "a single device"),
            (["--dtype", "int8"], "auto, f32, bf16"),
        ] {
            let error = fit(&flags).unwrap_err();
            assert!(error.contains(flags[0]) && error.contains(wanted), "{flags:?}: {error}");
        }
    }
}
