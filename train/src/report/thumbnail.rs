//! A photo of the data set, small enough to stand in a page.
//!
//! It is decoded within the limits of every photo; one that has gone or cannot be decoded any more has no thumbnail, which is
//! never an error.

use super::picture::{data_uri, jpeg};
use featherlight::image::{DecodeLimits, Filter, decode, resize};
use std::path::Path;

/// The longer side, in pixels: a card of the page is about 160 wide, and screens have two pixels for one.
const SIDE: usize = 224;
const QUALITY: u8 = 80;

/// A thumbnail and its size.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Thumbnail {
    /// The JPEG as a `data:` URI.
    pub uri: String,
    /// Pixels in a row.
    pub width: usize,
    /// Rows.
    pub height: usize,
}

/// The photo of `file`, its longer side [`SIDE`] at most.
pub fn thumbnail(file: &Path) -> Option<Thumbnail> {
    let photo = decode(&std::fs::read(file).ok()?, &DecodeLimits::default()).ok()?;
    let longer = photo.width().max(photo.height());
    let side = |side: usize| (side * SIDE.min(longer) / longer).max(1);
    let (width, height) = (side(photo.width()), side(photo.height()));
    let small = resize(&photo, width, height, Filter::Bicubic).ok()?;
    Some(Thumbnail { uri: data_uri("image/jpeg", &jpeg(&small, QUALITY).ok()?), width, height })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::picture::png;
    use featherlight::image::Pixels;

    #[test]
    fn a_photo_keeps_its_shape_and_small_ones_their_size() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("a.png");
        for ((width, height), small) in [((448, 100), (224, 50)), ((3, 5000), (1, 224)), ((20, 10), (20, 10))]
        {
            let photo = Pixels::new(width, height, vec![90; width * height * 3]).unwrap();
            std::fs::write(&file, png(&photo).unwrap()).unwrap();
            let thumbnail = thumbnail(&file).unwrap();
            assert_eq!((thumbnail.width, thumbnail.height), small);
            assert!(thumbnail.uri.starts_with("data:image/jpeg;base64,"));
        }
    }

    #[test]
    fn a_photo_that_is_gone_or_damaged_has_none() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("a.jpg");
        assert_eq!(thumbnail(&file), None);
        std::fs::write(&file, b"\xff\xd8\xff and no more").unwrap();
        assert_eq!(thumbnail(&file), None);
        assert_eq!(thumbnail(folder.path()), None);
    }
}
