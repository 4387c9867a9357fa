//! Training runs of the reference stack, step by step: loss, gradient norm and final weights.
//!
//! Walks every folder with a `trace.json` of a goldens root (`tests/goldens`, or `FEATHERLIGHT_GOLDENS`).

#![allow(clippy::expect_used, clippy::panic, reason = "a test's own helpers fail by panicking")]

use candle_core::{Device, Tensor, Var};
use featherlight::model::{AdapterConfig, Classifier, ModelFolder, attach_new, v5_name};
use featherlight::nn::{Parameter, Pass, Trainable};
use featherlight::ops::cross_entropy;
use featherlight::randomness::Randomness;
use featherlight_train::optimizer::{AdamW, AdamWSettings, Decayed};
use serde_json::Value;
use std::collections::HashMap;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    let default = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/goldens");
    std::env::var_os("FEATHERLIGHT_GOLDENS").map_or_else(default, PathBuf::from)
}

fn numbers(trace: &Value, name: &str) -> Vec<f64> {
    trace[name].as_array().expect(name).iter().map(|v| v.as_f64().expect(name)).collect()
}

/// The name a trained parameter has in the reference's running model.
fn runtime_name(parameter: &Parameter, lora: bool) -> String {
    let (module, own) = parameter.name().rsplit_once('.').unwrap_or(("", parameter.name()));
    let (module, own) = match module.rsplit_once('.') {
        Some((module, factor)) if factor.starts_with("lora_") => (module, format!("{factor}.default.{own}")),
        _ if lora => (module, format!("modules_to_save.default.{own}")),
        _ => (module, own.to_owned()),
    };
    format!("{}{}.{own}", if lora { "base_model.model." } else { "" }, v5_name(module))
}

fn trained(model: &dyn Classifier) -> Vec<&Parameter> {
    let adapters =
        model.linears().into_iter().flat_map(|linear| linear.adapter_parameters().collect::<Vec<_>>());
    adapters.chain(model.parameters()).filter(|parameter| parameter.is_trainable()).collect()
}

fn model(trace: &Value) -> Box<dyn Classifier> {
    let base = root().join(trace["base"].as_str().expect("base"));
    let lora = trace["lora"].as_object();
    let trainable = if lora.is_some() { Trainable::Head } else { Trainable::All };
    let mut model =
        ModelFolder::open(&base).and_then(|f| f.load(trainable)).unwrap_or_else(|e| panic!("{e}"));
    if let Some(lora) = lora {
        let targets = lora["target_modules"].as_array().expect("targets");
        let config = AdapterConfig {
            rank: lora["r"].as_u64().expect("r") as usize,
            alpha: lora["lora_alpha"].as_f64().expect("alpha"),
            rank_stabilized: false,
            dropout: 0.0,
            targets: targets.iter().map(|t| t.as_str().expect("a name").to_owned()).collect(),
        };
        attach_new(&mut *model, &config, Randomness::new(0)).unwrap_or_else(|e| panic!("{e}"));
    }
    model
}

fn max_difference(a: &Tensor, b: &Tensor) -> f32 {
    (a - b).and_then(|d| d.abs()?.flatten_all()?.max(0)?.to_scalar::<f32>()).expect("comparable tensors")
}

fn replay(folder: &Path, trace: &Value, tensors: &HashMap<String, Tensor>) {
    let (model, lora) = (model(trace), trace["lora"].is_object());
    let parameters = trained(&*model);
    let expected = tensors.keys().filter(|key| key.starts_with("initial.")).count();
    assert_eq!(parameters.len(), expected, "{}: trained parameters", folder.display());
    for parameter in &parameters {
        let initial = &tensors[&format!("initial.{}", runtime_name(parameter, lora))];
        Var::from_tensor(parameter.tensor()).and_then(|variable| variable.set(initial)).expect("set");
    }
    let betas = numbers(trace, "betas");
    let settings = AdamWSettings {
        beta_1: betas[0],
        beta_2: betas[1],
        eps: trace["eps"].as_f64().expect("eps"),
        weight_decay: trace["weight_decay"].as_f64().expect("decay"),
    };
    let mut optimizer = AdamW::new(&parameters, settings, Decayed::All).expect("an optimiser");
    let accumulation = trace["accumulation"].as_u64().expect("accumulation") as usize;
    let batch = trace["micro_batch"].as_u64().expect("micro_batch") as usize;
    let labels: Vec<u32> =
        tensors["labels"].to_vec1::<i64>().expect("labels").iter().map(|l| *l as u32).collect();
    let (losses, norms) = (numbers(trace, "loss"), numbers(trace, "grad_norm"));
    for (step, learning_rate) in numbers(trace, "lr").into_iter().enumerate() {
        let (mut gradients, mut loss) = (optimizer.gradients(), 0f64);
        for micro in 0..accumulation {
            let start = (step * accumulation + micro) * batch;
            let photos = tensors["pixel_values"].narrow(0, start, batch).expect("photos");
            let logits = model.forward(&photos, &Pass::Eval).expect("forward");
            let micro_loss = cross_entropy(&logits, &labels[start..start + batch], 0.0).expect("loss");
            loss += f64::from(micro_loss.to_scalar::<f32>().expect("scalar")) / accumulation as f64;
            let store = micro_loss.backward().expect("backward");
            optimizer.accumulate(&mut gradients, &store, 1.0 / accumulation as f64).expect("accumulate");
        }
        let norm = gradients.clip(trace["max_grad_norm"].as_f64().expect("max_grad_norm")).expect("clip");
        assert!(
            (loss - losses[step]).abs() <= 1e-4,
            "{} step {step}: loss {loss}, {}",
            folder.display(),
            losses[step]
        );
        assert!(
            (norm - norms[step]).abs() <= 1e-3,
            "{} step {step}: norm {norm}, {}",
            folder.display(),
            norms[step]
        );
        optimizer.step(&gradients, learning_rate).expect("step");
    }
    for parameter in &parameters {
        let name = runtime_name(parameter, lora);
        let difference = max_difference(parameter.tensor(), &tensors[&format!("final.{name}")]);
        assert!(difference <= 1e-4, "{} {name}: {difference}", folder.display());
    }
}

#[test]
fn every_step_of_a_reference_run_has_its_loss_and_gradient_norm_and_the_run_its_final_weights() {
    let mut replayed = 0;
    for entry in std::fs::read_dir(root()).expect("the goldens root can be read") {
        let folder = entry.expect("an entry").path();
        let Ok(text) = std::fs::read_to_string(folder.join("trace.json")) else { continue };
        let trace: Value = serde_json::from_str(&text).expect("JSON");
        let tensors =
            candle_core::safetensors::load(folder.join("trace.safetensors"), &Device::Cpu).expect("tensors");
        replay(&folder, &trace, &tensors);
        println!("{}: replayed", folder.display());
        replayed += 1;
    }
    assert!(replayed > 0, "no trace in {}", root().display());
}
