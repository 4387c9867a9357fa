//! How good a classifier is on a labelled set: the run over its photos. What it finds is an [`Evaluation`].
//!
//! Called by the trainer after every epoch and by `evaluate`. It runs the model as it is served: no augmentation, no
//! dropout. With test-time augmentation a photo is seen twice, as it is and mirrored.

use crate::augment::{AugmentError, Augmentation, Augmenter, mirror_rows};
use crate::dataset::{Dataset, DatasetError, LabelSpace, Sample};
pub use crate::evaluation::Evaluation;
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

/// In how many views a photo is judged.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Views {
    /// As it is served.
    #[default]
    Plain,
    /// As it is served and mirrored, left to right (test-time augmentation): the mean of the two probabilities counts.
    Mirrored,
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
    progress: impl FnMut(usize),
) -> Result<Evaluation, PassError> {
    evaluate_views(model, normalization, loader, Views::Plain, progress)
}

/// The same in one or two views of each photo.
///
/// # Errors
/// Those of [`evaluate`].
pub fn evaluate_views(
    model: &dyn Classifier,
    normalization: &Normalization,
    loader: &Loader,
    views: Views,
    mut progress: impl FnMut(usize),
) -> Result<Evaluation, PassError> {
    let (mut evaluation, device) = (Evaluation::default(), model.placement().device);
    let logits = |batch: &Batch| {
        let pixel_values = pixel_values(batch, normalization, &device)?;
        ops::no_grad(|| model.forward(&pixel_values, &Pass::Eval))
    };
    for batch in loader.epoch(0, in_order(loader.photos()))? {
        let batch = batch?;
        if !batch.is_empty() {
            let seen = logits(&batch)?;
            let logits = match views {
                Views::Plain => seen,
                Views::Mirrored => mean_of_probabilities(&seen, &logits(&mirrored(&batch))?)?,
            };
            let loss = ops::cross_entropy(&logits, &batch.labels, 0.0)?.to_scalar::<f32>()?;
            evaluation.add(&logits, f64::from(loss), &batch.labels, &batch.indices)?;
        }
        progress(batch.len());
    }
    Ok(evaluation)
}

/// The batch with each photo's left and right exchanged.
fn mirrored(batch: &Batch) -> Batch {
    let mut mirror = batch.clone();
    mirror_rows(&mut mirror.pixels, batch.width);
    mirror
}

/// ln of the mean of two softmaxes: logits whose softmax is that mean. `one` and `other` are `[photos, classes]`; computed in f64
/// on the CPU, so that no probability becomes 0.
fn mean_of_probabilities(one: &Tensor, other: &Tensor) -> candle_core::Result<Tensor> {
    let log_probabilities = |row: &[f32]| {
        let largest = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let sum: f64 = row.iter().map(|logit| f64::from(logit - largest).exp()).sum();
        row.iter().map(move |logit| f64::from(logit - largest) - sum.ln()).collect::<Vec<f64>>()
    };
    let mut means = Vec::with_capacity(one.elem_count());
    for (one, other) in one.to_vec2::<f32>()?.iter().zip(other.to_vec2::<f32>()?) {
        for (a, b) in log_probabilities(one).into_iter().zip(log_probabilities(&other)) {
            let (more, less) = if a >= b { (a, b) } else { (b, a) };
            means.push((more + (less - more).exp().ln_1p() - std::f64::consts::LN_2) as f32);
        }
    }
    Tensor::from_vec(means, one.shape(), &Device::Cpu)
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
    /// How the photos were judged.
    pub views: Views,
    /// The photos that the answers' indices point to.
    pub samples: Vec<Sample>,
    /// What was noticed about the data set.
    pub warnings: Vec<String>,
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
    /// How photos are judged.
    pub views: Views,
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
    let warnings = dataset.warnings();
    warnings.iter().for_each(|warning| tracing::warn!(data = %data.display(), "{warning}"));
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
    let evaluation = evaluate_views(&*classifier, &normalization, &loader, settings.views, |photos| {
        progress.advance(photos as u64);
    })?;
    let seconds = start.elapsed().as_secs_f64();
    let inference_speed = match settings.speed {
        true => inference_speed(&*classifier, &normalization, &loader)?,
        false => None,
    };
    Ok(EvaluationReport {
        evaluation,
        unreadable: loader.unreadable(),
        seconds,
        views: settings.views,
        samples: dataset.samples,
        warnings,
        inference_speed,
    })
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
        json["tta"] = json!(self.views == Views::Mirrored);
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

    #[test]
    fn a_mirrored_batch_has_its_columns_exchanged_and_its_colours_kept() {
        let batch = Batch {
            mixed: None,
            pixels: vec![1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12],
            labels: vec![0],
            indices: vec![0],
            height: 2,
            width: 2,
        };
        assert_eq!(mirrored(&batch).pixels, [4, 5, 6, 1, 2, 3, 10, 11, 12, 7, 8, 9]);
        assert_eq!(mirrored(&mirrored(&batch)), batch);
    }

    #[test]
    fn two_views_count_with_the_mean_of_their_probabilities() {
        let logits = |values: [f32; 2]| Tensor::new(&[values], &Device::Cpu).unwrap();
        let (one, other) =
            (logits([0.9f32.ln(), 0.1f32.ln()]), logits([0.3f32.ln() + 5.0, 0.7f32.ln() + 5.0]));
        let mean = mean_of_probabilities(&one, &other).unwrap().to_vec2::<f32>().unwrap();
        assert!((mean[0][0].exp() - 0.6).abs() < 1e-6 && (mean[0][1].exp() - 0.4).abs() < 1e-6, "{mean:?}");
        let far = mean_of_probabilities(&logits([1e4, 0.]), &logits([1e4, 0.])).unwrap();
        assert_eq!(far.to_vec2::<f32>().unwrap(), [[0.0, -1e4]], "no probability becomes 0");
    }
}
