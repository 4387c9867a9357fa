//! The program `featherlight` as a person runs it: real process, real socket, real photo, real signal.

#![allow(clippy::expect_used, clippy::panic, reason = "a test's own helpers fail by panicking")]

use featherlight::image::DecodeLimits;
use featherlight::model::{LoadedModel, ModelFolder, Photo};
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

const PROGRAM: &str = env!("CARGO_BIN_EXE_featherlight");

fn data(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests").join(path)
}

/// A running service, and the address it printed. Killed when a test fails.
struct Served {
    child: Child,
    address: String,
}

impl Served {
    fn start(model: &Path) -> Self {
        let mut child = Command::new(PROGRAM)
            .args(["serve", "--port", "0", "--model"])
            .arg(model)
            .stdout(Stdio::piped())
            .spawn()
            .expect("the program starts");
        let mut line = String::new();
        // Let go after one line: `a_closed_standard_output_ends_the_service` was a bug.
        let output = child.stdout.take().expect("its output");
        BufReader::new(output).read_line(&mut line).expect("a line");
        let address = line.trim().rsplit(' ').next().unwrap_or_default().to_owned();
        assert!(address.starts_with("http://127.0.0.1:"), "{line}");
        Self { child, address }
    }

    fn classify(&self, photo: &Path) -> serde_json::Value {
        let bytes = std::fs::read(photo).expect("the photo");
        let url = format!("{}/classify?function_to_apply=none&top_k=100", self.address);
        let mut answer = ureq::post(&url).content_type("image/jpeg").send(&bytes[..]).expect("an answer");
        serde_json::from_str(&answer.body_mut().read_to_string().expect("a body")).expect("JSON")
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_photo_posted_to_a_served_model_gets_the_model_s_own_logits_and_sigterm_ends_it_with_0() {
    let (model, photo) = (data("goldens/beit-tiny"), data("goldens/preprocessing/photo_0.jpg"));
    let mut served = Served::start(&model);
    let answer = served.classify(&photo);

    let folder = ModelFolder::open(&model).expect("a model");
    let bytes = std::fs::read(&photo).expect("the photo");
    let processor = folder.processor().expect("a processor");
    let pixels = processor.prepare(&bytes, &DecodeLimits::default()).expect("pixels");
    let loaded = LoadedModel::load(&folder).expect("weights");
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
