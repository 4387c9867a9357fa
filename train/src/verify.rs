//! `verify`: gradients and whole training runs against reference outputs, as `tests/goldens` holds them.
//!
//! Walks every folder of a goldens root and does what the folder's files ask for: `expected_gradients.safetensors` beside a
//! model, or a `trace.json` with its `trace.safetensors`. Tests call it as the program does.

use crate::optimizer::{AdamW, AdamWSettings, Group};
use crate::trainer::trained_parameters;
use candle_core::{DType, Device, Tensor, Var};
use featherlight::model::{AdapterConfig, Classifier, ModelError, ModelFolder, attach_new, v5_name};
use featherlight::nn::{Parameter, Pass, Trainable};
use featherlight::ops::device::Placement;
use featherlight::ops::{backward, cross_entropy};
use featherlight::randomness::Randomness;
use serde::Deserialize;
use std::collections::HashMap;
use std::fmt;
use std::path::{Path, PathBuf};

/// How far a computation may be from its reference.
#[derive(Clone, Copy)]
struct Tolerances {
    /// Largest difference of a loss.
    loss: f64,
    /// Largest difference of a gradient norm.
    norm: f64,
    /// Largest difference of a trained weight.
    weight: f64,
    /// Largest difference of a gradient, as a share of the largest value of its tensor.
    gradient: f64,
    /// What is added to that, as a share of the largest gradient of the model: some gradients are zero by definition (of a
    /// bias of keys, which the softmax does not see), and nothing but rounding.
    floor: f64,
}

impl Tolerances {
    /// In 16 bits a value has 8 (bf16) or 11 (f16) of f32's 24 bits, and a run's weights move by about the learning rate a
    /// step whichever way a small gradient is rounded.
    fn of(placement: &Placement) -> Self {
        let narrow = Self { loss: 2e-2, norm: 1e-1, weight: 2e-2, gradient: 1e-1, floor: 1e-3 };
        match placement.dtype {
            DType::F32 | DType::F64 => {
                Self { loss: 1e-4, norm: 1e-3, weight: 1e-4, gradient: 1e-3, floor: 1e-6 }
            }
            // PyTorch 2.13.0's own gradients in bf16 are up to 0.30 (swinv2-tiny) of it away from those in f32.
            DType::BF16 => Self { gradient: 5e-1, ..narrow },
            _ => narrow,
        }
    }
}

/// What a folder of references came to.
#[derive(Debug)]
pub struct Outcome {
    /// The folder.
    pub folder: PathBuf,
    /// What was compared.
    pub subject: &'static str,
    /// What became of it.
    pub verdict: Verdict,
}

/// What became of one comparison.
#[derive(Debug)]
pub enum Verdict {
    /// Within the tolerances; in words, how far.
    Same(String),
    /// Beyond them; in words, where first.
    Different(String),
    /// The architecture is none that is supported.
    NotSupported(String),
}

impl Outcome {
    /// Whether a comparison was made and found a difference.
    pub fn failed(&self) -> bool {
        matches!(self.verdict, Verdict::Different(_))
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (word, detail) = match &self.verdict {
            Verdict::Same(detail) => ("same", detail),
            Verdict::Different(detail) => ("DIFFERENT", detail),
            Verdict::NotSupported(detail) => ("not supported", detail),
        };
        write!(f, "{} {}: {word}: {detail}", self.folder.display(), self.subject)
    }
}

/// Why references could not be compared with.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// The root or a file in it.
    #[error("{}: {problem}", path.display())]
    Unusable {
        /// The file or folder.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// A model.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// A computation.
    #[error(transparent)]
    Candle(#[from] candle_core::Error),
}

/// Compares with every reference in the folders of `root`, in the order of their names, what models at `placement` give.
///
/// # Errors
/// If the root holds no reference, or one cannot be read.
pub fn verify_goldens(root: &Path, placement: &Placement) -> Result<Vec<Outcome>, VerifyError> {
    let unusable = |problem: String| VerifyError::Unusable { path: root.to_owned(), problem };
    let entries = std::fs::read_dir(root).map_err(|error| unusable(error.to_string()))?;
    let mut folders: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    folders.sort();
    let mut outcomes = Vec::new();
    for folder in folders {
        let compared = if folder.join("trace.json").is_file() {
            Some(("training run", replay(&folder, placement)))
        } else if folder.join("expected_gradients.safetensors").is_file() {
            Some(("gradients", gradients(&folder, placement)))
        } else {
            None
        };
        let Some((subject, verdict)) = compared else { continue };
        let verdict = match verdict {
            Err(VerifyError::Model(error @ ModelError::Architecture { .. })) => {
                Verdict::NotSupported(error.to_string())
            }
            other => other?,
        };
        outcomes.push(Outcome { folder, subject, verdict });
    }
    if outcomes.is_empty() {
        return Err(unusable("no folder with expected_gradients.safetensors or trace.json".to_owned()));
    }
    Ok(outcomes)
}

/// The tensors of a reference file.
struct References {
    file: PathBuf,
    tensors: HashMap<String, Tensor>,
}

impl References {
    fn open(file: PathBuf) -> Result<Self, VerifyError> {
        let tensors = candle_core::safetensors::load(&file, &Device::Cpu);
        match tensors {
            Ok(tensors) => Ok(Self { file, tensors }),
            Err(error) => Err(VerifyError::Unusable { path: file, problem: error.to_string() }),
        }
    }

    fn get(&self, name: &str) -> Result<&Tensor, VerifyError> {
        self.tensors.get(name).ok_or_else(|| VerifyError::Unusable {
            path: self.file.clone(),
            problem: format!("no tensor `{name}`"),
        })
    }

    fn labels(&self) -> Result<Vec<u32>, VerifyError> {
        let labels = self.get("labels")?.to_vec1::<i64>()?;
        labels
            .into_iter()
            .map(|label| {
                u32::try_from(label).map_err(|_| VerifyError::Unusable {
                    path: self.file.clone(),
                    problem: format!("label {label} is no class"),
                })
            })
            .collect()
    }
}

/// The gradients of the mean cross-entropy, evaluation mode, for every parameter.
fn gradients(folder: &Path, placement: &Placement) -> Result<Verdict, VerifyError> {
    let model = ModelFolder::open(folder)?.load(Trainable::All, placement)?;
    let expected = References::open(folder.join("expected_gradients.safetensors"))?;
    let inputs = References::open(folder.join("expected.safetensors"))?;
    let tolerances = Tolerances::of(placement);
    let logits = model.forward(&inputs.get("pixel_values")?.to_device(&placement.device)?, &Pass::Eval)?;
    let loss = cross_entropy(&logits, &expected.labels()?, 0.0)?;
    let store = backward(&loss)?;
    let mut floor = 0f64;
    for (_, want) in expected.tensors.iter().filter(|(key, _)| key.starts_with("grad.")) {
        floor = floor.max(tolerances.floor * largest(want)?);
    }
    let (mut worst, mut compared) = (0f64, 0);
    for parameter in model.parameters() {
        let want = expected.tensors.get(&format!("grad.{}", parameter.name()));
        let (want, found) = match (want, store.get(parameter.tensor())) {
            (Some(want), Some(found)) => (want, found),
            (None, None) => continue, // no part of the logits: CLIP's last norm
            (Some(_), None) => {
                return Ok(Verdict::Different(format!("{} has no gradient", parameter.name())));
            }
            (None, Some(_)) => {
                return Ok(Verdict::Different(format!("{} has a gradient", parameter.name())));
            }
        };
        compared += 1;
        let allowed = tolerances.gradient * largest(want)? + floor;
        let share = largest(&(found.to_device(&Device::Cpu)? - want)?)? / allowed;
        if exceeds(share, 1.0) {
            return Ok(Verdict::Different(format!(
                "{}: {share:.2} times the difference allowed",
                parameter.name()
            )));
        }
        worst = worst.max(share);
    }
    let keys = expected.tensors.keys().filter(|key| key.starts_with("grad.")).count();
    if keys != compared {
        return Ok(Verdict::Different(format!("{keys} gradients for {compared} parameters")));
    }
    Ok(Verdict::Same(format!("at most {worst:.1e} of the difference allowed")))
}

/// What `trace.json` says of a training run.
#[derive(Deserialize)]
struct Trace {
    base: String,
    lora: Option<TraceLora>,
    loss: Vec<f64>,
    lr: Vec<f64>,
    grad_norm: Vec<f64>,
    accumulation: usize,
    micro_batch: usize,
    betas: (f64, f64),
    eps: f64,
    weight_decay: f64,
    max_grad_norm: f64,
}

#[derive(Deserialize)]
struct TraceLora {
    r: usize,
    lora_alpha: f64,
    target_modules: Vec<String>,
    #[serde(default)]
    use_dora: bool,
}

impl Trace {
    fn open(file: &Path) -> Result<Self, VerifyError> {
        let unusable = |problem: String| VerifyError::Unusable { path: file.to_owned(), problem };
        let text = std::fs::read_to_string(file).map_err(|error| unusable(error.to_string()))?;
        let trace: Self = serde_json::from_str(&text).map_err(|error| unusable(error.to_string()))?;
        if trace.loss.len() != trace.lr.len() || trace.grad_norm.len() != trace.lr.len() {
            return Err(unusable("loss, lr and grad_norm have different lengths".to_owned()));
        }
        Ok(trace)
    }

    fn model(&self, folder: &Path, placement: &Placement) -> Result<Box<dyn Classifier>, VerifyError> {
        let base = folder.parent().unwrap_or(Path::new(".")).join(&self.base);
        let trainable = if self.lora.is_some() { Trainable::Head } else { Trainable::All };
        let mut model = ModelFolder::open(&base)?.load(trainable, placement)?;
        if let Some(lora) = &self.lora {
            let config = AdapterConfig {
                rank: lora.r,
                alpha: lora.lora_alpha,
                rank_stabilized: false,
                dora: lora.use_dora,
                dropout: 0.0,
                targets: lora.target_modules.clone(),
            };
            attach_new(&mut *model, &config, Randomness::new(0))?;
        }
        Ok(model)
    }
}

/// A training run of the reference stack, step by step, from the reference's own first weights.
fn replay(folder: &Path, placement: &Placement) -> Result<Verdict, VerifyError> {
    let trace = Trace::open(&folder.join("trace.json"))?;
    let references = References::open(folder.join("trace.safetensors"))?;
    let model = trace.model(folder, placement)?;
    let parameters = trained_parameters(&*model);
    let runtime_names: Vec<String> =
        parameters.iter().map(|parameter| runtime_name(parameter, trace.lora.is_some())).collect();
    let expected = references.tensors.keys().filter(|key| key.starts_with("initial.")).count();
    if parameters.len() != expected {
        let found = parameters.len();
        return Ok(Verdict::Different(format!("{found} trained parameters, the reference has {expected}")));
    }
    for (parameter, name) in parameters.iter().zip(&runtime_names) {
        let first = references.get(&format!("initial.{name}"))?.to_device(&placement.device)?;
        Var::from_tensor(parameter.tensor())?.set(&first)?;
    }
    let settings = AdamWSettings {
        beta_1: trace.betas.0,
        beta_2: trace.betas.1,
        eps: trace.eps,
        weight_decay: trace.weight_decay,
    };
    let mut optimizer = AdamW::new(&parameters, settings, |_| Group::PLAIN)?;
    let pixel_values = references.get("pixel_values")?.to_device(&placement.device)?;
    let (labels, tolerances) = (references.labels()?, Tolerances::of(placement));
    let mut worst = [0f64; 3];
    for (step, learning_rate) in trace.lr.iter().enumerate() {
        let (mut gradients, mut loss) = (optimizer.gradients(), 0f64);
        let scale = 1.0 / trace.accumulation as f64;
        for micro in 0..trace.accumulation {
            let start = (step * trace.accumulation + micro) * trace.micro_batch;
            let Some(labels) = labels.get(start..start + trace.micro_batch) else {
                return Ok(Verdict::Different(format!("step {step}: the reference has too few photos")));
            };
            let photos = pixel_values.narrow(0, start, trace.micro_batch)?;
            let micro_loss = cross_entropy(&model.forward(&photos, &Pass::Eval)?, labels, 0.0)?;
            loss += f64::from(micro_loss.to_scalar::<f32>()?) * scale;
            optimizer.accumulate(&mut gradients, backward(&micro_loss)?, scale)?;
        }
        let norm = gradients.clip(trace.max_grad_norm)?;
        let (loss_difference, norm_difference) =
            ((loss - trace.loss[step]).abs(), (norm - trace.grad_norm[step]).abs());
        if exceeds(loss_difference, tolerances.loss) || exceeds(norm_difference, tolerances.norm) {
            return Ok(Verdict::Different(format!(
                "step {step}: loss {loss} for {}, gradient norm {norm} for {}",
                trace.loss[step], trace.grad_norm[step]
            )));
        }
        worst = [worst[0].max(loss_difference), worst[1].max(norm_difference), 0.0];
        optimizer.step(&gradients, *learning_rate)?;
    }
    for (parameter, name) in parameters.iter().zip(&runtime_names) {
        let difference = largest(
            &(parameter.tensor().to_device(&Device::Cpu)? - references.get(&format!("final.{name}"))?)?,
        )?;
        if exceeds(difference, tolerances.weight) {
            return Ok(Verdict::Different(format!("{name}: final weights differ by {difference:.1e}")));
        }
        worst[2] = worst[2].max(difference);
    }
    Ok(Verdict::Same(format!(
        "{} steps; largest differences: loss {:.1e}, gradient norm {:.1e}, final weights {:.1e}",
        trace.lr.len(),
        worst[0],
        worst[1],
        worst[2]
    )))
}

/// The name that a trained parameter has in the reference's running model.
fn runtime_name(parameter: &Parameter, lora: bool) -> String {
    let (module, own) = parameter.name().rsplit_once('.').unwrap_or(("", parameter.name()));
    let (module, own) = match module.rsplit_once('.') {
        // Of a module of its own there.
        _ if own == "lora_magnitude_vector" => (module, format!("{own}.default.weight")),
        Some((module, factor)) if factor.starts_with("lora_") => (module, format!("{factor}.default.{own}")),
        _ if lora => (module, format!("modules_to_save.default.{own}")),
        _ => (module, own.to_owned()),
    };
    format!("{}{}.{own}", if lora { "base_model.model." } else { "" }, v5_name(module))
}

/// Whether a difference is beyond its limit; one that is no number is.
fn exceeds(difference: f64, limit: f64) -> bool {
    difference.is_nan() || difference > limit
}

/// The largest absolute value of a tensor; NaN where one is NaN (candle's `max` passes over it).
fn largest(tensor: &Tensor) -> candle_core::Result<f64> {
    let values = tensor.flatten_all()?.to_vec1::<f32>()?;
    let larger = |largest: f64, value: f64| if value.is_nan() { value } else { largest.max(value) };
    let fold = |largest: f64, value: &f32| {
        if largest.is_nan() { largest } else { larger(largest, f64::from(value.abs())) }
    };
    Ok(values.iter().fold(0.0, fold))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_nan_hides_behind_a_number() {
        for values in [[0f32, f32::NAN], [f32::NAN, 1.0]] {
            let tensor = Tensor::new(&values, &Device::Cpu).unwrap();
            assert!(exceeds(largest(&tensor).unwrap(), 1e9));
        }
        let tensor = Tensor::new(&[-3f32, 2.0], &Device::Cpu).unwrap();
        assert_eq!(largest(&tensor).unwrap(), 3.0);
    }
}
