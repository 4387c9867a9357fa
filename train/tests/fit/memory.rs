//! Runs that take less memory come to the same, or nearly.

use super::*;

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

#[test]
fn the_largest_batch_that_fits_keeps_the_photos_of_a_step_and_a_run_goes_on_with_it() {
    let folder = tempfile::tempdir().expect("a folder");
    let start = bare_config(folder.path());
    let (found, given) = (folder.path().join("found"), folder.path().join("given"));
    let found = FitSettings { find_batch_size: true, ..from_scratch(start.clone(), found) };
    run(&found);
    let text = std::fs::read_to_string(found.output.join("run.json")).expect("a record");
    let record: Value = serde_json::from_str(&text).expect("JSON");
    let size = |name: &str| record["settings"][name].as_u64().expect("a number") as usize;
    let (batch, count) = (size("batch_size"), size("accumulation_steps"));
    // A small model, so that a whole step has room wherever the tests run.
    assert_eq!((batch, count), (32, 1));
    let given = from_scratch(start, given).with_batch_size(number(32));
    run(&given);
    let weights = |settings: &FitSettings| {
        std::fs::read(settings.output.join("merged/model.safetensors")).expect("weights")
    };
    assert!(weights(&found) == weights(&given), "the search must leave no trace in the run");

    // Fewer micro-batches may have room when it goes on: it keeps those that it began with.
    run(&FitSettings { resume: true, ..found.clone() });
    let mut more = FitSettings { resume: true, ..found };
    more.trainer.accumulation_steps = number(4);
    let error = trained(&more).expect_err("other steps").to_string();
    assert!(error.contains("photos in a step was 32") && error.contains("64 now"), "{error}");
}
