//! The program under load and under fire: many at once, a signal in the midst of it, damaged files in every form.
//!
//! A real process with a real model and real photos. Takes long, so `./test slow` runs it.
#![allow(clippy::expect_used, clippy::panic, reason = "a failed step of a test is its failure")]

mod program;
mod service;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Barrier;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use program::{Served, data, featherlight};
use serde_json::Value;
use service::load::Load;
use service::photos::{self, FORM};
use service::{Answer, Connection, hostile, metric};

/// The model that ships.
fn model() -> PathBuf {
    data("../models/demo")
}

/// Real photos, each different.
fn real_photos(count: usize) -> Vec<Vec<u8>> {
    let mut paths = hostile::under(&data("data/sign-digits"));
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "jpg"));
    assert!(paths.len() >= count, "{} photos", paths.len());
    paths[..count].iter().map(|path| std::fs::read(path).expect("the photo")).collect()
}

/// The three forms in which a photo is sent: content type and body.
fn forms(photo: &[u8]) -> [(&'static str, Vec<u8>); 3] {
    [
        ("application/octet-stream", photo.to_vec()),
        (FORM, photos::form(&[("photo", photo)])),
        ("application/json", photos::json(photo, "")),
    ]
}

fn classify(address: SocketAddr, (kind, body): &(&str, Vec<u8>)) -> Answer {
    let path = "/classify?function_to_apply=none&top_k=1000";
    Connection::open(address).send("POST", path, &[("content-type", kind)], body)
}

/// Every label's logit, in the order of the labels' names.
fn logits(answer: &Answer) -> Vec<f64> {
    assert_eq!(answer.status, 200, "{}", answer.text());
    let json = answer.json();
    let list = json["predictions"].as_array().unwrap_or_else(|| panic!("{json}"));
    let mut found: Vec<(&str, f64)> = list
        .iter()
        .filter_map(|prediction| Some((prediction["label"].as_str()?, prediction["score"].as_f64()?)))
        .collect();
    assert!(found.len() == list.len() && !found.is_empty(), "{json}");
    found.sort_by_key(|(label, _)| *label);
    found.into_iter().map(|(_, score)| score).collect()
}

fn distance(left: &[f64], right: &[f64]) -> f64 {
    assert_eq!(left.len(), right.len());
    left.iter().zip(right).map(|(left, right)| (left - right).abs()).fold(0.0, f64::max)
}

/// Of one photo's logits from one batch to another: the sums of a matrix product may be taken in another order.
const SAME: f64 = 1e-4;

fn metrics(address: SocketAddr) -> String {
    Connection::open(address).send("GET", "/metrics", &[], b"").text()
}

#[test]
#[ignore = "slow"]
fn sixty_four_at_once_get_the_answer_each_photo_gets_alone() {
    let mut served = Served::start(&model(), &["--max-batch-size", "8"]);
    let address = served.address;
    let photos = real_photos(64);
    let alone: Vec<_> = photos.iter().map(|photo| logits(&classify(address, &forms(photo)[0]))).collect();
    for (index, left) in alone.iter().enumerate() {
        for right in &alone[..index] {
            assert!(distance(left, right) > 2.0 * SAME, "two photos' answers could not be told apart");
        }
    }
    let before = metrics(address);
    let together = Barrier::new(photos.len());
    std::thread::scope(|scope| {
        for (index, (photo, alone)) in photos.iter().zip(&alone).enumerate() {
            let together = &together;
            scope.spawn(move || {
                let form = &forms(photo)[index % 3];
                together.wait();
                let found = logits(&classify(address, form));
                assert!(distance(&found, alone) < SAME, "photo {index}: {found:?}, alone {alone:?}");
            });
        }
    });
    let after = metrics(address);
    let grown = |line: &str| metric(&after, line) - metric(&before, line);
    assert_eq!(grown("featherlight_batch_size_sum"), 64.0);
    assert_eq!(grown("featherlight_predictions_total"), 64.0);
    let batches = grown("featherlight_batch_size_count");
    assert_eq!(grown("featherlight_batch_size_bucket{le=\"8\"}"), batches, "none above the limit");
    assert!(grown("featherlight_batch_size_bucket{le=\"1\"}") < batches, "some above 1");
    served.terminate();
    assert_eq!(served.exit_status(), Some(0));
}

#[test]
#[ignore = "slow"]
fn sigterm_under_load_loses_no_request_and_ends_with_0() {
    let (delay, grace) = (Duration::from_secs(3), Duration::from_secs(10));
    let (delay_ms, grace_ms) = (delay.as_millis().to_string(), grace.as_millis().to_string());
    let mut served =
        Served::start(&model(), &["--drain-delay-ms", &delay_ms, "--shutdown-grace-ms", &grace_ms]);
    let address = served.address;
    let photos = real_photos(16);
    let right: Vec<Value> = photos
        .iter()
        .map(|photo| Connection::open(address).send("POST", "/classify", &[], photo).json())
        .collect();
    let load = Load::default();
    std::thread::scope(|scope| {
        for (photo, right) in photos.iter().zip(&right) {
            let load = &load;
            scope.spawn(move || {
                load.post(address, photo, |answer| {
                    let (found, want) = (&answer.json()["predictions"][0], &right["predictions"][0]);
                    assert_eq!(found["label"], want["label"]);
                });
            });
        }
        let _over = load.ends_here();
        let until = |what: &str, condition: &dyn Fn() -> bool| {
            let patience = Instant::now() + Duration::from_secs(60);
            while !condition() {
                assert!(Instant::now() < patience, "in vain: {what}");
                std::thread::sleep(Duration::from_millis(5));
            }
        };
        let ready = || Connection::open(address).send("GET", "/health/ready", &[], b"").status;
        until("the load is on", &|| load.served.load(Ordering::Relaxed) > 100);
        assert_eq!(ready(), 200);
        let signal = Instant::now();
        served.terminate();
        until("unready", &|| ready() == 503);
        // The port is open and the work goes on while load balancers look.
        let so_far = load.served.load(Ordering::Relaxed);
        until("served although unready", &|| load.served.load(Ordering::Relaxed) > so_far + 16);
        assert_eq!(served.exit_status(), Some(0));
        // Beside the grace: the last answers' own few seconds.
        assert!(signal.elapsed() < delay + grace + Duration::from_secs(6), "{:?}", signal.elapsed());
    });
    assert!(load.refused.load(Ordering::Relaxed) > 0, "the end came under load");
    assert!(Connection::try_open(address).is_err(), "the port is closed");
}

#[test]
#[ignore = "slow"]
fn reloads_under_load_of_good_and_broken_folders_fail_no_request() {
    let folder = tempfile::tempdir().expect("a folder");
    let model_at = |file: &str| folder.path().join(file);
    for file in ["config.json", "preprocessor_config.json", "model.safetensors"] {
        std::fs::copy(model().join(file), model_at(file)).expect("copied");
    }
    let named = format!("digits={}", folder.path().display());
    let mut served = Served::spawn(
        featherlight(&["serve", "--port", "0", "--admin-key", "secret"]).args(["--model", &named]),
    );
    let address = served.address;
    let photos = real_photos(16);
    let right: Vec<Value> = photos
        .iter()
        .map(|photo| Connection::open(address).send("POST", "/classify", &[], photo).json())
        .collect();
    let load = Load::default();
    let reload =
        || Connection::open(address).send("POST", "/models/digits/reload", &[("x-api-key", "secret")], b"");
    std::thread::scope(|scope| {
        for (photo, right) in photos.iter().zip(&right) {
            let load = &load;
            scope.spawn(move || {
                load.post(address, photo, |answer| {
                    let (found, want) = (&answer.json()["predictions"][0], &right["predictions"][0]);
                    assert_eq!(found["label"], want["label"]);
                });
            });
        }
        let _over = load.ends_here();
        for round in 0..20 {
            let so_far = load.served.load(Ordering::Relaxed);
            let answer = reload();
            assert_eq!((answer.status, &answer.json()["version"]), (200, &(round + 2).into()));
            std::fs::rename(model_at("model.safetensors"), model_at("away")).expect("moved");
            let answer = reload();
            assert_eq!((answer.status, &answer.json()["error"]["code"]), (409, &"reload_failed".into()));
            std::fs::rename(model_at("away"), model_at("model.safetensors")).expect("moved");
            let patience = Instant::now() + Duration::from_secs(60);
            while load.served.load(Ordering::Relaxed) < so_far + 32 {
                assert!(Instant::now() < patience, "photos are answered no more");
                std::thread::sleep(Duration::from_millis(5));
            }
        }
    });
    assert_eq!(load.refused.load(Ordering::Relaxed), 0);
    served.terminate();
    assert_eq!(served.exit_status(), Some(0));
}

#[test]
#[ignore = "slow"]
fn hostile_files_in_every_form_are_answered_and_good_photos_stay_right() {
    let mut served = Served::start(&model(), &[]);
    let address = served.address;
    let good = real_photos(4);
    let files = hostile::files();
    std::thread::scope(|scope| {
        for (worker, good) in good.iter().enumerate() {
            let files = &files;
            scope.spawn(move || {
                let good = &forms(good)[0];
                let right = logits(&classify(address, good));
                for path in files.iter().skip(worker).step_by(4) {
                    let bytes = std::fs::read(path).expect("a readable file");
                    for form in &forms(&bytes) {
                        hostile::assert_fair(path, &classify(address, form));
                    }
                    let found = logits(&classify(address, good));
                    assert!(distance(&found, &right) < SAME, "after {}: {found:?}", path.display());
                }
            });
        }
    });
    let after = metrics(address);
    for line in [
        "featherlight_engine_panics_total{stage=\"decode\"}",
        "featherlight_engine_panics_total{stage=\"inference\"}",
        "featherlight_queue_size",
    ] {
        assert_eq!(metric(&after, line), 0.0, "{line}");
    }
    served.terminate();
    assert_eq!(served.exit_status(), Some(0));
}
