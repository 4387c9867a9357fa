//! The program `featherlight` as a person runs it: real process, real socket, real photo, real signal.

#![allow(clippy::expect_used, clippy::panic, reason = "a test's own helpers fail by panicking")]

use featherlight::image::DecodeLimits;
use featherlight::model::{LoadedModel, ModelFolder, Photo};
use program::{Served, featherlight, goldens};
use std::process::Command;

mod program;

#[test]
fn a_photo_posted_to_a_served_model_gets_the_model_s_own_logits_and_sigterm_ends_it_with_0() {
    let (model, photo) = (goldens("beit-tiny"), goldens("preprocessing/photo_0.jpg"));
    let mut served = Served::start(featherlight(&["serve", "--port", "0", "--model"]).arg(&model));
    let answer = served.classify(&photo, "?function_to_apply=none&top_k=100");

    let folder = ModelFolder::open(&model).expect("a model");
    let bytes = std::fs::read(&photo).expect("the photo");
    let processor = folder.processor().expect("a processor");
    let pixels = processor.prepare(&bytes, &DecodeLimits::default()).expect("pixels");
    let loaded = LoadedModel::load(&folder, None).expect("weights");
    let logits = loaded.logits(&[Photo::Pixels(&pixels)]).expect("logits").remove(0);
    let predictions = answer["predictions"].as_array().expect("predictions");
    assert_eq!(predictions.len(), logits.len());
    for prediction in predictions {
        let label = prediction["label"].as_str().expect("a label");
        let index = folder.config().labels.iter().position(|known| known == label).expect("a known label");
        let score = prediction["score"].as_f64().expect("a score");
        assert!((score - f64::from(logits[index])).abs() < 1e-4, "{label}: {score}, {}", logits[index]);
    }
    let scores: Vec<f64> = predictions.iter().filter_map(|p| p["score"].as_f64()).collect();
    assert!(scores.is_sorted_by(|a, b| a >= b), "best first: {scores:?}");

    let killed = Command::new("kill").arg(served.child.id().to_string()).status().expect("kill");
    assert!(killed.success());
    assert_eq!(served.child.wait().expect("its end").code(), Some(0));
}

#[test]
fn a_model_that_cannot_be_loaded_ends_the_service_with_1_and_the_reason() {
    let folder = tempfile::tempdir().expect("a folder");
    for file in ["config.json", "preprocessor_config.json"] {
        std::fs::copy(goldens("beit-tiny").join(file), folder.path().join(file)).expect("copied");
    }
    let output = featherlight(&["serve", "--port", "0", "--model"]).arg(folder.path()).output();
    let output = output.expect("the program runs");
    assert_eq!(output.status.code(), Some(1));
    let message = String::from_utf8_lossy(&output.stderr);
    assert!(message.contains("no weights") && message.contains("model.safetensors"), "{message}");
}
