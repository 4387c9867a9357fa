//! `fit`: from a labelled set of photos and a model folder to an adapter, a merged model and the record of the run.
//!
//! Puts data, model, trainer and output together. Whatever can be refused is refused before the output folder is touched;
//! after every epoch the trained weights are on the disk.

use crate::augment::{AugmentError, Augmentation, Augmenter};
use crate::card::model_card;
use crate::dataset::{Dataset, DatasetError, LabelSpace};
use crate::evaluate::Evaluation;
use crate::loader::{self, Loader};
use crate::output::{Output, OutputError, peak_memory};
use crate::progress::Progress;
use crate::report::Reporter;
use crate::sampler::shuffled;
use crate::settings::{FitSettings, Method, StartingWeights, Validation};
use crate::split::{SplitError, stratified};
use crate::start::{StartError, StartingModel};
use crate::trainer::{EpochEnd, Observer, Step, TrainError, steps, train, trained_parameters};
use candle_core::{DType, Device, Var};
use featherlight::image::Processor;
use featherlight::model::{
    Classifier, Config, Head, ModelError, ModelFolder, merge, save_adapter, save_model, save_text,
};
use featherlight::nn::Parameter;
use featherlight::ops::device::{DeviceError, Placement};
use serde_json::{Value, json};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

/// Why a run ended early.
#[derive(Debug, thiserror::Error)]
pub enum FitError {
    /// The photos' list or folder.
    #[error(transparent)]
    Dataset(#[from] DatasetError),
    /// The part kept aside.
    #[error(transparent)]
    Split(#[from] SplitError),
    /// The augmentation.
    #[error(transparent)]
    Augment(#[from] AugmentError),
    /// The model folder.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// The model that training starts from.
    #[error(transparent)]
    Start(#[from] StartError),
    /// The training itself.
    #[error(transparent)]
    Train(#[from] TrainError),
    /// The output folder.
    #[error(transparent)]
    Output(#[from] OutputError),
    /// The model to start from lies where the output goes.
    #[error("{}: the model to start from lies in --output, which would replace it; choose another --output", .0.display())]
    ModelInOutput(PathBuf),
    /// The trained weights could not be put together for saving.
    #[error("the adapters cannot be merged: {0}")]
    Merge(candle_core::Error),
    /// The device.
    #[error(transparent)]
    Device(#[from] DeviceError),
}

/// What a run came to.
#[derive(Debug, Clone, PartialEq)]
pub struct FitSummary {
    /// The last evaluation, where there was a validation set.
    pub evaluation: Option<Evaluation>,
    /// Photos left out because they could not be read.
    pub unreadable: usize,
    /// Seconds from the first photo to the last.
    pub seconds: f64,
}

/// Runs the whole job.
///
/// # Errors
/// See [`FitError`]; what was written before stays.
pub fn fit(settings: &FitSettings, progress: &mut Progress) -> Result<FitSummary, FitError> {
    let folder = ModelFolder::open(&settings.model)?;
    let method = settings.method.for_architecture(&folder.config().architecture);
    let settings = &FitSettings { method, ..settings.clone() };
    if let (Ok(model), Ok(output)) = (settings.model.canonicalize(), settings.output.canonicalize())
        && model.starts_with(output)
    {
        return Err(FitError::ModelInOutput(settings.model.clone()));
    }
    let (training, validation) = photos(settings, &folder.config().labels)?;
    let placement = settings.device.place(settings.precision)?;
    let StartingModel { classifier, config, processor, head } =
        StartingModel::build(&folder, &training.labels, settings, &placement)?;
    if head == Head::Fresh && settings.starting_weights == StartingWeights::Pretrained {
        tracing::info!(
            labels = training.labels.len(),
            before = folder.config().labels.len(),
            "the classification head is a fresh one: the model's was missing or had another size"
        );
    }

    let shared = Arc::new(processor.clone());
    let loader = |dataset: &Dataset, augmentation| {
        let augmenter = Augmenter::new(Arc::clone(&shared), augmentation, settings.trainer.randomness)?;
        Ok::<_, AugmentError>(Loader::new(
            dataset,
            augmenter,
            loader::Settings::new(settings.batch_size, settings.loader_threads),
        ))
    };
    let training_loader = loader(&training, settings.augmentation)?;
    let validation_loader =
        validation.as_ref().map(|dataset| loader(dataset, Augmentation::Plain)).transpose()?;

    let count =
        |parameters: &[&Parameter]| -> usize { parameters.iter().map(|p| p.tensor().elem_count()).sum() };
    let trainable = count(&trained_parameters(&*classifier));
    let parameters = count(&classifier.parameters());
    progress.say(&format!(
        "{} photos of {} classes to train on, {} to validate on; method {}: {trainable} of {parameters} parameters ({:.2} %); {} in {}",
        training.samples.len(),
        training.labels.len(),
        validation.as_ref().map_or(0, |dataset| dataset.samples.len()),
        settings.method,
        100.0 * trainable as f64 / parameters as f64,
        settings.device,
        settings.precision,
    ));

    let run_file = json!({
        "state": "running",
        "version": env!("CARGO_PKG_VERSION"),
        "settings": settings.to_json(),
        "architecture": config.architecture.name(),
        "labels": training.labels,
        "training_photos": training.samples.len(),
        "validation_photos": validation.as_ref().map_or(0, |dataset| dataset.samples.len()),
        "parameters": parameters,
        "trainable_parameters": trainable,
        "steps": steps(&training_loader, &settings.trainer),
        "threads": rayon::current_num_threads(),
    });
    let mut run = Run {
        settings,
        folder: &folder,
        config: &config,
        processor: &processor,
        output: Output::create(&settings.output, settings.overwrite)?,
        run_file,
        progress,
        started: Instant::now(),
        epoch_loss: (0.0, 0),
        evaluation: None,
        reporter: None,
    };
    run.write_run_file("running", &[])?;
    let order = shuffled(settings.trainer.randomness, 0, training_loader.photos());
    let reporter =
        Reporter::new(&settings.output, &training_loader, order, validation.as_ref(), &training.labels);
    run.reporter = Some(reporter.warnings(training.warnings()));
    run.progress.start(steps(&training_loader, &settings.trainer), "steps");
    let normalization = processor.normalization();
    let trained = train(
        &*classifier,
        &normalization,
        &training_loader,
        validation_loader.as_ref(),
        &settings.trainer,
        &mut run,
    );
    run.progress.finish();
    let unreadable: Vec<_> = training_loader
        .unreadable()
        .into_iter()
        .chain(validation_loader.iter().flat_map(Loader::unreadable))
        .map(|photo| json!({ "file": photo.path.to_string_lossy(), "reason": photo.reason }))
        .collect();
    if let Err(error) = trained {
        run.run_file["error"] = json!(error.to_string());
        run.write_run_file("failed", &unreadable)?;
        run.report();
        return Err(error);
    }
    let mut whole = run.in_full(&*classifier)?.unwrap_or(classifier);
    merge(&mut *whole).map_err(FitError::Merge)?;
    run.save_merged(&*whole)?;
    if !matches!(settings.method, Method::Lora(_)) {
        run.output.remove_adapter()?;
    }
    run.write_run_file("completed", &unreadable)?;
    run.report();
    Ok(FitSummary {
        evaluation: run.evaluation,
        unreadable: unreadable.len(),
        seconds: run.started.elapsed().as_secs_f64(),
    })
}

/// The photos to train on, and those to validate on.
fn photos(settings: &FitSettings, model_labels: &[String]) -> Result<(Dataset, Option<Dataset>), FitError> {
    let root = settings.image_root.as_deref();
    let all = Dataset::open(&settings.data, root, LabelSpace::Found { model: model_labels })?;
    all.warnings().iter().for_each(|warning| tracing::warn!(data = %settings.data.display(), "{warning}"));
    match &settings.validation {
        Validation::Set(path) => {
            let root = root.filter(|_| path.is_file());
            let validation = Dataset::open(path, root, LabelSpace::Known(&all.labels))?;
            validation
                .warnings()
                .iter()
                .for_each(|warning| tracing::warn!(data = %path.display(), "{warning}"));
            Ok((all, Some(validation)))
        }
        Validation::Split(share) => {
            let split = stratified(&all, *share, settings.trainer.randomness)?;
            let validation = (!split.validation.is_empty()).then(|| all.subset(&split.validation));
            Ok((all.subset(&split.training), validation))
        }
    }
}

/// A run under way: everything that happens in it is shown and written here.
struct Run<'a> {
    settings: &'a FitSettings,
    /// The model that the run started from.
    folder: &'a ModelFolder,
    config: &'a Config,
    processor: &'a Processor,
    output: Output,
    run_file: Value,
    progress: &'a mut Progress,
    started: Instant,
    /// Sum of the photos' losses in this epoch, and how many they are.
    epoch_loss: (f64, usize),
    evaluation: Option<Evaluation>,
    reporter: Option<Reporter>,
}

impl Run<'_> {
    fn report(&self) {
        self.reporter.iter().for_each(|reporter| reporter.write(self.evaluation.as_ref()));
    }

    /// The trained model with every weight in f32, on the CPU, where the one that was trained has frozen weights in fewer
    /// bits: those are read again, for what is saved must not be poorer than what the run started from. `None` where the
    /// trained model can be saved as it is.
    fn in_full(&self, trained: &dyn Classifier) -> Result<Option<Box<dyn Classifier>>, FitError> {
        if trained.parameters().iter().all(|parameter| parameter.tensor().dtype() == DType::F32) {
            return Ok(None);
        }
        let labels = &self.config.labels;
        let StartingModel { classifier, .. } =
            StartingModel::build(self.folder, labels, self.settings, &Placement::CPU)?;
        let (to, from) = (trained_parameters(&*classifier), trained_parameters(trained));
        for (to, from) in to.into_iter().zip(from) {
            let copy = || Var::from_tensor(to.tensor())?.set(&from.tensor().to_device(&Device::Cpu)?);
            copy().map_err(FitError::Merge)?;
        }
        Ok(Some(classifier))
    }

    fn save_merged(&self, classifier: &dyn Classifier) -> Result<(), FitError> {
        let folder = self.output.merged();
        let save = |dtype| save_model(classifier, self.config, self.processor, dtype, &folder);
        match save(self.settings.save_dtype) {
            // What a run has learnt is not lost to the size of its numbers.
            Err(error @ ModelError::Overflow { .. }) => {
                tracing::warn!("{error}; it is written in f32");
                save(DType::F32)?;
            }
            saved => saved?,
        }
        let card = model_card(self.settings, &self.config.labels, &self.run_file, self.evaluation.as_ref());
        Ok(save_text(&card, &folder.join("README.md"))?)
    }

    fn write_run_file(&mut self, state: &str, unreadable: &[Value]) -> Result<(), FitError> {
        self.run_file["state"] = json!(state);
        self.run_file["seconds"] = json!(self.started.elapsed().as_secs_f64());
        self.run_file["peak_memory_bytes"] = json!(peak_memory());
        self.run_file["peak_device_memory_bytes"] = json!(self.settings.device.peak_memory());
        self.run_file["unreadable_photos"] = json!(unreadable);
        Ok(self.output.run(&self.run_file)?)
    }
}

impl Observer for Run<'_> {
    type Error = FitError;

    fn stepped(&mut self, step: &Step) -> Result<(), FitError> {
        self.epoch_loss.0 += step.loss * step.photos as f64;
        self.epoch_loss.1 += step.photos;
        self.progress.stepped(step);
        Ok(self.output.step(step)?)
    }

    fn epoch_ended(&mut self, end: &EpochEnd<'_>) -> Result<(), FitError> {
        let (sum, photos) = std::mem::take(&mut self.epoch_loss);
        self.progress.epoch_ended(end, self.settings.trainer.epochs, sum / photos.max(1) as f64);
        if let Some(evaluation) = end.evaluation {
            self.output.evaluation(end.epoch, end.step, evaluation)?;
            self.evaluation = Some(evaluation.clone());
            self.run_file["evaluation"] = evaluation.to_json(&self.config.labels);
        }
        self.run_file["epochs_completed"] = json!(end.epoch);
        self.output.checkpoint(end)?;
        match &self.settings.method {
            Method::Lora(adapter) => {
                let base = self.settings.model.to_string_lossy();
                save_adapter(end.model, adapter, &base, self.config, &self.output.adapter())?;
            }
            Method::Full | Method::Head => match self.in_full(end.model)? {
                Some(whole) => self.save_merged(&*whole)?,
                None => self.save_merged(end.model)?,
            },
        }
        self.write_run_file("running", &[])?;
        self.report();
        Ok(())
    }
}
