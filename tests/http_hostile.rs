//! Damaged and odd files: each is answered, none harms the service.
//!
//! The files are the photos of the reference outputs, cut and flipped at many places; `FEATHERLIGHT_HOSTILE` names a
//! folder of more.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a failed step of a test is its failure"
)]

mod service;

use std::path::{Path, PathBuf};

use service::{Running, photos};

fn files(folder: &Path, found: &mut Vec<PathBuf>) {
    let entries = std::fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    for entry in entries {
        let path = entry.expect("a readable folder").path();
        if path.is_dir() {
            files(&path, found);
        } else {
            found.push(path);
        }
    }
    found.sort();
}

/// Posts the bytes and checks the answer, and that the next good photo is still right.
fn survives(service: &Running, name: &str, bytes: &[u8]) {
    let answer = service.classify("", &[("content-type", "application/octet-stream")], bytes);
    let allowed = [200, 413, 415, 422];
    assert!(allowed.contains(&answer.status), "{name}: {} {}", answer.status, answer.text());
    if answer.status != 200 {
        answer.code();
    }
}

fn is_still_right(service: &Running) {
    let answer = service.classify("?function_to_apply=none&top_k=1", &[], &photos::plain([10, 30, 20]));
    assert_eq!(answer.json()["predictions"], serde_json::json!([{"label": "green", "score": 30.0}]));
}

#[test]
fn damaged_photos_are_answered_and_the_next_good_one_is_still_right() {
    let service = Running::start();
    let mut found = Vec::new();
    files(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/preprocessing"), &mut found);
    found.retain(|path| featherlight::image::is_photo(path));
    assert!(!found.is_empty(), "the reference photos are part of the repository");
    for path in &found {
        let bytes = std::fs::read(path).expect("a readable file");
        let name = path.display().to_string();
        for part in 0..6 {
            survives(&service, &name, &bytes[..bytes.len() * part / 6]);
            let mut flipped = bytes.clone();
            for at in (part * 7..flipped.len()).step_by(flipped.len() / 9 + 1) {
                flipped[at] ^= 0xff;
            }
            survives(&service, &name, &flipped);
        }
    }
    is_still_right(&service);
    assert_eq!(service.metric("featherlight_queue_size"), 0.0);
}

#[test]
fn a_folder_of_hostile_files_is_answered_file_by_file() {
    let service = Running::start();
    let mut found = Vec::new();
    match std::env::var_os("FEATHERLIGHT_HOSTILE") {
        Some(folder) => files(Path::new(&folder), &mut found),
        None => files(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests"), &mut found),
    }
    for path in found {
        let bytes = std::fs::read(&path).expect("a readable file");
        // Source text and JSON among the repository's own files are no photos, and JSON is a request of its own.
        if path.extension().is_some_and(|extension| extension == "json") {
            continue;
        }
        survives(&service, &path.display().to_string(), &bytes);
        is_still_right(&service);
    }
    assert_eq!(service.metric("featherlight_engine_panics_total{stage=\"decode\"}"), 0.0);
    assert_eq!(service.metric("featherlight_engine_panics_total{stage=\"inference\"}"), 0.0);
}
