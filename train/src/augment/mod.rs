//! From a decoded photo to the pixels of one training sample.
//!
//! The loader's threads call [`Augmenter::apply`]. A random resized crop, a flip, RandAugment's operations, a change of
//! colours and an erased rectangle, in this order, are a function of (seed, epoch, sample) alone, so that neither the
//! number of threads nor an interruption changes a run. Evaluation takes the plain processor. What mixes photos with each
//! other is [`Mixing`], which the trainer applies to whole batches. Pixels stay u8: nothing is normalised here.

mod color;
mod erase;
mod mix;
mod operation;
mod rand_augment;

pub use mix::{Mixed, Mixing};
pub use rand_augment::RandAugment;

use color::jitter;
use erase::erase;
use featherlight::image::{ImageError, Pixels, Processor, Region, resize_region};
use featherlight::randomness::{Purpose, Randomness, Stream};
use std::str::FromStr;
use std::sync::Arc;

/// The aspect ratios a random crop may have, width to height.
const CROP_RATIO: (f64, f64) = (3.0 / 4.0, 4.0 / 3.0);

/// The share of a photo's area that a random crop keeps, drawn between the two.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct CropScale {
    least: f64,
    most: f64,
}

impl CropScale {
    /// From `least` to `most` of the area, 0 < `least` ≤ `most` ≤ 1.
    ///
    /// # Errors
    /// Shares outside of these limits.
    pub fn new(least: f64, most: f64) -> Result<Self, AugmentError> {
        if 0.0 < least && least <= most && most <= 1.0 {
            Ok(Self { least, most })
        } else {
            Err(AugmentError::CropScale(format!("{least},{most}")))
        }
    }

    /// The least and the greatest share.
    pub fn bounds(self) -> (f64, f64) {
        (self.least, self.most)
    }
}

impl Default for CropScale {
    /// 0.08 to 1, as Szegedy et al. 2014 and torchvision have it.
    fn default() -> Self {
        Self { least: 0.08, most: 1.0 }
    }
}

impl FromStr for CropScale {
    type Err = AugmentError;

    /// `0.4` (up to the whole photo) or `0.4,0.9`.
    fn from_str(text: &str) -> Result<Self, AugmentError> {
        let (least, most) = text.split_once(',').unwrap_or((text, "1"));
        match (least.trim().parse(), most.trim().parse()) {
            (Ok(least), Ok(most)) => Self::new(least, most),
            _ => Err(AugmentError::CropScale(text.to_owned())),
        }
    }
}

/// Settings that make no augmentation.
#[derive(Debug, thiserror::Error, PartialEq)]
pub enum AugmentError {
    /// Not two shares of an area.
    #[error(
        "`{0}` is no crop scale: it is the least share of the photo's area, above 0 and at most 1, as in 0.08, or the least and the greatest, as in 0.4,0.9"
    )]
    CropScale(String),
    /// Not a probability.
    #[error("the flip probability is {0}: it must lie between 0 and 1")]
    FlipProbability(f64),
    /// Not a strength.
    #[error("the colour jitter is {0}: it must be 0 or more, as in 0.4")]
    ColorJitter(f64),
    /// Not a number of operations and a magnitude.
    #[error(
        "`{0}` is no RandAugment: it is the number of operations, 1 or more, and their magnitude, from 0 to {max}, as in 2,9",
        max = operation::LEVELS - 1
    )]
    RandAugment(String),
    /// Not a probability.
    #[error("the probability of random erasing is {0}: it must lie between 0 and 1")]
    RandomErase(f64),
    /// Not a shape of a Beta distribution.
    #[error("the alpha of {method} is {alpha}: it must be 0 (off) or more, as in 0.8")]
    Mixing {
        /// Mixup or CutMix.
        method: &'static str,
        /// What was given.
        alpha: f64,
    },
}

/// How a training photo is varied.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Variation {
    /// The area of the random crop.
    pub crop_scale: CropScale,
    /// The probability of mirroring left and right; 0 where left and right mean something.
    pub flip_probability: f64,
    /// Brightness, contrast and saturation are each multiplied by 1 ± this at most; 0 leaves colours alone.
    pub color_jitter: f64,
    /// Operations drawn for each photo, before any change of colours.
    ///
    /// torchvision's reference recipe has no colour jitter beside it and timm's leaves it out unless it is forced, in this
    /// order: here it happens because it was asked for.
    pub rand_augment: Option<RandAugment>,
    /// The probability that a rectangle of the photo is erased, last of all.
    pub random_erase: f64,
}

impl Default for Variation {
    fn default() -> Self {
        Self {
            crop_scale: CropScale::default(),
            flip_probability: 0.5,
            color_jitter: 0.0,
            rand_augment: None,
            random_erase: 0.0,
        }
    }
}

/// What happens to a photo before it becomes a sample.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Augmentation {
    /// The processor alone, as when serving: for evaluation, and for `--no-augment`.
    Plain,
    /// Random crop, flip and what else is asked for.
    Random(Variation),
}

/// Makes samples out of photos; shared by the loader's threads.
#[derive(Debug, Clone)]
pub struct Augmenter {
    processor: Arc<Processor>,
    augmentation: Augmentation,
    randomness: Randomness,
    /// What the model sees as zero, nearly: the colour of what is erased.
    mean_color: [u8; 3],
}

impl Augmenter {
    /// An augmenter that produces the processor's size with the processor's filter.
    ///
    /// # Errors
    /// A probability (of the flip, of erasing) outside 0 … 1; a negative or non-finite colour jitter.
    pub fn new(
        processor: Arc<Processor>,
        augmentation: Augmentation,
        randomness: Randomness,
    ) -> Result<Self, AugmentError> {
        if let Augmentation::Random(variation) = augmentation {
            let Variation { flip_probability, color_jitter, random_erase, .. } = variation;
            if !(0.0..=1.0).contains(&flip_probability) {
                return Err(AugmentError::FlipProbability(flip_probability));
            }
            if !color_jitter.is_finite() || color_jitter < 0.0 {
                return Err(AugmentError::ColorJitter(color_jitter));
            }
            if !(0.0..=1.0).contains(&random_erase) {
                return Err(AugmentError::RandomErase(random_erase));
            }
        }
        let normalization = processor.normalization();
        // A mean of 0.5 lies half-way between two levels, but not quite in f32: a little is added, so that it goes up as a
        // half does. `as` keeps to 0 … 255, whatever a processor's file says.
        let level = |mean: f32| (mean / normalization.rescale + 1e-3).round() as u8;
        let mean_color = normalization.mean.map(level);
        Ok(Self { processor, augmentation, randomness, mean_color })
    }

    /// Height and width of what [`Augmenter::apply`] returns.
    pub fn output_size(&self) -> (usize, usize) {
        self.processor.output_size()
    }

    /// The sample that `photo` gives in `epoch`; `sample` is its index in the data set.
    ///
    /// # Errors
    /// What resizing refuses.
    pub fn apply(&self, photo: &Pixels, epoch: u64, sample: u64) -> Result<Pixels, ImageError> {
        self.apply_again(photo, epoch, sample, 0)
    }

    /// The same where the epoch has seen the photo `visits` times before, as with balanced sampling: varied anew each time.
    ///
    /// # Errors
    /// What resizing refuses.
    pub fn apply_again(
        &self,
        photo: &Pixels,
        epoch: u64,
        sample: u64,
        visits: u64,
    ) -> Result<Pixels, ImageError> {
        let Augmentation::Random(variation) = self.augmentation else {
            return self.processor.apply(photo);
        };
        let stream = |purpose| self.randomness.stream(purpose, epoch, sample, visits);
        let (height, width) = self.output_size();
        let region =
            random_region((photo.width(), photo.height()), variation.crop_scale, &mut stream(Purpose::Crop));
        let cropped = resize_region(photo, region, width, height, self.processor.filter())?;
        let mut data = cropped.into_data();
        if stream(Purpose::Flip).bernoulli(variation.flip_probability) {
            mirror_rows(&mut data, width);
        }
        if let Some(rand_augment) = variation.rand_augment {
            rand_augment.apply(&mut data, width, &mut stream(Purpose::RandAugment));
        }
        if variation.color_jitter > 0.0 {
            jitter(&mut data, variation.color_jitter, &mut stream(Purpose::ColorJitter));
        }
        let mut erasing = stream(Purpose::RandomErasing);
        if erasing.bernoulli(variation.random_erase) {
            erase(&mut data, width, self.mean_color, &mut erasing);
        }
        Pixels::new(width, height, data)
    }
}

/// The region of torchvision's `RandomResizedCrop.get_params`: ten tries at an area and a ratio (uniform in its
/// logarithm), then the largest central crop whose ratio is allowed. `size` is width and height.
fn random_region((width, height): (usize, usize), scale: CropScale, stream: &mut Stream) -> Region {
    const TRIES: usize = 10;
    let area = (width * height) as f64;
    let (narrowest, widest) = CROP_RATIO;
    for _ in 0..TRIES {
        let target = area * stream.range(scale.least, scale.most);
        let ratio = stream.range(narrowest.ln(), widest.ln()).exp();
        let (w, h) = (rounded((target * ratio).sqrt()), rounded((target / ratio).sqrt()));
        if 0 < w && w <= width && 0 < h && h <= height {
            let top = stream.below(height - h + 1);
            let left = stream.below(width - w + 1);
            return Region { left, top, width: w, height: h };
        }
    }
    let ratio = width as f64 / height as f64;
    let (w, h) = if ratio < narrowest {
        (width, rounded(width as f64 / narrowest))
    } else if ratio > widest {
        (rounded(height as f64 * widest), height)
    } else {
        (width, height)
    };
    Region { left: (width - w) / 2, top: (height - h) / 2, width: w, height: h }
}

/// Python's `round`: halves go to the even neighbour.
fn rounded(value: f64) -> usize {
    value.round_ties_even() as usize
}

/// Mirrors left and right in place; `data` is rows of `width` RGB pixels.
pub(crate) fn mirror_rows(data: &mut [u8], width: usize) {
    for row in data.chunks_exact_mut((width * 3).max(1)) {
        row.reverse(); // right pixel first, and each pixel's channels reversed with it
        row.chunks_exact_mut(3).for_each(|pixel| pixel.reverse());
    }
}

#[cfg(test)]
mod tests;
