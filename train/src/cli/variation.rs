//! How training photos are varied: flags of `fit`.

use super::{not_negative, probability};
use clap::Args;
use clap::builder::BoolishValueParser;
use featherlight_train::augment::{Augmentation, CropScale, Mixing, RandAugment, Variation};

/// The flags of the augmentation.
#[derive(Debug, Args)]
pub struct VariationFlags {
    /// Take training photos as they are served
    #[arg(long, env = "FEATHERLIGHT_NO_AUGMENT", value_parser = BoolishValueParser::new(), conflicts_with_all = ["crop_scale", "color_jitter", "no_flip", "rand_augment", "random_erase", "mixup_alpha", "cutmix_alpha"])]
    pub no_augment: bool,
    /// Least share of a photo's area that a random crop keeps, or least,greatest [default: 0.08,1]
    #[arg(long, env = "FEATHERLIGHT_CROP_SCALE", value_name = "X[,Y]")]
    pub crop_scale: Option<CropScale>,
    /// Vary brightness, contrast and saturation by up to this factor [default: 0]
    #[arg(long, env = "FEATHERLIGHT_COLOR_JITTER", value_name = "X", value_parser = not_negative)]
    pub color_jitter: Option<f64>,
    /// N random changes of colour and shape a photo, of strength M from 0 to 30, as in 2,9 (RandAugment)
    #[arg(long, env = "FEATHERLIGHT_RAND_AUGMENT", value_name = "N,M")]
    pub rand_augment: Option<RandAugment>,
    /// Probability that a rectangle of a photo is erased [default: 0]
    #[arg(long, env = "FEATHERLIGHT_RANDOM_ERASE", value_name = "X", value_parser = probability)]
    pub random_erase: Option<f64>,
    /// Never mirror a photo: for things with a left and a right
    #[arg(long, env = "FEATHERLIGHT_NO_FLIP", value_parser = BoolishValueParser::new())]
    pub no_flip: bool,
    /// Mix each photo with another of its batch, by a share drawn from Beta(X, X) (mixup) [default: 0]
    #[arg(long, env = "FEATHERLIGHT_MIXUP_ALPHA", value_name = "X", value_parser = not_negative)]
    pub mixup_alpha: Option<f64>,
    /// Paste a part of another photo of the batch, of a share drawn from Beta(X, X) (CutMix) [default: 0]
    #[arg(long, env = "FEATHERLIGHT_CUTMIX_ALPHA", value_name = "X", value_parser = not_negative)]
    pub cutmix_alpha: Option<f64>,
}

impl VariationFlags {
    /// How the photos of a batch are mixed with each other.
    ///
    /// # Errors
    /// If a strength is none.
    pub fn mixing(&self) -> Result<Mixing, String> {
        let (mixup, cutmix) = (self.mixup_alpha.unwrap_or(0.0), self.cutmix_alpha.unwrap_or(0.0));
        Mixing::new(mixup, cutmix).map_err(|error| error.to_string())
    }

    /// How a photo is varied by itself.
    pub fn augmentation(&self) -> Augmentation {
        if self.no_augment {
            return Augmentation::Plain;
        }
        let defaults = Variation::default();
        Augmentation::Random(Variation {
            crop_scale: self.crop_scale.unwrap_or(defaults.crop_scale),
            flip_probability: if self.no_flip { 0.0 } else { defaults.flip_probability },
            color_jitter: self.color_jitter.unwrap_or(defaults.color_jitter),
            rand_augment: self.rand_augment,
            random_erase: self.random_erase.unwrap_or(defaults.random_erase),
        })
    }
}
