//! The first photos of a training, side by side, as the model sees them: cropped, mirrored, coloured and mixed.

use super::ReportError;
use super::picture::{data_uri, jpeg, png};
use crate::loader::{Batch, Loader, LoaderError};
use featherlight::image::{Filter, Pixels, resize};

/// Photos in a row.
const COLUMNS: usize = 8;
/// Side of a photo in the mosaic, in pixels, at most.
const TILE: usize = 128;
/// Pixels between two photos, and around them.
const GAP: usize = 2;
const QUALITY: u8 = 85;
/// Photos of a mosaic where nobody says otherwise: four rows.
pub const PHOTOS: usize = 4 * COLUMNS;

/// Photos side by side, on white, and the class of each.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mosaic {
    pixels: Pixels,
    labels: Vec<u32>,
}

impl Mosaic {
    /// Puts the first `photos` of `batches` side by side, in their order. `None` where there is none.
    pub fn new<'a>(batches: impl IntoIterator<Item = &'a Batch>, photos: usize) -> Option<Self> {
        let (mut tiles, mut labels) = (Vec::new(), Vec::new());
        for batch in batches {
            let size = batch.height * batch.width * 3;
            for (pixels, label) in batch.pixels.chunks_exact(size.max(1)).zip(&batch.labels) {
                if tiles.len() == photos {
                    break;
                }
                let photo = Pixels::new(batch.width, batch.height, pixels.to_vec()).ok()?;
                let longer = batch.width.max(batch.height);
                let side = |side: usize| (side * TILE.min(longer) / longer).max(1);
                tiles.push(resize(&photo, side(batch.width), side(batch.height), Filter::Bicubic).ok()?);
                labels.push(*label);
            }
        }
        Some(Self { pixels: side_by_side(&tiles)?, labels })
    }

    /// The first photos that `loader` gives in `order`, as the first epoch varies them and `mix` mixes each batch of that number: what
    /// the training will see first. They are decoded for it.
    ///
    /// # Errors
    /// Those of [`Loader::epoch`]; photos that cannot be read are left out.
    pub fn of_first_epoch(
        loader: &Loader,
        mut order: Vec<usize>,
        photos: usize,
        mix: impl Fn(&mut Batch, u64),
    ) -> Result<Option<Self>, LoaderError> {
        // Whole batches: a photo is mixed with its neighbours in the batch.
        order.truncate(photos.next_multiple_of(loader.batch_size()));
        let batches = loader.epoch(0, order)?.collect::<Result<Vec<_>, _>>();
        match batches {
            Ok(mut batches) => {
                batches.iter_mut().zip(0..).for_each(|(batch, number)| mix(batch, number));
                Ok(Self::new(&batches, photos))
            }
            // That is for the training to say, which may find others that can be read.
            Err(LoaderError::NothingReadable { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The picture.
    pub fn pixels(&self) -> &Pixels {
        &self.pixels
    }

    /// The class of each photo, row by row.
    pub fn rows(&self) -> impl Iterator<Item = &[u32]> {
        self.labels.chunks(COLUMNS)
    }

    /// The number of photos.
    pub fn photos(&self) -> usize {
        self.labels.len()
    }

    /// The picture's bytes as a PNG.
    ///
    /// # Errors
    /// None for a mosaic of a sane size; the encoder's type has one.
    pub fn png(&self) -> Result<Vec<u8>, ReportError> {
        png(&self.pixels)
    }

    /// The picture for a page.
    pub(super) fn uri(&self) -> Option<String> {
        jpeg(&self.pixels, QUALITY).ok().map(|bytes| data_uri("image/jpeg", &bytes))
    }
}

/// Tiles in rows of [`COLUMNS`]; all have the first one's size.
fn side_by_side(tiles: &[Pixels]) -> Option<Pixels> {
    let first = tiles.first()?;
    let (columns, rows) = (tiles.len().min(COLUMNS), tiles.len().div_ceil(COLUMNS));
    let (across, down) = (first.width() + GAP, first.height() + GAP);
    let (width, height) = (columns * across + GAP, rows * down + GAP);
    let mut data = vec![255; width * height * 3];
    for (at, tile) in tiles.iter().enumerate().filter(|(_, tile)| tile.width() == first.width()) {
        let (left, top) = (GAP + at % COLUMNS * across, GAP + at / COLUMNS * down);
        let rows = tile.data().chunks_exact(tile.width() * 3).take(first.height());
        for (row, pixels) in rows.enumerate() {
            let start = ((top + row) * width + left) * 3;
            data[start..start + pixels.len()].copy_from_slice(pixels);
        }
    }
    Pixels::new(width, height, data).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch(shades: &[u8]) -> Batch {
        Batch {
            mixed: None,
            pixels: shades.iter().flat_map(|shade| [*shade; 4 * 2 * 3]).collect(),
            labels: shades.iter().map(|shade| u32::from(*shade)).collect(),
            indices: (0..shades.len()).collect(),
            height: 2,
            width: 4,
        }
    }

    #[test]
    fn photos_lie_in_rows_in_the_order_of_the_batches() {
        let batches = [batch(&[10, 20, 30, 40, 50]), batch(&[]), batch(&[60, 70, 80, 90, 100])];
        let mosaic = Mosaic::new(&batches, 9).unwrap();
        let pixels = mosaic.pixels();
        assert_eq!((pixels.width(), pixels.height()), (8 * 6 + 2, 2 * 4 + 2));
        let at = |x: usize, y: usize| pixels.data()[(y * pixels.width() + x) * 3];
        assert_eq!((at(2, 2), at(8, 2), at(44, 3), at(2, 6)), (10, 20, 80, 90));
        assert_eq!((at(1, 1), at(8, 6)), (255, 255), "white between and after them");
        assert_eq!(mosaic.rows().map(<[u32]>::len).collect::<Vec<_>>(), [8, 1]);
    }

    #[test]
    fn without_photos_there_is_no_mosaic() {
        assert_eq!(Mosaic::new(&[batch(&[])], 9), None);
        assert_eq!(Mosaic::new(&[batch(&[1])], 0), None);
    }
}
