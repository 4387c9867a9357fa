//! The program `featherlight` as a person runs it: real process, real socket, real photo, real signal.

#![allow(clippy::expect_used, clippy::panic, reason = "a test's own helpers fail by panicking")]

mod program;
mod service;

use featherlight::image::DecodeLimits;
use featherlight::model::{LoadedModel, ModelFolder, Photo};
use featherlight::ops::device::Placement;
use std::io::Read;
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use program::{PROGRAM, Served, data, featherlight};
use service::Connection;

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

#[test]
fn sigterm_while_a_model_is_read_from_a_file_system_that_hangs_ends_the_service_with_0() {
    let folder = tempfile::tempdir().expect("a folder");
    for file in ["config.json", "model.safetensors"] {
        std::fs::copy(data("../models/demo").join(file), folder.path().join(file)).expect("copied");
    }
    // Whoever opens a pipe that nobody writes to waits for ever.
    let processor = folder.path().join("preprocessor_config.json");
    assert!(Command::new("mkfifo").arg(&processor).status().expect("mkfifo").success());
    let free = TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("its number");
    let mut command = featherlight(&["serve", "--port", &free.port().to_string(), "--model"]);
    let served = command.arg(folder.path()).stdout(Stdio::null()).spawn().expect("the program starts");
    let mut served = Killed(served);
    let patience = Instant::now() + Duration::from_secs(60);
    while TcpStream::connect(free).is_err() {
        assert!(Instant::now() < patience, "the service opened no port");
        std::thread::sleep(Duration::from_millis(5));
    }
    assert_eq!(Connection::open(free).send("GET", "/health/live", &[], b"").status, 200);
    assert_eq!(Connection::open(free).send("GET", "/health/ready", &[], b"").status, 503);
    let pid = served.0.id().to_string();
    assert!(Command::new("kill").args(["-s", "TERM", &pid]).status().expect("kill").success());
    loop {
        if let Some(status) = served.0.try_wait().expect("its end") {
            assert_eq!(status.code(), Some(0));
            return;
        }
        assert!(Instant::now() < patience, "the service did not end");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A process that does not outlive its test.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_second_signal_ends_the_service_at_once_with_1() {
    let mut served = Served::start(&data("../models/demo"), &["--drain-delay-ms", "600000"]);
    served.terminate();
    // Two signals of one kind that wait together are one.
    let patience = Instant::now() + Duration::from_secs(60);
    while Connection::open(served.address).send("GET", "/health/ready", &[], b"").status != 503 {
        assert!(Instant::now() < patience, "the service stayed ready");
    }
    served.signal("INT");
    assert_eq!(served.exit_status(), Some(1));
}
