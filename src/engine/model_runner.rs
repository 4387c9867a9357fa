//! The real model behind an engine: photos prepared as it wants them, and the model itself on a device's thread.
//!
//! Whoever starts an [`Engine`](super::Engine) over a model folder (the service, the folder predictor, the benchmark) takes
//! the parts from here.

use super::{ModelSpec, Prepare, Prepared, Runner, RunnerError, RunnerFactory, Warmup};
use crate::image::{DecodeLimits, Processor};
use crate::model::{LoadedModel, ModelError, ModelFolder, Photo};
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
        self.model.logits(&photos).map_err(|error| {
            let text = in_a_line(&error);
            match Fault::of(&error) {
                Fault::OutOfMemory => RunnerError::OutOfMemory(text),
                Fault::Lost => RunnerError::Device(format!("{} is lost: {text}", self.device.name())),
                Fault::Work => RunnerError::Batch(text),
            }
        })
    }

    fn memory(&self) -> Option<Memory> {
        self.device.memory()
    }
}

/// A factory that loads a copy of `folder`'s model (its adapter merged) on the device's thread.
pub fn model_runner(folder: Arc<ModelFolder>, choice: DeviceChoice) -> RunnerFactory {
    built_runner(choice, move |placement| LoadedModel::load(&folder, placement))
}

/// A factory that opens the device on its own thread and lets `build` make the model there.
pub fn built_runner(
    choice: DeviceChoice,
    build: impl FnOnce(&Placement) -> Result<LoadedModel, ModelError> + Send + 'static,
) -> RunnerFactory {
    let DeviceChoice { device, precision } = choice;
    let warmup = match device {
        DeviceInfo::Cpu => Warmup::OnePhoto,
        DeviceInfo::Cuda(_) => Warmup::Buckets,
    };
    RunnerFactory::new(device.name(), warmup, move || {
        let placement = device.place(precision).map_err(|error| RunnerError::Device(error.to_string()))?;
        match build(&placement) {
            Ok(model) => Ok(ModelRunner { model, device }),
            Err(error) if out_of_memory(&error) => Err(RunnerError::OutOfMemory(error.to_string())),
            Err(error) => Err(RunnerError::Device(error.to_string())),
        }
    })
}

/// Whether the device's memory is what stands behind an error of loading.
fn out_of_memory(error: &ModelError) -> bool {
    let first: &(dyn Error + 'static) = error;
    std::iter::successors(Some(first), |error| (*error).source())
        .filter_map(|error| error.downcast_ref::<candle_core::Error>())
        .any(|error| Fault::of(error) == Fault::OutOfMemory)
}

/// What an engine must know about a model called `name`, and how its photos are prepared within `limits`.
pub fn photo_input(name: &str, processor: Processor, limits: DecodeLimits) -> (ModelSpec, Arc<dyn Prepare>) {
    let (height, width) = processor.output_size();
    let spec = ModelSpec { name: name.into(), height, width };
    (spec, Arc::new(move |bytes: &[u8]| processor.prepare(bytes, &limits)))
}
