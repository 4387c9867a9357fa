//! Pictures moved, sheared and turned: Pillow's `Image.transform` by an affine map, nearest neighbour.

/// Fractional bits of a position. Pillow counts in 16.16 and so decides which of two pixels is the nearer.
const FRACTION: u32 = 16;

/// Puts at each place the pixel that `matrix` says, black where that lies outside.
///
/// `data` is rows of `width` RGB pixels. `matrix` `[a, b, c, d, e, f]` maps a place of the result to one of the source, x =
/// ax + by + c and y = dx + ey + f, between centres of pixels.
pub(super) fn transform(data: &mut [u8], width: usize, [a, b, c, d, e, f]: [f64; 6]) {
    let source = data.to_vec();
    let pixels = source.as_chunks::<3>().0;
    let height = pixels.len() / width;
    let fixed = |value: f64| (value * f64::from(1 << FRACTION) + 0.5).floor() as i64;
    let (step_x, step_y) = (fixed(a), fixed(d));
    let mut row_start = (fixed(c + a * 0.5 + b * 0.5), fixed(f + d * 0.5 + e * 0.5));
    for row in data.chunks_exact_mut(width * 3) {
        let (mut x, mut y) = row_start;
        for pixel in row.as_chunks_mut().0 {
            // A negative position becomes a huge one, outside as well.
            let (column, line) = ((x >> FRACTION) as usize, (y >> FRACTION) as usize);
            *pixel = if column < width && line < height { pixels[line * width + column] } else { [0; 3] };
            x += step_x;
            y += step_y;
        }
        row_start = (row_start.0 + fixed(b), row_start.1 + fixed(e));
    }
}

/// The matrix that turns a picture of this width and height about its centre, counter-clockwise: `Image.rotate`'s.
pub(super) fn rotation(degrees: f64, (width, height): (usize, usize)) -> [f64; 6] {
    // Pillow rounds to 15 places, so that the sine of 30° is a half.
    let rounded = |value: f64| (value * 1e15).round() / 1e15;
    let angle = -degrees.rem_euclid(360.0).to_radians();
    let (cosine, sine) = (rounded(angle.cos()), rounded(angle.sin()));
    let (x, y) = (width as f64 / 2.0, height as f64 / 2.0);
    [cosine, sine, cosine * -x + sine * -y + x, -sine, cosine, -sine * -x + cosine * -y + y]
}
