//! Every model folder of a goldens root against its expected logits, hidden states and gradients.
//!
//! The root is `tests/goldens`, or `FEATHERLIGHT_GOLDENS`. What a folder holds decides what is checked, so another set of
//! other shapes runs unchanged.

#![allow(clippy::expect_used, clippy::panic, reason = "a test's own helpers fail by panicking")]

use candle_core::{DType, Device, Tensor};
use featherlight::model::{Classifier, ModelFolder};
use featherlight::nn::{Pass, Trainable};
use featherlight::ops::device::Placement;
use featherlight::ops::{backward, cross_entropy};
use std::collections::HashMap;
use std::path::{Path, PathBuf};

type Tensors = HashMap<String, Tensor>;

fn root() -> PathBuf {
    let default = || Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens");
    std::env::var_os("FEATHERLIGHT_GOLDENS").map_or_else(default, PathBuf::from)
}

/// Folders below the root that hold a model, sorted.
fn folders() -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = std::fs::read_dir(root())
        .expect("the goldens root can be read")
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.join("config.json").is_file())
        .collect();
    found.sort();
    assert!(!found.is_empty(), "no model folder in {}", root().display());
    found
}

fn tensors(file: &Path) -> Tensors {
    candle_core::safetensors::load(file, &Device::Cpu).unwrap_or_else(|e| panic!("{}: {e}", file.display()))
}

/// What a folder is compared with: its own file, or (for the same weights in another format) its sibling's.
fn expected(folder: &Path, name: &str) -> Option<Tensors> {
    let own = folder.join(name);
    let sibling = folder.to_string_lossy().strip_suffix("-bin").map(|stem| Path::new(stem).join(name));
    [Some(own), sibling].into_iter().flatten().find(|file| file.is_file()).map(|file| tensors(&file))
}

fn load(folder: &Path, trainable: Trainable) -> Box<dyn Classifier> {
    let model = ModelFolder::open(folder).and_then(|opened| opened.load(trainable, &Placement::CPU));
    model.unwrap_or_else(|error| panic!("{error}"))
}

fn max_difference(a: &Tensor, b: &Tensor) -> f32 {
    assert_eq!(a.dims(), b.dims());
    let difference = (a - b).and_then(|d| d.abs()?.flatten_all()?.max(0)?.to_scalar::<f32>());
    difference.expect("comparable tensors")
}

#[test]
fn logits_and_hidden_states_match_the_reference_within_1e_4() {
    let mut checked = 0;
    for folder in folders() {
        let Some(expected) = expected(&folder, "expected.safetensors") else { continue };
        let model = load(&folder, Trainable::None);
        let mut hidden = model.embed(&expected["pixel_values"], &Pass::Eval).expect("embed");
        let listed = model.hidden_states();
        let states = expected.keys().filter(|key| key.starts_with("hidden_state.")).count();
        assert!([0, listed.len()].contains(&states), "{}: {states} hidden states", folder.display());
        for blocks in 0..=model.blocks() {
            let state =
                listed.iter().position(|listed| *listed == blocks).map(|i| format!("hidden_state.{i}"));
            if let Some((state, want)) = state.and_then(|state| expected.get_key_value(&state)) {
                let difference = max_difference(&hidden.states, want);
                assert!(difference <= 1e-4, "{} {state}: {difference}", folder.display());
            }
            if blocks < model.blocks() {
                hidden = model.block(blocks, &hidden, &Pass::Eval).expect("block");
            }
        }
        for prefix in ["", "resized."] {
            let Some(pixel_values) = expected.get(&format!("{prefix}pixel_values")) else { continue };
            let logits = model.forward(pixel_values, &Pass::Eval).expect("forward");
            let difference = max_difference(&logits, &expected[&format!("{prefix}logits")]);
            println!("{} {prefix}logits: max |difference| {difference:.1e}", folder.display());
            assert!(difference <= 1e-4, "{} {prefix}logits: {difference}", folder.display());
            checked += 1;
        }
    }
    assert!(checked > 0, "nothing was compared in {}", root().display());
}

/// In f64 the CPU has no kernels, so every op is composed of candle's operations, as it is on a device without a kernel
/// for it; in 16 bits as well.
#[test]
fn logits_of_the_composed_ops_match_the_reference_as_far_as_their_format_allows() {
    let mut checked = 0;
    for folder in folders() {
        let Some(expected) = expected(&folder, "expected.safetensors") else { continue };
        let opened = ModelFolder::open(&folder).unwrap_or_else(|error| panic!("{error}"));
        for (dtype, tolerance) in [(DType::F64, 1e-4), (DType::F16, 1e-2), (DType::BF16, 8e-2)] {
            let placement = Placement::new(Device::Cpu, dtype);
            let model = opened.load(Trainable::None, &placement).unwrap_or_else(|error| panic!("{error}"));
            for prefix in ["", "resized."] {
                let Some(pixel_values) = expected.get(&format!("{prefix}pixel_values")) else { continue };
                let want = &expected[&format!("{prefix}logits")];
                let logits = model.forward(pixel_values, &Pass::Eval).expect("forward");
                let difference = max_difference(&logits, want);
                println!("{} {dtype:?} {prefix}logits: max |difference| {difference:.1e}", folder.display());
                assert!(difference <= tolerance, "{} {dtype:?}: {difference}", folder.display());
                checked += 1;
            }
        }
    }
    assert!(checked > 0, "nothing was compared in {}", root().display());
}

#[test]
fn gradients_of_every_parameter_match_the_reference() {
    let mut checked = 0;
    for folder in folders() {
        let Some(expected) = expected(&folder, "expected_gradients.safetensors") else { continue };
        let inputs = self::expected(&folder, "expected.safetensors").expect("inputs beside the gradients");
        let model = load(&folder, Trainable::All);
        let labels: Vec<u32> =
            expected["labels"].to_vec1::<i64>().expect("labels").iter().map(|l| *l as u32).collect();
        let logits = model.forward(&inputs["pixel_values"], &Pass::Eval).expect("forward");
        let loss = cross_entropy(&logits, &labels, 0.0).expect("loss");
        let want = expected["loss"].flatten_all().expect("flat").to_vec1::<f32>().expect("loss")[0];
        assert!((loss.to_scalar::<f32>().expect("scalar") - want).abs() <= 1e-4, "{} loss", folder.display());
        let gradients = backward(&loss).expect("backward");
        let (mut worst, mut compared) = (0f32, 0);
        for parameter in model.parameters() {
            let wanted = expected.get(&format!("grad.{}", parameter.name()));
            let (want, found) = match (wanted, gradients.get(parameter.tensor())) {
                (Some(want), Some(found)) => (want, found),
                (None, None) => continue, // no part of the logits: CLIP's last norm
                (want, _) => panic!(
                    "{} {}: the reference has {} gradient, here it is the other way round",
                    folder.display(),
                    parameter.name(),
                    if want.is_some() { "a" } else { "no" }
                ),
            };
            compared += 1;
            let largest = want.abs().and_then(|w| w.flatten_all()?.max(0)?.to_scalar::<f32>()).expect("max");
            let (difference, allowed) = (max_difference(found, want), 1e-3 * largest + 1e-6);
            assert!(
                difference <= allowed,
                "{} {}: {difference} > {allowed}",
                folder.display(),
                parameter.name()
            );
            worst = worst.max(difference / allowed);
        }
        println!("{} gradients: worst {worst:.3} of the allowed difference", folder.display());
        let keys = expected.keys().filter(|key| key.starts_with("grad.")).count();
        assert_eq!(keys, compared, "{}: every expected gradient has its parameter", folder.display());
        checked += 1;
    }
    assert!(checked > 0, "nothing was compared in {}", root().display());
}

#[test]
fn frozen_weights_build_no_gradient_graph() {
    for folder in folders() {
        let Some(inputs) = expected(&folder, "expected.safetensors") else { continue };
        let pixel_values = &inputs["pixel_values"];
        let frozen = load(&folder, Trainable::None);
        assert!(!frozen.forward(pixel_values, &Pass::Eval).expect("forward").track_op());
        let head = load(&folder, Trainable::Head);
        let labels = vec![0; pixel_values.dim(0).expect("a batch")];
        let logits = head.forward(pixel_values, &Pass::Eval).expect("forward");
        let gradients =
            cross_entropy(&logits, &labels, 0.0).and_then(|loss| backward(&loss)).expect("backward");
        let with_gradient: Vec<&str> = head
            .parameters()
            .into_iter()
            .filter(|p| gradients.get(p.tensor()).is_some())
            .map(|p| p.name())
            .collect();
        assert_eq!(with_gradient, ["classifier.weight", "classifier.bias"], "{}", folder.display());
    }
}
