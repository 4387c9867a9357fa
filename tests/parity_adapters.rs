//! Every PEFT adapter folder of a goldens root: its logits unmerged, merged, and after being written and read again.

#![allow(clippy::expect_used, clippy::panic, reason = "a test's own helpers fail by panicking")]

use candle_core::{Device, Tensor};
use featherlight::model::{Adapter, Classifier, ModelFolder, merge, save_adapter};
use featherlight::nn::{Pass, Trainable};
use featherlight::ops::device::Placement;
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
        println!(
            "{}: unmerged {unmerged:.1e}, merged {merged:.1e}, rewritten {rewritten:.1e}",
            folder.display()
        );
        assert!(without > 1e-2, "{}: the adapter changes nothing ({without})", folder.display());
        assert!(unmerged <= 1e-4 && merged <= 1e-4 && rewritten <= 1e-4, "{}", folder.display());
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
