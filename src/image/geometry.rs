//! Resizing and cropping, with Pillow's results.
//!
//! The processor and the trainer's augmentation call this. Resizing is antialiased convolution (`fast_image_resize`,
//! whose fixed-point arithmetic is Pillow's own), so that a model sees the pixels it was trained on. Nothing here
//! decodes or normalises.

use fast_image_resize::images::{Image, ImageRef};
use fast_image_resize::{FilterType, PixelType, ResizeAlg, ResizeOptions, Resizer};

use super::{ImageError, Pixels};

/// How pixels are weighted when a picture is resized, under Pillow's names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Filter {
    /// The nearest pixel, no averaging.
    Nearest,
    /// The mean of the pixels covered.
    Box,
    /// A triangle.
    Bilinear,
    /// A Hamming-windowed sinc of one lobe.
    Hamming,
    /// A cubic with a = −0.5 (Catmull–Rom).
    Bicubic,
    /// A Lanczos-windowed sinc of three lobes.
    Lanczos,
}

impl Filter {
    /// The filter of a Pillow code (`resample` in `preprocessor_config.json`).
    pub fn from_code(code: u64) -> Option<Self> {
        Some(match code {
            0 => Self::Nearest,
            1 => Self::Lanczos,
            2 => Self::Bilinear,
            3 => Self::Bicubic,
            4 => Self::Box,
            5 => Self::Hamming,
            _ => return None,
        })
    }

    /// Pillow's code.
    pub fn code(self) -> u64 {
        match self {
            Self::Nearest => 0,
            Self::Lanczos => 1,
            Self::Bilinear => 2,
            Self::Bicubic => 3,
            Self::Box => 4,
            Self::Hamming => 5,
        }
    }

    /// How far the kernel reaches from its centre at full size, in pixels.
    fn support(self) -> f64 {
        match self {
            Self::Nearest | Self::Box => 0.5,
            Self::Bilinear | Self::Hamming => 1.0,
            Self::Bicubic => 2.0,
            Self::Lanczos => 3.0,
        }
    }

    fn algorithm(self) -> ResizeAlg {
        ResizeAlg::Convolution(match self {
            Self::Nearest => return ResizeAlg::Nearest,
            Self::Box => FilterType::Box,
            Self::Bilinear => FilterType::Bilinear,
            Self::Hamming => FilterType::Hamming,
            Self::Bicubic => FilterType::CatmullRom,
            Self::Lanczos => FilterType::Lanczos3,
        })
    }
}

/// A part of a picture, in pixels from its top left corner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Region {
    /// Columns to the left of it.
    pub left: usize,
    /// Rows above it.
    pub top: usize,
    /// Its columns.
    pub width: usize,
    /// Its rows.
    pub height: usize,
}

/// Resizes a whole picture to `width × height`.
///
/// # Errors
/// [`ImageError::Geometry`] when `width` or `height` is zero.
pub fn resize(pixels: &Pixels, width: usize, height: usize, filter: Filter) -> Result<Pixels, ImageError> {
    let whole = Region { left: 0, top: 0, width: pixels.width(), height: pixels.height() };
    resize_region(pixels, whole, width, height, filter)
}

/// Cuts `region` out and resizes it to `width × height`. As in Pillow's `crop(…).resize(…)`, pixels outside of the
/// region have no part in the result.
///
/// # Errors
/// [`ImageError::Geometry`] when a side is zero or the region does not lie within the picture.
pub fn resize_region(
    pixels: &Pixels,
    region: Region,
    width: usize,
    height: usize,
    filter: Filter,
) -> Result<Pixels, ImageError> {
    let refuse = || ImageError::Geometry {
        width,
        height,
        region,
        source_width: pixels.width(),
        source_height: pixels.height(),
    };
    let inside = |start: usize, length: usize, size: usize| {
        length > 0 && start.checked_add(length).is_some_and(|end| end <= size)
    };
    if !inside(region.left, region.width, pixels.width())
        || !inside(region.top, region.height, pixels.height())
    {
        return Err(refuse());
    }
    let cut;
    let source = if region.width == pixels.width() && region.height == pixels.height() {
        pixels
    } else {
        cut = copy(pixels, region)?;
        &cut
    };
    let passes = Passes::choose((source.width(), source.height()), (width as u64, height as u64));
    resample(source, Window::whole(source), (width, height), filter, passes).ok_or_else(refuse)
}

/// Cuts `width × height` out of the middle; where the picture is smaller it is padded with black (zeros), as in
/// transformers.
///
/// # Errors
/// [`ImageError::Geometry`] when `width` or `height` is zero.
pub fn center_crop(pixels: &Pixels, width: usize, height: usize) -> Result<Pixels, ImageError> {
    resize_and_crop(pixels, (pixels.width() as u64, pixels.height() as u64), (width, height), Filter::Nearest)
}

/// Resizes to `resized` and cuts `crop` out of the middle (both width, height), computing only the pixels that remain:
/// a picture of 1 × 60,000 resized by its shortest edge would otherwise take gigabytes.
pub(super) fn resize_and_crop(
    pixels: &Pixels,
    resized: (u64, u64),
    crop: (usize, usize),
    filter: Filter,
) -> Result<Pixels, ImageError> {
    let refuse = || ImageError::Geometry {
        width: crop.0,
        height: crop.1,
        region: Region { left: 0, top: 0, width: pixels.width(), height: pixels.height() },
        source_width: pixels.width(),
        source_height: pixels.height(),
    };
    if crop.0 == 0 || crop.1 == 0 || resized.0 == 0 || resized.1 == 0 {
        return Err(refuse());
    }
    let across = Overlap::new(resized.0, crop.0 as u64);
    let down = Overlap::new(resized.1, crop.1 as u64);
    let (left, width) = across.in_source(pixels.width(), resized.0);
    let (top, height) = down.in_source(pixels.height(), resized.1);
    let window = Window { left, top, width, height };
    let passes = Passes::choose((pixels.width(), pixels.height()), resized);
    let visible =
        resample(pixels, window, (across.length, down.length), filter, passes).ok_or_else(refuse)?;
    if (visible.width(), visible.height()) == crop {
        return Ok(visible);
    }
    let mut canvas = vec![0; crop.0 * crop.1 * 3];
    let rows = canvas.chunks_exact_mut(crop.0 * 3).skip(down.offset);
    for (row, source) in rows.zip(visible.data().chunks_exact(visible.width() * 3)) {
        row[across.offset * 3..][..source.len()].copy_from_slice(source);
    }
    Pixels::new(crop.0, crop.1, canvas)
}

/// Where, along one axis, a centred crop and the picture meet.
struct Overlap {
    /// The first pixel of the picture that the crop shows.
    start: u64,
    /// Pixels shown.
    length: usize,
    /// Black pixels before them.
    offset: usize,
}

impl Overlap {
    /// Rounds as transformers' `center_crop` does: down when cutting, up when padding.
    fn new(size: u64, crop: u64) -> Self {
        Self {
            start: size.saturating_sub(crop) / 2,
            length: size.min(crop) as usize,
            offset: crop.saturating_sub(size).div_ceil(2) as usize,
        }
    }

    /// Start and length in pixels of the source, of which `resized` would be made.
    fn in_source(&self, source: usize, resized: u64) -> (f64, f64) {
        let scale = source as f64 / resized as f64;
        (self.start as f64 * scale, self.length as f64 * scale)
    }
}

/// A part of a picture between pixels.
#[derive(Clone, Copy)]
struct Window {
    left: f64,
    top: f64,
    width: f64,
    height: f64,
}

impl Window {
    fn whole(pixels: &Pixels) -> Self {
        Self { left: 0.0, top: 0.0, width: pixels.width() as f64, height: pixels.height() as f64 }
    }
}

/// Which way a picture is resized first. Values are rounded to u8 in between, so the order shows in the result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Passes {
    AcrossThenDown,
    DownThenAcross,
}

impl Passes {
    /// Pillow's choice (from version 13 on; found by comparing results, up to the exact boundary): down first when the
    /// height loses more than twice the pixels that the width loses. It also keeps the picture in between small.
    fn choose((width, height): (usize, usize), (to_width, to_height): (u64, u64)) -> Self {
        let lost = |from: usize, to: u64| from as i128 - i128::from(to);
        let (across, down) = (lost(width, to_width), lost(height, to_height));
        if down > 0 && down > 2 * across { Self::DownThenAcross } else { Self::AcrossThenDown }
    }
}

/// Makes `to` (width, height) pixels of `window`. Pixels around the window take part where the kernel reaches them.
/// `None` for an empty result.
fn resample(
    pixels: &Pixels,
    window: Window,
    to: (usize, usize),
    filter: Filter,
    passes: Passes,
) -> Option<Pixels> {
    if passes == Passes::DownThenAcross || filter == Filter::Nearest {
        // The library's own order.
        return convolve(pixels, window, to, filter);
    }
    // Only the rows that the second pass reads: those of the window and what the kernel reaches beyond.
    let reach = filter.support() * (window.height / to.1 as f64).max(1.0);
    let first = (window.top - reach).floor().max(0.0);
    let last = (window.top + window.height + reach).ceil().min(pixels.height() as f64);
    let rows = Window { top: first, height: last - first, ..window };
    let narrow = convolve(pixels, rows, (to.0, rows.height as usize), filter)?;
    let window = Window { left: 0.0, width: to.0 as f64, top: window.top - first, height: window.height };
    convolve(&narrow, window, to, filter)
}

/// One call of the library: both passes, down first, or the one that is needed.
fn convolve(pixels: &Pixels, window: Window, to: (usize, usize), filter: Filter) -> Option<Pixels> {
    let side = |length: usize| u32::try_from(length).ok().filter(|length| *length > 0);
    let source =
        ImageRef::new(side(pixels.width())?, side(pixels.height())?, pixels.data(), PixelType::U8x3).ok()?;
    let mut target = Image::new(side(to.0)?, side(to.1)?, PixelType::U8x3);
    let fit = |start: f64, length: f64, size: usize| {
        let size = size as f64;
        // Rounding may carry the far edge over the border by a hair, which the library refuses.
        if start + length > size { size - start - size * f64::EPSILON } else { length }
    };
    let options = ResizeOptions::new().resize_alg(filter.algorithm()).use_alpha(false).crop(
        window.left,
        window.top,
        fit(window.left, window.width, pixels.width()),
        fit(window.top, window.height, pixels.height()),
    );
    Resizer::new().resize(&source, &mut target, &options).ok()?;
    Pixels::new(to.0, to.1, target.into_vec()).ok()
}

fn copy(pixels: &Pixels, region: Region) -> Result<Pixels, ImageError> {
    let rows = pixels.data().chunks_exact(pixels.width() * 3).skip(region.top).take(region.height);
    let data =
        rows.flat_map(|row| &row[region.left * 3..(region.left + region.width) * 3]).copied().collect();
    Pixels::new(region.width, region.height, data)
}
