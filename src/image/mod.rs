//! From a photo's bytes to the pixels a model wants.
//!
//! `decode` opens a file's bytes within limits, `geometry` resizes and crops as Pillow does, `processor` reads
//! `preprocessor_config.json` and applies it. The decode pool, the folder predictor and the trainer's loader call this;
//! nothing here knows about tensors, models or HTTP. Pixels stay u8: normalisation belongs to the device.

mod budget;
mod decode;
mod format;
mod geometry;
mod guard;
mod jpeg;
mod processor;
mod settings;
mod timm;
mod webp;

use std::path::Path;

pub use budget::{MemoryBudget, Reservation};
pub use decode::{DecodeLimits, Decoded, decode};
pub use geometry::{Filter, Region, center_crop, resize, resize_region};
pub use processor::{Normalization, Processor};
pub use settings::ProcessorError;

/// File name extensions, in lower case, of the formats [`decode()`] opens.
pub const EXTENSIONS: &[&str] =
    &["jpg", "jpeg", "jpe", "jfif", "png", "webp", "gif", "bmp", "dib", "tif", "tiff"];

/// Whether a file's name says that it is a photo [`decode()`] opens (by extension, in any case; the file is not read).
pub fn is_photo(path: &Path) -> bool {
    path.extension()
        .and_then(|extension| extension.to_str())
        .is_some_and(|extension| EXTENSIONS.iter().any(|known| extension.eq_ignore_ascii_case(known)))
}

/// A picture in RGB, one byte a channel, rows from top to bottom, channels interleaved. Never empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pixels {
    width: usize,
    height: usize,
    /// `height × width × 3` bytes.
    data: Vec<u8>,
}

impl Pixels {
    /// Takes `data` as `height × width × 3` bytes.
    ///
    /// # Errors
    /// [`ImageError::Shape`] when a side is zero or `data` has another length.
    pub fn new(width: usize, height: usize, data: Vec<u8>) -> Result<Self, ImageError> {
        let wanted = width.checked_mul(height).and_then(|pixels| pixels.checked_mul(3));
        if width == 0 || height == 0 || wanted != Some(data.len()) {
            return Err(ImageError::Shape { width, height, bytes: data.len() });
        }
        Ok(Self { width, height, data })
    }

    /// Pixels in a row.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Number of rows.
    pub fn height(&self) -> usize {
        self.height
    }

    /// The bytes, `height × width × 3`.
    pub fn data(&self) -> &[u8] {
        &self.data
    }

    /// The bytes, without a copy.
    pub fn into_data(self) -> Vec<u8> {
        self.data
    }
}

/// Why a photo was not taken. Messages are fit for the client who sent it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ImageError {
    /// The bytes are of no format that is served.
    #[error("{found}; formats served are JPEG, PNG, WebP, GIF, BMP and TIFF")]
    UnsupportedFormat {
        /// What the bytes look like, as the start of a sentence: "this is an AVIF picture".
        found: &'static str,
    },
    /// The format is served, but this file is damaged, cut short, empty of pixels or of a kind nobody decodes.
    #[error("the {format} picture cannot be decoded: {reason}")]
    Undecodable {
        /// The format the first bytes announce.
        format: &'static str,
        /// A short reason.
        reason: String,
    },
    /// The header announces more pixels than the limit; nothing was allocated.
    #[error("the picture has {width} × {height} pixels, the limit is {limit} in all")]
    TooManyPixels {
        /// Pixels in a row, from the header.
        width: u64,
        /// Rows, from the header.
        height: u64,
        /// Pixels allowed.
        limit: u64,
    },
    /// Decoding would take more memory than the whole budget.
    #[error("decoding the picture takes {needed} bytes of memory, the budget is {budget}")]
    TooMuchMemory {
        /// Bytes asked for.
        needed: u64,
        /// Bytes in the whole budget.
        budget: u64,
    },
    /// [`Pixels::new`] was given a zero side or the wrong number of bytes.
    #[error("{width} × {height} pixels of RGB cannot be made of {bytes} bytes")]
    Shape {
        /// Pixels in a row.
        width: usize,
        /// Rows.
        height: usize,
        /// Bytes given.
        bytes: usize,
    },
    /// A resize or crop was asked for a size of zero, or for a region outside of the picture.
    #[error(
        "cannot make {width} × {height} pixels from {region:?} of a picture of {source_width} × {source_height}"
    )]
    Geometry {
        /// Width asked for.
        width: usize,
        /// Height asked for.
        height: usize,
        /// The part of the picture it was to be made from.
        region: Region,
        /// Width of the picture.
        source_width: usize,
        /// Height of the picture.
        source_height: usize,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn photos_are_known_by_extension_in_any_case() {
        for name in ["a.jpg", "b/c.JPEG", "d.Png", "e.webp", "f.gif", "g.bmp", "h.TIFF", "i.tif"] {
            assert!(is_photo(Path::new(name)), "{name}");
        }
        for name in ["jpg", "a.txt", "a.jpg.part", ".png", "a", "b.svg"] {
            assert!(!is_photo(Path::new(name)), "{name}");
        }
    }

    #[test]
    fn pixels_must_have_three_bytes_each_and_no_empty_side() {
        assert!(Pixels::new(2, 1, vec![0; 6]).is_ok());
        for (width, height, bytes) in [(2, 1, 5), (0, 1, 0), (1, 0, 0), (usize::MAX, 2, 6)] {
            let error = Pixels::new(width, height, vec![0; bytes]).unwrap_err();
            assert_eq!(error, ImageError::Shape { width, height, bytes });
        }
    }
}
