//! Photos to measure with: those of a folder, in memory, or one that is made.

use bytes::Bytes;
use featherlight::predict::list;
use featherlight::randomness::{Purpose, Randomness};
use image::{ImageFormat, Rgb, RgbImage};
use std::error::Error;
use std::io::Cursor;
use std::path::Path;

/// No more bytes are taken from a folder; a sample is enough.
const MOST: usize = 256 << 20;

/// The photos of a folder, as many as fit.
///
/// # Errors
/// If it cannot be read or holds none.
pub fn read(folder: &Path) -> Result<Vec<Bytes>, Box<dyn Error>> {
    let (mut photos, mut total) = (Vec::new(), 0);
    for photo in list(folder, None)?.photos {
        let bytes =
            std::fs::read(&photo.path).map_err(|error| format!("{}: {error}", photo.path.display()))?;
        total += bytes.len();
        if total > MOST && !photos.is_empty() {
            break;
        }
        photos.push(Bytes::from(bytes));
    }
    if photos.is_empty() {
        return Err(format!("{}: there are no photos", folder.display()).into());
    }
    Ok(photos)
}

/// One photo of 640 × 480 pixels: soft colours and a little noise, as a camera sees them, in PNG.
///
/// # Errors
/// The encoder's.
pub fn made() -> Result<Vec<Bytes>, Box<dyn Error>> {
    let mut stream = Randomness::new(0).stream(Purpose::Initialize, 0, 0, 0);
    let photo = RgbImage::from_fn(640, 480, |x, y| {
        let (x, y) = (f64::from(x) / 640.0, f64::from(y) / 480.0);
        let soft = [x, y, (x * y * 6.0).sin().abs()];
        Rgb(soft.map(|value| (value * 240.0 + stream.range(0.0, 8.0)) as u8))
    });
    let mut bytes = Cursor::new(Vec::new());
    photo.write_to(&mut bytes, ImageFormat::Png)?;
    Ok(vec![Bytes::from(bytes.into_inner())])
}
