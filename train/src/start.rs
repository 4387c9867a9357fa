//! The model that a run starts from: read or fresh, its head made for the labels of the data, its adapters attached.
//!
//! `fit` calls [`StartingModel::build`] before anything is written, so that whatever is wrong with the model folder is said
//! while nothing is lost yet.

use crate::settings::{FitSettings, Method, StartingWeights};
use featherlight::image::Processor;
use featherlight::model::{Classifier, Config, Head, Inspection, ModelError, ModelFolder, attach_new, build};
use featherlight::nn::RandomSource;
use featherlight::ops::device::Placement;
use featherlight::randomness::Randomness;
use std::path::PathBuf;

/// A model ready to be trained.
pub struct StartingModel {
    /// The model; what is to be trained are variables.
    pub classifier: Box<dyn Classifier>,
    /// Its config, with the labels of the data.
    pub config: Config,
    /// How photos are prepared for it.
    pub processor: Processor,
    /// Where its head comes from.
    pub head: Head,
}

/// Why there is nothing to start from.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The folder.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// Something in the config that training does not do.
    #[error("{}: `{field}` is {value}; training supports only 0", file.display())]
    Dropout {
        /// `config.json`.
        file: PathBuf,
        /// The field.
        field: &'static str,
        /// Its value.
        value: f64,
    },
    /// Fresh weights for something else than a whole training.
    #[error("--init random goes with --method full: {0} would train almost nothing of a random model")]
    RandomNotFull(String),
}

impl StartingModel {
    /// Finds out what [`StartingModel::build`] would refuse, without reading weights or taking memory for them.
    ///
    /// # Errors
    /// Those of [`StartingModel::build`].
    pub fn check(folder: &ModelFolder, labels: &[String], settings: &FitSettings) -> Result<(), StartError> {
        refuse_dropout(folder)?;
        let config = config_for(folder, labels, settings)?;
        if settings.starting_weights == StartingWeights::Random {
            folder.processor_or_plain()?;
        } else {
            folder.processor()?;
            folder.check_for(&config)?;
        }
        if let Method::Lora(adapter) = settings.method.for_architecture(&config.architecture) {
            Inspection::of(&config)?.adapt(adapter.rank, &adapter.targets)?;
        }
        Ok(())
    }

    /// Reads or makes the model of `folder` for `labels`, at `placement`.
    ///
    /// # Errors
    /// If the folder cannot be read, or asks for what training does not do; see [`StartError`].
    pub fn build(
        folder: &ModelFolder,
        labels: &[String],
        settings: &FitSettings,
        placement: &Placement,
    ) -> Result<Self, StartError> {
        let config = config_for(folder, labels, settings)?;
        let randomness = settings.trainer.randomness;
        if settings.starting_weights == StartingWeights::Random {
            return Self::random(folder, config, &settings.method, randomness, placement);
        }
        refuse_dropout(folder)?;
        let trainable = settings.method.trainable();
        let (mut classifier, head) = folder.load_for(&config, trainable, randomness, placement)?;
        let processor = folder.processor()?;
        if let Method::Lora(adapter) = &settings.method {
            attach_new(&mut *classifier, adapter, randomness)?;
        }
        Ok(Self { classifier, config, processor, head })
    }

    /// The architecture of `folder` with random weights at `placement`. Where `method` trains but a part of it, nothing can
    /// be learnt from that, only measured.
    ///
    /// # Errors
    /// Those of [`StartingModel::build`].
    pub fn random(
        folder: &ModelFolder,
        config: Config,
        method: &Method,
        randomness: Randomness,
        placement: &Placement,
    ) -> Result<Self, StartError> {
        refuse_dropout(folder)?;
        let processor = folder.processor_or_plain()?;
        if !folder.has_processor() {
            let (height, width) = config.architecture.image_size();
            tracing::info!(
                height,
                width,
                "no preprocessor_config.json: photos are resized and scaled to -1 … 1"
            );
        }
        let classifier = build(&config, &RandomSource(randomness), method.trainable(), placement);
        let mut classifier = classifier
            .map_err(|source| ModelError::Parameter { file: folder.path().join("config.json"), source })?;
        if let Method::Lora(adapter) = method {
            attach_new(&mut *classifier, adapter, randomness)?;
        }
        Ok(Self { classifier, config, processor, head: Head::Fresh })
    }
}

/// The config of `folder` with the labels of the data, if the settings can be applied to it.
fn config_for(folder: &ModelFolder, labels: &[String], settings: &FitSettings) -> Result<Config, StartError> {
    if settings.starting_weights == StartingWeights::Random && settings.method != Method::Full {
        return Err(StartError::RandomNotFull(settings.method.to_string()));
    }
    Ok(folder.config().with_labels(labels).with_single_label())
}

/// Dropout inside attention or after it is not built; a config that asks for it would be trained differently from what it
/// says.
fn refuse_dropout(folder: &ModelFolder) -> Result<(), StartError> {
    if let Some((field, value)) = folder.config().dropout() {
        return Err(StartError::Dropout { file: folder.path().join("config.json"), field, value });
    }
    Ok(())
}
