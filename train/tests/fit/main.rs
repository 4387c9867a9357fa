//! Whole runs of `fit`, `merge` and `evaluate` on a small sample of real photos.

#![allow(clippy::expect_used, clippy::panic, reason = "a test's own helpers fail by panicking")]

mod memory;
mod refusals;
mod runs;

use candle_core::{DType, Device, Tensor};
use featherlight::model::{AdapterConfig, Inspection, Photo};
use featherlight::model::{Classifier, Head, LoadedModel, ModelFolder};
use featherlight::nn::Trainable;
use featherlight::ops::device::{DeviceInfo, FrozenFormat, Placement, Precision};
use featherlight::randomness::Randomness;
use featherlight_train::augment::{Augmentation, Variation};
use featherlight_train::destination::DestinationError;
use featherlight_train::fit::{FitError, FitSummary, fit};
use featherlight_train::loader::Cache;
use featherlight_train::merge::{MergeError, merge_folder};
use featherlight_train::output::Output;
use featherlight_train::progress::Progress;
use featherlight_train::schedule::Decay;
use featherlight_train::settings::{FitSettings, Method, StartingWeights, Validation};
use featherlight_train::trainer::{TrainError, TrainerSettings};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

fn tests() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests")
}

fn photos(part: &str) -> PathBuf {
    tests().join("data/sign-digits").join(part)
}

fn number(n: usize) -> NonZeroUsize {
    NonZeroUsize::new(n).expect("not zero")
}

/// Writes the config of a small model and returns its folder.
fn bare_config(at: &Path) -> PathBuf {
    let config = json!({
        "model_type": "beit", "image_size": 32, "patch_size": 8, "hidden_size": 48, "num_hidden_layers": 2,
        "num_attention_heads": 4, "intermediate_size": 96, "use_relative_position_bias": true,
        "initializer_range": 0.06, "drop_path_rate": 0.1,
    });
    let folder = at.join("start");
    std::fs::create_dir(&folder).expect("a folder");
    std::fs::write(folder.join("config.json"), config.to_string()).expect("a config");
    folder
}

/// A run from fresh weights, two epochs.
fn from_scratch(model: PathBuf, output: PathBuf) -> FitSettings {
    FitSettings {
        data: photos("train"),
        image_root: None,
        validation: Validation::Split(0.1),
        model,
        starting_weights: StartingWeights::Random,
        output,
        overwrite: false,
        resume: false,
        load_best_model_at_end: false,
        method: Method::Full,
        batch_size: number(16),
        find_batch_size: false,
        augmentation: Augmentation::Random(Variation::default()),
        trainer: TrainerSettings {
            epochs: 2,
            accumulation_steps: number(2),
            learning_rate: 1e-3,
            weight_decay: 0.01,
            warmup_ratio: 0.1,
            scheduler: Decay::Cosine,
            max_grad_norm: 1.0,
            label_smoothing: 0.1,
            randomness: Randomness::new(7),
            ..TrainerSettings::default()
        },
        loader_threads: number(2),
        tensorboard: false,
        cache: Cache::default(),
        save_dtype: DType::F32,
        device: DeviceInfo::Cpu,
        precision: Precision::F32,
        frozen: FrozenFormat::Compute,
    }
}

/// LoRA on the reference model, whose seven classes are not the ten of the photos.
fn lora(output: PathBuf) -> FitSettings {
    let adapter = AdapterConfig {
        rank: 4,
        alpha: 8.0,
        rank_stabilized: false,
        dora: false,
        dropout: 0.1,
        targets: vec!["query".to_owned(), "value".to_owned()],
    };
    FitSettings {
        starting_weights: StartingWeights::Pretrained,
        method: Method::Lora(adapter),
        ..from_scratch(tests().join("goldens/beit-tiny"), output)
    }
}

fn trained(settings: &FitSettings) -> Result<FitSummary, FitError> {
    fit(settings, &AtomicBool::new(false), &mut Progress::default())
}

fn run(settings: &FitSettings) {
    trained(settings).unwrap_or_else(|error| panic!("{error}"));
}

fn metrics(output: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(output.join("metrics.jsonl")).expect("metrics");
    text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

fn tensors(file: &Path) -> HashMap<String, Tensor> {
    candle_core::safetensors::load(file, &Device::Cpu).expect("tensors")
}

fn logits(folder: &ModelFolder) -> Vec<Vec<f32>> {
    let processor = folder.processor().expect("a processor");
    let (height, width) = processor.output_size();
    let loaded = LoadedModel::load(folder, &Placement::CPU).unwrap_or_else(|error| panic!("{error}"));
    let values: Vec<f32> = (0..3 * height * width).map(|i| ((i * 37 % 255) as f32 - 127.0) / 127.0).collect();
    loaded.logits(&[Photo::Tensor(&values)]).expect("logits")
}
