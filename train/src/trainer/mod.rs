//! The training loop: epochs, accumulation windows, steps, an evaluation after every epoch.
//!
//! `fit` calls [`train`] with a [`Run`] of a model whose trainable parameters are variables. What a step found goes to an
//! [`Observer`], which writes, shows and saves; nothing here touches a file. Everything random is a function of (seed, epoch,
//! step), so that a run which was broken off goes on from a [`Snapshot`] as if nothing had happened.

mod ema;
mod run;
mod state;

pub use run::Run;
pub use state::{Best, BestMetric, Snapshot, State};

use crate::augment::Mixing;
use crate::evaluate::{Evaluation, PassError, evaluate};
use crate::groups::LearningRates;
use crate::loader::{Batch, Loader, LoaderError};
use crate::objective::ClassWeights;
use crate::sampler::{Sampling, order};
use crate::schedule::{Decay, ScheduleError};
use featherlight::model::Classifier;
use featherlight::nn::Parameter;
use featherlight::randomness::Randomness;
use std::num::{NonZeroU64, NonZeroUsize};
use std::time::Instant;

/// The recipe of a run.
#[derive(Debug, Clone, PartialEq)]
pub struct TrainerSettings {
    /// Passes over the training photos.
    pub epochs: u64,
    /// Micro-batches summed up to one step; the last step of an epoch may have fewer.
    pub accumulation_steps: NonZeroUsize,
    /// The highest learning rate, reached after the warm-up.
    pub learning_rate: f64,
    /// What it is multiplied by for some parameters.
    pub learning_rates: LearningRates,
    /// AdamW's weight decay, on matrices and tables alone.
    pub weight_decay: f64,
    /// Share of the steps in which the learning rate climbs from 0.
    pub warmup_ratio: f64,
    /// How the learning rate falls after that.
    pub scheduler: Decay,
    /// The norm that a step's gradients are scaled down to; 0 never scales.
    pub max_grad_norm: f64,
    /// Share of the target spread over all labels.
    pub label_smoothing: f64,
    /// What a photo's loss is multiplied by for its class.
    pub class_weights: ClassWeights,
    /// Which photos an epoch visits.
    pub sampling: Sampling,
    /// How the photos of a batch are mixed with each other.
    pub mixing: Mixing,
    /// Decay of the moving average of the weights that is evaluated and saved in the place of the weights; `None` keeps none.
    pub ema_decay: Option<f64>,
    /// What tells which epoch was the best.
    pub best_metric: BestMetric,
    /// The run ends after so many evaluations in a row without a new best.
    pub early_stopping_patience: Option<NonZeroU64>,
    /// Steps after which there is a moment to save, beside the ends of epochs.
    pub save_every: Option<NonZeroU64>,
    /// Whether a block's activations are computed anew in the backward pass instead of kept.
    pub checkpoint_activations: bool,
    /// The run's randomness: order, drop path, dropout.
    pub randomness: Randomness,
}

impl Default for TrainerSettings {
    /// The report's recipe where it says something, Hugging Face's Trainer's where not.
    fn default() -> Self {
        Self {
            epochs: 25,
            accumulation_steps: NonZeroUsize::MIN.saturating_add(7),
            learning_rate: 5e-5,
            learning_rates: LearningRates::default(),
            weight_decay: 0.0,
            warmup_ratio: 0.05,
            scheduler: Decay::Linear,
            max_grad_norm: 1.0,
            label_smoothing: 0.0,
            class_weights: ClassWeights::None,
            sampling: Sampling::Shuffled,
            mixing: Mixing::default(),
            ema_decay: None,
            best_metric: BestMetric::Top1,
            early_stopping_patience: None,
            save_every: None,
            checkpoint_activations: false,
            randomness: Randomness::new(42),
        }
    }
}

/// What an optimiser step found.
#[derive(Debug, Clone, PartialEq)]
pub struct Step {
    /// Counted from 1 over the whole run.
    pub step: u64,
    /// Epochs behind us, a fraction: 1.5 is the middle of the second.
    pub epoch: f64,
    /// Mean loss of the photos of the step, with label smoothing.
    pub loss: f64,
    /// The learning rate of this step.
    pub learning_rate: f64,
    /// Norm of all gradients before clipping.
    pub grad_norm: f64,
    /// Photos trained on.
    pub photos: usize,
    /// Seconds from the step before to this.
    pub seconds: f64,
    /// Seconds of these in which it waited for photos.
    pub waiting: f64,
}

impl Step {
    /// Photos trained on a second, loading included.
    pub fn images_per_second(&self) -> f64 {
        if self.seconds > 0.0 { self.photos as f64 / self.seconds } else { 0.0 }
    }
}

/// Where a run stands after an epoch.
pub struct EpochEnd<'a> {
    /// Counted from 1.
    pub epoch: u64,
    /// Steps made in the whole run.
    pub step: u64,
    /// How good the model is now, where there is a validation set.
    pub evaluation: Option<&'a Evaluation>,
    /// Whether it is the best so far.
    pub is_best: bool,
    /// The model; with a moving average of the weights, it has the average.
    pub model: &'a dyn Classifier,
}

/// Hears what happens in a run. An error ends it.
pub trait Observer {
    /// What an observer may fail with.
    type Error: From<TrainError>;

    /// After every optimiser step.
    ///
    /// # Errors
    /// Whatever should end the run.
    fn stepped(&mut self, step: &Step) -> Result<(), Self::Error>;

    /// After every epoch, before [`Observer::save`].
    ///
    /// # Errors
    /// Whatever should end the run.
    fn epoch_ended(&mut self, end: &EpochEnd<'_>) -> Result<(), Self::Error>;

    /// A moment to keep: after every epoch, and whenever [`TrainerSettings::save_every`] says or somebody wants to stop. The
    /// snapshot shares the run's memory.
    ///
    /// # Errors
    /// Whatever should end the run.
    fn save(&mut self, snapshot: &Snapshot) -> Result<(), Self::Error>;

    /// Asked after every step: whether to end here, with a last [`Observer::save`].
    fn wants_to_stop(&self) -> bool {
        false
    }
}

/// How training ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// After all epochs.
    Completed,
    /// After this epoch, as the ones before it had brought nothing better.
    StoppedEarly {
        /// Counted from 1.
        epoch: u64,
    },
    /// In the middle: [`Observer::wants_to_stop`].
    Interrupted {
        /// Steps made.
        step: u64,
    },
}

/// Why training ended early.
#[derive(Debug, thiserror::Error)]
pub enum TrainError {
    /// The photos or the model.
    #[error(transparent)]
    Pass(#[from] PassError),
    /// The learning rate.
    #[error(transparent)]
    Schedule(#[from] ScheduleError),
    /// The loss left the numbers.
    #[error(
        "step {step} (epoch {epoch}): {what} is {value}; what was saved before this step is kept. Begin anew, with --overwrite or another --output: a smaller --learning-rate or a longer --warmup-ratio usually helps"
    )]
    Diverged {
        /// The step, from 1.
        step: u64,
        /// The epoch, from 1.
        epoch: u64,
        /// The loss, the gradients' norm, the mean of a trained weight, or the validation loss.
        what: &'static str,
        /// Its value.
        value: f64,
    },
}

impl From<candle_core::Error> for TrainError {
    fn from(error: candle_core::Error) -> Self {
        Self::Pass(error.into())
    }
}

impl From<LoaderError> for TrainError {
    fn from(error: LoaderError) -> Self {
        Self::Pass(error.into())
    }
}

/// Optimiser steps of a whole run over the photos of `loader`.
pub fn steps(loader: &Loader, settings: &TrainerSettings) -> u64 {
    steps_of_an_epoch(loader, settings) * settings.epochs
}

fn steps_of_an_epoch(loader: &Loader, settings: &TrainerSettings) -> u64 {
    loader.batches(loader.photos()).div_ceil(settings.accumulation_steps.get()) as u64
}

/// The parameters that training changes: the adapters' factors, then the model's own, in their fixed order.
pub fn trained_parameters(model: &dyn Classifier) -> Vec<&Parameter> {
    let adapters =
        model.linears().into_iter().flat_map(|linear| linear.adapter_parameters().collect::<Vec<_>>());
    adapters.chain(model.parameters()).filter(|parameter| parameter.is_trainable()).collect()
}

/// Trains the model of `run` on the photos of `training`, from the step that the run is at; evaluates it on those of
/// `validation` after every epoch.
///
/// # Errors
/// If no photo can be read, the loss is no number any more, or the observer ends the run.
pub fn train<O: Observer>(
    run: &mut Run<'_>,
    training: &Loader,
    validation: Option<&Loader>,
    observer: &mut O,
) -> Result<Outcome, O::Error> {
    let settings = run.settings();
    let windows = steps_of_an_epoch(training, settings).max(1);
    if run.is_evaluation_due() {
        // The evaluation failed that this epoch should have ended with.
        end_epoch(run, (run.step_number() / windows).saturating_sub(1), validation, observer)?;
    }
    while run.step_number() < windows * settings.epochs {
        if let Some(epoch) = run.stopped_early() {
            return Ok(Outcome::StoppedEarly { epoch });
        }
        let epoch = run.step_number() / windows;
        if let Some(step) = train_epoch(run, training, windows, observer)? {
            return Ok(Outcome::Interrupted { step });
        }
        end_epoch(run, epoch, validation, observer)?;
        let (step, more) = (run.step_number(), run.step_number() < windows * settings.epochs);
        if more && observer.wants_to_stop() {
            return Ok(Outcome::Interrupted { step });
        }
    }
    Ok(run.stopped_early().map_or(Outcome::Completed, |epoch| Outcome::StoppedEarly { epoch }))
}

/// The rest of the epoch of `windows` steps that `run` is in. `Some` where the observer wants to stop: the steps made.
fn train_epoch<O: Observer>(
    run: &mut Run<'_>,
    training: &Loader,
    windows: u64,
    observer: &mut O,
) -> Result<Option<u64>, O::Error> {
    let settings = run.settings();
    let (epoch, behind) = (run.step_number() / windows, run.step_number() % windows);
    let accumulation = settings.accumulation_steps.get();
    let mut micro_batch = behind * accumulation as u64;
    let labels = training.labels();
    let order = order(settings.sampling, settings.randomness, epoch, &labels);
    let seen = (micro_batch as usize).saturating_mul(training.batch_size()).min(order.len());
    let mut batches = training.rest_of_epoch(epoch, order, seen).map_err(TrainError::from)?;
    run.start_clock();
    loop {
        let start = Instant::now();
        // What could be read of this epoch may lie before the step that the run goes on from.
        let is_end = |batch: &Result<Batch, LoaderError>| {
            seen > 0 && matches!(batch, Err(LoaderError::NothingReadable { .. }))
        };
        let window = batches.by_ref().take(accumulation).filter(|batch| !is_end(batch));
        let mut window: Vec<Batch> = window.collect::<Result<_, _>>().map_err(TrainError::from)?;
        let waiting = start.elapsed();
        if window.is_empty() {
            return Ok(None);
        }
        for (batch, index) in window.iter_mut().zip(micro_batch..) {
            settings.mixing.apply(batch, settings.randomness, epoch, index);
        }
        if let Some(step) = run.step(&window, epoch, micro_batch, waiting)? {
            observer.stepped(&step)?;
        }
        micro_batch += window.len() as u64;
        let step = run.step_number();
        if step.is_multiple_of(windows) {
            continue; // the epoch's end saves as well, after its evaluation
        }
        let stop = observer.wants_to_stop();
        if stop || settings.save_every.is_some_and(|every| step.is_multiple_of(every.get())) {
            run.check_parameters(epoch)?;
            observer.save(&run.snapshot())?;
        }
        if stop {
            return Ok(Some(step));
        }
    }
}

fn end_epoch<O: Observer>(
    run: &mut Run<'_>,
    epoch: u64,
    validation: Option<&Loader>,
    observer: &mut O,
) -> Result<(), O::Error> {
    run.check_parameters(epoch)?;
    run.swap_average()?;
    let evaluation = validation.map(|loader| evaluate(run.model(), run.normalization(), loader, |_| {}));
    let evaluation = match evaluation.transpose() {
        Ok(evaluation) => evaluation,
        Err(error) => {
            // The epoch is not lost with it.
            run.swap_average()?;
            observer.save(&run.snapshot_before_evaluation())?;
            return Err(TrainError::from(error).into());
        }
    };
    run.evaluation_is_done();
    if let Some(evaluation) = &evaluation {
        run.check("the validation loss", evaluation.mean_loss(), epoch)?;
    }
    let is_best = run.judge(epoch + 1, evaluation.as_ref());
    observer.epoch_ended(&EpochEnd {
        epoch: epoch + 1,
        step: run.step_number(),
        evaluation: evaluation.as_ref(),
        is_best,
        model: run.model(),
    })?;
    run.swap_average()?;
    observer.save(&run.snapshot())
}
