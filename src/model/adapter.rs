//! PEFT adapter folders: read under v4 and v5 names, attached to a classifier, merged, written under both.
//!
//! Called by whoever loads a model with `--adapter`, and by the trainer. LoRA, rsLoRA and DoRA; what PEFT can do beyond that is
//! refused by name, in `adapter_config`.

use super::adapter_config::{AdapterConfig, below_block};
use super::names::{Naming, matches_target, v5_name};
use super::save::{create_folder, save_text, save_weights};
use super::{Checkpoint, Classifier, Config, ModelError};
use crate::nn::{
    HEAD, Initialization, LowRank, Magnitude, Parameter, ParameterError, Source, Trainable, Weight, row_norms,
};
use crate::ops::device::Placement;
use crate::randomness::Randomness;
use candle_core::{DType, Tensor};
use std::collections::HashMap;
use std::path::Path;

/// Before every name in an adapter file.
const PREFIX: &str = "base_model.model.";

/// What follows a module's name in that of its magnitudes, as PEFT saves them.
const MAGNITUDE: &str = "lora_magnitude_vector";

/// The same, and as the running model has it.
const MAGNITUDES: [&str; 2] = [MAGNITUDE, "lora_magnitude_vector.weight"];

/// The tensors of an adapter folder.
pub struct Adapter {
    config: AdapterConfig,
    checkpoint: Checkpoint,
    /// Of the `config.json` beside it, which says what the saved head is for.
    own: Option<Config>,
}

impl Adapter {
    /// Opens `adapter_config.json` and `adapter_model.safetensors` (or `.bin`).
    ///
    /// # Errors
    /// If a file is missing, damaged or asks for what is not supported.
    pub fn open(folder: &Path) -> Result<Self, ModelError> {
        let config = AdapterConfig::from_file(&folder.join("adapter_config.json"))?;
        let (safetensors, bin) = (folder.join("adapter_model.safetensors"), folder.join("adapter_model.bin"));
        let checkpoint = if bin.is_file() && !safetensors.is_file() {
            Checkpoint::open_pickle(&bin)?
        } else {
            Checkpoint::open_safetensors(&safetensors)?
        };
        let own = folder.join("config.json");
        let own = if own.is_file() { Some(Config::from_file(&own)?) } else { None };
        Ok(Self { config, checkpoint, own })
    }

    /// The labels of the saved head, or `None` where no head is saved: those of a `config.json` beside the adapter (PEFT's
    /// own files do not hold them), else `base`'s where their number is right, else `LABEL_i`.
    pub(super) fn labels(&self, base: &[String]) -> Option<Vec<String>> {
        let count = *self.checkpoint.shape(&format!("{PREFIX}{HEAD}.weight"))?.first()?;
        let own = self.own.as_ref().map(|own| own.labels.as_slice());
        let known = [own, Some(base)].into_iter().flatten();
        let fitting = known.into_iter().find(|labels| labels.len() == count);
        Some(fitting.map_or_else(|| (0..count).map(|i| format!("LABEL_{i}")).collect(), <[String]>::to_vec))
    }

    /// Whether the saved head was trained for photos that have one label each, as the `config.json` beside it says.
    pub(super) fn has_single_label(&self) -> bool {
        self.own.as_ref().is_some_and(|own| !own.multi_label)
    }

    /// What `adapter_config.json` says.
    pub fn config(&self) -> &AdapterConfig {
        &self.config
    }

    /// Whether the file holds a classification head.
    pub fn has_head(&self) -> bool {
        self.checkpoint.has(&format!("{PREFIX}{HEAD}.weight"))
    }

    /// Attaches the factors to the modules they name and replaces the head by the saved one.
    ///
    /// # Errors
    /// If a tensor has another shape than the model's module, or belongs to no module: nothing in the file is ignored. If there
    /// are magnitudes without `use_dora`, or none with it.
    pub fn attach(&self, model: &mut dyn Classifier, trainable: Trainable) -> Result<(), ModelError> {
        let mut unused: std::collections::BTreeSet<String> = self.checkpoint.names().into_iter().collect();
        let failed = |source| ModelError::Parameter { file: self.checkpoint.file().into(), source };
        let train = trainable != Trainable::None;
        for (layer, linear) in model.linears_mut().into_iter().enumerate() {
            let name = linear.name().to_owned();
            let keys = |own: &str| [name.clone(), v5_name(&name)].map(|name| format!("{PREFIX}{name}.{own}"));
            let Weight::Dense(weight) = &linear.weight;
            let (shape, placement) = (weight.tensor().dims().to_vec(), weight.placement());
            let has = |own: &str| keys(own).iter().any(|key| self.checkpoint.has(key));
            let mut read = |own: &str, shape: &[usize]| {
                // A tensor may stand under both names (see `save`).
                keys(own).iter().for_each(|key| _ = unused.remove(key));
                let tensor = self.either(&keys(own), shape)?;
                let made = if own.starts_with(MAGNITUDE) {
                    magnitude(&name, tensor, train, &placement)
                } else {
                    parameter(&format!("{name}.{own}"), tensor, train, &placement)
                };
                made.map_err(failed)
            };
            if has("lora_A.weight") || has("lora_B.weight") {
                let magnitude = match self.magnitudes_of(keys)? {
                    Some(own) => Some(Magnitude::new(read(own, &shape[..1])?)),
                    None => None,
                };
                linear.adapter = Some(LowRank {
                    down: read("lora_A.weight", &[self.config.rank, shape[1]])?,
                    up: read("lora_B.weight", &[shape[0], self.config.rank])?,
                    magnitude,
                    scale: self.config.scale(),
                    dropout: self.config.dropout as f32,
                    layer: layer as u64,
                });
            }
            if has("weight") {
                linear.weight = Weight::Dense(read("weight", &shape)?);
            }
            if has("bias") && linear.bias.is_some() {
                linear.bias = Some(read("bias", &shape[..1])?);
            }
        }
        match unused.first() {
            Some(key) => Err(self.damaged(format!("tensor `{key}` belongs to no module of this model"))),
            None => Ok(()),
        }
    }

    /// How the magnitudes of a module with factors are called in the file; `None` where the adapter is no DoRA.
    fn magnitudes_of(&self, keys: impl Fn(&str) -> [String; 2]) -> Result<Option<&'static str>, ModelError> {
        let saved = |own: &str| keys(own).into_iter().find(|key| self.checkpoint.has(key));
        let found = MAGNITUDES.into_iter().find_map(|own| Some((own, saved(own)?)));
        match (found, self.config.dora) {
            (Some((own, _)), true) => Ok(Some(own)),
            (None, false) => Ok(None),
            (Some((_, key)), false) => Err(self.damaged(format!(
                "tensor `{key}` holds magnitudes of DoRA, but use_dora in adapter_config.json is not true"
            ))),
            (None, true) => Err(self.damaged(format!(
                "no tensor `{}`, but use_dora in adapter_config.json is true",
                keys(MAGNITUDE)[0]
            ))),
        }
    }

    fn damaged(&self, problem: String) -> ModelError {
        ModelError::Damaged { file: self.checkpoint.file().into(), problem }
    }

    /// The tensor of a module under its v4 or its v5 name; under both, they must agree.
    fn either(&self, keys: &[String; 2], shape: &[usize]) -> Result<Tensor, ModelError> {
        let read = |key: &String| {
            let tensor = self.checkpoint.tensor(key, shape, Initialization::Constant(0.0));
            tensor.map_err(|source| ModelError::Parameter { file: self.checkpoint.file().into(), source })
        };
        let [v4, v5] = keys;
        if v4 == v5 || !self.checkpoint.has(v5) {
            return read(v4);
        }
        let tensor = read(v5)?;
        if self.checkpoint.has(v4) {
            let values = |tensor: &Tensor| tensor.flatten_all().and_then(|t| t.to_vec1::<f32>());
            let other = read(v4)?;
            let same = values(&tensor).and_then(|a| values(&other).map(|b| a == b));
            if !matches!(same, Ok(true)) {
                let problem = format!("tensors `{v4}` and `{v5}` are one tensor under two names, but differ");
                return Err(self.damaged(problem));
            }
        }
        Ok(tensor)
    }
}

/// Attaches fresh, trainable factors to every module that `config` targets: A uniform within ±1/√in, B zero (PEFT's
/// initialisation), and with DoRA the magnitudes that the weights have, so that the model's logits are unchanged.
///
/// # Errors
/// If a target matches no module; the message lists what there is.
pub fn attach_new(
    model: &mut dyn Classifier,
    config: &AdapterConfig,
    randomness: Randomness,
) -> Result<(), ModelError> {
    check_targets(model, &config.targets)?;
    for (layer, linear) in model.linears_mut().into_iter().enumerate() {
        let name = linear.name().to_owned();
        if name == HEAD || !config.targets.iter().any(|target| matches_target(&name, target)) {
            continue;
        }
        let Weight::Dense(weight) = &linear.weight;
        let (outputs, inputs) = (weight.tensor().dims()[0], weight.tensor().dims()[1]);
        let placement = weight.placement();
        let failed = |source| ModelError::Parameter { file: "adapter".into(), source };
        let unreadable = |source| failed(ParameterError::Unreadable { name: name.clone(), source });
        let fresh = |own: &str, shape: [usize; 2], initialization: Initialization| {
            let name = format!("{name}.{own}");
            let tensor = initialization.tensor(randomness, &name, &shape).map_err(unreadable)?;
            parameter(&name, tensor, true, &placement).map_err(failed)
        };
        let magnitude = match config.dora {
            true => {
                let norms = weight.in_f32().and_then(|weight| row_norms(&weight)).map_err(unreadable)?;
                Some(Magnitude::new(magnitude(&name, norms, true, &placement).map_err(failed)?))
            }
            false => None,
        };
        let bound = 1.0 / (inputs as f32).sqrt();
        linear.adapter = Some(LowRank {
            down: fresh("lora_A.weight", [config.rank, inputs], Initialization::Uniform(bound))?,
            up: fresh("lora_B.weight", [outputs, config.rank], Initialization::Constant(0.0))?,
            magnitude,
            scale: config.scale(),
            dropout: config.dropout as f32,
            layer: layer as u64,
        });
    }
    Ok(())
}

/// That every target means a module of the blocks.
pub(super) fn check_targets(model: &dyn Classifier, targets: &[String]) -> Result<(), ModelError> {
    let names: Vec<&str> =
        model.linears().iter().map(|linear| linear.name()).filter(|name| *name != HEAD).collect();
    let unknown = targets.iter().find(|target| !names.iter().any(|name| matches_target(name, target)));
    let Some(target) = unknown else { return Ok(()) };
    let known: std::collections::BTreeSet<String> = names.iter().map(|name| below_block(name)).collect();
    let known = known.into_iter().collect::<Vec<_>>().join(", ");
    Err(ModelError::Target { target: target.clone(), known })
}

fn parameter(
    name: &str,
    tensor: Tensor,
    trainable: bool,
    placement: &Placement,
) -> Result<Parameter, ParameterError> {
    Parameter::new(name.to_owned(), tensor, trainable, placement)
        .map_err(|source| ParameterError::Unreadable { name: name.to_owned(), source })
}

/// The magnitudes of `module`. Kept in f32 whatever the layers compute in: a step moves them by less than 16 bits tell apart.
fn magnitude(
    module: &str,
    tensor: Tensor,
    trainable: bool,
    placement: &Placement,
) -> Result<Parameter, ParameterError> {
    let placement = Placement { dtype: DType::F32, ..placement.clone() };
    parameter(&format!("{module}.{MAGNITUDE}"), tensor, trainable, &placement)
}

/// Changes every adapted weight as its adapter says ([`LowRank::merged_into`]) and detaches the adapter. The model must lie in
/// f32: a sum rounded to fewer bits would be another model than the adapter's.
///
/// # Errors
/// candle's; or where the weights are not f32.
pub fn merge(model: &mut dyn Classifier) -> candle_core::Result<()> {
    for linear in model.linears_mut() {
        let Some(adapter) = linear.adapter.take() else { continue };
        let Weight::Dense(weight) = &linear.weight;
        if weight.tensor().dtype() != DType::F32 {
            candle_core::bail!(
                "`{}` is stored in {:?}: merging needs f32",
                weight.name(),
                weight.tensor().dtype()
            )
        }
        let merged = adapter.merged_into(weight.tensor())?.detach();
        let placement = weight.placement();
        linear.weight = Weight::Dense(Parameter::new(weight.name().to_owned(), merged, false, &placement)?);
    }
    Ok(())
}

/// Writes the adapters and the head of `model` as a PEFT folder, with a `config.json` beside them that keeps what PEFT's
/// files have no place for: the labels of the head.
///
/// Each factor stands under its v4 and its v5 name. PEFT looks tensors up by the names of the running model, and
/// transformers 5 renamed them: with one set of names, PEFT 0.21 loads the adapter under one of the two alone.
///
/// # Errors
/// If the folder cannot be written.
pub fn save(
    model: &dyn Classifier,
    adapter: &AdapterConfig,
    base: &str,
    config: &Config,
    folder: &Path,
) -> Result<(), ModelError> {
    let mut tensors = HashMap::new();
    for linear in model.linears() {
        let head = linear.parameters().filter(|_| linear.name() == HEAD);
        for parameter in linear.adapter_parameters().chain(head) {
            let own = parameter.name().strip_prefix(linear.name()).unwrap_or_default();
            for module in [linear.name().to_owned(), v5_name(linear.name())] {
                tensors.insert(format!("{PREFIX}{module}{own}"), parameter.tensor().clone());
            }
        }
    }
    create_folder(folder)?;
    save_weights(tensors, &folder.join("adapter_model.safetensors"))?;
    save_text(&format!("{:#}\n", config.to_json()), &folder.join("config.json"))?;
    let naming = model.linears().first().and_then(|linear| Naming::of(linear.name()));
    let adapted = model.linears().into_iter().filter(|linear| linear.adapter.is_some());
    let json = adapter.to_json(base, naming, &adapted.map(|linear| linear.name()).collect::<Vec<_>>());
    save_text(&format!("{json:#}\n"), &folder.join("adapter_config.json"))
}
