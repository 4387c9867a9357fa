//! The real runner: a loaded model on the device's thread.

use super::{Prepared, Runner, RunnerError, RunnerFactory};
use crate::model::{LoadedModel, ModelFolder, Photo};

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
    Box::new(move || match LoadedModel::load(&folder) {
        Ok(model) => Ok(Box::new(ModelRunner(model))),
        Err(error) => Err(RunnerError::Device(error.to_string())),
    })
}
