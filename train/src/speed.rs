//! How fast a model is by itself: forward passes over a batch of photos that lies decoded in memory.
//!
//! `evaluate --speed` calls it after the evaluation, when no thread decodes any more. A pass begins with the photos' bytes and
//! ends when the device has computed the logits, as in the service; its preparation of photos is not in it.

use crate::evaluate::{PassError, pixel_values};
use crate::loader::Loader;
use crate::sampler::in_order;
use featherlight::image::Normalization;
use featherlight::model::Classifier;
use featherlight::nn::Pass;
use std::time::{Duration, Instant};

/// Passes go on for so long, at least.
const LONG_ENOUGH: Duration = Duration::from_secs(2);
/// Passes of which the middle one is taken, at least and at most.
const PASSES: std::ops::RangeInclusive<usize> = 3..=200;

/// How fast a model is by itself.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct InferenceSpeed {
    /// Photos a second, at the median pass.
    pub images_per_second: f64,
    /// Photos of a pass: fewer than were asked for where there are no more.
    pub batch_size: usize,
}

/// The speed of passes over the first batch of `loader`, after one that is not counted; `None` where no photo
/// of it can be read.
///
/// # Errors
/// If loading or the model fails.
pub(crate) fn inference_speed(
    model: &dyn Classifier,
    normalization: &Normalization,
    loader: &Loader,
) -> Result<Option<InferenceSpeed>, PassError> {
    // The iterator, and its threads with it, ends here.
    let Some(batch) = loader.epoch(0, in_order(loader.photos()))?.next().transpose()? else {
        return Ok(None);
    };
    if batch.is_empty() {
        return Ok(None);
    }
    let device = model.placement().device;
    let pass = || -> Result<f64, PassError> {
        let start = Instant::now();
        model.forward(&pixel_values(&batch, normalization, &device)?, &Pass::Eval)?;
        // A pass is over when the device has done it, not when it was told to.
        device.synchronize()?;
        Ok(start.elapsed().as_secs_f64())
    };
    pass()?;
    let (start, mut seconds) = (Instant::now(), Vec::new());
    while seconds.len() < *PASSES.start() || (seconds.len() < *PASSES.end() && start.elapsed() < LONG_ENOUGH)
    {
        seconds.push(pass()?);
    }
    seconds.sort_unstable_by(f64::total_cmp);
    let median = seconds.get(seconds.len() / 2).copied().unwrap_or(f64::NAN);
    let images_per_second = batch.len() as f64 / median.max(f64::EPSILON);
    Ok(Some(InferenceSpeed { images_per_second, batch_size: batch.len() }))
}
