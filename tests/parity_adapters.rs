//! Every PEFT adapter folder of a goldens root: its logits unmerged, merged, and after being written and read again.

#![allow(clippy::expect_used, clippy::panic, reason = "a test's own helpers fail by panicking")]

use candle_core::{Device, Tensor};
use featherlight::model::{Adapter, Classifier, ModelFolder, merge, save_adapter};
use featherlight::nn::{Pass, Trainable};
use featherlight::ops::device::Placement;
use std::collections::HashMap;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    let default = || Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens");
    std::env::var_os("FEATHERLIGHT_GOLDENS").map_or_else(default, PathBuf::from)
}

/// The base that an adapter folder names, a sibling of it.
fn base(folder: &Path) -> ModelFolder {
    let text = std::fs::read_to_string(folder.join("adapter_config.json")).expect("adapter_config.json");
    let json: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    let name = json["base_model_name_or_path"].as_str().expect("a base");
    ModelFolder::open(&root().join(name)).unwrap_or_else(|e| panic!("{e}"))
}

fn load(folder: &ModelFolder) -> Box<dyn Classifier> {
    folder.load(Trainable::None, &Placement::CPU).unwrap_or_else(|e| panic!("{e}"))
}

fn difference(model: &dyn Classifier, pixel_values: &Tensor, want: &Tensor) -> f32 {
    let logits = model.forward(pixel_values, &Pass::Eval).expect("forward");
    let largest = (logits - want).and_then(|d| d.abs()?.flatten_all()?.max(0)?.to_scalar::<f32>());
    largest.expect("comparable logits")
}

#[test]
fn an_adapter_gives_the_reference_logits_unmerged_merged_and_written_again() {
    let mut checked = 0;
    for entry in std::fs::read_dir(root()).expect("the goldens root can be read") {
        let folder = entry.expect("an entry").path();
        if !folder.join("adapter_config.json").is_file() {
            continue;
        }
        let expected = candle_core::safetensors::load(folder.join("expected.safetensors"), &Device::Cpu)
            .expect("expected");
        let (pixel_values, want) = (&expected["pixel_values"], &expected["logits"]);
        let adapter = Adapter::open(&folder).unwrap_or_else(|e| panic!("{e}"));
        let base = base(&folder);
        let config = base.config();
        let mut model = load(&base);
        let without = difference(&*model, pixel_values, want);
        adapter.attach(&mut *model, Trainable::None).unwrap_or_else(|e| panic!("{e}"));
        let unmerged = difference(&*model, pixel_values, want);

        let written = tempfile::tempdir().expect("a folder");
        save_adapter(&*model, adapter.config(), "base", config, written.path()).expect("written");
        let again = Adapter::open(written.path()).unwrap_or_else(|e| panic!("{e}"));
        let mut second = load(&base);
        again.attach(&mut *second, Trainable::None).unwrap_or_else(|e| panic!("{e}"));
        let rewritten = difference(&*second, pixel_values, want);

        merge(&mut *model).expect("merged");
        let merged = difference(&*model, pixel_values, want);
        // As a program loads it.
        let folder_with = ModelFolder::open(base.path()).and_then(|base| base.with_adapter(Some(&folder)));
        let loaded = folder_with.and_then(|with| with.load_merged(&Placement::CPU));
        let loaded = difference(&*loaded.unwrap_or_else(|e| panic!("{e}")), pixel_values, want);
        println!(
            "{}: unmerged {unmerged:.1e}, merged {merged:.1e}, loaded {loaded:.1e}, rewritten {rewritten:.1e}",
            folder.display()
        );
        assert!(without > 1e-2, "{}: the adapter changes nothing ({without})", folder.display());
        let largest = [unmerged, merged, loaded, rewritten].into_iter().fold(0.0, f32::max);
        assert!(largest <= 1e-4, "{}: {largest}", folder.display());
        checked += 1;
    }
    // Another set may have none.
    let another = std::env::var_os("FEATHERLIGHT_GOLDENS").is_some();
    assert!(checked > 0 || another, "no adapter folder in {}", root().display());
}

#[test]
fn an_adapter_of_another_model_is_refused_with_the_tensor_and_both_shapes() {
    let folder = tempfile::tempdir().expect("a folder");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/beit-tiny-lora");
    std::fs::copy(source.join("adapter_model.safetensors"), folder.path().join("adapter_model.safetensors"))
        .expect("copy");
    let config = std::fs::read_to_string(source.join("adapter_config.json")).expect("config");
    std::fs::write(folder.path().join("adapter_config.json"), config.replace("\"r\": 4", "\"r\": 5"))
        .expect("write");
    let model = ModelFolder::open(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/beit-tiny"));
    let mut model = model
        .and_then(|folder| folder.load(Trainable::None, &Placement::CPU))
        .unwrap_or_else(|e| panic!("{e}"));
    let adapter = Adapter::open(folder.path()).unwrap_or_else(|e| panic!("{e}"));
    let message = adapter.attach(&mut *model, Trainable::None).expect_err("another rank").to_string();
    for part in ["adapter_model.safetensors", "lora_A.weight", "[4, 48]", "[5, 48]"] {
        assert!(message.contains(part), "{message}");
    }
}

/// The adapter folder `name` of the project's own references with its config and its tensors changed, attached.
fn attach_changed(
    name: &str,
    config: (&str, &str),
    tensor: impl Fn(String) -> Option<String>,
) -> Result<f32, String> {
    let goldens = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens");
    let (source, folder) = (goldens.join(name), tempfile::tempdir().expect("a folder"));
    let said = std::fs::read_to_string(source.join("adapter_config.json")).expect("config");
    assert!(said.contains(config.0), "{said}");
    std::fs::write(folder.path().join("adapter_config.json"), said.replace(config.0, config.1))
        .expect("write");
    let tensors = candle_core::safetensors::load(source.join("adapter_model.safetensors"), &Device::Cpu);
    let tensors = tensors.expect("tensors").into_iter();
    let tensors: HashMap<String, Tensor> =
        tensors.filter_map(|(key, value)| Some((tensor(key)?, value))).collect();
    candle_core::safetensors::save(&tensors, folder.path().join("adapter_model.safetensors")).expect("save");

    let base = ModelFolder::open(&goldens.join("beit-tiny")).unwrap_or_else(|e| panic!("{e}"));
    let model = base.with_adapter(Some(folder.path())).and_then(|base| base.load_merged(&Placement::CPU));
    let expected = candle_core::safetensors::load(source.join("expected.safetensors"), &Device::Cpu);
    let expected = expected.expect("expected");
    let model = model.map_err(|error| error.to_string())?;
    Ok(difference(&*model, &expected["pixel_values"], &expected["logits"]))
}

#[test]
fn magnitudes_and_use_dora_go_together_or_are_refused_with_the_tensor() {
    let kept = ("\"use_dora\"", "\"use_dora\"");
    let changed = attach_changed("beit-tiny-dora", kept, |key| {
        Some(key).filter(|key| !key.ends_with("layers.1.attention.k_proj.lora_magnitude_vector"))
    });
    let message = changed.expect_err("no magnitudes");
    for part in ["layer.1.attention.attention.key.lora_magnitude_vector", "use_dora", "is true"] {
        assert!(message.contains(part), "{message}");
    }
    let off = ("\"use_dora\": true", "\"use_dora\": false");
    let message = attach_changed("beit-tiny-dora", off, Some).expect_err("magnitudes");
    for part in ["lora_magnitude_vector", "use_dora", "is not true"] {
        assert!(message.contains(part), "{message}");
    }
    let on = ("\"use_dora\": false", "\"use_dora\": true");
    let message = attach_changed("beit-tiny-lora", on, Some).expect_err("none");
    assert!(message.contains("lora_magnitude_vector"), "{message}");
}

#[test]
fn magnitudes_may_be_called_as_a_running_model_calls_them() {
    let kept = ("\"use_dora\"", "\"use_dora\"");
    let difference = attach_changed("beit-tiny-dora", kept, |key| {
        Some(key.replace("lora_magnitude_vector", "lora_magnitude_vector.weight"))
    });
    assert!(difference.is_ok_and(|difference| difference <= 1e-4));
}
