//! Random changes of brightness, contrast and saturation.
//!
//! The augmenter calls [`jitter`], RandAugment's operations call [`apply`]. The distribution of the jitter is that of torchvision's `ColorJitter(s, s, s)`, the arithmetic that
//! of Pillow's `ImageEnhance`: each change is a blend with a degenerate picture, computed in f32 and truncated to u8, so
//! that three changes round three times.

use featherlight::randomness::Stream;

/// What is changed, by moving away from (or towards) a degenerate picture.
#[derive(Debug, Clone, Copy)]
pub(super) enum Change {
    /// From black.
    Brightness,
    /// From the mean brightness of the picture.
    Contrast,
    /// From the picture in grey.
    Saturation,
}

/// Applies the three changes in a random order, each by a factor within 1 ± `strength` (and not below 0).
///
/// `data`: RGB pixels in any number.
pub(super) fn jitter(data: &mut [u8], strength: f64, stream: &mut Stream) {
    let mut changes = [Change::Brightness, Change::Contrast, Change::Saturation];
    stream.shuffle(&mut changes);
    for change in changes {
        let factor = stream.range((1.0 - strength).max(0.0), 1.0 + strength);
        apply(data, change, factor as f32);
    }
}

/// Changes a picture by `factor`: 1 leaves it as it is, 0 makes it degenerate.
pub(super) fn apply(data: &mut [u8], change: Change, factor: f32) {
    match change {
        Change::Brightness => blend_all(data, 0, factor),
        Change::Contrast => blend_all(data, mean_luma(data), factor),
        Change::Saturation => {
            for pixel in data.as_chunks_mut().0 {
                let grey = luma(*pixel);
                *pixel = pixel.map(|value| blend(grey, value, factor));
            }
        }
    }
}

/// Blends every value with the same level, through a table of the 256 results.
fn blend_all(data: &mut [u8], degenerate: u8, factor: f32) {
    let mut table: [u8; 256] = std::array::from_fn(|value| value as u8);
    table.iter_mut().for_each(|value| *value = blend(degenerate, *value, factor));
    data.iter_mut().for_each(|value| *value = table[usize::from(*value)]);
}

/// Pillow's `Image.blend`: from `degenerate` (factor 0) through `value` (factor 1) and beyond.
pub(super) fn blend(degenerate: u8, value: u8, factor: f32) -> u8 {
    let (degenerate, value) = (f32::from(degenerate), f32::from(value));
    // `as` truncates and keeps to 0 … 255, as Pillow's cast after its clipping does.
    (degenerate + factor * (value - degenerate)) as u8
}

/// Pillow's conversion of RGB to L (ITU-R 601-2), in 16-bit fixed point.
fn luma([red, green, blue]: [u8; 3]) -> u8 {
    let sum = u32::from(red) * 19_595 + u32::from(green) * 38_470 + u32::from(blue) * 7_471;
    ((sum + 0x8000) >> 16) as u8
}

/// The mean brightness of a picture, rounded to a level.
fn mean_luma(data: &[u8]) -> u8 {
    let pixels = data.as_chunks().0;
    let sum: u64 = pixels.iter().map(|&pixel| u64::from(luma(pixel))).sum();
    (sum as f64 / pixels.len().max(1) as f64 + 0.5) as u8
}

#[cfg(test)]
mod tests {
    use super::*;
    use featherlight::randomness::{Purpose, Randomness};

    const PHOTO: [u8; 18] = [255, 0, 0, 12, 200, 77, 3, 5, 250, 128, 128, 128, 240, 250, 255, 91, 33, 180];

    #[test]
    fn changes_are_those_of_pillow() {
        // ImageEnhance.{Brightness, Contrast, Color} of Pillow 13.0.0 on PHOTO, a picture of 3 × 2 pixels.
        let expected: [(Change, f32, [u8; 18]); 9] = [
            (Change::Brightness, 0.0, [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
            (
                Change::Brightness,
                0.63,
                [160, 0, 0, 7, 126, 48, 1, 3, 157, 80, 80, 80, 151, 157, 160, 57, 20, 113],
            ),
            (
                Change::Brightness,
                1.37,
                [255, 0, 0, 16, 255, 105, 4, 6, 255, 175, 175, 175, 255, 255, 255, 124, 45, 246],
            ),
            (
                Change::Contrast,
                0.0,
                [114, 114, 114, 114, 114, 114, 114, 114, 114, 114, 114, 114, 114, 114, 114, 114, 114, 114],
            ),
            (
                Change::Contrast,
                0.63,
                [202, 42, 42, 49, 168, 90, 44, 45, 199, 122, 122, 122, 193, 199, 202, 99, 62, 155],
            ),
            (
                Change::Contrast,
                1.37,
                [255, 0, 0, 0, 231, 63, 0, 0, 255, 133, 133, 133, 255, 255, 255, 82, 3, 204],
            ),
            (
                Change::Saturation,
                0.0,
                [76, 76, 76, 130, 130, 130, 32, 32, 32, 128, 128, 128, 248, 248, 248, 67, 67, 67],
            ),
            (
                Change::Saturation,
                0.63,
                [188, 28, 28, 55, 174, 96, 13, 14, 169, 128, 128, 128, 242, 249, 252, 82, 45, 138],
            ),
            (
                Change::Saturation,
                1.37,
                [255, 0, 0, 0, 225, 57, 0, 0, 255, 128, 128, 128, 237, 250, 255, 99, 20, 221],
            ),
        ];
        for (change, factor, expected) in expected {
            let mut data = PHOTO;
            apply(&mut data, change, factor);
            assert_eq!(data, expected, "{change:?} {factor}");
        }
    }

    #[test]
    fn a_strength_bounds_the_change() {
        for epoch in 0..200 {
            let mut data = [100; 3]; // grey: contrast and saturation have nothing to move
            jitter(&mut data, 0.2, &mut Randomness::new(1).stream(Purpose::ColorJitter, epoch, 0, 0));
            assert!(data.iter().all(|value| (79..=120).contains(value)), "{data:?}");
        }
    }

    #[test]
    fn a_strength_above_one_never_turns_colours_around() {
        for epoch in 0..200 {
            let mut data = PHOTO;
            jitter(&mut data, 3.0, &mut Randomness::new(1).stream(Purpose::ColorJitter, epoch, 0, 0));
            assert!(data[0] >= data[1], "{data:?}");
        }
    }
}
