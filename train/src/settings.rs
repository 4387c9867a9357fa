//! What a run is made of: everything `fit` was told, in the program's own terms.
//!
//! Built once from the command line; `run.json` and the model card repeat it.

use crate::augment::Augmentation;
use crate::loader::{self, Cache, PhotoCache};
use crate::sampler::Sampling;
use crate::trainer::TrainerSettings;
use candle_core::DType;
use featherlight::model::{AdapterConfig, Architecture};
use featherlight::nn::Trainable;
use featherlight::ops::device::{DeviceInfo, FrozenFormat, Precision};
use serde_json::{Value, json};
use std::fmt;
use std::num::NonZeroUsize;
use std::path::PathBuf;

/// What is trained.
#[derive(Debug, Clone, PartialEq)]
pub enum Method {
    /// Low-rank factors on the modules that the config targets, and the head. No target means the architecture's usual ones,
    /// see [`Method::for_architecture`].
    Lora(AdapterConfig),
    /// Every parameter.
    Full,
    /// The head alone.
    Head,
}

impl Method {
    /// Which of the model's own parameters are variables.
    pub fn trainable(&self) -> Trainable {
        match self {
            Self::Full => Trainable::All,
            Self::Lora(_) | Self::Head => Trainable::Head,
        }
    }

    /// The same method with the architecture's usual targets where none were chosen.
    pub fn for_architecture(&self, architecture: &Architecture) -> Self {
        match self {
            Self::Lora(adapter) if adapter.targets.is_empty() => {
                let targets = architecture.default_targets().map(str::to_owned).to_vec();
                Self::Lora(AdapterConfig { targets, ..adapter.clone() })
            }
            _ => self.clone(),
        }
    }
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Lora(_) => "lora",
            Self::Full => "full",
            Self::Head => "head",
        })
    }
}

/// Where the first weights come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StartingWeights {
    /// The model folder's.
    Pretrained,
    /// Fresh ones: the folder needs nothing but a `config.json`.
    Random,
}

/// Where the photos of the evaluation come from.
#[derive(Debug, Clone, PartialEq)]
pub enum Validation {
    /// A set of its own.
    Set(PathBuf),
    /// This share of the training set, of every class; 0 means no evaluation.
    Split(f64),
}

/// A run of `fit`.
#[derive(Debug, Clone, PartialEq)]
pub struct FitSettings {
    /// Folder with one folder a class, or CSV.
    pub data: PathBuf,
    /// What the files of a CSV are relative to, where not to its folder.
    pub image_root: Option<PathBuf>,
    /// The photos that the model is measured on.
    pub validation: Validation,
    /// The model to start from.
    pub model: PathBuf,
    /// Its weights.
    pub starting_weights: StartingWeights,
    /// Where everything is written.
    pub output: PathBuf,
    /// Whether an earlier run in `output` may be replaced.
    pub overwrite: bool,
    /// Whether to go on with the run in `output` from its last checkpoint.
    pub resume: bool,
    /// Whether the result is the best epoch's weights and not the last's.
    pub load_best_model_at_end: bool,
    /// What is trained.
    pub method: Method,
    /// Photos in a micro-batch.
    pub batch_size: NonZeroUsize,
    /// Whether `batch_size` is to be searched for; until then it says no more than how many photos a step has.
    pub find_batch_size: bool,
    /// How training photos are varied.
    pub augmentation: Augmentation,
    /// The recipe.
    pub trainer: TrainerSettings,
    /// Threads that decode and vary photos.
    pub loader_threads: NonZeroUsize,
    /// Whether event files for TensorBoard are written.
    pub tensorboard: bool,
    /// Where decoded photos are kept.
    pub cache: Cache,
    /// How weights are written.
    pub save_dtype: DType,
    /// Where the run computes.
    pub device: DeviceInfo,
    /// What it computes in; what is trained is kept in f32.
    pub precision: Precision,
    /// How matrices that are not trained are held.
    pub frozen: FrozenFormat,
}

impl FitSettings {
    /// Whether the best epoch's weights are the result: early stopping means that as well, as the last epochs brought nothing.
    pub fn keeps_best(&self) -> bool {
        self.load_best_model_at_end || self.trainer.early_stopping_patience.is_some()
    }

    /// Photos of a step.
    pub fn photos_a_step(&self) -> usize {
        self.batch_size.get().saturating_mul(self.trainer.accumulation_steps.get())
    }

    /// The same with `photos` in a micro-batch, a divisor of those of a step, which are as many as before.
    pub fn with_batch_size(&self, photos: NonZeroUsize) -> Self {
        let count = NonZeroUsize::new(self.photos_a_step() / photos).unwrap_or(NonZeroUsize::MIN);
        let trainer = TrainerSettings { accumulation_steps: count, ..self.trainer.clone() };
        Self { batch_size: photos, find_batch_size: false, trainer, ..self.clone() }
    }

    /// Batches that are prepared ahead: a step takes all of its own at once.
    pub fn prefetch(&self) -> NonZeroUsize {
        self.trainer.accumulation_steps.saturating_add(2).min(MOST_PREFETCHED)
    }

    /// How photos are loaded, by the check before the run and in it.
    pub fn loading(&self) -> loader::Settings {
        loader::Settings {
            cache: PhotoCache::open(&self.cache),
            prefetch: self.prefetch(),
            ..loader::Settings::new(self.batch_size, self.loader_threads)
        }
    }

    /// Every setting under the name of its flag.
    pub fn to_json(&self) -> Value {
        let trainer = &self.trainer;
        let mut json = json!({
            "data": self.data.to_string_lossy(),
            "image_root": self.image_root.as_ref().map(|root| root.to_string_lossy()),
            "val": match &self.validation { Validation::Set(path) => json!(path.to_string_lossy()), Validation::Split(_) => Value::Null },
            "val_split": match self.validation { Validation::Split(share) => json!(share), Validation::Set(_) => Value::Null },
            "model": self.model.to_string_lossy(),
            "init": match self.starting_weights {
                StartingWeights::Pretrained => "pretrained",
                StartingWeights::Random => "random",
            },
            "output": self.output.to_string_lossy(),
            "method": self.method.to_string(),
            "epochs": trainer.epochs,
            "batch_size": if self.find_batch_size { json!("auto") } else { json!(self.batch_size) },
            "accumulation_steps": trainer.accumulation_steps,
            "learning_rate": trainer.learning_rate,
            "weight_decay": trainer.weight_decay,
            "warmup_ratio": trainer.warmup_ratio,
            "scheduler": trainer.scheduler.to_string(),
            "max_grad_norm": trainer.max_grad_norm,
            "label_smoothing": trainer.label_smoothing,
            "lora_plus_ratio": trainer.learning_rates.lora_plus_ratio,
            "layer_decay": trainer.learning_rates.layer_decay,
            "class_weights": trainer.class_weights.to_string(),
            "balanced_sampling": trainer.sampling == Sampling::Balanced,
            "mixup_alpha": trainer.mixing.mixup_alpha(),
            "cutmix_alpha": trainer.mixing.cutmix_alpha(),
            "ema_decay": trainer.ema_decay,
            "best_metric": trainer.best_metric.to_string(),
            "load_best_model_at_end": self.load_best_model_at_end,
            "early_stopping_patience": trainer.early_stopping_patience,
            "save_every": trainer.save_every,
            "checkpoint_activations": trainer.checkpoint_activations,
            "seed": trainer.randomness.seed(),
            "loader_threads": self.loader_threads,
            "cache": match &self.cache { Cache::None => "none", Cache::Ram(_) => "ram", Cache::Disk { .. } => "disk" },
            "cache_limit": match &self.cache {
                Cache::None => None,
                Cache::Ram(limit) | Cache::Disk { limit, .. } => Some(limit),
            },
            "tensorboard": self.tensorboard,
            "save_dtype": self.save_dtype.as_str(),
            "device": self.device.name(),
            "dtype": self.precision.name(),
            "frozen_dtype": self.frozen.name_beside(self.precision),
        });
        let mut set = |name: &str, value: Value| json[name] = value;
        if let Method::Lora(adapter) = &self.method {
            set("lora_rank", json!(adapter.rank));
            set("lora_alpha", json!(adapter.alpha));
            set("lora_dropout", json!(adapter.dropout));
            let chosen = (!adapter.targets.is_empty()).then_some(&adapter.targets);
            set("lora_target", json!(chosen)); // null: the architecture's
            set("use_rslora", json!(adapter.rank_stabilized));
            set("use_dora", json!(adapter.dora));
        }
        match self.augmentation {
            Augmentation::Plain => set("augment", json!(false)),
            Augmentation::Random(variation) => {
                let (least, most) = variation.crop_scale.bounds();
                set("augment", json!(true));
                set("crop_scale", json!([least, most]));
                set("flip_probability", json!(variation.flip_probability));
                set("color_jitter", json!(variation.color_jitter));
                set(
                    "rand_augment",
                    json!(variation.rand_augment.map(|rand_augment| rand_augment.to_string())),
                );
                set("random_erase", json!(variation.random_erase));
            }
        }
        json
    }

    /// What a run that goes on must have in common with its beginning, each under the name of its flag. Photos and weights are not
    /// known by where they lie.
    pub fn made_of(&self) -> serde_json::Map<String, Value> {
        let mut made_of = serde_json::Map::new();
        if let Value::Object(settings) = self.to_json() {
            let kept = settings.into_iter().filter(|(name, _)| !FREE.contains(&name.as_str()));
            made_of.extend(kept.map(|(name, value)| (format!("--{}", name.replace('_', "-")), value)));
        }
        for (name, flag) in
            [("--augment", "augmentation (--no-augment)"), ("--flip-probability", "the flip (--no-flip)")]
        {
            if let Some(value) = made_of.remove(name) {
                made_of.insert(flag.to_owned(), value);
            }
        }
        made_of
    }
}

/// Where a cache on the disk lies in the output folder.
pub const CACHE_FOLDER: &str = "cache";

/// Batches prepared ahead at most: their pixels lie in memory.
const MOST_PREFETCHED: NonZeroUsize = NonZeroUsize::MIN.saturating_add(31);

/// Settings that may be others when a run goes on: where things lie, how fast, and what is kept.
const FREE: [&str; 14] = [
    "load_best_model_at_end",
    "cache",
    "cache_limit",
    "data",
    "image_root",
    "val",
    "model",
    "output",
    "loader_threads",
    "save_dtype",
    "device",
    "save_every",
    "checkpoint_activations",
    "tensorboard",
];
