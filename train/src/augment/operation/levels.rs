//! Operations that give every level of a channel another one: Pillow's `ImageOps.{posterize, solarize, autocontrast,
//! equalize}`.

/// What becomes of each level.
type Table = [u8; 256];

/// Keeps the `bits` uppermost bits of every value, 1 to 8.
pub(super) fn posterize(data: &mut [u8], bits: u32) {
    let mask = 0xff_u8.checked_shl(8_u32.saturating_sub(bits)).unwrap_or(0);
    data.iter_mut().for_each(|value| *value &= mask);
}

/// Inverts the values from `threshold` up.
pub(super) fn solarize(data: &mut [u8], threshold: f64) {
    let table = table(|level| if f64::from(level) < threshold { level } else { 255 - level });
    data.iter_mut().for_each(|value| *value = table[usize::from(*value)]);
}

/// Stretches each channel, so that its darkest value becomes 0 and its brightest 255.
pub(super) fn auto_contrast(data: &mut [u8]) {
    remap(data, |histogram| {
        let darkest = histogram.iter().position(|&count| count > 0)?;
        let brightest = histogram.iter().rposition(|&count| count > 0)?;
        if brightest <= darkest {
            return None;
        }
        let scale = 255.0 / (brightest - darkest) as f64;
        let offset = -(darkest as f64) * scale;
        Some(table(|level| (f64::from(level) * scale + offset) as u8)) // `as` truncates and keeps to 0 … 255
    });
}

/// Spreads the values of each channel evenly over its levels.
pub(super) fn equalize(data: &mut [u8]) {
    remap(data, |histogram| {
        let brightest = histogram.iter().rfind(|&&count| count > 0)?;
        let step = (histogram.iter().sum::<usize>() - brightest) / 255;
        if step == 0 {
            return None; // one level, or too few pixels to share out
        }
        let mut below = step / 2;
        Some(table(|level| {
            let spread = below / step;
            below += histogram[usize::from(level)];
            spread.min(255) as u8
        }))
    });
}

/// Gives the values of each channel the levels that `table_of` makes of its histogram; none leaves the channel alone.
fn remap(data: &mut [u8], table_of: impl Fn(&[usize; 256]) -> Option<Table>) {
    let mut histograms = [[0; 256]; 3];
    for pixel in data.as_chunks::<3>().0 {
        for (histogram, value) in histograms.iter_mut().zip(pixel) {
            histogram[usize::from(*value)] += 1;
        }
    }
    let tables = histograms.map(|histogram| table_of(&histogram).unwrap_or_else(|| table(|level| level)));
    for pixel in data.as_chunks_mut::<3>().0 {
        for (table, value) in tables.iter().zip(pixel) {
            *value = table[usize::from(*value)];
        }
    }
}

/// The table of what `of` makes of the levels, asked from the darkest to the brightest.
fn table(mut of: impl FnMut(u8) -> u8) -> Table {
    std::array::from_fn(|level| of(level as u8))
}
