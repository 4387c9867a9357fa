//! `featherlight serve` with several model folders, read from real files: by flags, from a repository, and watched.

#![allow(clippy::expect_used, clippy::panic, reason = "a test's own helpers fail by panicking")]

mod program;

use std::path::Path;
use std::time::{Duration, Instant};

use program::{Served, data, featherlight, run};
use serde_json::Value;

fn get(served: &Served, path: &str) -> Value {
    let mut answer = ureq::get(served.url() + path).call().expect("an answer");
    serde_json::from_str(&answer.body_mut().read_to_string().expect("a body")).expect("JSON")
}

/// Name and version of each model, the default's with a star.
fn models(served: &Served) -> Vec<String> {
    let models = get(served, "/models");
    let shown = models["models"].as_array().expect("a list").iter().map(|model| {
        let star = if model["default"] == true { "*" } else { "" };
        format!("{}{star} {}", model["name"].as_str().expect("a name"), model["version"])
    });
    shown.collect()
}

/// The best label of a photo, all the way through a model.
fn best(served: &Served, path: &str) -> String {
    let photo = std::fs::read(data("goldens/preprocessing/photo_0.jpg")).expect("the photo");
    let mut answer =
        ureq::post(served.url() + path).content_type("image/jpeg").send(&photo[..]).expect("an answer");
    let text = answer.body_mut().read_to_string().expect("a body");
    let json: Value = serde_json::from_str(&text).expect("JSON");
    json["predictions"][0]["label"].as_str().unwrap_or_else(|| panic!("{json}")).to_owned()
}

/// A copy of a model folder whose labels begin with `mark`.
fn copy(from: &str, to: &Path, mark: &str) {
    std::fs::create_dir_all(to).expect("a folder");
    for file in ["config.json", "preprocessor_config.json", "model.safetensors"] {
        let mut bytes = std::fs::read(data(from).join(file)).expect("a model's file");
        if file == "config.json" {
            bytes = String::from_utf8(bytes).expect("text").replace("class_", mark).into_bytes();
        }
        std::fs::write(to.join(file), bytes).expect("written");
    }
}

fn until(mut condition: impl FnMut() -> bool) {
    let patience = Instant::now() + Duration::from_secs(60);
    while !condition() {
        assert!(Instant::now() < patience, "waited 60 s in vain");
        std::thread::sleep(Duration::from_millis(100));
    }
}

#[test]
fn models_are_named_by_flags_the_first_is_the_default_and_cpu_workers_share_the_queue() {
    let (beit, vit) = (data("goldens/beit-tiny"), data("goldens/vit-tiny"));
    let second = format!("b={}", vit.display());
    let flags = ["--model", &second, "--cpu-workers", "2", "--max-batch-size", "auto"];
    let served = Served::start(&beit, &flags);
    assert_eq!(models(&served), ["b 1", "beit-tiny* 1"]);
    assert_eq!(best(&served, "/classify"), best(&served, "/classify/beit-tiny"));
    assert!(best(&served, "/classify/b").starts_with("class_"));
    let devices = get(&served, "/info")["devices"].as_array().expect("a list").clone();
    assert_eq!(devices.len(), 2, "two workers");
    assert!(
        devices.iter().all(|device| device["name"] == "cpu" && device["max_batch_size"].as_u64() >= Some(1))
    );
}

#[test]
fn a_repository_is_served_and_watched() {
    let repository = tempfile::tempdir().expect("a folder");
    let at = |name: &str| repository.path().join(name);
    copy("goldens/beit-tiny", &at("birds"), "bird_");
    copy("goldens/vit-tiny", &at("cats"), "cat_");
    copy("goldens/vit-tiny", &at(".copying"), "x_");
    std::fs::create_dir(at("notes")).expect("a folder that is no model");
    let served = Served::spawn(
        featherlight(&["serve", "--port", "0", "--watch", "--model-repository"]).arg(repository.path()),
    );
    assert_eq!(models(&served), ["birds* 1", "cats 1"]);
    assert!(best(&served, "/classify").starts_with("bird_"));

    // A broken change: the old one goes on, and a whole one is another try.
    std::fs::write(at("birds/config.json"), "{").expect("written");
    std::thread::sleep(Duration::from_secs(4));
    assert_eq!(models(&served), ["birds* 1", "cats 1"]);
    assert!(best(&served, "/classify").starts_with("bird_"));
    copy("goldens/beit-tiny", &at("birds"), "owl_");
    until(|| models(&served) == ["birds* 2", "cats 1"]);
    assert!(best(&served, "/classify/birds").starts_with("owl_"));

    // Replaced by renaming, as a training run does; and a newcomer.
    copy("goldens/vit-tiny", &at(".next"), "lion_");
    std::fs::rename(at("cats"), at(".before")).expect("moved");
    std::fs::rename(at(".next"), at("cats")).expect("moved");
    std::fs::rename(at(".copying"), at("dogs")).expect("moved");
    until(|| models(&served) == ["birds* 2", "cats 2", "dogs 1"]);
    assert!(best(&served, "/classify/cats").starts_with("lion_"));
    assert!(best(&served, "/classify/dogs").starts_with("x_"));
}

#[test]
fn flags_that_do_not_fit_together_end_the_program_and_say_what_would() {
    let (beit, empty) = (data("goldens/beit-tiny"), tempfile::tempdir().expect("a folder"));
    let (beit, empty) = (beit.to_str().expect("text"), empty.path().to_str().expect("text"));
    let other = format!("a={beit}");
    for (flags, code, told) in [
        (&["--model", beit, "--model", beit][..], 2, "two models are called beit-tiny"),
        (&["--model-repository", empty], 1, "holds no model folder"),
        (&["--model-repository", "/nowhere"], 1, "/nowhere: the model repository cannot be read"),
        (
            &["--model", beit, "--model", &other, "--adapter", "x"],
            2,
            "which model is it for? --adapter NAME=x",
        ),
        (&["--model", beit, "--adapter", "b=x"], 2, "there is no model b"),
        (&["--model", beit, "--adapter", "x", "--adapter", "y"], 2, "two adapters for one model, x and y"),
        (&["--watch"], 2, "the argument '--watch' goes with '--model' or '--model-repository' only"),
        (&["--url-timeout-ms", "5"], 2, "the argument '--url-timeout-ms' goes with '--allow-url-input' only"),
        (&["--max-batch-size", "0"], 2, "a whole number from 1, or auto"),
        (&["--cpu-workers", "0"], 2, "--cpu-workers"),
    ] {
        let said = run(&mut featherlight(&[&["serve", "--port", "0"], flags].concat()));
        assert_eq!(said.code, Some(code), "{flags:?}: {}", said.err);
        assert!(said.err.contains(told), "{flags:?}: {}", said.err);
    }
}
