//! Whole runs of `fit`, `merge` and `evaluate` on a small sample of real photos.

#![allow(clippy::expect_used, clippy::panic, reason = "a test's own helpers fail by panicking")]

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

#[test]
fn one_seed_gives_one_run_whatever_the_number_of_loader_threads() {
    let folder = tempfile::tempdir().expect("a folder");
    let start = bare_config(folder.path());
    let outputs = [1, 4].map(|threads| {
        let output = folder.path().join(format!("out{threads}"));
        run(&FitSettings { loader_threads: number(threads), ..from_scratch(start.clone(), output.clone()) });
        output
    });
    let [first, second] = outputs.each_ref().map(|output| {
        let mut lines = metrics(output);
        lines.iter_mut().for_each(|line| {
            let line = line.as_object_mut().expect("an object");
            line.retain(|name, _| name != "images_per_second" && name != "waiting");
        });
        lines
    });
    assert_eq!(first, second);
    // 109 photos: 7 micro-batches, 4 steps an epoch; and an evaluation after each.
    assert_eq!(first.len(), 2 * (4 + 1));
    let [first, second] =
        outputs.map(|output| std::fs::read(output.join("merged/model.safetensors")).expect("weights"));
    assert!(first == second, "the weights differ");
}

#[test]
fn another_seed_gives_another_run() {
    let folder = tempfile::tempdir().expect("a folder");
    let start = bare_config(folder.path());
    let losses = [7, 8].map(|seed| {
        let output = folder.path().join(format!("out{seed}"));
        let mut settings = from_scratch(start.clone(), output.clone());
        settings.trainer.randomness = Randomness::new(seed);
        run(&settings);
        metrics(&output)[0]["loss"].as_f64().expect("a loss")
    });
    assert_ne!(losses[0], losses[1]);
}

#[test]
fn lora_trains_adapters_and_a_fresh_head_and_leaves_everything_else_as_it_was() {
    let folder = tempfile::tempdir().expect("a folder");
    let output = folder.path().join("out");
    let settings = lora(output.clone());
    run(&settings);

    let base = tensors(&settings.model.join("model.safetensors"));
    let merged = tensors(&output.join("merged/model.safetensors"));
    assert_eq!(merged["classifier.weight"].dims()[0], 10);
    for (name, tensor) in &base {
        if name.starts_with("classifier.") {
            continue;
        }
        let values = |tensor: &Tensor| tensor.flatten_all().and_then(|t| t.to_vec1::<f32>()).expect("f32");
        let same = values(tensor) == values(&merged[name]);
        let adapted = name.ends_with("query.weight") || name.ends_with("value.weight");
        assert_eq!(same, !adapted, "{name}");
    }

    let run: Value =
        serde_json::from_str(&std::fs::read_to_string(output.join("run.json")).expect("run.json"))
            .expect("JSON");
    assert_eq!(run["state"], "completed");
    // 3 blocks × 2 modules × rank 4 × (48 + 48), and the head.
    assert_eq!(run["trainable_parameters"], 3 * 2 * 4 * 96 + 48 * 10 + 10);
    assert_eq!(run["settings"]["lora_rank"], 4);
}

#[test]
fn an_adapter_on_its_base_a_merged_run_and_merge_give_the_same_logits_and_labels() {
    adapter_merged_and_merge_agree(lora);
}

#[test]
fn so_do_those_of_dora_whose_magnitudes_were_trained_and_counted() {
    let output = adapter_merged_and_merge_agree(|output| {
        let mut settings = lora(output);
        if let Method::Lora(adapter) = &mut settings.method {
            adapter.dora = true;
        }
        settings
    });
    let run = std::fs::read_to_string(output.path().join("out/run.json")).expect("run.json");
    let run: Value = serde_json::from_str(&run).expect("JSON");
    assert_eq!(run["trainable_parameters"], 3 * 2 * (4 * 96 + 48) + 48 * 10 + 10);
    assert_eq!(run["settings"]["use_dora"], true);
    let (base, adapter) = (tests().join("goldens/beit-tiny"), output.path().join("out/adapter"));
    let (base, adapter) = (base.join("model.safetensors"), adapter.join("adapter_model.safetensors"));
    let (base, adapter) = (tensors(&base), tensors(&adapter));
    let module = "beit.encoder.layer.1.attention.attention.query";
    let magnitudes = &adapter[&format!("base_model.model.{module}.lora_magnitude_vector")];
    let first = featherlight::nn::row_norms(&base[&format!("{module}.weight")]).expect("norms");
    let moved: Vec<f32> = (magnitudes - first).and_then(|change| change.abs()?.to_vec1()).expect("values");
    let mean = moved.iter().sum::<f32>() / moved.len() as f32;
    assert!((1e-4..1e-2).contains(&mean), "{mean}: {moved:?}");
}

/// The folder that the run is in, as `out`.
fn adapter_merged_and_merge_agree(settings: impl Fn(PathBuf) -> FitSettings) -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    let output = folder.path().join("out");
    let settings = settings(output.clone());
    run(&settings);

    let open = |path: &Path| ModelFolder::open(path).unwrap_or_else(|error| panic!("{error}"));
    let adapted = open(&settings.model)
        .with_adapter(Some(&output.join("adapter")))
        .unwrap_or_else(|error| panic!("{error}"));
    let again = folder.path().join("again");
    merge_folder(&adapted, DType::F32, &again, false).unwrap_or_else(|error| panic!("{error}"));
    let (merged, again) = (open(&output.join("merged")), open(&again));
    for model in [&adapted, &again] {
        assert_eq!(model.config().labels, merged.config().labels);
        let differences: Vec<f32> =
            logits(model)[0].iter().zip(&logits(&merged)[0]).map(|(a, b)| (a - b).abs()).collect();
        assert!(differences.iter().all(|d| *d <= 1e-4), "{differences:?}");
    }
    assert_eq!(merged.config().labels[3], "3");
    let error = merge_folder(&adapted, DType::F32, again.path(), false).expect_err("a model is there");
    assert!(matches!(error, MergeError::Destination(DestinationError::Taken(_))), "{error}");
    folder
}

#[test]
fn the_sample_can_be_learnt_by_heart() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut settings = from_scratch(bare_config(folder.path()), folder.path().join("out"));
    settings.augmentation = Augmentation::Plain;
    settings.validation = Validation::Set(photos("train"));
    settings.trainer.epochs = 30;
    settings.trainer.accumulation_steps = number(1);
    settings.trainer.label_smoothing = 0.0;
    settings.trainer.learning_rate = 2e-3;
    let summary = trained(&settings).unwrap_or_else(|error| panic!("{error}"));
    let accuracy = summary.evaluation.expect("an evaluation").top1_accuracy();
    assert!(accuracy > 0.9, "{accuracy}");
}

#[test]
fn a_photo_that_cannot_be_read_is_left_out_and_listed() {
    let folder = tempfile::tempdir().expect("a folder");
    let data = folder.path().join("data");
    for class in ["0", "1"] {
        std::fs::create_dir_all(data.join(class)).expect("a folder");
        for entry in std::fs::read_dir(photos("train").join(class)).expect("photos") {
            let entry = entry.expect("an entry");
            std::fs::copy(entry.path(), data.join(class).join(entry.file_name())).expect("a copy");
        }
    }
    std::fs::write(data.join("1/broken.jpg"), b"\xff\xd8\xff no photo").expect("written");
    let output = folder.path().join("out");
    let mut settings = from_scratch(bare_config(folder.path()), output.clone());
    settings.data = data;
    settings.validation = Validation::Split(0.0);
    let summary = trained(&settings).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!((summary.unreadable, summary.evaluation), (1, None));
    let run: Value =
        serde_json::from_str(&std::fs::read_to_string(output.join("run.json")).expect("run.json"))
            .expect("JSON");
    assert!(run["unreadable_photos"][0]["file"].as_str().expect("a file").ends_with("1/broken.jpg"));
}

#[test]
fn a_loss_that_is_no_number_ends_the_run_and_names_the_step() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut settings = from_scratch(bare_config(folder.path()), folder.path().join("out"));
    settings.trainer.learning_rate = 1e30;
    settings.trainer.warmup_ratio = 0.0;
    let error = trained(&settings).expect_err("diverged");
    assert!(matches!(error, FitError::Train(TrainError::Diverged { step: 2.., .. })), "{error}");
    assert!(error.to_string().contains("--learning-rate"), "{error}");
}

#[test]
fn weights_that_leave_the_numbers_in_the_last_step_replace_nothing_and_the_record_says_failed() {
    let folder = tempfile::tempdir().expect("a folder");
    let output = folder.path().join("out");
    let mut settings = from_scratch(bare_config(folder.path()), output.clone());
    settings.validation = Validation::Split(0.0);
    settings.trainer.epochs = 1;
    settings.trainer.accumulation_steps = number(100); // one step in all
    settings.trainer.learning_rate = 1e39;
    settings.trainer.warmup_ratio = 0.0;
    std::fs::create_dir_all(output.join("merged")).expect("a folder");
    std::fs::write(output.join("merged/model.safetensors"), "of an earlier run").expect("written");
    settings.overwrite = true;
    let error = trained(&settings).expect_err("exploded");
    assert!(matches!(error, FitError::Train(TrainError::Diverged { .. })), "{error}");
    let kept = std::fs::read_to_string(output.join("merged/model.safetensors")).expect("still there");
    assert_eq!(kept, "of an earlier run");
    let run = std::fs::read_to_string(output.join("run.json")).expect("run.json");
    let run: Value = serde_json::from_str(&run).expect("JSON");
    assert_eq!(run["state"], "failed");
}

#[test]
fn a_model_inside_the_output_is_not_overwritten() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut settings = from_scratch(bare_config(folder.path()), folder.path().to_owned());
    settings.overwrite = true;
    let error = trained(&settings).expect_err("refused");
    assert!(matches!(error, FitError::ModelInOutput(_)), "{error}");
}

#[test]
fn inspect_counts_a_written_adapter_s_factors_once() {
    let folder = tempfile::tempdir().expect("a folder");
    let output = folder.path().join("out");
    let settings = lora(output.clone());
    run(&settings);
    let base = ModelFolder::open(&settings.model)
        .and_then(|base| base.with_adapter(Some(&output.join("adapter"))))
        .unwrap_or_else(|error| panic!("{error}"));
    let mut inspection = Inspection::of(base.config()).unwrap_or_else(|error| panic!("{error}"));
    inspection.attach(base.adapter().expect("an adapter")).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(inspection.trainable(), Some(3 * 2 * 4 * 96 + 48 * 10 + 10));
}

#[test]
fn a_model_that_cannot_be_trained_as_asked_is_refused_before_anything_is_written() {
    let folder = tempfile::tempdir().expect("a folder");
    let output = folder.path().join("out");
    let refused = |settings: FitSettings, named: &str| {
        let error = trained(&settings).expect_err("refused").to_string();
        assert!(error.contains(named), "{error}");
        assert!(!output.exists(), "{error}");
    };
    let mut unknown_target = lora(output.clone());
    if let Method::Lora(adapter) = &mut unknown_target.method {
        adapter.targets = vec!["qery".to_owned()];
    }
    refused(unknown_target, "attention.attention.query");

    let start = bare_config(folder.path());
    let mut config: Value =
        serde_json::from_str(&std::fs::read_to_string(start.join("config.json")).expect("a config"))
            .expect("JSON");
    config["hidden_dropout_prob"] = json!(0.1);
    std::fs::write(start.join("config.json"), config.to_string()).expect("written");
    refused(from_scratch(start, output.clone()), "hidden_dropout_prob");

    let mut nothing_there = lora(output.clone());
    nothing_there.data = folder.path().join("no-such-folder");
    refused(nothing_there, "no-such-folder");
}

#[test]
fn a_timm_model_becomes_a_folder_in_the_hugging_face_layout() {
    let folder = tempfile::tempdir().expect("a folder");
    let output = folder.path().join("out");
    let mut settings = lora(output.clone());
    settings.model = tests().join("goldens/beit-tiny-timm");
    settings.method = Method::Head;
    run(&settings);

    let merged = ModelFolder::open(&output.join("merged")).unwrap_or_else(|error| panic!("{error}"));
    assert!(!merged.config().timm);
    let (merged, _) = load(&merged);
    let (timm, head) = load(&ModelFolder::open(&settings.model).unwrap_or_else(|error| panic!("{error}")));
    assert_eq!(head, Head::Fresh);
    for (ours, theirs) in merged.parameters().iter().zip(timm.parameters()) {
        assert_eq!(ours.name(), theirs.name());
        let values = |tensor: &Tensor| tensor.flatten_all().and_then(|t| t.to_vec1::<f32>()).expect("f32");
        let same = values(ours.tensor()) == values(theirs.tensor());
        assert_eq!(same, !ours.name().starts_with("classifier."), "{}", ours.name());
    }
}

fn load(folder: &ModelFolder) -> (Box<dyn Classifier>, Head) {
    let labels: Vec<String> = (0..10).map(|label| label.to_string()).collect();
    let config = folder.config().with_labels(&labels);
    folder
        .load_for(&config, Trainable::None, Randomness::new(1), &Placement::CPU)
        .unwrap_or_else(|error| panic!("{error}"))
}

#[test]
fn a_run_in_bf16_saves_a_model_whose_frozen_weights_lost_nothing() {
    let output = tempfile::tempdir().expect("a folder");
    let settings = FitSettings { precision: Precision::Bf16, ..lora(output.path().join("run")) };
    run(&settings);
    let base = tensors(&settings.model.join("model.safetensors"));
    let merged = tensors(&settings.output.join("merged/model.safetensors"));
    let name = "beit.encoder.layer.0.intermediate.dense.weight";
    let values = |tensor: &Tensor| tensor.flatten_all().and_then(|t| t.to_vec1::<f32>()).expect("f32 values");
    assert_eq!(values(&merged[name]), values(&base[name]));
    let adapter = settings.output.join("adapter");
    let unmerged = ModelFolder::open(&settings.model).and_then(|folder| folder.with_adapter(Some(&adapter)));
    let merged = ModelFolder::open(&settings.output.join("merged"));
    let (unmerged, merged) = (unmerged.expect("an adapter"), merged.expect("a model"));
    for (left, right) in logits(&unmerged).iter().zip(logits(&merged)) {
        for (left, right) in left.iter().zip(right) {
            assert!((left - right).abs() < 1e-4, "{left} {right}");
        }
    }
}

#[test]
fn frozen_weights_held_in_few_bits_train_nearly_the_same_and_what_is_saved_lost_nothing() {
    let output = tempfile::tempdir().expect("a folder");
    let with = |frozen, name: &str| {
        let settings = FitSettings { frozen, ..lora(output.path().join(name)) };
        run(&settings);
        settings
    };
    let full = with(FrozenFormat::Compute, "f32");
    let loss = |settings: &FitSettings| metrics(&settings.output)[0]["loss"].as_f64().expect("a loss");
    for (frozen, name, near) in [(FrozenFormat::Int8, "int8", 2e-2), (FrozenFormat::Bf16, "bf16", 1e-2)] {
        let packed = with(frozen, name);
        let difference = (loss(&packed) - loss(&full)).abs();
        assert!(difference > 0.0 && difference < near, "{name}: {difference}");
        let run = std::fs::read_to_string(packed.output.join("run.json")).expect("run.json");
        let run: Value = serde_json::from_str(&run).expect("JSON");
        assert_eq!(run["settings"]["frozen_dtype"], name);
        let base = tensors(&packed.model.join("model.safetensors"));
        let merged = tensors(&packed.output.join("merged/model.safetensors"));
        let values =
            |tensor: &Tensor| tensor.flatten_all().and_then(|t| t.to_vec1::<f32>()).expect("f32 values");
        for untouched in ["intermediate.dense.weight", "attention.attention.key.weight"] {
            let name = format!("beit.encoder.layer.0.{untouched}");
            assert_eq!(values(&merged[&name]), values(&base[&name]), "{name}");
        }
    }
}

#[test]
fn activations_computed_anew_give_the_weights_that_kept_ones_do() {
    let folder = tempfile::tempdir().expect("a folder");
    let start = bare_config(folder.path());
    for (method, base) in [
        ("full", from_scratch(start, folder.path().join("full"))),
        ("lora", lora(folder.path().join("lora"))),
        ("head", FitSettings { method: Method::Head, ..lora(folder.path().join("head")) }),
    ] {
        let mut anew = FitSettings { output: folder.path().join(format!("{method}-anew")), ..base.clone() };
        anew.trainer.checkpoint_activations = true;
        let [kept, anew] = [&base, &anew].map(|settings| {
            run(settings);
            tensors(&settings.output.join("merged/model.safetensors"))
        });
        for (name, tensor) in &kept {
            let difference =
                (tensor - &anew[name]).and_then(|d| d.abs()?.flatten_all()?.max(0)?.to_scalar::<f32>());
            assert!(difference.expect("a number") <= 1e-5, "{method}: {name}");
        }
    }
}
