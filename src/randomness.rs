//! Every random number of a run, as a pure function of where it is used.
//!
//! Crops, flips, mixing, dropout, drop path, shuffling and fresh weights each open a [`Stream`] named by (seed, purpose, epoch,
//! sample or step, layer) and draw from it. There is no generator that lives from one draw to the next, so no state is
//! lost when a run is resumed, and nothing depends on which thread asks first. The trainer, the layers and the
//! initialisers call this; candle's own generator (which cannot be seeded on the CPU) is never used.

use rand_xoshiro::Xoshiro256PlusPlus;
use rand_xoshiro::rand_core::{Rng, SeedableRng};

/// What a stream is for. The numbers enter the stream's key: renumbering one changes every run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u64)]
pub enum Purpose {
    /// Which photos of a folder are kept aside for validation.
    Split = 1,
    /// The order of the photos in an epoch.
    Shuffle = 2,
    /// The region of a random resized crop.
    Crop = 3,
    /// Whether a photo is mirrored.
    Flip = 4,
    /// Order and strength of the colour changes of a photo.
    ColorJitter = 5,
    /// The mask of a dropout layer.
    Dropout = 6,
    /// Which samples skip a residual branch.
    DropPath = 7,
    /// The first value of a weight that no file provides.
    Initialize = 8,
    /// Which operations RandAugment applies to a photo, and in which direction.
    RandAugment = 9,
    /// Whether a rectangle of a photo is erased, and which.
    RandomErasing = 10,
    /// How the photos of a batch are mixed with each other.
    Mix = 11,
    /// Which photos an epoch draws where classes are balanced.
    Sampler = 12,
}

/// The seed of a run: a source of streams, free to copy and to share between threads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Randomness {
    seed: u64,
}

impl Randomness {
    /// All randomness of the run with this seed.
    pub fn new(seed: u64) -> Self {
        Self { seed }
    }

    /// The seed given to [`Randomness::new`].
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// The stream of one use: the same five values always give the same numbers.
    ///
    /// `item` is the sample's index in its data set, or the step, whichever the purpose is about; `layer` counts the
    /// places that draw for the same item. A coordinate without meaning for a purpose is 0.
    pub fn stream(&self, purpose: Purpose, epoch: u64, item: u64, layer: u64) -> Stream {
        // Each round is a bijection of the word it takes in: streams that differ in one coordinate have different keys.
        let key = [self.seed, purpose as u64, epoch, item, layer]
            .into_iter()
            .fold(0u64, |key, word| finalise(key.wrapping_add(GOLDEN_GAMMA) ^ word));
        Stream { generator: Xoshiro256PlusPlus::seed_from_u64(key), spare_normal: None }
    }
}

/// 2⁶⁴ divided by the golden ratio, SplitMix64's increment.
const GOLDEN_GAMMA: u64 = 0x9e37_79b9_7f4a_7c15;

/// SplitMix64's finaliser (Stafford's variant 13): a bijection in which every input bit moves half of the output bits.
fn finalise(mut word: u64) -> u64 {
    word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ (word >> 31)
}

/// Number `index` of the sequence of `key`, uniform in [0, 1), a multiple of 2⁻²⁴: SplitMix64 (Steele et al. 2014) entered
/// anywhere, for places that draw many numbers and want them in any order.
#[inline]
pub fn indexed_uniform(key: u64, index: u64) -> f32 {
    let word = finalise(key.wrapping_add(index.wrapping_add(1).wrapping_mul(GOLDEN_GAMMA)));
    (word >> 40) as f32 * (1.0 / (1u64 << 24) as f32)
}

/// The numbers of one use, in a fixed order (xoshiro256++).
#[derive(Debug, Clone)]
pub struct Stream {
    generator: Xoshiro256PlusPlus,
    /// Box–Muller yields two values at a time; the second waits here.
    spare_normal: Option<f64>,
}

impl Stream {
    /// 64 uniform bits.
    pub fn word(&mut self) -> u64 {
        self.generator.next_u64()
    }

    /// Uniform in [0, 1), a multiple of 2⁻²⁴.
    pub fn uniform(&mut self) -> f32 {
        (self.generator.next_u64() >> 40) as f32 * (1.0 / (1u64 << 24) as f32)
    }

    /// Uniform in [0, 1), a multiple of 2⁻⁵³.
    pub fn uniform_f64(&mut self) -> f64 {
        (self.generator.next_u64() >> 11) as f64 * (1.0 / (1u64 << 53) as f64)
    }

    /// Uniform between `low` and `high`; `low` itself when the two are equal.
    pub fn range(&mut self, low: f64, high: f64) -> f64 {
        low + (high - low) * self.uniform_f64()
    }

    /// Uniform among 0 … `n` − 1, without bias (Lemire 2019, "Fast random integer generation in an interval").
    ///
    /// There is nothing to choose from for `n` = 0: the answer is 0, as for `n` = 1.
    pub fn below(&mut self, n: usize) -> usize {
        let n = n as u64;
        if n <= 1 {
            return 0;
        }
        let rejected_below = n.wrapping_neg() % n;
        loop {
            let product = u128::from(self.generator.next_u64()) * u128::from(n);
            if product as u64 >= rejected_below {
                return (product >> 64) as usize;
            }
        }
    }

    /// Standard normal: mean 0, variance 1 (Box–Muller, computed in f64).
    pub fn normal(&mut self) -> f32 {
        if let Some(spare) = self.spare_normal.take() {
            return spare as f32;
        }
        // 1 − u lies in (0, 1], where the logarithm is finite.
        let radius = (-2.0 * (1.0 - self.uniform_f64()).ln()).sqrt();
        let (sine, cosine) = (std::f64::consts::TAU * self.uniform_f64()).sin_cos();
        self.spare_normal = Some(radius * sine);
        (radius * cosine) as f32
    }

    /// True with probability `p`: never for `p` ≤ 0, always for `p` ≥ 1.
    pub fn bernoulli(&mut self, p: f64) -> bool {
        self.uniform_f64() < p
    }

    /// Beta distributed with the shapes `alpha` and `beta`, which are positive: in [0, 1], with mean `alpha` / (`alpha` +
    /// `beta`). It is the share of one of two gamma variates in their sum.
    pub fn beta(&mut self, alpha: f64, beta: f64) -> f64 {
        let (one, other) = (self.log_gamma_variate(alpha), self.log_gamma_variate(beta));
        1.0 / (1.0 + (other - one).exp())
    }

    /// The logarithm of a gamma variate of scale 1 (Marsaglia & Tsang 2000, "A simple method for generating gamma
    /// variables"): the variates themselves are too small for f64 where the shape is far below 1.
    fn log_gamma_variate(&mut self, shape: f64) -> f64 {
        // Limits far beyond any use; what is no number would search without end below.
        let shape = if shape > 1e-150 { shape.min(1e150) } else { 1e-150 };
        if shape < 1.0 {
            // Their section 6: a variate of shape + 1, times a uniform one to the power of 1 / shape.
            let uniform = 1.0 - self.uniform_f64();
            return self.log_gamma_variate(shape + 1.0) + uniform.ln() / shape;
        }
        let d = shape - 1.0 / 3.0;
        let c = 1.0 / (9.0 * d).sqrt();
        loop {
            let x = f64::from(self.normal());
            let v = (1.0 + c * x).powi(3);
            if v > 0.0 && (1.0 - self.uniform_f64()).ln() < 0.5 * x * x + d - d * v + d * v.ln() {
                return d.ln() + v.ln();
            }
        }
    }

    /// Puts `items` in a uniformly random order (Fisher–Yates).
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            items.swap(last, self.below(last + 1));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(mut stream: Stream) -> [u64; 3] {
        std::array::from_fn(|_| stream.generator.next_u64())
    }

    #[test]
    fn the_numbers_of_a_stream_are_those_of_the_written_algorithm() {
        // Computed by an independent implementation (Python integers) of the key, SplitMix64 and xoshiro256++.
        let cases = [
            (
                (42, Purpose::Crop, 3, 17, 0),
                [0x1ff5_f91e_a916_6966, 0x6335_0b00_539f_9273, 0xec01_6093_3e42_e0fb],
            ),
            (
                (0, Purpose::Split, 0, 0, 0),
                [0xaa9b_2d51_bcfd_a338, 0x9f44_05dd_2085_e41b, 0x8619_14a3_381e_6c8c],
            ),
            (
                (u64::MAX, Purpose::Initialize, u64::MAX, 1, u64::MAX),
                [0x8bb7_eaa4_5684_c7ff, 0xafdc_458a_1cb8_ea36, 0x8640_5386_e7f3_7c5d],
            ),
        ];
        for ((seed, purpose, epoch, item, layer), expected) in cases {
            assert_eq!(words(Randomness::new(seed).stream(purpose, epoch, item, layer)), expected);
        }
    }

    #[test]
    fn a_stream_differs_when_any_coordinate_differs() {
        let purposes = [
            Purpose::Split,
            Purpose::Shuffle,
            Purpose::Crop,
            Purpose::Flip,
            Purpose::ColorJitter,
            Purpose::Dropout,
            Purpose::DropPath,
            Purpose::Initialize,
            Purpose::RandAugment,
            Purpose::RandomErasing,
            Purpose::Mix,
            Purpose::Sampler,
        ];
        let mut seen = std::collections::HashSet::new();
        for seed in 0..4 {
            for purpose in purposes {
                for place in 0..512u64 {
                    let (epoch, item, layer) = (place / 64, place / 8 % 8, place % 8);
                    assert!(seen.insert(words(Randomness::new(seed).stream(purpose, epoch, item, layer))));
                }
            }
        }
        assert_eq!(seen.len(), 4 * 12 * 512);
    }

    #[test]
    fn the_same_coordinates_give_the_same_numbers() {
        let one = Randomness::new(9).stream(Purpose::Flip, 1, 2, 3);
        let two = Randomness::new(9).stream(Purpose::Flip, 1, 2, 3);
        assert_eq!(words(one), words(two));
    }

    #[test]
    fn uniform_and_normal_have_their_mean_and_variance() {
        const COUNT: usize = 100_000;
        let moments = |values: &[f64]| {
            let mean = values.iter().sum::<f64>() / COUNT as f64;
            (mean, values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / COUNT as f64)
        };
        let mut stream = Randomness::new(1).stream(Purpose::Initialize, 0, 0, 0);
        let uniform: Vec<f64> = (0..COUNT).map(|_| f64::from(stream.uniform())).collect();
        let normal: Vec<f64> = (0..COUNT).map(|_| f64::from(stream.normal())).collect();
        let (mean, variance) = moments(&uniform);
        assert!((mean - 0.5).abs() < 0.005 && (variance - 1.0 / 12.0).abs() < 0.002, "{mean} {variance}");
        assert!(uniform.iter().all(|v| (0.0..1.0).contains(v)));
        let (mean, variance) = moments(&normal);
        assert!(mean.abs() < 0.02 && (variance - 1.0).abs() < 0.03, "{mean} {variance}");
        // The two halves of a Box–Muller pair are independent.
        let covariance = normal.chunks(2).map(|pair| pair[0] * pair[1]).sum::<f64>() / (COUNT / 2) as f64;
        assert!(covariance.abs() < 0.03, "{covariance}");
    }

    #[test]
    fn range_and_bernoulli_keep_to_their_limits() {
        let mut stream = Randomness::new(2).stream(Purpose::Crop, 0, 0, 0);
        assert!((0..10_000).all(|_| (-2.0..3.0).contains(&stream.range(-2.0, 3.0))));
        assert_eq!(stream.range(0.5, 0.5), 0.5);
        assert!((0..10_000).all(|_| !stream.bernoulli(0.0) && stream.bernoulli(1.0)));
        let heads = (0..100_000).filter(|_| stream.bernoulli(0.3)).count();
        assert!((29_000..31_000).contains(&heads), "{heads}");
    }

    #[test]
    fn below_reaches_every_value_equally_often() {
        let mut stream = Randomness::new(3).stream(Purpose::Shuffle, 0, 0, 0);
        let mut counts = [0usize; 7];
        for _ in 0..70_000 {
            counts[stream.below(7)] += 1;
        }
        assert!(counts.iter().all(|count| (9_600..10_400).contains(count)), "{counts:?}");
        assert_eq!((stream.below(0), stream.below(1)), (0, 0));
    }

    #[test]
    fn beta_variates_have_their_distribution() {
        const COUNT: usize = 50_000;
        for (alpha, beta) in [(0.2, 0.2), (0.8, 0.8), (1.0, 1.0), (2.0, 5.0), (30.0, 0.5)] {
            let mut stream = Randomness::new(5).stream(Purpose::Mix, 0, 0, 0);
            let values: Vec<f64> = (0..COUNT).map(|_| stream.beta(alpha, beta)).collect();
            assert!(values.iter().all(|value| (0.0..=1.0).contains(value)));
            let mean = values.iter().sum::<f64>() / COUNT as f64;
            let variance = values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / COUNT as f64;
            let sum: f64 = alpha + beta;
            let expected = (alpha / sum, alpha * beta / (sum * sum * (sum + 1.0)));
            assert!((mean - expected.0).abs() < 0.006, "{alpha} {beta}: mean {mean}, not {}", expected.0);
            assert!((variance / expected.1 - 1.0).abs() < 0.05, "{alpha} {beta}: {variance}, {}", expected.1);
            if (alpha, beta) == (2.0, 5.0) {
                // 1 − Σ₀₋₁ C(6, k) 0.2ᵏ 0.8⁶⁻ᵏ
                let below = values.iter().filter(|value| **value < 0.2).count() as f64 / COUNT as f64;
                assert!((below - 0.344_64).abs() < 0.01, "{below}");
            }
        }
    }

    #[test]
    fn beta_variates_are_numbers_whatever_the_shape() {
        let mut stream = Randomness::new(6).stream(Purpose::Mix, 0, 0, 0);
        for shape in [f64::MIN_POSITIVE, 1e-9, 1e-3, 1e6, f64::MAX, f64::INFINITY, f64::NAN] {
            assert!((0..100).all(|_| (0.0..=1.0).contains(&stream.beta(shape, shape))), "{shape}");
        }
    }

    #[test]
    fn shuffling_reaches_every_order_equally_often() {
        let mut counts = std::collections::HashMap::new();
        for epoch in 0..24_000 {
            let mut items = [0, 1, 2, 3];
            Randomness::new(4).stream(Purpose::Shuffle, epoch, 0, 0).shuffle(&mut items);
            *counts.entry(items).or_insert(0usize) += 1;
        }
        assert_eq!(counts.len(), 24);
        assert!(counts.values().all(|count| (850..1_150).contains(count)), "{counts:?}");
    }
}
