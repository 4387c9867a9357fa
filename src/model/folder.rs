//! A model folder: config, processor and weights, put together.

use super::adapter::{Adapter, HEAD};
use super::timm::TimmSource;
use super::{Architecture, Beit, Checkpoint, Classifier, Config, ModelError};
use crate::image::Processor;
use crate::nn::{Builder, Initialization, ParameterError, RandomSource, Source, Trainable};
use crate::randomness::Randomness;
use candle_core::Tensor;
use std::cell::Cell;
use std::path::{Path, PathBuf};

/// An opened model folder, with the adapter that goes on it; the weights are read by [`ModelFolder::load`].
pub struct ModelFolder {
    path: PathBuf,
    config: Config,
    adapter: Option<Adapter>,
}

impl ModelFolder {
    /// Reads `config.json` of the folder.
    ///
    /// # Errors
    /// If it is missing or names what is not supported.
    pub fn open(path: &Path) -> Result<Self, ModelError> {
        Ok(Self { path: path.into(), config: Config::from_file(&path.join("config.json"))?, adapter: None })
    }

    /// The same model with the PEFT adapter of the folder `adapter` on it, if one is given; where the adapter brings a
    /// head, its labels replace the model's.
    ///
    /// # Errors
    /// If a file of the adapter is missing, damaged or asks for what is not supported.
    pub fn with_adapter(mut self, adapter: Option<&Path>) -> Result<Self, ModelError> {
        self.adapter = adapter.map(Adapter::open).transpose()?;
        if let Some(labels) = self.adapter.as_ref().and_then(|adapter| adapter.labels(&self.config.labels)) {
            self.config = self.config.with_labels(&labels);
        }
        Ok(self)
    }

    /// The adapter given with [`ModelFolder::with_adapter`].
    pub fn adapter(&self) -> Option<&Adapter> {
        self.adapter.as_ref()
    }

    /// Where the folder is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What `config.json` says, with the labels of the adapter's head if it brings one.
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

    /// Reads the weights and attaches the adapter, unmerged.
    ///
    /// # Errors
    /// If they are missing, damaged, or do not fit the config; names file, tensor and shapes.
    pub fn load(&self, trainable: Trainable) -> Result<Box<dyn Classifier>, ModelError> {
        let Some(adapter) = &self.adapter else {
            return self.read(|source| build(&self.config, source, trainable));
        };
        // A head that the adapter replaces may have any size in the model's own file.
        let (mut model, _) = self.load_for(&self.config, trainable, Randomness::new(0))?;
        adapter.attach(&mut *model, trainable)?;
        Ok(model)
    }

    /// Reads the weights for a model with the labels of `config`; a head that is missing or has another size is replaced
    /// by a fresh one (normal with `initializer_range`, bias 0).
    ///
    /// # Errors
    /// Those of [`ModelFolder::load`], for every other tensor.
    pub fn load_for(
        &self,
        config: &Config,
        trainable: Trainable,
        randomness: Randomness,
    ) -> Result<(Box<dyn Classifier>, Head), ModelError> {
        self.read(|source| {
            let source = ReplacedHead { source, fresh: RandomSource(randomness), replaced: Cell::new(false) };
            let model = build(config, &source, trainable)?;
            let head = if source.replaced.get() { Head::Fresh } else { Head::Kept };
            Ok((model, head))
        })
    }

    fn read<T>(&self, build: impl FnOnce(&dyn Source) -> Result<T, ParameterError>) -> Result<T, ModelError> {
        let checkpoint = Checkpoint::open(&self.path)?;
        let timm = TimmSource(&checkpoint);
        let source: &dyn Source = if self.config.timm { &timm } else { &checkpoint };
        build(source).map_err(|source| ModelError::Parameter { file: checkpoint.file().into(), source })
    }
}

/// What became of the classification head when a model was loaded for other labels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Head {
    /// It was read from the file.
    Kept,
    /// It was missing or had another size: fresh values.
    Fresh,
}

/// A checkpoint whose head need not fit.
struct ReplacedHead<'a> {
    source: &'a dyn Source,
    fresh: RandomSource,
    replaced: Cell<bool>,
}

impl Source for ReplacedHead<'_> {
    fn tensor(
        &self,
        name: &str,
        shape: &[usize],
        initialization: Initialization,
    ) -> Result<Tensor, ParameterError> {
        match self.source.tensor(name, shape, initialization) {
            Err(ParameterError::Missing { .. } | ParameterError::Shape { .. })
                if name.strip_prefix(HEAD).is_some_and(|own| own.starts_with('.')) =>
            {
                self.replaced.set(true);
                self.fresh.tensor(name, shape, initialization)
            }
            found => found,
        }
    }

    fn has(&self, name: &str) -> bool {
        self.source.has(name)
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
