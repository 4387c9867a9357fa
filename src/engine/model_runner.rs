//! The real model behind an engine: photos prepared as it wants them, and the model itself on the device's thread.
//!
//! Whoever starts an [`Engine`](super::Engine) over a model folder (the service, the folder predictor, the benchmark) takes
//! the parts from here.

use super::{ModelSpec, Prepare, Prepared, Runner, RunnerError, RunnerFactory};
use crate::image::{DecodeLimits, Processor};
use crate::model::{LoadedModel, ModelFolder, Photo};
use crate::ops::device::Placement;
use std::sync::Arc;

struct ModelRunner(LoadedModel);

impl Runner for ModelRunner {
    fn run(&mut self, batch: &[Prepared]) -> Result<Vec<Vec<f32>>, RunnerError> {
        let photos: Vec<Photo<'_>> = batch
            .iter()
            .map(|prepared| match prepared {
                Prepared::Pixels(pixels) => Photo::Pixels(pixels),
                Prepared::Tensor(values) => Photo::Tensor(values),
            })
            .collect();
        self.0.logits(&photos).map_err(|error| RunnerError::Batch(error.to_string()))
    }
}

/// A factory that loads `folder` (and merges its adapter) on the device's thread.
pub fn model_runner(folder: ModelFolder) -> RunnerFactory {
    Box::new(move || match LoadedModel::load(&folder, &Placement::CPU) {
        Ok(model) => Ok(Box::new(ModelRunner(model))),
        Err(error) => Err(RunnerError::Device(error.to_string())),
    })
}

/// A factory that hands a loaded model to the device's thread.
pub fn loaded_runner(model: LoadedModel) -> RunnerFactory {
    Box::new(move || Ok(Box::new(ModelRunner(model))))
}

/// What an engine must know about a model called `name`, and how its photos are prepared within `limits`.
pub fn photo_input(name: &str, processor: Processor, limits: DecodeLimits) -> (ModelSpec, Arc<dyn Prepare>) {
    let (height, width) = processor.output_size();
    let spec = ModelSpec { name: name.into(), height, width };
    (spec, Arc::new(move |bytes: &[u8]| processor.prepare(bytes, &limits)))
}
