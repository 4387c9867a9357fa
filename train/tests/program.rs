//! The program `featherlight-train` as a person runs it: its words and its exit status.

#![allow(clippy::expect_used, clippy::panic, reason = "a test's own helpers fail by panicking")]

use candle_core::{DType, Device, Tensor};
use serde_json::Value;
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

fn tests(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests").join(path)
}

fn train(arguments: &[&str], paths: &[(&str, &Path)]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_featherlight-train"));
    command.args(arguments);
    for (flag, path) in paths {
        command.arg(flag).arg(path);
    }
    command.output().expect("the program runs")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

type Tensors = HashMap<String, Tensor>;

fn tensors(file: &Path) -> Tensors {
    candle_core::safetensors::load(file, &Device::Cpu).expect("weights")
}

/// Writes the golden model `name` with other tensors to `folder`, which must be there.
fn write_altered(name: &str, tensors: &Tensors, folder: &Path) {
    for file in ["config.json", "preprocessor_config.json"] {
        let golden = tests("goldens").join(name).join(file);
        if golden.exists() {
            std::fs::copy(golden, folder.join(file)).expect("copied");
        }
    }
    candle_core::safetensors::save(tensors, folder.join("model.safetensors")).expect("saved");
}

#[test]
fn a_head_is_trained_saved_and_measured_by_the_same_program() {
    let folder = tempfile::tempdir().expect("a folder");
    let output = folder.path().join("out");
    let data = tests("data/sign-digits/train");
    let fitted = train(
        &["fit", "--method", "head", "--epochs", "1", "--accumulation-steps", "1"],
        &[("--model", &tests("goldens/beit-tiny")), ("--data", &data), ("--output", &output)],
    );
    let (out, err) = (text(&fitted.stdout), text(&fitted.stderr));
    assert_eq!(fitted.status.code(), Some(0), "{err}");
    assert!(err.contains("the classification head is a fresh one"), "{err}");
    assert!(err.contains("epoch 1/1") && err.contains("validation: top-1"), "{err}");
    assert!(out.contains("featherlight serve --model"), "{out}");

    let merged = output.join("merged");
    let measured = train(&["evaluate", "--json"], &[("--model", &merged), ("--data", &data)]);
    assert_eq!(measured.status.code(), Some(0), "{}", text(&measured.stderr));
    let figures: Value = serde_json::from_slice(&measured.stdout).expect("JSON");
    assert_eq!(figures["photos"], 120);
    let right: f64 = figures["classes"]
        .as_object()
        .expect("classes")
        .values()
        .map(|class| class["top1"].as_f64().expect("a share") * class["photos"].as_f64().expect("a count"))
        .sum();
    assert!((right / 120.0 - figures["top1"].as_f64().expect("top1")).abs() < 1e-9);
    assert!(figures.get("inference_images_per_second").is_none(), "not asked for: {figures}");
    assert_eq!(figures["tta"], false);
    for written in ["report.html", "results.csv", "classes.csv", "curves/loss.png", "curves/accuracy.png"] {
        assert!(output.join(written).is_file(), "{written}");
    }

    let page = folder.path().join("pages/test.html");
    let seen_twice = train(
        &["evaluate", "--json", "--tta", "--max-photos", "40"],
        &[("--model", &merged), ("--data", &data), ("--report", &page)],
    );
    let figures: Value = serde_json::from_slice(&seen_twice.stdout).expect("JSON");
    assert_eq!(figures["tta"], true);
    let page = std::fs::read_to_string(page).expect("a page");
    assert!(
        page.contains("mirror image")
            && page.contains("Confusion matrix")
            && page.contains("data:image/jpeg")
    );

    let timed = train(
        &["evaluate", "--json", "--speed", "--max-photos", "20", "--batch-size", "4"],
        &[("--model", &merged), ("--data", &data)],
    );
    let figures: Value = serde_json::from_slice(&timed.stdout).expect("JSON");
    assert_eq!(figures["photos"], 20);
    // Evenly: two of each of the ten classes.
    assert!(figures["classes"].as_object().expect("classes").values().all(|class| class["photos"] == 2));
    assert!(figures["inference_images_per_second"].as_f64().expect("a speed") > 0.0);
}

#[test]
fn labels_that_the_model_does_not_know_end_an_evaluation_with_1() {
    let measured = train(
        &["evaluate"],
        &[("--model", &tests("goldens/beit-tiny")), ("--data", &tests("data/sign-digits/test"))],
    );
    let err = text(&measured.stderr);
    assert_eq!(measured.status.code(), Some(1), "{err}");
    assert!(err.contains("none of its labels (`0`") && err.contains("class_00"), "{err}");
}

#[test]
fn a_wrong_command_line_ends_with_2_and_says_what_is_right() {
    for (arguments, said) in [
        (&["fit", "--data", "d", "--model", "m", "--output", "o", "--init", "random"][..], "--method full"),
        (&["fit", "--data", "d", "--model", "m", "--output", "o", "--resume", "--overwrite"], "--overwrite"),
        (
            &["fit", "--data", "d", "--model", "m", "--output", "o", "--dtype", "int8"],
            "auto, f32, bf16 or f16 wanted",
        ),
        (&["fit", "--data", "d", "--model", "m"], "--output"),
        (&["teach"], "teach"),
    ] {
        let outcome = train(arguments, &[]);
        let err = text(&outcome.stderr);
        assert_eq!(outcome.status.code(), Some(2), "{arguments:?}: {err}");
        assert!(err.contains(said), "{arguments:?}: {err}");
    }
}

#[test]
fn an_output_that_holds_a_run_is_not_touched() {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("run.json"), "{}").expect("written");
    let fitted = train(
        &["fit", "--method", "head"],
        &[
            ("--model", &tests("goldens/beit-tiny")),
            ("--data", &tests("data/sign-digits/train")),
            ("--output", folder.path()),
        ],
    );
    assert_eq!(fitted.status.code(), Some(1));
    assert!(text(&fitted.stderr).contains("--overwrite"), "{}", text(&fitted.stderr));
    assert_eq!(std::fs::read_to_string(folder.path().join("run.json")).expect("still there"), "{}");
}

#[test]
fn steps_of_lora_and_of_a_whole_training_are_timed_on_a_bare_config() {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::copy(tests("goldens/beit-tiny/config.json"), folder.path().join("config.json")).expect("copied");
    let bench = |words: &[&str]| {
        train(
            &[&["bench", "--steps", "2", "--batch-size", "3"], words].concat(),
            &[("--config", folder.path())],
        )
    };
    for (method, trained) in [("lora", 3 * 2 * 16 * (48 + 48) + 7 * 48 + 7), ("full", 68263)] {
        let timed = bench(&["--json", "--method", method]);
        assert_eq!(timed.status.code(), Some(0), "{}", text(&timed.stderr));
        let figures: Value = serde_json::from_slice(&timed.stdout).expect("JSON");
        assert_eq!(figures["trainable_parameters"], trained, "{figures}");
        let figure = |name: &str| figures[name].as_f64().unwrap_or_else(|| panic!("no {name}: {figures}"));
        assert_eq!((figure("steps"), figure("batch_size")), (2.0, 3.0));
        assert!(figure("min_ms") > 0.0 && figure("median_ms") <= figure("max_ms"), "{figures}");
        let product = figure("images_per_second") * figure("median_ms") / 1000.0;
        assert!((product - 3.0).abs() < 1e-6, "{figures}");
        assert!(figure("peak_memory_bytes") > 1e6 && figure("loss") > 0.0, "{figures}");
    }
    assert!(text(&bench(&[]).stdout).contains("images/s"));
    assert_eq!(bench(&["--method", "full", "--lora-rank", "4"]).status.code(), Some(2));
}

#[test]
fn weights_in_any_layout_become_a_folder_in_safetensors_with_the_same_logits() {
    let folder = tempfile::tempdir().expect("a folder");
    let logits = tests("goldens/beit-tiny/expected.safetensors");
    for (name, expected) in [
        ("beit-tiny-bin", logits.clone()),
        ("beit-tiny-timm", tests("goldens/beit-tiny-timm/expected.safetensors")),
        ("clip-tiny", tests("goldens/clip-tiny/expected.safetensors")),
    ] {
        let output = folder.path().join(name);
        let words: [(&str, &Path); 2] =
            [("--model", &tests(&format!("goldens/{name}"))), ("--output", &output)];
        let converted = train(&["convert"], &words);
        assert_eq!(converted.status.code(), Some(0), "{name}: {}", text(&converted.stderr));
        assert!(text(&converted.stdout).contains("read back"), "{}", text(&converted.stdout));
        let verified = Path::new(env!("CARGO_BIN_EXE_featherlight-train"))
            .with_file_name(format!("featherlight{}", std::env::consts::EXE_SUFFIX));
        let verified = Command::new(verified)
            .args(["verify", "--tolerance", "1e-4", "--model"])
            .arg(&output)
            .arg("--expected")
            .arg(&expected)
            .output()
            .expect("the program runs");
        assert_eq!(verified.status.code(), Some(0), "{name}: {}", text(&verified.stderr));
        let again = train(&["convert"], &words);
        assert_eq!(again.status.code(), Some(1));
        assert!(text(&again.stderr).contains("--overwrite"), "{}", text(&again.stderr));
    }
}

#[test]
fn a_backbone_without_a_head_is_converted_as_one() {
    let folder = tempfile::tempdir().expect("a folder");
    let (backbone, output) = (folder.path().join("backbone"), folder.path().join("converted"));
    std::fs::create_dir(&backbone).expect("a folder");
    let mut own = tensors(&tests("goldens/vit-tiny/model.safetensors"));
    own.retain(|name, _| !name.starts_with("classifier."));
    let classifier_s = own.len();
    let pooler = Tensor::new(&[1f32, 1e5], &Device::Cpu).expect("a tensor");
    own.insert("vit.pooler.dense.bias".to_owned(), pooler);
    write_altered("vit-tiny", &own, &backbone);

    let converted =
        train(&["convert", "--save-dtype", "bf16"], &[("--model", &backbone), ("--output", &output)]);
    assert_eq!(converted.status.code(), Some(0), "{}", text(&converted.stderr));
    let said = text(&converted.stdout);
    assert!(said.contains("no classification head"), "{said}");
    assert!(said.contains("left behind: vit.pooler\n"), "{said}");
    let written = tensors(&output.join("model.safetensors"));
    assert_eq!(written.len(), classifier_s, "no head is made up");
    assert_eq!(std::fs::read_dir(&output).expect("a folder").count(), 3, "nothing hidden is left");
    assert!(written.values().all(|tensor| tensor.dtype() == DType::BF16));
}

#[test]
fn a_headless_timm_model_is_converted_as_one_and_absolute_positions_are_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let (model, output) = (folder.path().join("model"), folder.path().join("converted"));
    std::fs::create_dir(&model).expect("a folder");
    let mut own = tensors(&tests("goldens/beit-tiny-timm/model.safetensors"));
    own.retain(|name, _| !name.starts_with("head."));
    let convert = |own: &Tensors| {
        write_altered("beit-tiny-timm", own, &model);
        train(&["convert", "--overwrite"], &[("--model", &model), ("--output", &output)])
    };
    let converted = convert(&own);
    assert_eq!(converted.status.code(), Some(0), "{}", text(&converted.stderr));
    assert!(text(&converted.stdout).contains("no classification head"), "{}", text(&converted.stdout));
    own.insert("pos_embed".to_owned(), Tensor::new(&[0f32], &Device::Cpu).expect("a tensor"));
    let refused = convert(&own);
    assert_eq!(refused.status.code(), Some(1));
    assert!(text(&refused.stderr).contains("absolute positions"), "{}", text(&refused.stderr));
}

#[test]
fn a_conversion_to_a_type_that_cannot_hold_a_weight_is_refused_and_leaves_nothing() {
    let folder = tempfile::tempdir().expect("a folder");
    let (model, output) = (folder.path().join("model"), folder.path().join("new/converted"));
    std::fs::create_dir(&model).expect("a folder");
    let mut own = tensors(&tests("goldens/vit-tiny/model.safetensors"));
    let name = "vit.layernorm.weight";
    let large = (own[name].ones_like().expect("ones") * 1e5).expect("a tensor");
    own.insert(name.to_owned(), large);
    write_altered("vit-tiny", &own, &model);

    let words: [(&str, &Path); 2] = [("--model", &model), ("--output", &output)];
    let refused = train(&["convert", "--save-dtype", "f16"], &words);
    assert_eq!(refused.status.code(), Some(1));
    let said = text(&refused.stderr);
    assert!(said.contains(name) && said.contains("1e5") && said.contains("f32 can"), "{said}");
    assert!(!output.exists());
    assert_eq!(train(&["convert", "--save-dtype", "bf16"], &words).status.code(), Some(0));

    // What a run has learnt is not lost for it.
    let (photos, run) = (tests("data/sign-digits/test"), folder.path().join("run"));
    let fitted = train(
        &["fit", "--method", "head", "--epochs", "1", "--device", "cpu", "--save-dtype", "f16"],
        &[("--model", &model), ("--data", &photos), ("--val", &photos), ("--output", &run)],
    );
    assert_eq!(fitted.status.code(), Some(0), "{}", text(&fitted.stderr));
    assert!(text(&fitted.stderr).contains("written in f32"), "{}", text(&fitted.stderr));
    let merged = tensors(&run.join("merged/model.safetensors"));
    assert!(merged.values().all(|tensor| tensor.dtype() == DType::F32));
}
