//! Random erasing (Zhong et al. 2017): a rectangle of the photo that the model does not see.
//!
//! The augmenter calls [`erase`] for the photos that are drawn. The rectangle is that of torchvision's `RandomErasing` with
//! its defaults; it has the processor's mean colour, which the device turns into zero (within half a level).

use super::rounded;
use featherlight::image::Region;
use featherlight::randomness::Stream;

/// The share of the photo's area that is erased, drawn between the two.
const SCALE: (f64, f64) = (0.02, 0.33);

/// The aspect ratios of the rectangle, height to width, drawn evenly in their logarithm.
const RATIO: (f64, f64) = (0.3, 3.3);

/// Erases a random rectangle; `data` is rows of `width` RGB pixels.
pub(super) fn erase(data: &mut [u8], width: usize, colour: [u8; 3], stream: &mut Stream) {
    let Some(region) = random_rectangle((width, data.len() / 3 / width), stream) else { return };
    for row in data.chunks_exact_mut(width * 3).skip(region.top).take(region.height) {
        row.as_chunks_mut().0[region.left..][..region.width].fill(colour);
    }
}

/// Ten tries at a rectangle that is smaller than the photo on both sides; none fits into a photo of a few pixels.
fn random_rectangle((width, height): (usize, usize), stream: &mut Stream) -> Option<Region> {
    const TRIES: usize = 10;
    for _ in 0..TRIES {
        let area = (width * height) as f64 * stream.range(SCALE.0, SCALE.1);
        let ratio = stream.range(RATIO.0.ln(), RATIO.1.ln()).exp();
        let (w, h) = (rounded((area / ratio).sqrt()), rounded((area * ratio).sqrt()));
        if w < width && h < height {
            let top = stream.below(height - h + 1);
            let left = stream.below(width - w + 1);
            return Some(Region { left, top, width: w, height: h });
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use featherlight::randomness::{Purpose, Randomness};

    fn erased((width, height): (usize, usize), sample: u64) -> Vec<[u8; 3]> {
        let mut data = [9, 8, 7].repeat(width * height);
        let mut stream = Randomness::new(1).stream(Purpose::RandomErasing, 0, sample, 0);
        erase(&mut data, width, [1, 2, 3], &mut stream);
        data.as_chunks().0.to_vec()
    }

    #[test]
    fn what_is_erased_is_one_rectangle_within_scale_and_ratio() {
        let (width, height) = (96, 64);
        let (mut shares, mut centres) = (0.0, (0.0, 0.0));
        for sample in 0..1_000 {
            let pixels = erased((width, height), sample);
            let places: Vec<usize> = (0..pixels.len()).filter(|&i| pixels[i] == [1, 2, 3]).collect();
            assert!(pixels.iter().all(|pixel| [[1, 2, 3], [9, 8, 7]].contains(pixel)));
            let sides = |of: &dyn Fn(usize) -> usize| {
                let (least, most) =
                    (places.iter().map(|&i| of(i)).min(), places.iter().map(|&i| of(i)).max());
                (least.unwrap(), most.unwrap() + 1)
            };
            let ((left, right), (top, bottom)) = (sides(&|i| i % width), sides(&|i| i / width));
            assert_eq!((right - left) * (bottom - top), places.len(), "not a rectangle");
            let share = places.len() as f64 / (width * height) as f64;
            let ratio = (bottom - top) as f64 / (right - left) as f64;
            assert!((0.018..0.335).contains(&share), "{share}");
            assert!((0.27..3.6).contains(&ratio), "{ratio}");
            shares += share / 1_000.0;
            centres.0 += (left + right) as f64 / 2.0 / 1_000.0;
            centres.1 += (top + bottom) as f64 / 2.0 / 1_000.0;
        }
        // A little below (0.02 + 0.33) / 2: large rectangles fit less often.
        assert!((0.155..0.18).contains(&shares), "{shares}");
        assert!((centres.0 - 48.0).abs() < 2.0 && (centres.1 - 32.0).abs() < 1.5, "{centres:?}");
    }

    #[test]
    fn a_photo_of_a_pixel_stays_as_it_is() {
        assert!((0..50).all(|sample| erased((1, 1), sample) == [[9, 8, 7]]));
    }
}
