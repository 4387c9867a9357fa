//! A run that was broken off goes on as if nothing had happened: the program, killed.

#![allow(clippy::expect_used, clippy::panic, reason = "a test's own helpers fail by panicking")]

use featherlight::randomness::{Purpose, Randomness};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Everything that has state from step to step, or from epoch to epoch: moments, dropout, drop path, crops, mixed photos, balanced
/// draws, accumulation with a short window at the end, the average of the weights, the best epoch. 108 photos: 7 micro-batches, 4
/// steps an epoch.
const RECIPE: &[&str] = &[
    "--epochs=4",
    "--batch-size=16",
    "--accumulation-steps=2",
    "--learning-rate=2e-3",
    "--weight-decay=0.01",
    "--val-split=0.1",
    "--scheduler=cosine",
    "--lora-rank=4",
    "--lora-dropout=0.2",
    "--mixup-alpha=0.4",
    "--cutmix-alpha=1",
    "--balanced-sampling",
    "--class-weights=balanced",
    "--ema-decay=0.9",
    "--load-best-model-at-end",
    "--loader-threads=2",
];

fn tests(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests").join(path)
}

fn command(output: &Path, more: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_featherlight-train"));
    command.arg("fit").args(RECIPE).args(more);
    command.arg("--model").arg(tests("goldens/beit-tiny"));
    command.arg("--data").arg(tests("data/sign-digits/train"));
    command.arg("--output").arg(output);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Runs to the end; gives standard error.
fn run(mut command: Command) -> Result<String, String> {
    let output = command.output().expect("the program runs");
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    if output.status.success() { Ok(text) } else { Err(text) }
}

/// Starts the program and kills it after `patience`, unless it is done before; whether it was.
fn is_done_within(patience: Duration, mut command: Command) -> bool {
    let start = Instant::now();
    let mut child: Child =
        command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("the program runs");
    while start.elapsed() < patience {
        if let Some(status) = child.try_wait().expect("its state") {
            assert!(status.success(), "{status}");
            return true;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    child.kill().expect("killed"); // SIGKILL
    child.wait().expect("its end");
    false
}

/// The lines of `metrics.jsonl`, without what the clock says.
fn metrics(output: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(output.join("metrics.jsonl")).expect("metrics");
    let line = |line: &str| {
        let mut line: Value = serde_json::from_str(line).expect("JSON");
        let fields = line.as_object_mut().expect("an object");
        fields.retain(|name, _| name != "images_per_second" && name != "waiting");
        line
    };
    text.lines().map(line).collect()
}

fn bytes(output: &Path, file: &str) -> Vec<u8> {
    std::fs::read(output.join(file)).unwrap_or_else(|error| panic!("{file}: {error}"))
}

/// That two runs came to the same, bit for bit.
fn assert_same(one: &Path, other: &Path) {
    assert_eq!(metrics(one), metrics(other));
    for file in ["merged/model.safetensors", "adapter/adapter_model.safetensors"] {
        assert!(bytes(one, file) == bytes(other, file), "{file} differs");
    }
    let weights = |output: &Path, which: &str| {
        let file = output.join("checkpoints").join(which).join("checkpoint.safetensors");
        let tensors = candle_core::safetensors::load(file, &candle_core::Device::Cpu).expect("a checkpoint");
        let mut tensors: Vec<(String, Vec<f32>)> = tensors
            .into_iter()
            .map(|(name, tensor)| (name, tensor.flatten_all().and_then(|t| t.to_vec1()).expect("f32")))
            .collect();
        tensors.sort_by(|(one, _), (other, _)| one.cmp(other));
        tensors
    };
    for which in ["last", "best"] {
        assert!(weights(one, which) == weights(other, which), "checkpoints/{which} differ");
    }
}

fn steps_made(output: &Path) -> usize {
    let text = std::fs::read_to_string(output.join("metrics.jsonl")).unwrap_or_default();
    text.lines().count()
}

#[test]
fn a_run_killed_again_and_again_comes_to_the_very_same_weights_and_metrics() {
    let folder = tempfile::tempdir().expect("a folder");
    let (whole, killed) = (folder.path().join("whole"), folder.path().join("killed"));
    let start = Instant::now();
    run(command(&whole, &["--save-every=1"])).expect("a whole run");
    let long = start.elapsed();
    assert_eq!(metrics(&whole).len(), 4 * (4 + 1));

    let mut stream = Randomness::new(3).stream(Purpose::Shuffle, 0, 0, 0);
    let mut reached = Vec::new();
    // Each try is long enough for the start and a few steps, as long as the machine is no busier than it was.
    while !is_done_within(
        long.mul_f64(stream.range(0.25, 0.7)),
        command(&killed, &["--resume", "--save-every=1"]),
    ) {
        reached.push(steps_made(&killed));
        assert!(reached.len() < 60, "no progress: {reached:?}");
    }
    assert!(reached.len() >= 2, "it was killed at least twice: {reached:?}");
    assert!(reached.iter().any(|lines| (1..20).contains(lines)), "in the middle: {reached:?}");
    assert_same(&whole, &killed);
}

#[cfg(unix)]
#[test]
fn a_signal_ends_the_run_after_its_step_and_resume_goes_on_from_there() {
    let folder = tempfile::tempdir().expect("a folder");
    let (whole, stopped) = (folder.path().join("whole"), folder.path().join("stopped"));
    run(command(&whole, &[])).expect("a whole run");
    let child = command(&stopped, &[]).spawn().expect("the program runs");
    let patience = Instant::now();
    while steps_made(&stopped) < 2 {
        assert!(patience.elapsed() < Duration::from_secs(120), "no step was made");
        std::thread::sleep(Duration::from_millis(2));
    }
    let pid = child.id().to_string();
    assert!(Command::new("kill").args(["-TERM", &pid]).status().expect("kill").success());
    let output = child.wait_with_output().expect("its end");
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("stopped after step") && text.contains("--resume"), "{text}");
    let text = run(command(&stopped, &["--resume"])).expect("the rest");
    assert!(text.contains("going on after step"), "{text}");
    assert_same(&whole, &stopped);
}

#[test]
fn a_finished_run_resumed_is_finished_again_with_the_same_files() {
    let folder = tempfile::tempdir().expect("a folder");
    let output = folder.path().join("out");
    run(command(&output, &[])).expect("a run");
    let before = (metrics(&output), bytes(&output, "merged/model.safetensors"));
    run(command(&output, &["--resume"])).expect("the same run");
    assert!(before == (metrics(&output), bytes(&output, "merged/model.safetensors")));
}

#[test]
fn other_settings_and_damaged_checkpoints_are_refused_by_name_and_nothing_is_touched() {
    let folder = tempfile::tempdir().expect("a folder");
    let output = folder.path().join("out");
    run(command(&output, &[])).expect("a run");
    let checkpoint = "checkpoints/last/checkpoint.safetensors";
    let before = (bytes(&output, checkpoint), bytes(&output, "metrics.jsonl"));

    let error = run(command(&output, &[])).expect_err("taken");
    assert!(error.contains("--resume") && error.contains("--overwrite"), "{error}");
    let error = run(command(&output, &["--resume", "--seed=43"])).expect_err("changed");
    assert!(error.contains("--seed was 42") && error.contains("is 43 now"), "{error}");
    let error = run(command(&output, &["--resume", "--no-flip"])).expect_err("changed");
    assert!(error.contains("--no-flip"), "{error}");
    let mut other = command(&output, &["--resume"]);
    other.arg("--val").arg(tests("data/sign-digits/train"));
    let error = run(other).expect_err("contradicts --val-split");
    assert!(error.contains("--val-split"), "{error}");
    assert!(before == (bytes(&output, checkpoint), bytes(&output, "metrics.jsonl")));

    std::fs::write(output.join(checkpoint), &before.0[..before.0.len() / 2]).expect("cut");
    let error = run(command(&output, &["--resume"])).expect_err("damaged");
    assert!(error.contains("checkpoint is damaged") && error.contains("--overwrite"), "{error}");
}
