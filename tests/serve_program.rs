//! The program `featherlight` as a person runs it: real process, real socket, real photo, real signal.

#![allow(clippy::expect_used, clippy::panic, reason = "a test's own helpers fail by panicking")]

mod program;

use featherlight::image::DecodeLimits;
use featherlight::model::{LoadedModel, ModelFolder, Photo};
use featherlight::ops::device::Placement;
use std::io::Read;
use std::path::Path;
use std::process::{Command, Stdio};

use program::{PROGRAM, Served, data};

fn classify(served: &Served, photo: &Path) -> serde_json::Value {
    let bytes = std::fs::read(photo).expect("the photo");
    let url = format!("http://{}/classify?function_to_apply=none&top_k=100", served.address);
    let mut answer = ureq::post(&url).content_type("image/jpeg").send(&bytes[..]).expect("an answer");
    serde_json::from_str(&answer.body_mut().read_to_string().expect("a body")).expect("JSON")
}

#[test]
fn a_photo_posted_to_a_served_model_gets_the_model_s_own_logits_and_sigterm_ends_it_with_0() {
    let (model, photo) = (data("goldens/beit-tiny"), data("goldens/preprocessing/photo_0.jpg"));
    let mut served = Served::start(&model, &[]);
    let answer = classify(&served, &photo);

    let folder = ModelFolder::open(&model).expect("a model");
    let bytes = std::fs::read(&photo).expect("the photo");
    let processor = folder.processor().expect("a processor");
    let pixels = processor.prepare(&bytes, &DecodeLimits::default()).expect("pixels");
    let loaded = LoadedModel::load(&folder, &Placement::CPU).expect("weights");
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

    served.terminate();
    assert_eq!(served.exit_status(), Some(0));
}

#[test]
fn a_model_that_cannot_be_loaded_ends_the_service_with_1_and_the_reason() {
    let folder = tempfile::tempdir().expect("a folder");
    for file in ["config.json", "preprocessor_config.json"] {
        std::fs::copy(data("goldens/beit-tiny").join(file), folder.path().join(file)).expect("copied");
    }
    let output = Command::new(PROGRAM)
        .args(["serve", "--port", "0", "--model"])
        .arg(folder.path())
        .output()
        .expect("the program runs");
    assert_eq!(output.status.code(), Some(1));
    let message = String::from_utf8_lossy(&output.stderr);
    assert!(message.contains("no weights") && message.contains("model.safetensors"), "{message}");
}

#[test]
fn verify_exits_0_within_the_tolerance_and_1_beyond_it() {
    let expected = data("goldens/beit-tiny/expected.safetensors");
    let run = |tolerance: &str| {
        let mut child = Command::new(PROGRAM)
            .args(["verify", "--tolerance", tolerance, "--model"])
            .arg(data("goldens/beit-tiny"))
            .arg("--expected")
            .arg(&expected)
            .stdout(Stdio::piped())
            .spawn()
            .expect("the program starts");
        let mut text = String::new();
        child.stdout.take().expect("its output").read_to_string(&mut text).expect("text");
        (child.wait().expect("its end").code(), text)
    };
    assert_eq!(run("1e-4").0, Some(0));
    let (code, text) = run("0");
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("DIFFERENT"), "{text}");
}
