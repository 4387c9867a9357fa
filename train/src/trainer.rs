//! The training loop: epochs, accumulation windows, steps, an evaluation after every epoch.
//!
//! `fit` calls [`train`] with a model whose trainable parameters are variables. What a step found goes to an [`Observer`],
//! which writes, shows and saves; nothing here touches a file. Everything random is a function of (seed, epoch, step).

use crate::evaluate::{Evaluation, PassError, evaluate, pixel_values};
use crate::loader::{Batch, Loader};
use crate::optimizer::{AdamW, AdamWSettings, Decayed};
use crate::sampler::shuffled;
use crate::schedule::{Decay, Schedule, ScheduleError};
use candle_core::{DType, Device};
use featherlight::image::Normalization;
use featherlight::model::Classifier;
use featherlight::nn::{Parameter, Pass, Training};
use featherlight::ops;
use featherlight::ops::device::Placement;
use featherlight::randomness::Randomness;
use std::num::NonZeroUsize;
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
    /// The run's randomness: order, drop path, dropout.
    pub randomness: Randomness,
}

/// f16 ends at 6e-8, where many gradients still lie (Micikevicius et al. 2018, "Mixed Precision Training", §3.2): they are
/// computed so many times as large, and half as large again whenever they leave its range. The other formats have f32's range.
const F16_LOSS_SCALE: f64 = 1024.0;

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
    /// The model.
    pub model: &'a dyn Classifier,
    /// The optimiser with its moments.
    pub optimizer: &'a AdamW,
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

    /// After every epoch.
    ///
    /// # Errors
    /// Whatever should end the run.
    fn epoch_ended(&mut self, end: &EpochEnd<'_>) -> Result<(), Self::Error>;
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
        "step {step} (epoch {epoch}): {what} is {value}; a smaller --learning-rate or a longer --warmup-ratio usually helps"
    )]
    Diverged {
        /// The step, from 1.
        step: u64,
        /// The epoch, from 1.
        epoch: u64,
        /// `the loss` or `the gradients' norm`.
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

impl From<crate::loader::LoaderError> for TrainError {
    fn from(error: crate::loader::LoaderError) -> Self {
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

/// Trains `model` on the photos of `training`; evaluates it on those of `validation` after every epoch.
///
/// # Errors
/// If no photo can be read, the loss is no number any more, or the observer ends the run.
pub fn train<O: Observer>(
    model: &dyn Classifier,
    normalization: &Normalization,
    training: &Loader,
    validation: Option<&Loader>,
    settings: &TrainerSettings,
    observer: &mut O,
) -> Result<(), O::Error> {
    let steps_an_epoch = steps_of_an_epoch(training, settings).max(1);
    let mut run = Run::new(model, normalization, settings, steps_an_epoch)?;
    for epoch in 0..settings.epochs {
        let order = shuffled(settings.randomness, epoch, training.photos());
        let mut batches = training.epoch(epoch, order).map_err(TrainError::from)?;
        let mut micro_batch = 0;
        loop {
            let window: Vec<Batch> = batches
                .by_ref()
                .take(settings.accumulation_steps.get())
                .collect::<Result<_, _>>()
                .map_err(TrainError::from)?;
            if window.is_empty() {
                break;
            }
            if let Some(step) = run.step(&window, epoch, micro_batch)? {
                observer.stepped(&step)?;
            }
            micro_batch += window.len() as u64;
        }
        let evaluate = |loader| evaluate(model, normalization, loader, |_| {});
        let evaluation = validation.map(evaluate).transpose().map_err(TrainError::from)?;
        if let Some(evaluation) = &evaluation {
            run.check("the validation loss", evaluation.mean_loss(), epoch)?;
        }
        run.check_parameters(epoch)?;
        observer.epoch_ended(&EpochEnd {
            epoch: epoch + 1,
            step: run.step,
            evaluation: evaluation.as_ref(),
            model,
            optimizer: &run.optimizer,
        })?;
        run.since = Instant::now(); // the evaluation is no part of the next step
    }
    Ok(())
}

/// A run under way, a step at a time: [`train`] drives it over a loader, a measurement over batches of its own.
pub struct Run<'a> {
    model: &'a dyn Classifier,
    device: Device,
    /// What the loss is multiplied by for the backward pass, and the gradients divided by.
    loss_scale: f64,
    normalization: &'a Normalization,
    settings: &'a TrainerSettings,
    schedule: Schedule,
    optimizer: AdamW,
    steps_an_epoch: u64,
    /// Steps made.
    step: u64,
    /// The end of the step before.
    since: Instant,
}

impl<'a> Run<'a> {
    /// The start of a run of `settings.epochs` epochs of `steps_an_epoch` steps.
    ///
    /// # Errors
    /// If the recipe has no schedule, or the moments find no memory.
    pub fn new(
        model: &'a dyn Classifier,
        normalization: &'a Normalization,
        settings: &'a TrainerSettings,
        steps_an_epoch: u64,
    ) -> Result<Self, TrainError> {
        let steps = steps_an_epoch * settings.epochs;
        let schedule =
            Schedule::new(settings.scheduler, settings.learning_rate, settings.warmup_ratio, steps)?;
        let optimizer = AdamWSettings { weight_decay: settings.weight_decay, ..AdamWSettings::default() };
        let optimizer = AdamW::new(&trained_parameters(model), optimizer, Decayed::NeitherNormsNorBiases)?;
        let Placement { device, dtype } = model.placement();
        Ok(Self {
            model,
            device,
            loss_scale: if dtype == DType::F16 { F16_LOSS_SCALE } else { 1.0 },
            normalization,
            settings,
            schedule,
            optimizer,
            steps_an_epoch,
            step: 0,
            since: Instant::now(),
        })
    }

    /// One optimiser step over the micro-batches of `window`, the first of which is `micro_batch` of its epoch. The loss is
    /// the mean over all photos of the window, however they are spread; a window that could not be read makes no step but
    /// keeps its place in the schedule.
    ///
    /// # Errors
    /// If the model fails, or the loss or a gradient is no number any more.
    pub fn step(
        &mut self,
        window: &[Batch],
        epoch: u64,
        micro_batch: u64,
    ) -> Result<Option<Step>, TrainError> {
        let learning_rate = self.schedule.learning_rate(self.step);
        self.step += 1;
        let photos: usize = window.iter().map(Batch::len).sum();
        let (mut gradients, mut loss) = (self.optimizer.gradients(), 0f64);
        for (batch, index) in window.iter().zip(micro_batch..).filter(|(batch, _)| !batch.is_empty()) {
            let training = Training { randomness: self.settings.randomness, epoch, step: index };
            let pixel_values = pixel_values(batch, self.normalization, &self.device)?;
            let logits = self.model.forward(&pixel_values, &Pass::Train(training))?;
            let batch_loss =
                ops::cross_entropy(&logits, &batch.labels, self.settings.label_smoothing as f32)?;
            let share = batch.len() as f64 / photos as f64;
            loss += f64::from(batch_loss.to_scalar::<f32>()?) * share;
            let store = batch_loss.affine(self.loss_scale, 0.0)?.backward()?;
            self.optimizer.accumulate(&mut gradients, &store, share / self.loss_scale)?;
        }
        if photos == 0 {
            return Ok(None);
        }
        self.check("the loss", loss, epoch)?;
        let largest = self.settings.max_grad_norm;
        let grad_norm = gradients.clip(if largest > 0.0 { largest } else { f64::INFINITY })?;
        if !grad_norm.is_finite() && self.loss_scale > 1.0 {
            self.loss_scale /= 2.0;
            tracing::info!(
                step = self.step,
                scale = self.loss_scale,
                "gradients beyond f16: the step is left out"
            );
            return Ok(None);
        }
        self.check("the gradients' norm", grad_norm, epoch)?;
        self.optimizer.step(&gradients, learning_rate)?;
        let seconds = self.since.elapsed().as_secs_f64();
        self.since = Instant::now();
        let epoch = self.step as f64 / self.steps_an_epoch as f64;
        Ok(Some(Step { step: self.step, epoch, loss, learning_rate, grad_norm, photos, seconds }))
    }

    /// Weights that left the numbers in the last step, after its loss was found, must not replace good ones.
    fn check_parameters(&self, epoch: u64) -> Result<(), TrainError> {
        for parameter in trained_parameters(self.model) {
            let sum = parameter.tensor().abs()?.mean_all()?.to_scalar::<f32>()?;
            self.check("the mean of a trained weight", f64::from(sum), epoch)?;
        }
        Ok(())
    }

    fn check(&self, what: &'static str, value: f64, epoch: u64) -> Result<(), TrainError> {
        if value.is_finite() {
            return Ok(());
        }
        Err(TrainError::Diverged { step: self.step, epoch: epoch + 1, what, value })
    }
}
