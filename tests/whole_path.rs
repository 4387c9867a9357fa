//! From photos to predictions: trains from nothing, LoRA on top of that, merges, serves, posts photos in all three forms,
//! classifies the folder locally and through the service, and finds the same labels everywhere.

#![allow(clippy::expect_used, clippy::panic, reason = "a failed step of a test is its failure")]

mod program;

use base64::Engine;
use program::{PROGRAM, Served, data, featherlight, quiet, run};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

/// `featherlight-train`, which lies beside `featherlight` in the target folder once the workspace has been built.
fn train(words: &[&str], paths: &[(&str, &Path)]) {
    let program =
        Path::new(PROGRAM).with_file_name(format!("featherlight-train{}", std::env::consts::EXE_SUFFIX));
    assert!(
        program.is_file(),
        "{}: build it first, with `cargo build --workspace --bins`",
        program.display()
    );
    let mut command = quiet(&program, words);
    paths.iter().for_each(|(flag, path)| _ = command.arg(flag).arg(path));
    let output = command.output().expect("the trainer runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// A model of a few thousand parameters that has learnt the sample, and the LoRA run on top of it.
fn merged_model(folder: &Path) -> PathBuf {
    let bare = folder.join("bare");
    std::fs::create_dir(&bare).expect("a folder");
    let config = json!({
        "model_type": "beit", "image_size": 32, "patch_size": 8, "hidden_size": 48, "num_hidden_layers": 2,
        "num_attention_heads": 4, "intermediate_size": 96, "use_relative_position_bias": true,
        "initializer_range": 0.06, "drop_path_rate": 0.0,
    });
    std::fs::write(bare.join("config.json"), config.to_string()).expect("a config");
    let (photos, scratch, lora) =
        (data("data/sign-digits/train"), folder.join("scratch"), folder.join("lora"));
    let quick = ["--accumulation-steps", "1", "--batch-size", "16", "--no-augment", "--val-split", "0.1"];
    let full = ["fit", "--init", "random", "--method", "full", "--epochs", "12", "--learning-rate", "2e-3"];
    train(&[&full[..], &quick].concat(), &[("--model", &bare), ("--data", &photos), ("--output", &scratch)]);
    let base = scratch.join("merged");
    let tuned = ["fit", "--lora-rank", "4", "--epochs", "2", "--learning-rate", "1e-3"];
    train(&[&tuned[..], &quick].concat(), &[("--model", &base), ("--data", &photos), ("--output", &lora)]);
    let merged = folder.join("merged");
    train(&["merge"], &[("--model", &base), ("--adapter", &lora.join("adapter")), ("--output", &merged)]);
    merged
}

/// Label and score of the first prediction.
fn first(predictions: &Value) -> (String, f64) {
    let best = &predictions["predictions"][0];
    (best["label"].as_str().expect("a label").to_owned(), best["score"].as_f64().expect("a score"))
}

fn post(url: &str, content_type: &str, body: &[u8]) -> Value {
    let mut answer = ureq::post(url).content_type(content_type).send(body).expect("an answer");
    serde_json::from_str(&answer.body_mut().read_to_string().expect("a body")).expect("JSON")
}

fn multipart(photos: &[(String, Vec<u8>)]) -> Vec<u8> {
    let mut body = Vec::new();
    for (name, bytes) in photos {
        let head = format!("--b\r\ncontent-disposition: form-data; name=\"f\"; filename=\"{name}\"\r\n\r\n");
        body.extend_from_slice(head.as_bytes());
        body.extend_from_slice(bytes);
        body.extend_from_slice(b"\r\n");
    }
    body.extend_from_slice(b"--b--\r\n");
    body
}

/// `file,label,score,error` of a prediction.
fn rows(csv: &Path) -> Vec<(String, String, f64)> {
    let mut reader = csv::Reader::from_path(csv).expect("a CSV");
    assert_eq!(reader.headers().expect("a header"), vec!["file", "label", "score", "error"]);
    let row = |row: Result<csv::StringRecord, csv::Error>| {
        let row = row.expect("a row");
        assert_eq!(&row[3], "", "{row:?}");
        (row[0].to_owned(), row[1].to_owned(), row[2].parse().expect("a score"))
    };
    reader.records().map(row).collect()
}

#[test]
fn a_model_trained_here_says_the_same_in_every_form_of_request_and_in_both_ways_of_predict() {
    let folder = tempfile::tempdir().expect("a folder");
    let model = merged_model(folder.path());
    let photos = data("data/sign-digits/test");

    let served = Served::start(&model, &[]);
    let (local, remote) = (folder.path().join("local.csv"), folder.path().join("remote.csv"));
    let predict = |output: &Path, by: &[&str]| {
        let mut command = featherlight(&["predict", "--input"]);
        let said = run(command.arg(&photos).arg("--output").arg(output).args(by));
        assert_eq!(said.code, Some(0), "{}", said.err);
        rows(output)
    };
    let local = predict(&local, &["--model", &model.to_string_lossy()]);
    let remote = predict(&remote, &["--server", &served.url(), "--concurrency", "4"]);
    assert_eq!(local.len(), 30);
    let labels: std::collections::BTreeSet<&String> = local.iter().map(|(_, label, _)| label).collect();
    assert!(labels.len() > 2, "a model that says one thing of everything proves nothing: {labels:?}");
    for (here, there) in local.iter().zip(&remote) {
        assert_eq!((&here.0, &here.1), (&there.0, &there.1));
        assert!((here.2 - there.2).abs() < 1e-4, "{here:?} {there:?}");
    }

    let bytes: Vec<(String, Vec<u8>)> = local
        .iter()
        .map(|(name, ..)| (name.clone(), std::fs::read(photos.join(name)).expect("a photo")))
        .collect();
    let url = format!("{}/classify", served.url());
    let several = post(&url, "multipart/form-data; boundary=b", &multipart(&bytes));
    for (index, ((name, label, score), (_, photo))) in local.iter().zip(&bytes).enumerate() {
        let json = json!({ "inputs": base64::engine::general_purpose::STANDARD.encode(photo) });
        let alone = multipart(&bytes[index..=index]);
        for (form, answer) in [
            ("raw", post(&url, "image/jpeg", photo)),
            ("json", post(&url, "application/json", json.to_string().as_bytes())),
            ("multipart", post(&url, "multipart/form-data; boundary=b", &alone)),
            ("multipart of all", several["results"][index].clone()),
        ] {
            let (said, sure) = first(&answer);
            assert_eq!(&said, label, "{name} as {form}: {answer}");
            assert!((sure - score).abs() < 1e-4, "{name} as {form}: {sure} {score}");
        }
    }
}
