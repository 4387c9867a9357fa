//! The record of a run under way: everything that happens in it is shown and written here.

use super::FitError;
use crate::card::model_card;
use crate::checkpoint::{Checkpoint, Record};
use crate::evaluate::Evaluation;
use crate::loader::PhotoCache;
use crate::memory;
use crate::output::Output;
use crate::progress::Progress;
use crate::report::{EventFile, ReportError, Reporter};
use crate::settings::{FitSettings, Method};
use crate::trainer::{Best, EpochEnd, Observer, Outcome, Snapshot, Step};
use candle_core::DType;
use featherlight::image::Processor;
use featherlight::model::{Classifier, Config, ModelError, ModelFolder, save_adapter, save_text};
use serde_json::{Map, Value, json};
use std::error::Error;
use std::io::ErrorKind;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

/// What a run begins with.
pub(super) struct Start<'a> {
    pub(super) settings: &'a FitSettings,
    /// The model that the run started from.
    pub(super) folder: &'a ModelFolder,
    pub(super) config: &'a Config,
    pub(super) processor: &'a Processor,
    pub(super) run_file: Value,
    /// See [`Checkpoint::made_of`].
    pub(super) made_of: Map<String, Value>,
    /// Decoded photos, which may lie on the disk that the run is written to.
    pub(super) cache: PhotoCache,
}

/// Shows, writes and saves.
pub(super) struct Recorder<'a> {
    start: Start<'a>,
    output: Output,
    progress: &'a mut Progress,
    stop: &'a AtomicBool,
    started: Instant,
    /// As of now, less the time since `started`.
    record: Record,
    reporter: Reporter,
    /// TensorBoard's, where it was asked for, as long as it can be written.
    events: Option<EventFile>,
    /// Whether the epoch that just ended was the best so far.
    is_best: bool,
    evaluation: Option<Evaluation>,
}

impl<'a> Recorder<'a> {
    /// The record of a new run, or of one that goes on.
    ///
    /// # Errors
    /// If the output folder cannot be used.
    pub(super) fn open(
        start: Start<'a>,
        record: Option<Record>,
        reporter: Reporter,
        stop: &'a AtomicBool,
        progress: &'a mut Progress,
    ) -> Result<Self, FitError> {
        let FitSettings { output, overwrite, resume, .. } = start.settings;
        let output = match &record {
            Some(record) => Output::resume(output, record.metrics_bytes)?,
            // A run that was ended before its first checkpoint is replaced by the one that was asked to go on with it.
            None => Output::create(output, *overwrite || *resume)?,
        };
        let record = record.unwrap_or_default();
        let (started, evaluation) = (Instant::now(), None);
        let (events, is_best) = (None, false);
        Ok(Self { start, output, progress, stop, started, record, reporter, events, is_best, evaluation })
    }

    /// The first of `total` steps comes after `done`, that is `epochs` whole epochs.
    pub(super) fn begin(&mut self, total: u64, done: u64, epochs: u64) -> Result<(), FitError> {
        if done > 0 {
            // What the file of the run that goes on says and nothing else knows.
            let before = std::fs::read_to_string(self.output.folder().join("run.json")).unwrap_or_default();
            let before: Value = serde_json::from_str(&before).unwrap_or_default();
            let run_file = &mut self.start.run_file;
            run_file["evaluation"] = before["evaluation"].clone();
            run_file["epochs_completed"] = json!(epochs);
            let mut resumed = before["resumed_after_steps"].as_array().cloned().unwrap_or_default();
            resumed.push(json!(done));
            run_file["resumed_after_steps"] = json!(resumed);
        }
        self.write_run_file("running")?;
        if self.start.settings.tensorboard {
            let folder = self.output.folder().join("tensorboard");
            self.events = Some(EventFile::create(&folder, done + 1)?);
            if let Some(mosaic) = self.reporter.mosaic.clone().filter(|_| done == 0) {
                self.event(|events| events.mosaic(&mosaic));
            }
        }
        self.progress.start(total, "steps");
        self.progress.skip(done);
        Ok(())
    }

    /// The training is over, one way or the other; `best` is its best epoch.
    pub(super) fn trained(
        &mut self,
        trained: Result<Outcome, FitError>,
        best: Option<Best>,
    ) -> Result<Outcome, FitError> {
        self.progress.finish();
        self.start.run_file["best"] = json!(best.map(|best| json!({
            "epoch": best.epoch,
            self.start.settings.trainer.best_metric.to_string(): best.value,
        })));
        match trained {
            Ok(Outcome::Interrupted { step }) => {
                Err(self.ended("interrupted", FitError::Interrupted { step }))
            }
            Ok(outcome) => {
                if let Outcome::StoppedEarly { epoch } = outcome {
                    self.start.run_file["stopped_early_after_epoch"] = json!(epoch);
                }
                Ok(outcome)
            }
            Err(error) => Err(self.ended("failed", error)),
        }
    }

    /// The result is saved, or could not be.
    pub(super) fn concluded(&mut self, concluded: Result<(), FitError>) -> Result<(), FitError> {
        concluded.map_err(|error| self.ended("failed", error))
    }

    /// Writes down why the run ended.
    fn ended(&mut self, state: &str, error: FitError) -> FitError {
        self.start.run_file["error"] = json!(error.to_string());
        // What went wrong first is said: a full disk would have the last word otherwise.
        if let Err(other) = self.write_run_file(state) {
            tracing::warn!("{other}");
        }
        self.report();
        error
    }

    pub(super) fn settings(&self) -> &'a FitSettings {
        self.start.settings
    }

    /// The page and the tables, as things stand.
    fn report(&self) {
        self.reporter.write(self.evaluation.as_ref(), self.waiting_share());
    }

    fn waiting_share(&self) -> Option<f64> {
        let (stepping, waiting) = self.record.step_seconds;
        (stepping > 0.0).then(|| waiting / stepping)
    }

    /// Writes to TensorBoard's file. One that cannot be written any more is no reason to end a run.
    fn event(&mut self, write: impl FnOnce(&mut EventFile) -> Result<(), ReportError>) {
        if let Some(Err(error)) = self.events.as_mut().map(write) {
            tracing::warn!("TensorBoard's file is not written any further: {error}");
            self.events = None;
        }
    }

    /// Every photo that could not be read, before the run or in it.
    pub(super) fn unreadable(&mut self, photos: &[Value]) {
        self.start.run_file["unreadable_photos"] = json!(photos);
    }

    /// Whether the weights as they are have been evaluated.
    pub(super) fn has_evaluation(&self) -> bool {
        self.evaluation.is_some()
    }

    /// The last evaluation.
    pub(super) fn evaluation(&self) -> Option<&Evaluation> {
        self.evaluation.as_ref()
    }

    /// Notes an evaluation.
    pub(super) fn evaluated(&mut self, evaluation: &Evaluation) {
        self.start.run_file["evaluation"] = evaluation.to_json(&self.start.config.labels);
        self.evaluation = Some(evaluation.clone());
    }

    /// Seconds of the run so far.
    pub(super) fn seconds(&self) -> f64 {
        self.record.seconds + self.started.elapsed().as_secs_f64()
    }

    /// Saves the weights that the run came to, which are those after the epoch `kept` where they are not the last.
    pub(super) fn keep(&mut self, trained: &dyn Classifier, kept: Option<u64>) -> Result<(), FitError> {
        self.start.run_file["kept_epoch"] = json!(kept);
        match &self.start.settings.method {
            Method::Lora(_) => {
                self.making_room(|| self.save_adapter(trained))?;
                self.making_room(|| self.save_merged(trained))?;
            }
            Method::Full | Method::Head => {
                self.making_room(|| self.save_merged(trained))?;
                self.output.remove_adapter()?;
            }
        }
        self.write_run_file("completed")?;
        self.report();
        Ok(())
    }

    /// Saves; where the disk is full, once more when the decoded photos on it are gone.
    fn making_room(&self, save: impl Fn() -> Result<(), FitError>) -> Result<(), FitError> {
        match save() {
            Err(error) if self.start.cache.is_on_disk() && is_disk_full(&error) => {
                tracing::warn!("{error}: the cache makes room, and photos are decoded in every epoch");
                self.start.cache.remove();
                save()
            }
            saved => saved,
        }
    }

    fn save_adapter(&self, model: &dyn Classifier) -> Result<(), FitError> {
        let Method::Lora(adapter) = &self.start.settings.method else { return Ok(()) };
        let base = self.start.settings.model.to_string_lossy();
        Ok(save_adapter(model, adapter, &base, self.start.config, &self.output.adapter())?)
    }

    fn save_merged(&self, classifier: &dyn Classifier) -> Result<(), FitError> {
        let folder = self.output.merged();
        let files = (self.start.config, self.start.processor);
        let save = |dtype| self.start.folder.save_trained(classifier, files, dtype, &folder);
        match save(self.start.settings.save_dtype) {
            // What a run has learnt is not lost to the size of its numbers.
            Err(error @ ModelError::Overflow { .. }) => {
                tracing::warn!("{error}; it is written in f32");
                save(DType::F32)?;
            }
            saved => saved?,
        }
        let card = model_card(
            self.start.settings,
            &self.start.config.labels,
            &self.start.run_file,
            self.evaluation.as_ref(),
        );
        Ok(save_text(&card, &folder.join("README.md"))?)
    }

    fn write_run_file(&mut self, state: &str) -> Result<(), FitError> {
        let (seconds, waiting) = (self.seconds(), self.waiting_share());
        let run_file = &mut self.start.run_file;
        run_file["state"] = json!(state);
        run_file["seconds"] = json!(seconds);
        run_file["waiting_for_photos"] = json!(waiting);
        run_file["peak_memory_bytes"] = json!(memory::peak());
        run_file["peak_device_memory_bytes"] = json!(self.start.settings.device.peak_memory());
        Ok(self.output.run(run_file)?)
    }
}

/// Whether the disk, or the share of it that a person has, is used up.
fn is_disk_full(error: &FitError) -> bool {
    let mut next: Option<&(dyn Error + 'static)> = Some(error);
    while let Some(error) = next {
        let kind = error.downcast_ref::<std::io::Error>().map(std::io::Error::kind);
        if matches!(kind, Some(ErrorKind::StorageFull | ErrorKind::QuotaExceeded)) {
            return true;
        }
        next = error.source();
    }
    false
}

impl Observer for Recorder<'_> {
    type Error = FitError;

    fn stepped(&mut self, step: &Step) -> Result<(), FitError> {
        self.record.epoch_loss += step.loss * step.photos as f64;
        self.record.epoch_photos += step.photos;
        self.record.step_seconds.0 += step.seconds;
        self.record.step_seconds.1 += step.waiting;
        self.progress.stepped(step);
        self.event(|events| events.step(step));
        Ok(self.output.step(step)?)
    }

    fn epoch_ended(&mut self, end: &EpochEnd<'_>) -> Result<(), FitError> {
        let (sum, photos) = (self.record.epoch_loss, self.record.epoch_photos);
        (self.record.epoch_loss, self.record.epoch_photos) = (0.0, 0);
        self.progress.epoch_ended(end, self.start.settings.trainer.epochs, sum / photos.max(1) as f64);
        if let Some(evaluation) = end.evaluation {
            self.output.evaluation(end.epoch, end.step, evaluation)?;
            self.event(|events| events.evaluation(end.step, evaluation));
            self.evaluated(evaluation);
        }
        self.is_best = end.is_best;
        self.start.run_file["epochs_completed"] = json!(end.epoch);
        self.making_room(|| match &self.start.settings.method {
            Method::Lora(_) => self.save_adapter(end.model),
            Method::Full | Method::Head => self.save_merged(end.model),
        })?;
        self.write_run_file("running")?;
        self.report();
        Ok(())
    }

    fn save(&mut self, snapshot: &Snapshot) -> Result<(), FitError> {
        let folder = self.output.folder();
        let (best, last) = (Output::best(folder), Output::last(folder));
        let record = Record {
            metrics_bytes: self.output.metrics_bytes()?,
            seconds: self.seconds(),
            ..self.record.clone()
        };
        let checkpoint =
            Checkpoint { snapshot: snapshot.clone(), record, made_of: self.start.made_of.clone() };
        let is_best = std::mem::take(&mut self.is_best);
        self.making_room(|| {
            if is_best {
                // The best first: a run that is killed between the two makes the same best again.
                checkpoint.write(&best)?;
                Checkpoint::share(&best, &last)?;
            } else {
                checkpoint.write(&last)?;
            }
            Ok(())
        })
    }

    fn wants_to_stop(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_is_known_behind_every_error_of_a_save() {
        let io = |kind| std::io::Error::from(kind);
        let model = |kind| ModelError::Io { file: "model.safetensors".into(), source: io(kind) };
        assert!(is_disk_full(&FitError::from(model(ErrorKind::StorageFull))));
        assert!(is_disk_full(&FitError::Checkpoint(model(ErrorKind::QuotaExceeded).into())));
        assert!(!is_disk_full(&FitError::from(model(ErrorKind::PermissionDenied))));
    }
}
