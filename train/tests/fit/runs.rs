//! What whole runs come to.

use super::*;

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
