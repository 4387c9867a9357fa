//! The command line of `featherlight-train fit`: what a person may type, and what it means.

use super::{
    FrozenType, SaveType, Where, layer_decay, loader_threads, not_negative, positive, probability, share,
};
use clap::builder::BoolishValueParser;
use clap::{Args, ValueEnum};
use featherlight::model::{AdapterConfig, parse_target};
use featherlight::ops::device::{DeviceInfo, Precision};
use featherlight::randomness::Randomness;
use featherlight_train::augment::{Augmentation, CropScale, Mixing, RandAugment, Variation};
use featherlight_train::groups::LearningRates;
use featherlight_train::loader::{ByteCount, Cache};
use featherlight_train::objective::ClassWeights;
use featherlight_train::sampler::Sampling;
use featherlight_train::schedule::Decay;
use featherlight_train::settings::{CACHE_FOLDER, FitSettings, Method, StartingWeights, Validation};
use featherlight_train::start::StartError;
use featherlight_train::trainer::{BestMetric, TrainerSettings};
use std::num::{NonZeroU64, NonZeroUsize};
use std::path::{Path, PathBuf};

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
    /// Photos in a micro-batch
    #[arg(long, env = "FEATHERLIGHT_BATCH_SIZE", value_name = "N", default_value = "8")]
    pub batch_size: NonZeroUsize,
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

/// The flags of the augmentation.
#[derive(Debug, Args)]
pub struct VariationFlags {
    /// Take training photos as they are served
    #[arg(long, env = "FEATHERLIGHT_NO_AUGMENT", value_parser = BoolishValueParser::new(), conflicts_with_all = ["crop_scale", "color_jitter", "no_flip", "rand_augment", "random_erase", "mixup_alpha", "cutmix_alpha"])]
    pub no_augment: bool,
    /// Least share of a photo's area that a random crop keeps, or least,greatest [default: 0.08,1]
    #[arg(long, env = "FEATHERLIGHT_CROP_SCALE", value_name = "X[,Y]")]
    pub crop_scale: Option<CropScale>,
    /// Vary brightness, contrast and saturation by up to this factor [default: 0]
    #[arg(long, env = "FEATHERLIGHT_COLOR_JITTER", value_name = "X", value_parser = not_negative)]
    pub color_jitter: Option<f64>,
    /// N random changes of colour and shape a photo, of strength M from 0 to 30, as in 2,9 (RandAugment)
    #[arg(long, env = "FEATHERLIGHT_RAND_AUGMENT", value_name = "N,M")]
    pub rand_augment: Option<RandAugment>,
    /// Probability that a rectangle of a photo is erased [default: 0]
    #[arg(long, env = "FEATHERLIGHT_RANDOM_ERASE", value_name = "X", value_parser = probability)]
    pub random_erase: Option<f64>,
    /// Never mirror a photo: for things with a left and a right
    #[arg(long, env = "FEATHERLIGHT_NO_FLIP", value_parser = BoolishValueParser::new())]
    pub no_flip: bool,
    /// Mix each photo with another of its batch, by a share drawn from Beta(X, X) (mixup) [default: 0]
    #[arg(long, env = "FEATHERLIGHT_MIXUP_ALPHA", value_name = "X", value_parser = not_negative)]
    pub mixup_alpha: Option<f64>,
    /// Paste a part of another photo of the batch, of a share drawn from Beta(X, X) (CutMix) [default: 0]
    #[arg(long, env = "FEATHERLIGHT_CUTMIX_ALPHA", value_name = "X", value_parser = not_negative)]
    pub cutmix_alpha: Option<f64>,
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
        if !mixing.is_off() && self.batch_size == NonZeroUsize::MIN {
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
            batch_size: self.batch_size,
            loader_threads: loader_threads(self.loader_threads),
            save_dtype: self.save_dtype.dtype(),
            device,
            precision,
            frozen: self.frozen_dtype.format(precision, self.method == MethodName::Full)?,
        })
    }
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

impl VariationFlags {
    fn mixing(&self) -> Result<Mixing, String> {
        let (mixup, cutmix) = (self.mixup_alpha.unwrap_or(0.0), self.cutmix_alpha.unwrap_or(0.0));
        Mixing::new(mixup, cutmix).map_err(|error| error.to_string())
    }

    fn augmentation(&self) -> Augmentation {
        if self.no_augment {
            return Augmentation::Plain;
        }
        let defaults = Variation::default();
        Augmentation::Random(Variation {
            crop_scale: self.crop_scale.unwrap_or(defaults.crop_scale),
            flip_probability: if self.no_flip { 0.0 } else { defaults.flip_probability },
            color_jitter: self.color_jitter.unwrap_or(defaults.color_jitter),
            rand_augment: self.rand_augment,
            random_erase: self.random_erase.unwrap_or(defaults.random_erase),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{Cli, Command};
    use clap::Parser;

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
            (["--batch-size", "0"], "non-zero"),
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
