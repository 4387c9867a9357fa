//! A picture blurred or sharpened: Pillow's `ImageEnhance.Sharpness`, whose degenerate picture is `ImageFilter.SMOOTH`.

use crate::augment::color::blend;

/// Blends a picture with its smoothed self: factor 1 leaves it as it is, less blurs, more sharpens.
///
/// `data` is rows of `width` RGB pixels. The pixels of the border have too few neighbours and stay as they are.
pub(super) fn apply(data: &mut [u8], width: usize, factor: f32) {
    let row = width * 3;
    if width < 3 || data.len() < 3 * row {
        return;
    }
    let source = data.to_vec();
    // Of the value at `i`, its eight neighbours and itself, the first lies here.
    for (line, above) in data.chunks_exact_mut(row).skip(1).zip(source.windows(3 * row).step_by(row)) {
        let (above, here, below) = (&above[..row], &above[row..2 * row], &above[2 * row..]);
        for i in 3..row - 3 {
            let around = |line: &[u8]| u32::from(line[i - 3]) + u32::from(line[i]) + u32::from(line[i + 3]);
            let sum = around(above) + around(here) + around(below) + 4 * u32::from(here[i]);
            // Thirteenths, rounded; none lies half-way.
            let smooth = (2 * sum + 13) / 26;
            line[i] = blend(smooth as u8, here[i], factor);
        }
    }
}
