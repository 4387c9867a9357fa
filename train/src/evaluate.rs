//! How good a classifier is on a labelled set: top-1, top-5, mean loss, accuracy of each class.
//!
//! Called by the trainer after every epoch and by `evaluate`. It runs the model as it is served: no augmentation, no
//! dropout.

use crate::augment::{AugmentError, Augmentation, Augmenter};
use crate::dataset::{Dataset, DatasetError, LabelSpace};
use crate::loader::{self, Batch, Loader, LoaderError, Unreadable};
use crate::progress::Progress;
use crate::sampler::in_order;
use crate::speed::{InferenceSpeed, inference_speed};
use candle_core::{Device, Tensor};
use featherlight::image::Normalization;
use featherlight::model::{Classifier, ModelError, ModelFolder};
use featherlight::nn::Pass;
use featherlight::ops;
use featherlight::ops::device::{Fault, Placement};
use featherlight::randomness::Randomness;
use serde_json::{Value, json};
use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

/// Why an evaluation, or a step of training, ended early.
#[derive(Debug, thiserror::Error)]
pub enum PassError {
    /// The photos.
    #[error(transparent)]
    Loader(#[from] LoaderError),
    /// The device's memory does not suffice.
    #[error(
        "the device ran out of memory: a smaller --batch-size needs less (with more --accumulation-steps a step has as many photos); {0}"
    )]
    OutOfMemory(candle_core::Error),
    /// The model.
    #[error("the model failed: {0}")]
    Model(candle_core::Error),
}

impl From<candle_core::Error> for PassError {
    fn from(error: candle_core::Error) -> Self {
        match Fault::of(&error) {
            Fault::OutOfMemory => Self::OutOfMemory(error),
            Fault::Lost | Fault::Work => Self::Model(error),
        }
    }
}

/// The counts of one evaluation.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Evaluation {
    /// Photos that could be read.
    pub photos: usize,
    /// Photos whose label has the highest logit.
    pub top1: usize,
    /// Photos whose label is among the five highest logits.
    pub top5: usize,
    /// Sum of the photos' cross-entropies.
    loss: f64,
    /// Photos and right answers of each class.
    classes: Vec<(usize, usize)>,
}

impl Evaluation {
    /// An evaluation of so many photos that came to this, for tests.
    #[cfg(test)]
    pub(crate) fn counted(photos: usize, top1: usize, top5: usize, loss: f64) -> Self {
        Self { photos, top1, top5, loss, ..Self::default() }
    }

    /// Share of photos with the right label first; 0 without photos.
    pub fn top1_accuracy(&self) -> f64 {
        share(self.top1, self.photos)
    }

    /// Share of photos with the right label among the first five; 0 without photos.
    pub fn top5_accuracy(&self) -> f64 {
        share(self.top5, self.photos)
    }

    /// Mean cross-entropy, natural logarithm; 0 without photos.
    pub fn mean_loss(&self) -> f64 {
        if self.photos == 0 { 0.0 } else { self.loss / self.photos as f64 }
    }

    /// Photos and right answers of each class, in the order of the labels.
    pub fn classes(&self) -> &[(usize, usize)] {
        &self.classes
    }

    /// For programs: shares and counts, and each class that has photos under its label.
    pub fn to_json(&self, labels: &[String]) -> Value {
        let classes: serde_json::Map<String, Value> = labels
            .iter()
            .zip(&self.classes)
            .filter(|(_, (photos, _))| *photos > 0)
            .map(|(label, (photos, right))| {
                (label.clone(), json!({ "photos": photos, "top1": share(*right, *photos) }))
            })
            .collect();
        json!({
            "photos": self.photos,
            "top1": self.top1_accuracy(),
            "top5": self.top5_accuracy(),
            "loss": self.mean_loss(),
            "classes": classes,
        })
    }

    fn add(&mut self, logits: &Tensor, labels: &[u32]) -> candle_core::Result<()> {
        self.classes.resize(logits.dim(1)?, (0, 0));
        for (row, &label) in logits.to_vec2::<f32>()?.iter().zip(labels) {
            let label = label as usize;
            let Some(&own) = row.get(label) else { continue };
            // Ties count against the model, and so does NaN: a constant output is no right answer.
            let below = row.iter().filter(|logit| **logit < own).count();
            let before = row.len() - 1 - below;
            self.photos += 1;
            self.top1 += usize::from(before < 1);
            self.top5 += usize::from(before < 5);
            if let Some((photos, right)) = self.classes.get_mut(label) {
                *photos += 1;
                *right += usize::from(before < 1);
            }
        }
        Ok(())
    }
}

fn share(part: usize, whole: usize) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}

/// Runs `model` over every photo of `loader`, whose augmenter must be the plain one; `progress` hears the photos of each
/// batch.
///
/// # Errors
/// If no photo can be read, or the model fails.
pub fn evaluate(
    model: &dyn Classifier,
    normalization: &Normalization,
    loader: &Loader,
    mut progress: impl FnMut(usize),
) -> Result<Evaluation, PassError> {
    let (mut evaluation, device) = (Evaluation::default(), model.placement().device);
    for batch in loader.epoch(0, in_order(loader.photos()))? {
        let batch = batch?;
        if !batch.is_empty() {
            let logits = model.forward(&pixel_values(&batch, normalization, &device)?, &Pass::Eval)?;
            let loss = ops::cross_entropy(&logits, &batch.labels, 0.0)?.to_scalar::<f32>()?;
            evaluation.loss += f64::from(loss) * batch.len() as f64;
            evaluation.add(&logits, &batch.labels)?;
        }
        progress(batch.len());
    }
    Ok(evaluation)
}

/// The batch as the model takes it: `[photos, 3, height, width]`, f32, on `device`.
pub(crate) fn pixel_values(
    batch: &Batch,
    normalization: &Normalization,
    device: &Device,
) -> candle_core::Result<Tensor> {
    let size = batch.height * batch.width * 3;
    let photos: Vec<&[u8]> = batch.pixels.chunks_exact(size.max(1)).collect();
    ops::normalize(&photos, batch.height, batch.width, normalization, device)
}

/// What `evaluate` found in a data set.
#[derive(Debug)]
pub struct EvaluationReport {
    /// The counts.
    pub evaluation: Evaluation,
    /// Photos that could not be read, and are in no count.
    pub unreadable: Vec<Unreadable>,
    /// Seconds, loading and computing together.
    pub seconds: f64,
    /// That of the model alone, where it was asked for; see [`mod@crate::speed`].
    pub inference_speed: Option<InferenceSpeed>,
}

/// What is evaluated, and how.
#[derive(Debug)]
pub struct EvaluateSettings<'a> {
    /// A folder with one folder a class, or a CSV.
    pub data: &'a Path,
    /// What the files of a CSV are relative to.
    pub image_root: Option<&'a Path>,
    /// How photos are loaded.
    pub loading: loader::Settings,
    /// No more photos than these, taken evenly over the set.
    pub max_photos: Option<NonZeroUsize>,
    /// Whether the model alone is timed as well.
    pub speed: bool,
}

/// Why a data set could not be evaluated.
#[derive(Debug, thiserror::Error)]
pub enum EvaluateError {
    /// The photos' list or folder.
    #[error(transparent)]
    Dataset(#[from] DatasetError),
    /// The model folder.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// The way photos are prepared.
    #[error(transparent)]
    Augment(#[from] AugmentError),
    /// The photos or the model, under way.
    #[error(transparent)]
    Pass(#[from] PassError),
}

/// Measures the model of `folder` at `placement`, its adapter merged, on photos whose labels must be the model's.
///
/// # Errors
/// If the photos or the model cannot be used; see [`EvaluateError`].
pub fn evaluate_folder(
    folder: &ModelFolder,
    settings: &EvaluateSettings<'_>,
    placement: &Placement,
    progress: &mut Progress,
) -> Result<EvaluationReport, EvaluateError> {
    let data = settings.data;
    let mut dataset = Dataset::open(data, settings.image_root, LabelSpace::Known(&folder.config().labels))?;
    dataset.warnings().iter().for_each(|warning| tracing::warn!(data = %data.display(), "{warning}"));
    let (all, most) = (dataset.samples.len(), settings.max_photos.map_or(usize::MAX, NonZeroUsize::get));
    if all > most {
        let evenly: Vec<usize> = (0..most).map(|at| at * all / most).collect();
        dataset = dataset.subset(&evenly);
    }
    let processor = folder.processor()?;
    let classifier = folder.load_merged(placement)?;
    let normalization = processor.normalization();
    let augmenter = Augmenter::new(Arc::new(processor), Augmentation::Plain, Randomness::new(0))?;
    let loader = Loader::new(&dataset, augmenter, settings.loading.clone());
    progress.start(dataset.samples.len() as u64, "photos");
    let start = Instant::now();
    let evaluation =
        evaluate(&*classifier, &normalization, &loader, |photos| progress.advance(photos as u64))?;
    let seconds = start.elapsed().as_secs_f64();
    let inference_speed = match settings.speed {
        true => inference_speed(&*classifier, &normalization, &loader)?,
        false => None,
    };
    Ok(EvaluationReport { evaluation, unreadable: loader.unreadable(), seconds, inference_speed })
}

impl EvaluationReport {
    /// The counts and shares of [`Evaluation::to_json`], the unreadable photos, and the speed.
    pub fn to_json(&self, labels: &[String]) -> Value {
        let mut json = self.evaluation.to_json(labels);
        let unreadable = self
            .unreadable
            .iter()
            .map(|photo| json!({ "file": photo.path.to_string_lossy(), "reason": photo.reason }));
        json["unreadable"] = unreadable.collect();
        json["images_per_second"] = json!(self.evaluation.photos as f64 / self.seconds.max(f64::EPSILON));
        if let Some(speed) = self.inference_speed {
            json["inference_images_per_second"] = json!(speed.images_per_second);
            json["inference_batch_size"] = json!(speed.batch_size);
        }
        json
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn evaluation(rows: &[[f32; 6]], labels: &[u32]) -> Evaluation {
        let values: Vec<f32> = rows.iter().flatten().copied().collect();
        let logits = Tensor::from_vec(values, (rows.len(), 6), &Device::Cpu).unwrap();
        let mut evaluation = Evaluation::default();
        evaluation.add(&logits, labels).unwrap();
        evaluation
    }

    #[test]
    fn the_label_s_place_among_the_logits_decides_top_1_and_top_5() {
        let rows = [[9., 1., 2., 3., 4., 5.], [9., 1., 2., 3., 4., 5.], [9., 1., 2., 3., 4., 5.]];
        let evaluation = evaluation(&rows, &[0, 2, 1]);
        assert_eq!((evaluation.photos, evaluation.top1, evaluation.top5), (3, 1, 2));
        assert_eq!(evaluation.classes()[..3], [(1, 1), (1, 0), (1, 0)]);
    }

    #[test]
    fn a_constant_or_undefined_output_is_never_right() {
        let evaluation = evaluation(&[[0.; 6], [f32::NAN; 6]], &[0, 0]);
        assert_eq!((evaluation.photos, evaluation.top1, evaluation.top5), (2, 0, 0));
    }

    #[test]
    fn the_json_names_the_classes_that_have_photos() {
        let labels: Vec<String> = ('a'..='f').map(String::from).collect();
        let json = evaluation(&[[9., 1., 2., 3., 4., 5.]], &[0]).to_json(&labels);
        assert_eq!(json["top1"], 1.0);
        assert_eq!(json["classes"], json!({ "a": { "photos": 1, "top1": 1.0 } }));
    }
}
