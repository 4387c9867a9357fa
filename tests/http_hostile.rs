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

use std::path::Path;

use service::hostile::{self, assert_fair};
use service::{Running, photos};

/// Posts the bytes and checks that the answer is one a damaged file may get.
fn survives(service: &Running, name: &Path, bytes: &[u8]) {
    let answer = service.classify("", &[("content-type", "application/octet-stream")], bytes);
    assert_fair(name, &answer);
}

fn is_still_right(service: &Running) {
    let answer = service.classify("?function_to_apply=none&top_k=1", &[], &photos::plain([10, 30, 20]));
    assert_eq!(answer.json()["predictions"], serde_json::json!([{"label": "green", "score": 30.0}]));
}

#[test]
fn damaged_photos_are_answered_and_the_next_good_one_is_still_right() {
    let service = Running::start();
    let mut found =
        hostile::under(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/preprocessing"));
    found.retain(|path| featherlight::image::is_photo(path));
    assert!(!found.is_empty(), "the reference photos are part of the repository");
    for path in &found {
        let bytes = std::fs::read(path).expect("a readable file");
        for part in 0..6 {
            survives(&service, path, &bytes[..bytes.len() * part / 6]);
            let mut flipped = bytes.clone();
            for at in (part * 7..flipped.len()).step_by(flipped.len() / 9 + 1) {
                flipped[at] ^= 0xff;
            }
            survives(&service, path, &flipped);
        }
    }
    is_still_right(&service);
    assert_eq!(service.metric("featherlight_queue_size"), 0.0);
}

#[test]
fn a_folder_of_hostile_files_is_answered_file_by_file() {
    let service = Running::start();
    for path in hostile::files() {
        let bytes = std::fs::read(&path).expect("a readable file");
        survives(&service, &path, &bytes);
        is_still_right(&service);
    }
    assert_eq!(service.metric("featherlight_engine_panics_total{stage=\"decode\"}"), 0.0);
    assert_eq!(service.metric("featherlight_engine_panics_total{stage=\"inference\"}"), 0.0);
}
