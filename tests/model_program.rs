//! `inspect`, `verify` and `bench` as a person runs them, and the demo that is meant where no model is named.

#![allow(clippy::expect_used, clippy::panic, reason = "a failed step of a test is its failure")]

mod program;

use program::{Served, data, featherlight, run};
use serde_json::Value;
use std::path::Path;

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

fn body(mut answer: ureq::http::Response<ureq::Body>) -> Value {
    json(&answer.body_mut().read_to_string().expect("a body"))
}

fn config_of_demo() -> Value {
    json(&std::fs::read_to_string(data("../models/demo/config.json")).expect("the demo's config"))
}

#[test]
fn without_arguments_and_far_from_any_model_the_demo_is_served() {
    let nowhere = tempfile::tempdir().expect("an empty folder");
    let mut command = featherlight(&[]);
    // A port of its own, named as every flag can be.
    let served = Served::spawn(command.current_dir(nowhere.path()).env("FEATHERLIGHT_HTTP_PORT", "0"));
    let want = format!("Try: curl --data-binary @photo.jpg {}/classify", served.url());
    assert_eq!(served.hint, want);
    assert_eq!(
        body(ureq::get(&format!("{}/info", served.url())).call().expect("an answer"))["model"]["name"],
        "demo"
    );

    let photo = data("data/sign-digits/test/7/IMG_4355.jpg");
    let photo = std::fs::read(photo).expect("the photo");
    let url = format!("{}/classify?top_k=1000", served.url());
    let answer = body(ureq::post(&url).content_type("image/jpeg").send(&photo[..]).expect("an answer"));
    let mut labels: Vec<&str> = answer["predictions"]
        .as_array()
        .expect("predictions")
        .iter()
        .filter_map(|prediction| prediction["label"].as_str())
        .collect();
    let config = config_of_demo();
    let mut known: Vec<&str> =
        config["id2label"].as_object().expect("labels").values().filter_map(Value::as_str).collect();
    labels.sort_unstable();
    known.sort_unstable();
    assert_eq!(labels, known);
    let sum: f64 =
        answer["predictions"].as_array().into_iter().flatten().filter_map(|p| p["score"].as_f64()).sum();
    assert!((sum - 1.0).abs() < 1e-5, "{answer}");
}

#[test]
fn the_hint_names_a_photo_that_is_there_and_the_key_that_is_wanted() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut command = featherlight(&["--port", "0", "--api-key", "secret"]);
    let served = Served::spawn(command.current_dir(root));
    let photo = served.hint.split('@').nth(1).and_then(|rest| rest.split(' ').next());
    assert!(photo.is_some_and(|photo| root.join(photo).is_file()), "{}", served.hint);
    assert!(served.hint.contains("x-api-key") && !served.hint.contains("secret"), "{}", served.hint);
}

#[test]
fn inspect_without_a_model_tells_of_the_demo() {
    let nowhere = tempfile::tempdir().expect("an empty folder");
    let said = run(featherlight(&["inspect", "--json"]).current_dir(nowhere.path()));
    let labels = json(&said.out)["labels"].as_array().map_or(0, Vec::len);
    assert_eq!(Some(labels), config_of_demo()["id2label"].as_object().map(serde_json::Map::len));
    // Every switch is also a variable.
    let again = run(featherlight(&["inspect"]).env("FEATHERLIGHT_JSON", "yes"));
    assert_eq!(again.out, said.out);
}

#[test]
fn inspect_names_the_devices_there_are_and_does_not_mind_when_there_are_few() {
    let said = run(&mut featherlight(&["inspect"]));
    assert_eq!(said.code, Some(0), "{}", said.err);
    let line = said.out.lines().find(|line| line.starts_with("devices"));
    assert!(line.is_some_and(|line| line.contains("cpu")), "{}", said.out);
    let figures = json(&run(&mut featherlight(&["inspect", "--json"])).out);
    assert_eq!(figures["devices"][0]["name"], "cpu", "{figures}");
    if cfg!(not(feature = "cuda")) {
        assert_eq!(figures["devices"].as_array().map(Vec::len), Some(1));
        assert_eq!(figures["cuda_missing"], "CUDA is not in this build");
    }
}

#[test]
#[cfg(not(feature = "cuda"))]
fn a_cuda_device_asked_of_a_build_without_cuda_is_a_failure_in_one_line_that_names_the_remedy() {
    let (model, expected) = (data("goldens/beit-tiny"), data("goldens/beit-tiny/expected.safetensors"));
    let folder = tempfile::tempdir().expect("a folder");
    let (model, expected) = (model.to_string_lossy(), expected.to_string_lossy());
    let photos = data("data/sign-digits/test/7").to_string_lossy().into_owned();
    let output = folder.path().join("rows.csv").to_string_lossy().into_owned();
    let commands: [&[&str]; 5] = [
        &["serve", "--port", "0"],
        &["predict", "--input", &photos, "--output", &output],
        &["verify", "--model", &model, "--expected", &expected],
        &["bench"],
        &["bench", "--config", &model],
    ];
    for command in commands {
        let said = run(featherlight(command).args(["--device", "cuda"]));
        assert_eq!(said.code, Some(1), "{command:?}: {}", said.err);
        assert_eq!(said.err.lines().count(), 1, "{command:?}: {}", said.err);
        let told = ["--features cuda", "--device cpu"].iter().all(|remedy| said.err.contains(remedy));
        assert!(told, "{command:?}: {}", said.err);
    }
    assert!(!folder.path().join("rows.csv").exists(), "no rows where nothing was classified");
}

#[test]
fn a_device_or_number_format_that_is_none_is_a_wrong_command_line() {
    let said = run(&mut featherlight(&["serve", "--port", "0", "--device", "gpu"]));
    assert_eq!(said.code, Some(2), "{}", said.err);
    assert!(said.err.contains("--device") && said.err.contains("auto, cpu, cuda"), "{}", said.err);
    let said = run(featherlight(&["bench"]).env("FEATHERLIGHT_DTYPE", "int8"));
    assert_eq!(said.code, Some(2), "{}", said.err);
    assert!(said.err.contains("--dtype") && said.err.contains("auto, f32, bf16"), "{}", said.err);
    let said = run(&mut featherlight(&["bench", "--device", "cuda:0,1"]));
    assert_eq!(said.code, Some(2), "{}", said.err);
}

#[test]
fn verify_runs_in_half_precision_on_the_cpu_with_a_difference_to_match() {
    let verify = |dtype: &str, tolerance: &str| {
        let mut command =
            featherlight(&["verify", "--device", "cpu", "--dtype", dtype, "--tolerance", tolerance]);
        command.arg("--model").arg(data("goldens/beit-tiny"));
        run(command.arg("--expected").arg(data("goldens/beit-tiny/expected.safetensors")))
    };
    for dtype in ["bf16", "f16"] {
        let said = verify(dtype, "0.1");
        assert_eq!(said.code, Some(0), "{}{}", said.out, said.err);
        assert!(said.out.contains(&format!("(cpu {dtype})")), "{}", said.out);
        assert_eq!(verify(dtype, "1e-6").code, Some(1), "{dtype} is not f32");
    }
}

#[test]
fn inspect_counts_an_adapter_and_names_its_settings() {
    let said = run(featherlight(&["inspect", "--json", "--model"])
        .arg(data("goldens/beit-tiny"))
        .arg("--adapter")
        .arg(data("goldens/beit-tiny-lora")));
    let figures = json(&said.out);
    // 3 blocks × 2 modules × rank 4 × (48 + 48), and a head of 7 labels × 48 and 7.
    assert_eq!(figures["trainable_parameters"], 3 * 2 * 4 * (48 + 48) + 7 * 48 + 7, "{figures}");
    assert_eq!(figures["adapter"]["rank"], 4);
    assert_eq!(figures["adapter"]["alpha"], 8.0);
    assert_eq!(figures["adapter"]["targets"], serde_json::json!(["q_proj", "v_proj"]));
}

#[test]
fn verify_merges_the_adapter_it_is_given() {
    let verify = |more: &[&str]| {
        let mut command = featherlight(&["verify", "--model"]);
        command.arg(data("goldens/beit-tiny")).args(more);
        run(command.arg("--expected").arg(data("goldens/beit-tiny-lora/expected.safetensors")))
    };
    let adapter = data("goldens/beit-tiny-lora").to_string_lossy().into_owned();
    let said = verify(&["--adapter", &adapter]);
    assert_eq!(said.code, Some(0), "{}{}", said.out, said.err);
    assert_eq!(verify(&[]).code, Some(1), "the logits of an adapted model need its adapter");
}

#[test]
fn bench_measures_a_bare_config_at_every_batch_size() {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::copy(data("goldens/beit-tiny/config.json"), folder.path().join("config.json")).expect("copied");
    let said = run(featherlight(&["bench", "--json", "--seconds", "0.1", "--batch-size", "1,3", "--config"])
        .arg(folder.path())
        .arg("--decode")
        .arg(data("data/sign-digits/test/7")));
    assert_eq!(said.code, Some(0), "{}", said.err);
    let figures = json(&said.out);
    assert_eq!(figures["model"]["weights"], "random");
    let sizes: Vec<u64> = figures["forward"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|row| row["batch_size"].as_u64())
        .collect();
    assert_eq!(sizes, [1, 3]);
    for row in figures["forward"].as_array().into_iter().flatten() {
        let figure = |name: &str| row[name].as_f64().unwrap_or_else(|| panic!("no {name} in {row}"));
        assert!(figure("passes") >= 3.0 && figure("photos_per_second") > 0.0, "{row}");
        assert!(figure("median_ms") > 0.0 && figure("p90_ms") >= figure("median_ms"), "{row}");
    }
    assert_eq!(figures["pipeline"]["failed"], 0);
    assert!(figures["pipeline"]["photos"].as_u64() > Some(0), "{figures}");
}

#[test]
fn bench_loads_a_service_and_counts_its_refusals_by_code() {
    let served = Served::spawn(&mut featherlight(&["--port", "0"]));
    let bench = |more: &[&str]| {
        let mut command =
            featherlight(&["bench", "--json", "--seconds", "0.3", "--concurrency", "3", "--server"]);
        run(command.arg(served.url()).args(more))
    };
    let figures = json(&bench(&[]).out);
    assert!(figures["load"]["answers"].as_u64() > Some(0), "{figures}");
    assert_eq!(figures["load"]["errors"], serde_json::json!({}));

    let photos = tempfile::tempdir().expect("a folder");
    std::fs::copy(data("data/sign-digits/test/7/IMG_4355.jpg"), photos.path().join("a.jpg")).expect("copied");
    std::fs::write(photos.path().join("b.jpg"), "no photo").expect("written");
    let figures = json(&bench(&["--decode", &photos.path().to_string_lossy()]).out);
    assert!(figures["load"]["answers"].as_u64() > Some(0), "{figures}");
    assert!(figures["load"]["errors"]["unsupported_media_type"].as_u64() > Some(0), "{figures}");

    let said =
        run(featherlight(&["bench", "--seconds", "0.1", "--server"]).arg(format!("{}/none", served.url())));
    assert_eq!(said.code, Some(1));
    assert!(said.err.contains("no service here"), "{}", said.err);
}
