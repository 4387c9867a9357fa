//! Photos of a batch mixed with each other: Mixup (Zhang et al. 2017) and CutMix (Yun et al. 2019).
//!
//! The trainer applies [`Mixing`] to each batch that it takes from the loader, before the device normalises it, and weighs
//! the two labels in its loss. As in torchvision's reference training, a batch has one λ, and each photo is mixed with the
//! one before it (the first with the last), which the shuffled order makes a random one. Evaluation never mixes.

use super::AugmentError;
use crate::loader::Batch;
use featherlight::randomness::{Purpose, Randomness, Stream};

/// What makes up the other part of each photo of a mixed batch.
#[derive(Debug, Clone, PartialEq)]
pub struct Mixed {
    /// The second label of each photo.
    pub labels: Vec<u32>,
    /// How much of each photo its second label is, 1 − λ, from 0 to 1.
    pub share: f32,
}

/// How batches are mixed; the default leaves them as they are.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Mixing {
    mixup_alpha: f64,
    cutmix_alpha: f64,
}

impl Mixing {
    /// λ is drawn from Beta(alpha, alpha): 1 makes every share as likely, less makes small and large ones likelier; 0 turns
    /// the method off. Where both are on, each batch takes one of the two, as likely as the other.
    ///
    /// # Errors
    /// A negative or non-finite alpha.
    pub fn new(mixup_alpha: f64, cutmix_alpha: f64) -> Result<Self, AugmentError> {
        for (method, alpha) in [("Mixup", mixup_alpha), ("CutMix", cutmix_alpha)] {
            if !alpha.is_finite() || alpha < 0.0 {
                return Err(AugmentError::Mixing { method, alpha });
            }
        }
        Ok(Self { mixup_alpha, cutmix_alpha })
    }

    /// Mixup's alpha; 0 where it is off.
    pub fn mixup_alpha(self) -> f64 {
        self.mixup_alpha
    }

    /// CutMix's alpha; 0 where it is off.
    pub fn cutmix_alpha(self) -> f64 {
        self.cutmix_alpha
    }

    /// Whether batches stay as they are.
    pub fn is_off(self) -> bool {
        self.mixup_alpha == 0.0 && self.cutmix_alpha == 0.0
    }

    /// Mixes the photos of a batch and sets [`Batch::mixed`]; a batch of one photo or none stays as it is.
    ///
    /// What happens is a function of the seed, `epoch` and `micro_batch`, the batch's number in its epoch.
    pub fn apply(self, batch: &mut Batch, randomness: Randomness, epoch: u64, micro_batch: u64) {
        if self.is_off() || batch.len() < 2 {
            return;
        }
        let mut stream = randomness.stream(Purpose::Mix, epoch, micro_batch, 0);
        let both = self.mixup_alpha > 0.0 && self.cutmix_alpha > 0.0;
        let cut = if both { stream.bernoulli(0.5) } else { self.cutmix_alpha > 0.0 };
        let share = if cut {
            let region = Cut::draw((batch.width, batch.height), self.cutmix_alpha, &mut stream);
            let width = batch.width;
            with_predecessor(batch, |photo, other| region.paste(photo, other, width));
            region.share((batch.width, batch.height))
        } else {
            let share = (1.0 - stream.beta(self.mixup_alpha, self.mixup_alpha)) as f32;
            with_predecessor(batch, |photo, other| blend(photo, other, share));
            share
        };
        let mut labels = batch.labels.clone();
        labels.rotate_right(1);
        batch.mixed = Some(Mixed { labels, share });
    }
}

/// Calls `mix` on each photo and the one before it, as that was before its own mixing.
fn with_predecessor(batch: &mut Batch, mix: impl Fn(&mut [u8], &[u8])) {
    let size = batch.height * batch.width * 3;
    let Some(before_last) = batch.pixels.len().checked_sub(size) else { return };
    let last = batch.pixels[before_last..].to_vec();
    for start in (size..=before_last).rev().step_by(size) {
        let (before, photo) = batch.pixels.split_at_mut(start);
        mix(&mut photo[..size], &before[start - size..]);
    }
    mix(&mut batch.pixels[..size], &last);
}

/// Makes each value the mean of the two, of which `share` is `other`'s, rounded.
fn blend(photo: &mut [u8], other: &[u8], share: f32) {
    for (value, other) in photo.iter_mut().zip(other) {
        let (own, other) = (f32::from(*value), f32::from(*other));
        *value = (own + share * (other - own) + 0.5) as u8;
    }
}

/// The rectangle that a photo takes from another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Cut {
    left: usize,
    right: usize,
    top: usize,
    bottom: usize,
}

impl Cut {
    /// A rectangle with the photo's aspect ratio and 1 − λ of its area about a random place, clipped to the photo of this
    /// width and height. λ near 1 leaves nothing of it.
    fn draw((width, height): (usize, usize), alpha: f64, stream: &mut Stream) -> Self {
        let half = 0.5 * (1.0 - stream.beta(alpha, alpha)).sqrt();
        let side = |length: usize, stream: &mut Stream| {
            let (centre, half) = (stream.below(length), (half * length as f64) as usize);
            (centre.saturating_sub(half), (centre + half).min(length))
        };
        let ((left, right), (top, bottom)) = (side(width, stream), side(height, stream));
        Self { left, right, top, bottom }
    }

    /// Its part of the photo's area.
    fn share(self, (width, height): (usize, usize)) -> f32 {
        let area = (self.right - self.left) * (self.bottom - self.top);
        (area as f64 / (width * height) as f64) as f32
    }

    /// Copies the rectangle of `other` into `photo`, both rows of `width` RGB pixels.
    fn paste(self, photo: &mut [u8], other: &[u8], width: usize) {
        for y in self.top..self.bottom {
            let run = (y * width + self.left) * 3..(y * width + self.right) * 3;
            photo[run.clone()].copy_from_slice(&other[run]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: (usize, usize) = (20, 12);

    /// Photos of noise, labelled 10, 11, 12 …
    fn batch(photos: usize) -> Batch {
        let (width, height) = SIZE;
        let mut stream = Randomness::new(1).stream(Purpose::Crop, 0, 0, 0);
        Batch {
            pixels: (0..photos * width * height * 3).map(|_| stream.below(256) as u8).collect(),
            labels: (10..10 + photos as u32).collect(),
            indices: (0..photos).collect(),
            height,
            width,
            mixed: None,
        }
    }

    fn mixed(mixing: Mixing, photos: usize, micro_batch: u64) -> (Batch, Mixed) {
        let mut batch = batch(photos);
        mixing.apply(&mut batch, Randomness::new(2), 0, micro_batch);
        let mixed = batch.mixed.clone().unwrap();
        (batch, mixed)
    }

    fn photos(batch: &Batch) -> Vec<&[u8]> {
        batch.pixels.chunks(batch.width * batch.height * 3).collect()
    }

    /// How many values of the batch are neither their photo's own nor the one before's.
    fn blended(after: &Batch) -> usize {
        let before = batch(after.len());
        let (before, after) = (photos(&before), photos(after));
        let values = |i: usize| {
            let previous = before[(i + before.len() - 1) % before.len()];
            before[i].iter().zip(previous).zip(after[i])
        };
        let all = (0..before.len()).flat_map(values);
        all.filter(|((own, other), mixed)| mixed != own && mixed != other).count()
    }

    #[test]
    fn mixup_is_the_rounded_blend_with_the_photo_before() {
        let mixing = Mixing::new(1.0, 0.0).unwrap();
        for micro_batch in 0..20 {
            let (after, mixed) = mixed(mixing, 3, micro_batch);
            let before = batch(3);
            let (before, after) = (photos(&before), photos(&after));
            assert_eq!(mixed.labels, [12, 10, 11]);
            for (i, previous) in [2, 0, 1].into_iter().enumerate() {
                for ((own, other), value) in before[i].iter().zip(before[previous]).zip(after[i]) {
                    let share = f64::from(mixed.share);
                    let exact = f64::from(*own) * (1.0 - share) + f64::from(*other) * share;
                    assert!((f64::from(*value) - exact).abs() < 0.5001, "{own} {other} {share}: {value}");
                }
            }
        }
    }

    #[test]
    fn cutmix_takes_its_share_from_the_photo_before_and_leaves_the_rest() {
        let mixing = Mixing::new(0.0, 1.0).unwrap();
        let (width, height) = SIZE;
        for micro_batch in 0..50 {
            let (after, mixed) = mixed(mixing, 3, micro_batch);
            let before = batch(3);
            let (before, after) = (photos(&before), photos(&after));
            assert_eq!(mixed.labels, [12, 10, 11]);
            for (i, previous) in [2, 0, 1].into_iter().enumerate() {
                let of = |source: &[u8], place: usize| source[place * 3..][..3] == after[i][place * 3..][..3];
                let taken: Vec<usize> = (0..width * height).filter(|&place| !of(before[i], place)).collect();
                assert!(taken.iter().all(|&place| of(before[previous], place)));
                let share = taken.len() as f32 / (width * height) as f32;
                assert!((share - mixed.share).abs() < 1e-6, "{share} {}", mixed.share);
            }
        }
    }

    #[test]
    fn shares_have_the_distribution_of_their_alpha() {
        let shares = |mixing: Mixing| -> Vec<f32> {
            (0..2_000).map(|micro_batch| mixed(mixing, 2, micro_batch).1.share).collect()
        };
        let even = shares(Mixing::new(1.0, 0.0).unwrap());
        assert!(even.iter().all(|share| (0.0..=1.0).contains(share)));
        let mean = even.iter().sum::<f32>() / 2_000.0;
        assert!((mean - 0.5).abs() < 0.03, "{mean}");
        // Beta(0.2, 0.2): most of the shares are near an end.
        let extreme = shares(Mixing::new(0.2, 0.0).unwrap());
        let inner = |shares: &[f32]| shares.iter().filter(|share| (0.25..0.75).contains(*share)).count();
        assert!((900..1_100).contains(&inner(&even)), "{}", inner(&even));
        assert!(inner(&extreme) < 500, "{}", inner(&extreme));
        // Clipping makes CutMix's rectangles smaller than drawn.
        let cut = shares(Mixing::new(0.0, 1.0).unwrap());
        let mean = cut.iter().sum::<f32>() / 2_000.0;
        assert!((0.2..0.5).contains(&mean) && cut.iter().all(|share| (0.0..=1.0).contains(share)), "{mean}");
    }

    #[test]
    fn with_both_on_a_batch_takes_one_of_them_as_likely_as_the_other() {
        let mixing = Mixing::new(1.0, 1.0).unwrap();
        let blends = (0..400).filter(|&micro_batch| blended(&mixed(mixing, 2, micro_batch).0) > 0).count();
        assert!((160..240).contains(&blends), "{blends}");
    }

    #[test]
    fn a_mix_is_a_function_of_seed_epoch_and_batch() {
        let mixing = Mixing::new(0.8, 1.0).unwrap();
        let share = |seed, epoch, micro_batch| {
            let mut batch = batch(2);
            mixing.apply(&mut batch, Randomness::new(seed), epoch, micro_batch);
            batch
        };
        assert_eq!(share(1, 2, 3), share(1, 2, 3));
        for (seed, epoch, micro_batch) in [(0, 2, 3), (1, 0, 3), (1, 2, 0)] {
            assert_ne!(share(seed, epoch, micro_batch), share(1, 2, 3));
        }
    }

    #[test]
    fn nothing_is_mixed_where_it_is_off_or_a_photo_is_alone() {
        for (mixing, photos) in [(Mixing::default(), 4), (Mixing::new(1.0, 1.0).unwrap(), 1)] {
            let mut after = batch(photos);
            mixing.apply(&mut after, Randomness::new(1), 0, 0);
            assert_eq!(after, batch(photos));
        }
        let mut empty = batch(0);
        Mixing::new(1.0, 1.0).unwrap().apply(&mut empty, Randomness::new(1), 0, 0);
        assert_eq!(empty, batch(0));
    }

    #[test]
    fn impossible_alphas_are_refused() {
        let refused = |mixup, cutmix| Mixing::new(mixup, cutmix).unwrap_err().to_string();
        assert!(refused(-0.1, 0.0).contains("Mixup is -0.1"));
        assert!(refused(0.0, f64::NAN).contains("CutMix is NaN"));
        assert!(refused(0.0, f64::INFINITY).contains("CutMix is inf"));
    }
}
