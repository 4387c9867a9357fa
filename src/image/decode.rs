//! Photo bytes → upright RGB pixels, within limits.
//!
//! The decode pool, the folder predictor and the trainer's loader call [`decode`]. The format is read from the bytes,
//! the size from the header; pixels are counted and their memory is reserved before anything is allocated. No input
//! makes it panic, and what cannot be decoded whole is an error: a half photo is never passed on.

use std::io::{Cursor, ErrorKind};
use std::ops::Deref;
use std::sync::Arc;

use image::codecs::{
    bmp::BmpDecoder, gif::GifDecoder, png::PngDecoder, tiff::TiffDecoder, webp::WebPDecoder,
};
use image::metadata::Orientation;
use image::{ColorType, DynamicImage, ExtendedColorType, ImageDecoder, Limits, RgbImage};

use super::budget::{MemoryBudget, Reservation};
use super::format::{Format, sniff};
use super::{ImageError, Pixels, guard, jpeg, webp};

/// The longest side accepted, in pixels: filter weights for a resize take up to 48 bytes a pixel of each side.
const MAX_SIDE: u64 = 1 << 20;

/// Bytes a decoder may hold for metadata and small tables, beyond what the pixels need.
const ALLOWANCE: u64 = 4 << 20;

/// How much one decode may take.
#[derive(Clone, Debug)]
pub struct DecodeLimits {
    /// Pixels a photo may have, width × height as its header announces.
    pub max_pixels: u64,
    /// Shared by all that decode at the same time.
    pub memory: Arc<MemoryBudget>,
}

impl Default for DecodeLimits {
    /// Pillow's limit at which it refuses to open a photo without asking (178,956,970 is twice its warning level of
    /// 89,478,485), and 2 GiB, which most formats need less of at that limit.
    fn default() -> Self {
        Self { max_pixels: 178_956_970, memory: Arc::new(MemoryBudget::new(2 << 30)) }
    }
}

/// A decoded photo; it dereferences to its [`Pixels`] and keeps their memory reserved until it is dropped.
#[derive(Debug)]
pub struct Decoded {
    pixels: Pixels,
    reservation: Reservation,
}

impl Decoded {
    /// The pixels alone; the reservation ends here, and the memory is the caller's to account for.
    pub fn into_pixels(self) -> Pixels {
        self.pixels
    }

    /// Bytes that stay reserved.
    pub fn reserved(&self) -> u64 {
        self.reservation.bytes()
    }
}

impl Deref for Decoded {
    type Target = Pixels;

    fn deref(&self) -> &Pixels {
        &self.pixels
    }
}

/// Decodes a photo to RGB and turns it upright by its EXIF orientation.
///
/// JPEG, PNG, WebP, GIF, BMP and TIFF are served; of an animation, the first frame. Alpha is dropped, not blended;
/// grey, palette and CMYK become RGB as in Pillow's `convert("RGB")`. Blocks while the memory budget is taken.
///
/// # Errors
/// [`ImageError::UnsupportedFormat`], [`ImageError::Undecodable`], [`ImageError::TooManyPixels`] or
/// [`ImageError::TooMuchMemory`].
pub fn decode(bytes: &[u8], limits: &DecodeLimits) -> Result<Decoded, ImageError> {
    let format = sniff(bytes)?;
    guard::quietly(|| match format {
        Format::Jpeg => jpeg::decode(bytes, limits),
        _ => decode_other(format, bytes, limits),
    })
    .unwrap_or_else(|| Err(format.undecodable("its decoder gave up: the file is damaged or of a rare kind")))
}

fn decode_other(format: Format, bytes: &[u8], limits: &DecodeLimits) -> Result<Decoded, ImageError> {
    let input = Cursor::new(bytes);
    let refuse = |error| refusal(format, error);
    let size = bytes.len() as u64;
    match format {
        Format::Png => {
            // The decoder allocates a row when it is made, so the size is looked at before.
            let (width, height) =
                png_size(bytes).ok_or_else(|| format.undecodable("the header is incomplete"))?;
            check_size(format, width, height, limits)?;
            let working = 8 * width + size + ALLOWANCE;
            let decoder = PngDecoder::with_limits(input, allocations(working)).map_err(refuse)?;
            run(format, decoder, working, limits)
        }
        Format::WebP => {
            let survey = webp::Survey::new(bytes);
            let decoder = WebPDecoder::new(input).map_err(refuse)?;
            let (width, height) = decoder.dimensions();
            if survey.largest.0 > width || survey.largest.1 > height {
                return Err(format.undecodable("a frame is larger than the picture"));
            }
            // Luma and chroma planes or four channels, alpha on its own, and for an animation frame and canvas.
            let planes = if survey.animated { 15 } else { 7 };
            let working = u64::from(width) * u64::from(height) * planes + ALLOWANCE;
            let turn = survey.exif.map_or(Orientation::NoTransforms, orientation);
            run_turned(format, decoder, working, limits, turn)
        }
        Format::Gif => {
            let mut decoder = GifDecoder::new(input).map_err(refuse)?;
            // A frame that does not fill the picture is decoded beside it.
            let frame = decoder.total_bytes().max(ALLOWANCE);
            decoder.set_limits(allocations(frame)).map_err(refuse)?;
            run(format, decoder, frame, limits)
        }
        Format::Bmp => run(format, BmpDecoder::new(input).map_err(refuse)?, ALLOWANCE, limits),
        Format::Tiff => {
            let mut decoder = TiffDecoder::new(input).map_err(refuse)?;
            let samples = match decoder.original_color_type() {
                ExtendedColorType::Cmyk8 => 4,
                ExtendedColorType::Cmyk16 => 8,
                _ => u64::from(decoder.color_type().bytes_per_pixel()),
            };
            let (width, height) = decoder.dimensions();
            // The decoder keeps all samples and one strip or tile, which may be as large again.
            let working =
                (u64::from(width) * u64::from(height)).saturating_mul(2 * samples).saturating_add(ALLOWANCE);
            decoder.set_limits(allocations(working)).map_err(refuse)?;
            run(format, decoder, working, limits)
        }
        Format::Jpeg => jpeg::decode(bytes, limits),
    }
}

fn run(
    format: Format,
    mut decoder: impl ImageDecoder,
    working: u64,
    limits: &DecodeLimits,
) -> Result<Decoded, ImageError> {
    // Unreadable EXIF is no reason to refuse a photo whose pixels are whole.
    let turn = match decoder.exif_metadata() {
        Ok(Some(exif)) => orientation(&exif),
        _ => decoder.orientation().unwrap_or(Orientation::NoTransforms),
    };
    run_turned(format, decoder, working, limits, turn)
}

fn run_turned(
    format: Format,
    decoder: impl ImageDecoder,
    working: u64,
    limits: &DecodeLimits,
    orientation: Orientation,
) -> Result<Decoded, ImageError> {
    let (width, height) = decoder.dimensions();
    let color = decoder.color_type();
    let bytes_per_pixel = u64::from(color.bytes_per_pixel());
    let plan =
        Plan { format, width: width.into(), height: height.into(), bytes_per_pixel, working, orientation };
    plan.run(limits, |buffer| {
        decoder.read_image(buffer).map_err(|error| refusal(format, error))?;
        Ok(color)
    })
}

/// What is known of a photo before its pixels are decoded.
pub struct Plan {
    pub format: Format,
    /// Pixels in a row, from the header.
    pub width: u64,
    /// Rows, from the header.
    pub height: u64,
    /// Bytes a pixel that the decoder writes.
    pub bytes_per_pixel: u64,
    /// Bytes the decoder holds besides.
    pub working: u64,
    pub orientation: Orientation,
}

impl Plan {
    /// Checks the size, reserves the memory, has `read` fill a buffer of `height × width × bytes_per_pixel` and say
    /// what it wrote, and makes upright RGB of it.
    pub fn run(
        &self,
        limits: &DecodeLimits,
        read: impl FnOnce(&mut [u8]) -> Result<ColorType, ImageError>,
    ) -> Result<Decoded, ImageError> {
        check_size(self.format, self.width, self.height, limits)?;
        let pixels = self.width * self.height;
        let raw = pixels.saturating_mul(self.bytes_per_pixel);
        let rgb = pixels * 3;
        // Everything is promised at once: a second request while the first is held could wait for ever.
        let peak = raw.max(rgb).saturating_add(self.working);
        let peak = if self.turns_sideways() { peak.max(2 * rgb) } else { peak };
        let mut reservation = limits.memory.reserve(peak)?;
        let too_large = || self.format.undecodable("it is too large for this machine");
        let raw = usize::try_from(raw).map_err(|_| too_large())?;
        let pixels = usize::try_from(pixels).map_err(|_| too_large())?;
        let mut buffer = vec![0; raw.max(3 * pixels)];
        let color = read(buffer.get_mut(..raw).unwrap_or_default())?;
        to_rgb(&mut buffer, color, pixels, self.format)?;
        buffer.truncate(3 * pixels);
        buffer.shrink_to_fit();
        let upright = self.turn(buffer)?;
        reservation.shrink(rgb);
        Ok(Decoded { pixels: upright, reservation })
    }

    fn turns_sideways(&self) -> bool {
        use Orientation::{Rotate90, Rotate90FlipH, Rotate270, Rotate270FlipH};
        matches!(self.orientation, Rotate90 | Rotate270 | Rotate90FlipH | Rotate270FlipH)
    }

    fn turn(&self, rgb: Vec<u8>) -> Result<Pixels, ImageError> {
        let too_large = || self.format.undecodable("it is too large for this machine");
        let width = u32::try_from(self.width).map_err(|_| too_large())?;
        let height = u32::try_from(self.height).map_err(|_| too_large())?;
        if self.orientation == Orientation::NoTransforms {
            return Pixels::new(width as usize, height as usize, rgb);
        }
        let mut picture =
            DynamicImage::ImageRgb8(RgbImage::from_raw(width, height, rgb).ok_or_else(too_large)?);
        picture.apply_orientation(self.orientation);
        let (width, height) = (picture.width() as usize, picture.height() as usize);
        Pixels::new(width, height, picture.into_bytes())
    }
}

fn check_size(format: Format, width: u64, height: u64, limits: &DecodeLimits) -> Result<(), ImageError> {
    if width == 0 || height == 0 {
        return Err(format.undecodable(format!("it is {width} × {height} pixels")));
    }
    if width.checked_mul(height).is_none_or(|pixels| pixels > limits.max_pixels) {
        return Err(ImageError::TooManyPixels { width, height, limit: limits.max_pixels });
    }
    if width.max(height) > MAX_SIDE {
        return Err(format.undecodable(format!("a side of {} pixels is too long", width.max(height))));
    }
    Ok(())
}

/// Width and height from the first chunk of a PNG.
fn png_size(bytes: &[u8]) -> Option<(u64, u64)> {
    let side = |at: usize| Some(u64::from(u32::from_be_bytes(bytes.get(at..at + 4)?.try_into().ok()?)));
    (bytes.get(12..16)? == b"IHDR").then_some(())?;
    Some((side(16)?, side(20)?))
}

fn allocations(bytes: u64) -> Limits {
    let mut limits = Limits::no_limits();
    limits.max_alloc = Some(bytes);
    limits
}

/// The orientation in an EXIF block; none where it says nothing sensible.
pub fn orientation(exif: &[u8]) -> Orientation {
    // Within WebP the prefix that JPEG has is sometimes left in.
    let exif = exif.strip_prefix(b"Exif\0\0").unwrap_or(exif);
    Orientation::from_exif_chunk(exif).unwrap_or(Orientation::NoTransforms)
}

/// Turns `pixels` pixels of `color` at the start of `buffer` into RGB, in place; `buffer` has room for the larger one.
///
/// 16-bit samples keep their high byte, as in Pillow for colour. For 16-bit grey Pillow clips at 255 instead, which
/// leaves a white sheet; no model was trained to see that.
fn to_rgb(buffer: &mut [u8], color: ColorType, pixels: usize, format: Format) -> Result<(), ImageError> {
    // The high byte of a sample in the machine's order.
    let high = |low: u8, high: u8| (u16::from_ne_bytes([low, high]) >> 8) as u8;
    match color {
        ColorType::Rgb8 => {}
        ColorType::L8 => convert(buffer, pixels, |[grey]| [grey; 3]),
        ColorType::La8 => convert(buffer, pixels, |[grey, _]| [grey; 3]),
        ColorType::Rgba8 => convert(buffer, pixels, |[r, g, b, _]| [r, g, b]),
        ColorType::L16 => convert(buffer, pixels, |[a, b]| [high(a, b); 3]),
        ColorType::La16 => convert(buffer, pixels, |[a, b, _, _]| [high(a, b); 3]),
        ColorType::Rgb16 => {
            convert(buffer, pixels, |[a, b, c, d, e, f]| [high(a, b), high(c, d), high(e, f)])
        }
        ColorType::Rgba16 => {
            convert(buffer, pixels, |[a, b, c, d, e, f, _, _]| [high(a, b), high(c, d), high(e, f)]);
        }
        other => return Err(format.undecodable(format!("samples of type {other:?} are not supported"))),
    }
    Ok(())
}

/// Replaces `pixels` pixels of `N` bytes by pixels of 3 bytes. Backwards where they grow, so that none is overwritten
/// before it is read.
fn convert<const N: usize>(buffer: &mut [u8], pixels: usize, rgb: impl Fn([u8; N]) -> [u8; 3]) {
    let mut one = |index: usize| {
        let mut pixel = [0; N];
        pixel.copy_from_slice(&buffer[index * N..(index + 1) * N]);
        buffer[index * 3..(index + 1) * 3].copy_from_slice(&rgb(pixel));
    };
    if N < 3 {
        (0..pixels).rev().for_each(&mut one);
    } else {
        (0..pixels).for_each(&mut one);
    }
}

fn refusal(format: Format, error: image::ImageError) -> ImageError {
    let reason = match &error {
        image::ImageError::IoError(io) if io.kind() == ErrorKind::UnexpectedEof => {
            "the file ends too early (truncated)".to_owned()
        }
        image::ImageError::Limits(_) => {
            "its parts take more memory than a picture of this size should".to_owned()
        }
        other => {
            let message = other.to_string();
            // "Format error decoding Bmp: …", which the client is told already.
            short(
                message
                    .split_once(": ")
                    .filter(|(head, _)| head.starts_with("Format error"))
                    .map_or(&message, |m| m.1),
            )
        }
    };
    format.undecodable(reason)
}

/// A library's message in one line of at most 160 characters.
pub fn short(message: &str) -> String {
    let line = message.trim_matches('"').split_whitespace().collect::<Vec<_>>().join(" ");
    match line.char_indices().nth(160) {
        Some((end, _)) => format!("{}…", line.get(..end).unwrap_or_default()),
        None => line,
    }
}
