//! A trained model written as a model folder, a tensor at a time: adapters merged, frozen weights as they were read.
//!
//! The trainer calls this with the model that it has in memory. A second one is never there: what trained in few bits, or in half of the
//! precision, because there was no room for more can be saved.

use super::save::save_parameters;
use super::{Checkpoint, Classifier, Config, ModelError, ModelFolder};
use crate::image::Processor;
use crate::nn::{Initialization, LowRank, Parameter, Weight};
use candle_core::{DType, Device, Tensor};
use std::cell::OnceCell;
use std::collections::HashMap;
use std::path::Path;

impl ModelFolder {
    /// Writes `model`, which was trained from this folder, to the folder `to`, as [`super::save_model`] does. Adapters are merged in f32; what
    /// is not trained and not held in f32 is read again, for what is written must not be poorer than what was read. An adapter of this
    /// folder is not looked at: the model has it, or not.
    ///
    /// # Errors
    /// If this folder cannot be read any more, or the other not be written.
    pub fn save_trained(
        &self,
        model: &dyn Classifier,
        (config, processor): (&Config, &Processor),
        dtype: DType,
        to: &Path,
    ) -> Result<(), ModelError> {
        let damaged = |error: candle_core::Error| ModelError::Damaged {
            file: self.path().into(),
            problem: format!("the trained weights cannot be put together: {error}"),
        };
        let linears = model.linears();
        let adapted = linears.iter().filter_map(|linear| {
            let Weight::Dense(weight) = &linear.weight;
            linear.adapter.as_ref().map(|adapter| Ok((weight.name(), adapter.on_cpu()?)))
        });
        let adapters: HashMap<&str, LowRank> =
            adapted.collect::<candle_core::Result<_>>().map_err(damaged)?;
        let checkpoint = OnceCell::new();
        let value = |parameter: &Parameter| -> Result<Tensor, ModelError> {
            let value = match parameter.tensor().dtype() == DType::F32 {
                true => parameter.tensor().detach().to_device(&Device::Cpu).map_err(damaged)?,
                false => self.read_again(parameter, &checkpoint)?,
            };
            match adapters.get(parameter.name()) {
                Some(adapter) => adapter.merged_into(&value).map(|merged| merged.detach()).map_err(damaged),
                None => Ok(value),
            }
        };
        save_parameters(model.parameters(), &value, (config, processor), dtype, to)
    }

    fn read_again(&self, parameter: &Parameter, opened: &OnceCell<Checkpoint>) -> Result<Tensor, ModelError> {
        let checkpoint = match opened.get() {
            Some(checkpoint) => checkpoint,
            None => {
                let checkpoint = self.checkpoint()?;
                opened.get_or_init(|| checkpoint)
            }
        };
        let (name, shape) = (parameter.name(), parameter.tensor().dims());
        self.read(checkpoint, checkpoint, |source| source.tensor(name, shape, Initialization::Constant(0.0)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::Trainable;
    use crate::ops::device::{FrozenFormat, Placement};

    #[test]
    fn frozen_weights_are_written_as_they_were_read_and_a_base_that_is_gone_leaves_nothing_half_written() {
        let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/beit-tiny");
        let places = tempfile::tempdir().unwrap();
        let base = places.path().join("base");
        std::fs::create_dir(&base).unwrap();
        for file in ["config.json", "preprocessor_config.json", "model.safetensors"] {
            std::fs::copy(golden.join(file), base.join(file)).unwrap();
        }
        let folder = ModelFolder::open(&base).unwrap();
        let placement = Placement::CPU.with_frozen(FrozenFormat::Int8);
        let model = folder.load(Trainable::Head, &placement).unwrap();
        assert!(model.parameters().iter().any(|parameter| parameter.packed().is_some()));
        let files = (folder.config(), &folder.processor().unwrap());
        let save = |name: &str| folder.save_trained(&*model, files, DType::F32, &places.path().join(name));

        save("whole").unwrap();
        let read =
            |folder: &Path| candle_core::safetensors::load(folder.join("model.safetensors"), &Device::Cpu);
        let (before, after) = (read(&base).unwrap(), read(&places.path().join("whole")).unwrap());
        assert_eq!(before.len(), after.len());
        for (name, tensor) in before {
            let values = |tensor: &Tensor| tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap();
            assert!(values(&tensor) == values(&after[&name]), "{name}");
        }

        std::fs::remove_file(base.join("model.safetensors")).unwrap();
        let error = save("half").unwrap_err().to_string();
        assert!(error.contains("base"), "{error}");
        assert_eq!(std::fs::read_dir(places.path().join("half")).unwrap().count(), 0);
    }
}
