//! The real model behind an engine: photos prepared as it wants them, and the model itself on a device's thread.
//!
//! Whoever starts an [`Engine`](super::Engine) over a model folder (the service, the folder predictor, the benchmark) takes
//! the parts from here.

use super::{Breathe, ModelParts, ModelSpec, Prepared, Runner, RunnerError, RunnerFactory, Warmup};
use crate::image::{DecodeLimits, Processor};
use crate::model::{Config, LoadedModel, ModelError, ModelFolder, Photo};
use crate::ops::Cores;
use crate::ops::device::{DeviceInfo, Fault, Memory, Placement, Precision, in_a_line};
use std::error::Error;
use std::sync::Arc;

/// A device, and what the model computes in there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceChoice {
    /// Which one.
    pub device: DeviceInfo,
    /// The number format.
    pub precision: Precision,
}

struct ModelRunner {
    model: LoadedModel,
    device: DeviceInfo,
    /// Those of a CPU worker.
    cores: Option<Arc<Cores>>,
}

impl Runner for ModelRunner {
    fn run(&mut self, batch: &[Prepared]) -> Result<Vec<Vec<f32>>, RunnerError> {
        let photos: Vec<Photo<'_>> = batch
            .iter()
            .map(|prepared| match prepared {
                Prepared::Pixels(pixels) => Photo::Pixels(pixels),
                Prepared::Tensor(values) => Photo::Tensor(values),
            })
            .collect();
        let logits = match &self.cores {
            Some(cores) => cores.run(&photos, |part| self.model.logits(part)),
            None => self.model.logits(&photos),
        };
        logits.map_err(|error| {
            let text = in_a_line(&error);
            match Fault::of(&error) {
                Fault::OutOfMemory => RunnerError::OutOfMemory(text),
                Fault::Lost => lost(&self.device, &text),
                Fault::Work => RunnerError::Batch(text),
            }
        })
    }

    fn memory(&self) -> Option<Memory> {
        self.device.memory()
    }
}

fn lost(device: &DeviceInfo, text: &str) -> RunnerError {
    RunnerError::Device(format!("{} is lost: {text}", device.name()))
}

/// The names of devices, as [`Engine::start`](super::Engine::start) takes them.
pub fn device_names(choices: &[DeviceChoice]) -> Vec<Arc<str>> {
    choices.iter().map(|choice| choice.device.name().into()).collect()
}

/// A model on the CPU, in f32, and what else an engine needs of it.
pub struct LoadedParts<'a> {
    /// Its name, for logs.
    pub name: &'a str,
    /// Its config.
    pub config: &'a Config,
    /// The model itself.
    pub model: LoadedModel,
    /// Turns photos into its pixels …
    pub processor: Processor,
    /// … within these limits.
    pub limits: DecodeLimits,
}

impl LoadedParts<'_> {
    /// Reads `folder`'s model, its adapter merged. Blocks.
    ///
    /// # Errors
    /// If weights, processor or adapter cannot be read or do not fit.
    pub fn read<'a>(
        name: &'a str,
        folder: &'a ModelFolder,
        limits: DecodeLimits,
    ) -> Result<LoadedParts<'a>, ModelError> {
        let processor = folder.processor()?;
        let model = LoadedModel::load(folder, &Placement::CPU)?;
        Ok(LoadedParts { name, config: folder.config(), model, processor, limits })
    }

    /// What [`Engine::load`](super::Engine::load) takes, with a factory for each of `choices`. CPU workers in f32 share the
    /// weights; every other device makes a copy of its own on its thread, tensor by tensor. Several CPU workers share out the
    /// cores.
    pub fn on(self, choices: &[DeviceChoice]) -> ModelParts {
        let Self { name, config, model, processor, limits } = self;
        let (height, width) = processor.output_size();
        let workers = choices.iter().filter(|choice| choice.device == DeviceInfo::Cpu).count();
        let factory = |(index, choice): (usize, &DeviceChoice)| {
            let cpu = choice.device == DeviceInfo::Cpu;
            let worker = CpuWorker { index, workers };
            let warmup = if cpu { Warmup::OnePhoto } else { Warmup::Buckets };
            let (config, model, choice) = (config.clone(), model.clone(), choice.clone());
            RunnerFactory::in_pieces(choice.device.name(), warmup, move |breathe| {
                runner(&config, &model, choice, worker, breathe)
            })
        };
        ModelParts {
            spec: ModelSpec { name: name.into(), height, width },
            prepare: Arc::new(move |bytes: &[u8]| processor.prepare(bytes, &limits)),
            runners: choices.iter().enumerate().map(factory).collect(),
        }
    }
}

/// One CPU worker among several.
#[derive(Clone, Copy)]
struct CpuWorker {
    index: usize,
    workers: usize,
}

fn runner(
    config: &Config,
    model: &LoadedModel,
    choice: DeviceChoice,
    worker: CpuWorker,
    breathe: Breathe<'_>,
) -> Result<ModelRunner, RunnerError> {
    let DeviceChoice { device, precision } = choice;
    let cores = (device == DeviceInfo::Cpu)
        .then(|| Cores::of_worker(worker.index, worker.workers))
        .transpose()
        .map_err(|error| RunnerError::Load(format!("no threads for a CPU worker: {error}")))?;
    if device == DeviceInfo::Cpu && precision == Precision::F32 {
        return Ok(ModelRunner { model: model.clone(), device, cores });
    }
    let placement = device.place(precision).map_err(|error| RunnerError::Load(error.to_string()))?;
    match model.copy_to(config, &placement, breathe) {
        Ok(model) => Ok(ModelRunner { model, device, cores }),
        Err(error) => Err(match fault(&error) {
            Fault::OutOfMemory => RunnerError::OutOfMemory(error.to_string()),
            Fault::Lost => lost(&device, &error.to_string()),
            Fault::Work => RunnerError::Load(error.to_string()),
        }),
    }
}

/// What the device has to do with an error of loading.
fn fault(error: &(dyn Error + 'static)) -> Fault {
    std::iter::successors(Some(error), |error| (*error).source())
        .find_map(|error| error.downcast_ref::<candle_core::Error>())
        .map_or(Fault::Work, Fault::of)
}
