//! `fit`: from a labelled set of photos and a model folder to an adapter, a merged model and the record of the run.
//!
//! Puts data, model, trainer and output together. Whatever can be refused is refused before the output folder is touched;
//! after every epoch the trained weights are on the disk, and a run that was broken off goes on from its last checkpoint.

mod micro_batch;
mod recorder;

use crate::augment::{AugmentError, Augmentation, Augmenter};
use crate::checkpoint::{Checkpoint, CheckpointError, Saved};
use crate::data_check::{CheckError, Checked, DataReport, Held, check};
use crate::dataset::{Dataset, DatasetError, LabelSpace};
use crate::evaluate::{Evaluation, evaluate};
use crate::fingerprint;
use crate::loader::{self, Batch, Loader, PhotoCache};
use crate::output::{Output, OutputError};
use crate::progress::Progress;
use crate::report::mosaic::{self, Mosaic};
use crate::report::{ReportError, Reporter};
use crate::sampler::order;
use crate::settings::{CACHE_FOLDER, FitSettings, StartingWeights, Validation};
use crate::split::SplitError;
use crate::start::{StartError, StartingModel};
use crate::trainer::{self, Outcome, TrainError, TrainerSettings, steps, train, trained_parameters};
use featherlight::model::{Classifier, Head, ModelError, ModelFolder};
use featherlight::nn::Parameter;
use featherlight::ops::device::DeviceError;
use micro_batch::{Choice, Trial};
use recorder::{Recorder, Start};
use serde_json::{Map, Value, json};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

/// Why a run ended early.
#[derive(Debug, thiserror::Error)]
pub enum FitError {
    /// The photos' list or folder.
    #[error(transparent)]
    Dataset(#[from] DatasetError),
    /// The part kept aside.
    #[error(transparent)]
    Split(#[from] SplitError),
    /// What the check of the photos found.
    #[error(transparent)]
    Check(CheckError),
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
    /// The device.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// A file of the report.
    #[error(transparent)]
    Report(#[from] ReportError),
    /// The checkpoint to go on from, or one that could not be written.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// What the run is made of could not be looked at.
    #[error("{0}")]
    Fingerprint(std::io::Error),
    /// There is a finished run, and nothing to go on from.
    #[error(
        "{}: holds a run without a checkpoint to go on from; replace it with --overwrite, or choose another --output", .0.display()
    )]
    NothingToResume(PathBuf),
    /// Somebody asked the run to end.
    #[error("stopped after step {step}; the same command with --resume goes on from there")]
    Interrupted {
        /// Steps made.
        step: u64,
    },
}

impl From<CheckError> for FitError {
    fn from(error: CheckError) -> Self {
        match error {
            CheckError::Loader(error) => Self::Train(error.into()),
            CheckError::Split(error) => Self::Split(error),
            error @ CheckError::OneClass { .. } => Self::Check(error),
        }
    }
}

/// What a run came to.
#[derive(Debug, Clone, PartialEq)]
pub struct FitSummary {
    /// The last evaluation, where there was a validation set.
    pub evaluation: Option<Evaluation>,
    /// Photos left out because they could not be read.
    pub unreadable: usize,
    /// Seconds from the first photo to the last, those before a `--resume` included.
    pub seconds: f64,
    /// The epoch after which early stopping ended it.
    pub stopped_early: Option<u64>,
}

/// Runs the whole job. It ends after the step in which `stop` is raised, with a checkpoint to go on from.
///
/// # Errors
/// See [`FitError`]; what was written before stays.
pub fn fit(
    settings: &FitSettings,
    stop: &AtomicBool,
    progress: &mut Progress,
) -> Result<FitSummary, FitError> {
    let folder = ModelFolder::open(&settings.model)?;
    let method = settings.method.for_architecture(&folder.config().architecture);
    let settings = &FitSettings { method, ..settings.clone() };
    if let (Ok(model), Ok(output)) = (settings.model.canonicalize(), settings.output.canonicalize())
        && model.starts_with(output)
    {
        return Err(FitError::ModelInOutput(settings.model.clone()));
    }
    // First of all: what another run is still writing to is nothing to go on from.
    let lock = match settings.resume && settings.output.is_dir() {
        true => Some(Output::lock(&settings.output)?),
        false => None,
    };
    let checkpoint = find_checkpoint(settings)?;
    let settings = match &checkpoint {
        Some(saved) if settings.find_batch_size => {
            &settings.with_batch_size(micro_batch::of_checkpoint(settings, saved)?)
        }
        _ => settings,
    };
    if let Some(checkpoint) = &checkpoint {
        checkpoint.check(&settings.made_of(), &settings.output)?;
    }
    Output::refuse_taken(&settings.output, settings.overwrite || settings.resume)?;
    let (all, held) = photos(settings, &folder.config().labels)?;
    let placement = settings.device.place(settings.precision)?.with_frozen(settings.frozen);
    let StartingModel { classifier, config, processor, head } =
        StartingModel::build(&folder, &all.labels, settings, &placement)?;
    say_what_became_of(&head, settings, all.labels.len(), folder.config().labels.len());

    // It takes its time: whatever can be refused before is.
    let _lock = match lock {
        Some(lock) => lock,
        None => Output::lock(&settings.output)?,
    };
    if checkpoint.is_none() && settings.resume && Checkpoint::exists(&Output::last(&settings.output)) {
        // Another run has come and gone meanwhile.
        return Err(OutputError::Busy { folder: settings.output.clone(), process: None }.into());
    }
    let loading = settings.loading();
    let checked = check(all, held, settings.trainer.randomness, &loading, (stop, progress))?;
    let Checked { training, validation, report } = &checked;
    report.warnings().iter().for_each(|warning| tracing::warn!("{warning}"));
    progress.say(&report.summary());
    let normalization = processor.normalization();
    let settings = match settings.find_batch_size {
        false => settings,
        true => {
            let size = processor.output_size();
            let (model, labels) = (&*classifier, config.labels.len());
            let photos = training.samples.len();
            let trial = Trial { settings, model, normalization: &normalization, size, labels, photos, stop };
            &fitting(&trial, progress)?
        }
    };
    let (batch_size, prefetch) = (settings.batch_size, settings.prefetch());
    let loading = loader::Settings { batch_size, prefetch, ..loading };
    let made_of = made_of(settings, &training.labels, report)?;
    if let Some(checkpoint) = &checkpoint {
        checkpoint.check(&made_of, &settings.output)?;
    }

    let shared = Arc::new(processor.clone());
    let loader = |dataset: &Dataset, augmentation| {
        let augmenter = Augmenter::new(Arc::clone(&shared), augmentation, settings.trainer.randomness)?;
        Ok::<_, AugmentError>(Loader::new(dataset, augmenter, loading.clone()))
    };
    let training_loader = loader(training, settings.augmentation)?;
    let validation_loader =
        validation.as_ref().map(|dataset| loader(dataset, Augmentation::Plain)).transpose()?;

    let total = steps(&training_loader, &settings.trainer);
    let mut run_file = begun(settings, &checked, &*classifier, progress);
    run_file["architecture"] = json!(config.architecture.name());
    run_file["steps"] = json!(total);
    let steps_an_epoch = total / settings.trainer.epochs;
    let sizes = training.class_sizes();
    let mut trainer =
        trainer::Run::new(&*classifier, &normalization, &settings.trainer, steps_an_epoch, &sizes)?;
    if let Some(checkpoint) = &checkpoint {
        trainer.restore(checkpoint.snapshot()?).map_err(TrainError::from)?;
        progress.say(&format!("going on after step {} of {total}", trainer.step_number()));
    }
    let start = Start {
        settings,
        folder: &folder,
        config: &config,
        processor: &processor,
        run_file,
        made_of,
        cache: loading.cache.clone(),
    };
    let reporter = Reporter {
        folder: settings.output.clone(),
        labels: training.labels.clone(),
        samples: validation.as_ref().map(|dataset| dataset.samples.clone()).unwrap_or_default(),
        mosaic: mosaic(&training_loader, &settings.trainer),
        warnings: report.warnings(),
    };
    let record = checkpoint.map(|checkpoint| checkpoint.record);
    let mut recorder = Recorder::open(start, record, reporter, stop, progress)?;
    recorder.begin(total, trainer.step_number(), trainer.step_number() / steps_an_epoch.max(1))?;
    let trained = train(&mut trainer, &training_loader, validation_loader.as_ref(), &mut recorder);
    let later = training_loader
        .unreadable()
        .into_iter()
        .chain(validation_loader.iter().flat_map(Loader::unreadable))
        .map(|photo| json!({ "file": photo.path.to_string_lossy(), "reason": photo.reason }));
    let unreadable: Vec<_> = report.unreadable_json().into_iter().chain(later).collect();
    recorder.unreadable(&unreadable);
    let outcome = recorder.trained(trained, trainer.best())?;

    let kept = conclude(trainer, steps_an_epoch, validation_loader.as_ref(), &mut recorder);
    recorder.concluded(kept)?;
    loading.cache.remove();
    PhotoCache::remove_left(&settings.output.join(CACHE_FOLDER)); // of a run that went on with another cache
    Ok(FitSummary {
        evaluation: recorder.evaluation().cloned(),
        unreadable: unreadable.len(),
        seconds: recorder.seconds(),
        stopped_early: match outcome {
            Outcome::StoppedEarly { epoch } => Some(epoch),
            Outcome::Completed | Outcome::Interrupted { .. } => None,
        },
    })
}

fn say_what_became_of(head: &Head, settings: &FitSettings, labels: usize, before: usize) {
    match head {
        Head::Fresh if settings.starting_weights == StartingWeights::Pretrained => tracing::info!(
            labels,
            before,
            "the classification head is a fresh one: the model's was missing or had another size"
        ),
        Head::Carried(carried) => tracing::info!(
            labels,
            before,
            "the classification head is a new one: {carried} of its labels are carried over from the model, the others are fresh"
        ),
        Head::Fresh | Head::Kept => {}
    }
}

/// `run.json` as it begins; what a person should know of it is said.
fn begun(
    settings: &FitSettings,
    photos: &Checked,
    classifier: &dyn Classifier,
    progress: &mut Progress,
) -> Value {
    let Checked { training, validation, report } = photos;
    let count =
        |parameters: &[&Parameter]| -> usize { parameters.iter().map(|p| p.tensor().elem_count()).sum() };
    let trainable = count(&trained_parameters(classifier));
    let parameters = count(&classifier.parameters());
    let validated = validation.as_ref().map_or(0, |dataset| dataset.samples.len());
    progress.say(&format!(
        "{} photos of {} classes to train on, {validated} to validate on; method {}: {trainable} of {parameters} parameters ({:.2} %); {} in {}",
        training.samples.len(),
        training.labels.len(),
        settings.method,
        100.0 * trainable as f64 / parameters as f64,
        settings.device,
        settings.precision,
    ));
    json!({
        "state": "running",
        "version": env!("CARGO_PKG_VERSION"),
        "settings": settings.to_json(),
        "labels": training.labels,
        "data": report.to_json(),
        "unreadable_photos": report.unreadable_json(),
        "training_photos": training.samples.len(),
        "validation_photos": validated,
        "parameters": parameters,
        "trainable_parameters": trainable,
        "threads": rayon::current_num_threads(),
    })
}

/// Gives the model the weights that the run came to, evaluates them where that is not done, and saves them.
fn conclude(
    trainer: trainer::Run<'_>,
    steps_an_epoch: u64,
    validation: Option<&Loader>,
    recorder: &mut Recorder<'_>,
) -> Result<(), FitError> {
    let (model, normalization) = (trainer.model(), trainer.normalization());
    let last_epoch = trainer.step_number() / steps_an_epoch.max(1);
    let best = trainer.best().filter(|best| recorder.settings().keeps_best() && best.epoch < last_epoch);
    let best = best.and_then(|_| {
        let saved = Saved::open(&Output::best(&recorder.settings().output))
            .and_then(|saved| Ok((saved.weights()?, saved.state.best)));
        // Nothing earned is lost: the last weights are good ones as well.
        saved
            .inspect_err(|error| tracing::warn!("the last epoch's weights are kept, not the best: {error}"))
            .ok()
    });
    let (weights, kept) = best.map_or((None, None), |(weights, best)| (Some(weights), best));
    trainer.finish(weights.as_ref()).map_err(TrainError::from)?;
    drop(weights);
    // Of the weights that are kept: those of an earlier epoch, or of a run that had nothing left to do but this.
    if let Some(loader) = validation.filter(|_| kept.is_some() || !recorder.has_evaluation()) {
        let evaluation = evaluate(model, normalization, loader, |_| {}).map_err(TrainError::from)?;
        recorder.evaluated(&evaluation);
    }
    recorder.keep(model, kept.map(|best| best.epoch))
}

/// What the model will see first; a page without it is no reason to end a run.
fn mosaic(loader: &Loader, settings: &TrainerSettings) -> Option<Mosaic> {
    let order = order(settings.sampling, settings.randomness, 0, &loader.labels());
    let mix = |batch: &mut Batch, number: u64| settings.mixing.apply(batch, settings.randomness, 0, number);
    Mosaic::of_first_epoch(loader, order, mosaic::PHOTOS, mix).unwrap_or_else(|error| {
        tracing::warn!("the report will not show what the model sees: {error}");
        None
    })
}

/// The same settings with the largest micro-batch that the memory has room for.
fn fitting(trial: &Trial<'_>, progress: &mut Progress) -> Result<FitSettings, FitError> {
    progress.say("looking for the largest batch that fits …");
    let Choice { photos, reason, too_much } = trial.choose()?;
    let settings = trial.settings.with_batch_size(photos);
    progress.say(&format!(
        "--batch-size {photos} --accumulation-steps {}: {reason}",
        settings.trainer.accumulation_steps
    ));
    if too_much {
        tracing::warn!(
            "there may not be enough memory even for this: --checkpoint-activations, --frozen-dtype int8 and a smaller model need less"
        );
    }
    Ok(settings)
}

/// What to go on from, where that is asked for and there is something. A run that was ended before its first checkpoint begins
/// anew.
fn find_checkpoint(settings: &FitSettings) -> Result<Option<Saved>, FitError> {
    if !settings.resume {
        return Ok(None);
    }
    let (output, last) = (&settings.output, Output::last(&settings.output));
    if Checkpoint::exists(&last) {
        return Ok(Some(Saved::open(&last)?));
    }
    let completed = std::fs::read_to_string(output.join("run.json"))
        .ok()
        .and_then(|text| serde_json::from_str::<Value>(&text).ok())
        .is_some_and(|run| run["state"] == "completed");
    if completed {
        return Err(FitError::NothingToResume(output.clone()));
    }
    tracing::info!(output = %output.display(), "there is no checkpoint yet: the run begins with its first step");
    Ok(None)
}

/// What a run must have in common with its beginning when it goes on.
fn made_of(
    settings: &FitSettings,
    labels: &[String],
    photos: &DataReport,
) -> Result<Map<String, Value>, FitError> {
    let mut made_of = settings.made_of();
    made_of.insert("the list of labels".to_owned(), json!(labels));
    made_of.insert("the set of training photos".to_owned(), json!(photos.fingerprint));
    made_of.insert("the set of validation photos".to_owned(), json!(photos.validation_fingerprint));
    let weights = fingerprint::model(&settings.model).map_err(FitError::Fingerprint)?;
    made_of.insert("the model to start from".to_owned(), json!(weights));
    Ok(made_of)
}

/// The photos to train on, and those to validate on: as they are listed, none of them read.
fn photos(settings: &FitSettings, model_labels: &[String]) -> Result<(Dataset, Held), FitError> {
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
            Ok((all, Held::Set(validation)))
        }
        Validation::Split(share) => Ok((all, Held::Share(*share))),
    }
}
