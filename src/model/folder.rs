//! A model folder: config, processor and weights, put together.

use super::timm::TimmSource;
use super::{Architecture, Beit, Checkpoint, Classifier, Config, ModelError};
use crate::image::Processor;
use crate::nn::{Builder, ParameterError, Source, Trainable};
use std::path::{Path, PathBuf};

/// An opened model folder; the weights are read by [`ModelFolder::load`].
pub struct ModelFolder {
    path: PathBuf,
    config: Config,
}

impl ModelFolder {
    /// Reads `config.json` of the folder.
    ///
    /// # Errors
    /// If it is missing or names what is not supported.
    pub fn open(path: &Path) -> Result<Self, ModelError> {
        Ok(Self { path: path.into(), config: Config::from_file(&path.join("config.json"))? })
    }

    /// What `config.json` says.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// How photos are prepared: `preprocessor_config.json`, or timm's `pretrained_cfg`.
    ///
    /// # Errors
    /// If it is missing or cannot be used.
    pub fn processor(&self) -> Result<Processor, ModelError> {
        match self.config.json.get("pretrained_cfg").filter(|_| self.config.timm) {
            Some(settings) => Ok(Processor::from_timm(settings)?),
            None => Ok(Processor::from_file(&self.path.join("preprocessor_config.json"))?),
        }
    }

    /// Reads the weights.
    ///
    /// # Errors
    /// If they are missing, damaged, or do not fit the config; names file, tensor and shapes.
    pub fn load(&self, trainable: Trainable) -> Result<Box<dyn Classifier>, ModelError> {
        let checkpoint = Checkpoint::open(&self.path)?;
        let timm = TimmSource(&checkpoint);
        let source: &dyn Source = if self.config.timm { &timm } else { &checkpoint };
        build(&self.config, source, trainable)
            .map_err(|source| ModelError::Parameter { file: checkpoint.file().into(), source })
    }
}

/// The classifier of a config, its tensors from `source`: a checkpoint, random values, or shapes alone.
///
/// # Errors
/// If the source lacks a tensor, or one has another shape.
pub fn build(
    config: &Config,
    source: &dyn Source,
    trainable: Trainable,
) -> Result<Box<dyn Classifier>, ParameterError> {
    match &config.architecture {
        Architecture::Beit(beit) => Ok(Box::new(Beit::new(&Builder::new(source, trainable), beit)?)),
    }
}
