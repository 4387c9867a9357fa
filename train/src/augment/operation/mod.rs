//! The fourteen operations of RandAugment, and how strong each is at a magnitude.
//!
//! RandAugment draws them and calls [`Operation::apply`]. The table of strengths is torchvision's, computed in f32 as it
//! does; the pixels are Pillow's, byte for byte: `affine` moves them, `levels` and `color` recolour them, `sharpness` blurs
//! and sharpens.

mod affine;
mod levels;
mod sharpness;

use super::color::{self, Change};

/// The number of magnitudes, 0 to 30.
pub(super) const LEVELS: usize = 31;

/// Translations reach this share of a side: 150 pixels of the 331 that AutoAugment (Cubuk et al. 2018) trained with.
const TRANSLATION: f64 = 150.0 / 331.0;

/// What is done to a picture.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Operation {
    Identity,
    ShearX,
    ShearY,
    TranslateX,
    TranslateY,
    Rotate,
    Brightness,
    Color,
    Contrast,
    Sharpness,
    Posterize,
    Solarize,
    AutoContrast,
    Equalize,
}

impl Operation {
    /// All of them, in the order of the paper's and torchvision's table.
    pub(super) const ALL: [Self; 14] = [
        Self::Identity,
        Self::ShearX,
        Self::ShearY,
        Self::TranslateX,
        Self::TranslateY,
        Self::Rotate,
        Self::Brightness,
        Self::Color,
        Self::Contrast,
        Self::Sharpness,
        Self::Posterize,
        Self::Solarize,
        Self::AutoContrast,
        Self::Equalize,
    ];

    /// The strength at `magnitude` for a picture of this width and height, in the operation's own unit: pixels per pixel
    /// (shear), pixels, degrees, a change of the factor 1 (colours), bits kept, the first level that is inverted.
    pub(super) fn strength(self, magnitude: usize, (width, height): (usize, usize)) -> f64 {
        let up_to = |end: f64| f64::from(linear(0.0, end as f32, magnitude));
        match self {
            Self::Identity | Self::AutoContrast | Self::Equalize => 0.0,
            Self::ShearX | Self::ShearY => up_to(0.3),
            Self::TranslateX => up_to(TRANSLATION * width as f64),
            Self::TranslateY => up_to(TRANSLATION * height as f64),
            Self::Rotate => up_to(30.0),
            Self::Brightness | Self::Color | Self::Contrast | Self::Sharpness => up_to(0.9),
            Self::Posterize => 8.0 - (magnitude as f64 / ((LEVELS - 1) as f64 / 4.0)).round(),
            Self::Solarize => f64::from(linear(255.0, 0.0, magnitude)),
        }
    }

    /// Whether a negative strength means something: to the left, darker, less of it.
    pub(super) fn has_two_directions(self) -> bool {
        match self {
            Self::ShearX | Self::ShearY | Self::TranslateX | Self::TranslateY | Self::Rotate => true,
            Self::Brightness | Self::Color | Self::Contrast | Self::Sharpness => true,
            Self::Identity | Self::Posterize | Self::Solarize | Self::AutoContrast | Self::Equalize => false,
        }
    }

    /// Changes a picture: `data` is rows of `width` RGB pixels.
    pub(super) fn apply(self, data: &mut [u8], width: usize, strength: f64) {
        let factor = (1.0 + strength) as f32;
        match self {
            Self::Identity => {}
            Self::ShearX => affine::transform(data, width, [1.0, strength, 0.0, 0.0, 1.0, 0.0]),
            Self::ShearY => affine::transform(data, width, [1.0, 0.0, 0.0, strength, 1.0, 0.0]),
            Self::TranslateX => affine::transform(data, width, [1.0, 0.0, -strength.trunc(), 0.0, 1.0, 0.0]),
            Self::TranslateY => affine::transform(data, width, [1.0, 0.0, 0.0, 0.0, 1.0, -strength.trunc()]),
            Self::Rotate => {
                let size = (width, data.len() / 3 / width);
                affine::transform(data, width, affine::rotation(strength, size));
            }
            Self::Brightness => color::apply(data, Change::Brightness, factor),
            Self::Color => color::apply(data, Change::Saturation, factor),
            Self::Contrast => color::apply(data, Change::Contrast, factor),
            Self::Sharpness => sharpness::apply(data, width, factor),
            Self::Posterize => levels::posterize(data, strength as u32),
            Self::Solarize => levels::solarize(data, strength),
            Self::AutoContrast => levels::auto_contrast(data),
            Self::Equalize => levels::equalize(data),
        }
    }
}

/// Value `index` of `torch.linspace(start, end, 31)`: counted from the nearer end, in f32, each rounded once.
fn linear(start: f32, end: f32, index: usize) -> f32 {
    let last = LEVELS - 1;
    let step = (end - start) / last as f32;
    if index < LEVELS / 2 {
        step.mul_add(index as f32, start)
    } else {
        (-step).mul_add((last - index) as f32, end)
    }
}

#[cfg(test)]
mod tests;
