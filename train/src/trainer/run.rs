//! One run under way: a step at a time, and what it goes on from.

use super::ema::MovingAverage;
use super::state::{Best, Snapshot, State};
use super::{Step, TrainError, TrainerSettings, trained_parameters};
use crate::evaluate::{Evaluation, pixel_values};
use crate::groups::{Depths, Groups};
use crate::loader::Batch;
use crate::objective::Objective;
use crate::optimizer::{AdamW, AdamWSettings, Gradients};
use crate::schedule::Schedule;
use candle_core::{DType, Device, Result, Tensor};
use featherlight::image::Normalization;
use featherlight::model::Classifier;
use featherlight::nn::{Pass, Training};
use featherlight::ops;
use featherlight::ops::device::Placement;
use std::collections::HashMap;
use std::num::NonZeroU64;
use std::time::{Duration, Instant};

mod recompute;

/// f16 ends at 6e-8, where many gradients still lie (Micikevicius et al. 2018, "Mixed Precision Training", §3.2): they are
/// computed so many times as large, and half as large again whenever they leave its range. The other formats have f32's range.
const F16_LOSS_SCALE: f64 = 1024.0;

/// A run under way, a step at a time: [`super::train`] drives it over a loader, a measurement over batches of its own.
pub struct Run<'a> {
    model: &'a dyn Classifier,
    device: Device,
    normalization: &'a Normalization,
    settings: &'a TrainerSettings,
    objective: Objective,
    schedule: Schedule,
    optimizer: AdamW,
    average: Option<MovingAverage>,
    /// The depth of the first parameter that is trained, see [`Depths`].
    first_trained: usize,
    steps_an_epoch: u64,
    state: State,
    /// The end of the step before.
    since: Instant,
}

impl<'a> Run<'a> {
    /// The start of a run of `settings.epochs` epochs of `steps_an_epoch` steps, over classes of these sizes.
    ///
    /// # Errors
    /// If the recipe has no schedule, or the moments find no memory.
    pub fn new(
        model: &'a dyn Classifier,
        normalization: &'a Normalization,
        settings: &'a TrainerSettings,
        steps_an_epoch: u64,
        class_sizes: &[usize],
    ) -> std::result::Result<Self, TrainError> {
        let steps = steps_an_epoch * settings.epochs;
        let schedule =
            Schedule::new(settings.scheduler, settings.learning_rate, settings.warmup_ratio, steps)?;
        let optimizer = AdamWSettings { weight_decay: settings.weight_decay, ..AdamWSettings::default() };
        let (depths, parameters) = (Depths::of(model), trained_parameters(model));
        let first_trained = parameters.iter().map(|parameter| depths.depth(parameter.name())).min();
        let groups = Groups::new(settings.learning_rates, &depths);
        let optimizer = AdamW::new(&parameters, optimizer, |parameter| groups.group(parameter))?;
        let average = settings.ema_decay.map(|decay| MovingAverage::new(&optimizer, decay)).transpose()?;
        let Placement { device, dtype, .. } = model.placement();
        Ok(Self {
            model,
            device,
            normalization,
            settings,
            objective: Objective::new(settings.label_smoothing, settings.class_weights, class_sizes),
            schedule,
            optimizer,
            average,
            first_trained: first_trained.unwrap_or(depths.deepest()),
            steps_an_epoch,
            state: State::start(if dtype == DType::F16 { F16_LOSS_SCALE } else { 1.0 }),
            since: Instant::now(),
        })
    }

    /// The recipe.
    pub fn settings(&self) -> &'a TrainerSettings {
        self.settings
    }

    /// The model that is trained.
    pub fn model(&self) -> &'a dyn Classifier {
        self.model
    }

    /// How its photos are normalised.
    pub fn normalization(&self) -> &'a Normalization {
        self.normalization
    }

    /// Steps behind us, those included that were left out.
    pub fn step_number(&self) -> u64 {
        self.state.step
    }

    /// The best evaluation so far.
    pub fn best(&self) -> Option<Best> {
        self.state.best
    }

    /// The epoch, from 1, after which the run ended early.
    pub fn stopped_early(&self) -> Option<u64> {
        self.state.stopped_early
    }

    /// What the run goes on from after this step. It shares the run's memory.
    pub fn snapshot(&self) -> Snapshot {
        let mut tensors = self.optimizer.state();
        if let Some(average) = &self.average {
            average.save(&self.optimizer, &mut tensors);
        }
        let state = State { optimizer_steps: self.optimizer.steps(), ..self.state.clone() };
        Snapshot { tensors, state }
    }

    /// The same at the end of an epoch whose evaluation failed: whoever goes on from it begins with that.
    pub(super) fn snapshot_before_evaluation(&self) -> Snapshot {
        let Snapshot { tensors, state } = self.snapshot();
        Snapshot { tensors, state: State { evaluation_due: true, ..state } }
    }

    pub(super) fn is_evaluation_due(&self) -> bool {
        self.state.evaluation_due
    }

    pub(super) fn evaluation_is_done(&mut self) {
        self.state.evaluation_due = false;
    }

    /// Goes back to a snapshot of a run of the same model and settings.
    ///
    /// # Errors
    /// If a tensor is missing or has another shape.
    pub fn restore(&mut self, snapshot: Snapshot) -> Result<()> {
        let Snapshot { tensors, state } = snapshot;
        if let Some(average) = &mut self.average {
            average.restore(&self.optimizer, &tensors)?;
        }
        self.optimizer.restore(tensors, state.optimizer_steps)?;
        self.state = state;
        Ok(())
    }

    /// Gives the model the weights that the run came to: those of a snapshot's tensors, or its own; with a moving average, that.
    ///
    /// # Errors
    /// If a tensor is missing or has another shape.
    pub fn finish(mut self, tensors: Option<&HashMap<String, Tensor>>) -> Result<()> {
        match (tensors, &mut self.average) {
            (None, None) => Ok(()),
            (Some(tensors), None) => self.optimizer.restore_parameters(tensors),
            (tensors, Some(average)) => {
                if let Some(tensors) = tensors {
                    average.restore(&self.optimizer, tensors)?;
                }
                average.swap(&self.optimizer)
            }
        }
    }

    /// The next step is timed from now on: what lies between two epochs is no part of it.
    pub(super) fn start_clock(&mut self) {
        self.since = Instant::now();
    }

    /// The model gets the moving average of its weights, where there is one, and with the second call its weights again.
    pub(super) fn swap_average(&mut self) -> std::result::Result<(), TrainError> {
        Ok(self.average.as_mut().map_or(Ok(()), |average| average.swap(&self.optimizer))?)
    }

    /// Whether the evaluation after `epoch` (from 1) is the best so far.
    pub(super) fn judge(&mut self, epoch: u64, evaluation: Option<&Evaluation>) -> bool {
        let (metric, patience) = (self.settings.best_metric, self.settings.early_stopping_patience);
        evaluation.is_some_and(|found| self.state.judge(epoch, found, metric, patience.map(NonZeroU64::get)))
    }

    /// One optimiser step over the micro-batches of `window`, the first of which is `micro_batch` of its epoch and which took
    /// `waiting` to arrive. The loss is the mean over all photos of the window, however they are spread; a window that could not
    /// be read makes no step but keeps its place in the schedule.
    ///
    /// # Errors
    /// If the model fails, or the loss or a gradient is no number any more.
    pub fn step(
        &mut self,
        window: &[Batch],
        epoch: u64,
        micro_batch: u64,
        waiting: Duration,
    ) -> std::result::Result<Option<Step>, TrainError> {
        let learning_rate = self.schedule.learning_rate(self.state.step);
        self.state.step += 1;
        let photos: usize = window.iter().map(Batch::len).sum();
        let total: f64 = window.iter().map(|batch| self.objective.total(batch)).sum();
        if photos == 0 || total == 0.0 {
            return Ok(None);
        }
        let (mut gradients, mut loss) = (self.optimizer.gradients(), 0f64);
        for (batch, index) in window.iter().zip(micro_batch..).filter(|(batch, _)| !batch.is_empty()) {
            let place = Training { randomness: self.settings.randomness, epoch, step: index };
            let pass = Pass::Train(place);
            loss += self.passes(batch, &pass, total, &mut gradients)?;
        }
        self.check("the loss", loss, epoch)?;
        let largest = self.settings.max_grad_norm;
        let grad_norm = gradients.clip(if largest > 0.0 { largest } else { f64::INFINITY })?;
        if !grad_norm.is_finite() && self.state.loss_scale > 1.0 {
            self.state.loss_scale /= 2.0;
            tracing::info!(
                step = self.state.step,
                scale = self.state.loss_scale,
                "gradients beyond f16: the step is left out"
            );
            return Ok(None);
        }
        self.check("the gradients' norm", grad_norm, epoch)?;
        self.optimizer.step(&gradients, learning_rate)?;
        if let Some(average) = &mut self.average {
            average.update(&self.optimizer, self.optimizer.steps())?;
        }
        let seconds = self.since.elapsed().as_secs_f64();
        self.since = Instant::now();
        Ok(Some(Step {
            step: self.state.step,
            epoch: self.state.step as f64 / self.steps_an_epoch as f64,
            loss,
            learning_rate,
            grad_norm,
            photos,
            seconds,
            waiting: waiting.as_secs_f64(),
        }))
    }

    /// A step's passes over so many micro-batches that are all `batch`; they change nothing: for what they take.
    ///
    /// # Errors
    /// If the model fails.
    pub fn rehearse(&self, batch: &Batch, micro_batches: usize) -> Result<()> {
        let pass = Pass::Train(Training { randomness: self.settings.randomness, epoch: 0, step: 0 });
        let mut gradients = self.optimizer.gradients();
        for _ in 0..micro_batches {
            self.passes(batch, &pass, self.objective.total(batch), &mut gradients)?;
        }
        self.device.synchronize()
    }

    /// The loss of `batch`, of a step whose losses are divided by `total`; its gradients are added.
    fn passes(&self, batch: &Batch, pass: &Pass, total: f64, gradients: &mut Gradients) -> Result<f64> {
        match self.settings.checkpoint_activations {
            true => self.recompute(batch, pass, total, gradients),
            false => self.backward(batch, pass, total, gradients),
        }
    }

    /// The part of the loss that `batch` makes, of a step whose losses are divided by `total`; its gradients are added.
    fn backward(&self, batch: &Batch, pass: &Pass, total: f64, gradients: &mut Gradients) -> Result<f64> {
        let pixel_values = pixel_values(batch, self.normalization, &self.device)?;
        let logits = self.model.forward(&pixel_values, pass)?;
        let loss = self.loss(&logits, batch, total)?;
        drop(logits);
        let value = loss.to_scalar::<f32>()?;
        let store = ops::backward(&loss.affine(self.state.loss_scale, 0.0)?)?;
        self.optimizer.accumulate(gradients, store, 1.0 / self.state.loss_scale)?;
        Ok(f64::from(value))
    }

    fn loss(&self, logits: &Tensor, batch: &Batch, total: f64) -> Result<Tensor> {
        let targets = self.objective.targets(batch, logits.dim(1)?);
        ops::soft_cross_entropy(logits, targets, total)
    }

    /// Weights that left the numbers in the last step, after its loss was found, must not replace good ones.
    pub(super) fn check_parameters(&self, epoch: u64) -> std::result::Result<(), TrainError> {
        for (_, variable) in self.optimizer.variables() {
            let sum = variable.abs()?.mean_all()?.to_scalar::<f32>()?;
            self.check("the mean of a trained weight", f64::from(sum), epoch)?;
        }
        Ok(())
    }

    pub(super) fn check(
        &self,
        what: &'static str,
        value: f64,
        epoch: u64,
    ) -> std::result::Result<(), TrainError> {
        if value.is_finite() {
            return Ok(());
        }
        Err(TrainError::Diverged { step: self.state.step, epoch: epoch + 1, what, value })
    }
}
