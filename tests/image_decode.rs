//! What `image::decode` promises: whole photos become upright RGB, everything else a clear error, and nothing a panic.
//!
//! With `FEATHERLIGHT_HOSTILE` set, every file of that folder is decoded as well.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "the helpers of a test may fail loudly, as the test itself"
)]

use std::io::Cursor;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use featherlight::image::{DecodeLimits, ImageError, MemoryBudget, Pixels, decode};
use image::codecs::{png::PngEncoder, webp::WebPEncoder};
use image::{DynamicImage, ExtendedColorType, ImageEncoder, ImageFormat, RgbImage};

const FORMATS: [ImageFormat; 5] =
    [ImageFormat::Png, ImageFormat::WebP, ImageFormat::Gif, ImageFormat::Bmp, ImageFormat::Tiff];

fn data(name: &str) -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests").join(name);
    std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn photo(name: &str) -> Vec<u8> {
    data(&format!("goldens/preprocessing/{name}"))
}

/// A picture in which every pixel differs from its neighbours, so that no format makes it tiny.
fn picture() -> RgbImage {
    RgbImage::from_fn(40, 30, |x, y| {
        let noise = (x * 7919 + y * 104_729) % 251;
        image::Rgb([(x * 6) as u8, (y * 8) as u8, noise as u8])
    })
}

fn encoded(picture: impl Into<DynamicImage>, format: ImageFormat) -> Vec<u8> {
    let mut bytes = Cursor::new(Vec::new());
    picture.into().write_to(&mut bytes, format).unwrap();
    bytes.into_inner()
}

fn open(bytes: &[u8]) -> Result<Pixels, ImageError> {
    decode(bytes, &DecodeLimits::default()).map(|decoded| decoded.into_pixels())
}

fn is_undecodable(result: &Result<Pixels, ImageError>) -> bool {
    matches!(result, Err(ImageError::Undecodable { .. }))
}

/// A TIFF of one strip of grey samples, with an orientation.
fn tiff(width: u16, height: u16, orientation: u16, samples: &[u8]) -> Vec<u8> {
    let strip = samples.len() as u32;
    let tags: [(u16, u16, u32); 9] = [
        (256, 3, width.into()),
        (257, 3, height.into()),
        (258, 3, 8),
        (259, 3, 1),
        (262, 3, 1),
        (273, 4, 8 + 2 + 9 * 12 + 4),
        (274, 3, orientation.into()),
        (278, 3, height.into()),
        (279, 4, strip),
    ];
    let mut bytes = b"II*\0\x08\0\0\0\x09\0".to_vec();
    for (tag, kind, value) in tags {
        bytes.extend(tag.to_le_bytes());
        bytes.extend(kind.to_le_bytes());
        bytes.extend(1u32.to_le_bytes());
        bytes.extend(value.to_le_bytes());
    }
    bytes.extend([0; 4]);
    bytes.extend(samples);
    bytes
}

/// EXIF that says nothing but an orientation.
fn exif(orientation: u8) -> Vec<u8> {
    [b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0".as_slice(), &[orientation], &[0; 6]].concat()
}

#[test]
fn every_lossless_format_comes_back_as_it_was() {
    let picture = picture();
    for format in FORMATS {
        let pixels = open(&encoded(picture.clone(), format)).unwrap();
        assert_eq!((pixels.width(), pixels.height()), (40, 30), "{format:?}");
        if format != ImageFormat::Gif {
            assert_eq!(pixels.data(), picture.as_raw(), "{format:?}");
        }
    }
}

#[test]
fn cmyk_grey_and_progressive_jpegs_become_the_rgb_that_pillow_makes() {
    for name in ["cmyk", "grey", "progressive"] {
        let pixels = open(&data(&format!("data/image/{name}.jpg"))).unwrap();
        let expected = open(&data(&format!("data/image/{name}.expected.png"))).unwrap();
        let most = pixels.data().iter().zip(expected.data()).map(|(a, b)| a.abs_diff(*b)).max();
        assert!(pixels.width() == expected.width() && most <= Some(4), "{name}: off by {most:?}");
    }
}

#[test]
fn alpha_is_dropped_and_sixteen_bits_keep_their_high_byte() {
    let clear = image::RgbaImage::from_pixel(3, 2, image::Rgba([10, 20, 30, 0]));
    assert_eq!(open(&encoded(clear, ImageFormat::Png)).unwrap().data(), [10, 20, 30].repeat(6));
    let deep = image::ImageBuffer::from_pixel(3, 2, image::Rgb([0x1280_u16, 0x34ff, 0xff00]));
    assert_eq!(open(&encoded(deep, ImageFormat::Png)).unwrap().data(), [0x12, 0x34, 0xff].repeat(6));
    let grey = image::ImageBuffer::from_pixel(3, 2, image::Luma([0x7fff_u16]));
    assert_eq!(open(&encoded(grey, ImageFormat::Png)).unwrap().data(), [0x7f; 18]);
    let faint = image::ImageBuffer::from_pixel(3, 2, image::LumaA([200_u8, 1]));
    assert_eq!(open(&encoded(faint, ImageFormat::Png)).unwrap().data(), [200; 18]);
}

#[test]
fn exif_orientation_is_applied_in_png_webp_and_tiff() {
    let (red, blue) = ([255, 0, 0], [0, 0, 255]);
    let side_by_side = [red, blue].concat();
    let mut png = Vec::new();
    let mut encoder = PngEncoder::new(&mut png);
    encoder.set_exif_metadata(exif(6)).unwrap();
    encoder.write_image(&side_by_side, 2, 1, ExtendedColorType::Rgb8).unwrap();
    let mut webp = Vec::new();
    let mut encoder = WebPEncoder::new_lossless(&mut webp);
    encoder.set_exif_metadata(exif(6)).unwrap();
    encoder.write_image(&side_by_side, 2, 1, ExtendedColorType::Rgb8).unwrap();
    for bytes in [png, webp] {
        let pixels = open(&bytes).unwrap();
        assert_eq!((pixels.width(), pixels.height(), pixels.data()), (1, 2, side_by_side.as_slice()));
    }
    let upside_down = open(&tiff(1, 3, 3, &[1, 2, 3])).unwrap();
    assert_eq!(upside_down.data(), [3, 3, 3, 2, 2, 2, 1, 1, 1]);
}

#[test]
fn a_jpeg_cut_anywhere_is_undecodable() {
    let photos = [photo("photo_0.jpg"), photo("exif_Landscape_6.jpg"), data("data/image/progressive.jpg")];
    for bytes in photos {
        assert!(open(&bytes).is_ok());
        let step = (bytes.len() / 40).max(1);
        let end = bytes.len() - 1;
        for cut in (2..end).step_by(step).chain([end, end - 1, end - 20]) {
            let result = open(&bytes[..cut]);
            assert!(is_undecodable(&result), "{cut} of {} bytes: {result:?}", bytes.len());
        }
    }
}

#[test]
fn other_formats_cut_short_are_undecodable() {
    for format in FORMATS {
        let bytes = encoded(picture(), format);
        for percent in [10, 30, 50, 70, 90] {
            let result = open(&bytes[..bytes.len() * percent / 100]);
            assert!(is_undecodable(&result), "{format:?} cut to {percent} %: {result:?}");
        }
    }
}

#[test]
fn bytes_between_jpeg_headers_are_passed_over_without_hiding_a_cut() {
    let whole = photo("photo_0.jpg");
    let first_header = 4 + usize::from(u16::from_be_bytes([whole[4], whole[5]])) - 2 + 2;
    let padded =
        [&whole[..first_header], b"some bytes that a camera left here", &whole[first_header..]].concat();
    assert_eq!(open(&padded).unwrap(), open(&whole).unwrap());
    assert!(is_undecodable(&open(&padded[..padded.len() * 6 / 10])));
}

#[test]
fn a_jpeg_that_adobe_marks_as_rgb_is_not_converted_again() {
    let bytes = photo("photo_0.jpg");
    let adobe = b"\xff\xee\0\x0eAdobe\0\x64\0\0\0\0\0";
    let marked = [&bytes[..2], adobe.as_slice(), &bytes[2..]].concat();
    let (converted, raw) = (open(&bytes).unwrap(), open(&marked).unwrap());
    for (rgb, ycc) in converted.data().chunks_exact(3).zip(raw.data().chunks_exact(3)) {
        let [y, cb, cr] = [f32::from(ycc[0]), f32::from(ycc[1]) - 128.0, f32::from(ycc[2]) - 128.0];
        let expected = [y + 1.402 * cr, y - 0.344_14 * cb - 0.714_14 * cr, y + 1.772 * cb];
        for (value, expected) in rgb.iter().zip(expected) {
            assert!((f32::from(*value) - expected.clamp(0.0, 255.0)).abs() < 3.0, "{rgb:?} {ycc:?}");
        }
    }
}

#[test]
fn a_huge_header_is_refused_with_its_figures_before_memory_is_promised() {
    let mut png = encoded(picture(), ImageFormat::Png);
    png[16..20].copy_from_slice(&0x7fff_ffff_u32.to_be_bytes());
    png[20..24].copy_from_slice(&0x7fff_fff0_u32.to_be_bytes());
    let limits = DecodeLimits { max_pixels: 1000, memory: Arc::new(MemoryBudget::new(0)) };
    let refusal =
        |bytes: &[u8], width, height| match decode(bytes, &limits).map(|decoded| decoded.into_pixels()) {
            Err(ImageError::TooManyPixels { width: w, height: h, limit: 1000 }) => (w, h) == (width, height),
            _ => false,
        };
    assert!(refusal(&png, 0x7fff_ffff, 0x7fff_fff0));
    assert!(refusal(&photo("photo_0.jpg"), 348, 348));
    for format in FORMATS {
        assert!(refusal(&encoded(picture(), format), 40, 30), "{format:?}");
    }
}

#[test]
fn memory_is_reserved_while_pixels_are_held_and_too_small_a_budget_refuses() {
    let memory = Arc::new(MemoryBudget::new(64 << 20));
    let limits = DecodeLimits { memory: Arc::clone(&memory), ..DecodeLimits::default() };
    let files = [photo("photo_0.jpg"), photo("exif_Landscape_6.jpg"), data("data/image/progressive.jpg")];
    for bytes in FORMATS.map(|format| encoded(picture(), format)).into_iter().chain(files) {
        let decoded = decode(&bytes, &limits).unwrap();
        assert_eq!(memory.reserved(), decoded.data().len() as u64);
        drop(decoded);
        assert_eq!(memory.reserved(), 0);
        let tiny = DecodeLimits { memory: Arc::new(MemoryBudget::new(1000)), ..DecodeLimits::default() };
        let refusal = decode(&bytes, &tiny).map(|decoded| decoded.into_pixels());
        assert!(matches!(refusal, Err(ImageError::TooMuchMemory { budget: 1000, .. })), "{refusal:?}");
    }
    let damaged = photo("photo_0.jpg");
    assert!(decode(&damaged[..damaged.len() / 2], &limits).is_err());
    assert_eq!(memory.reserved(), 0);
}

#[test]
fn pictures_without_pixels_are_undecodable() {
    let mut bmp = encoded(picture(), ImageFormat::Bmp);
    bmp[18..26].fill(0);
    let mut png = encoded(picture(), ImageFormat::Png);
    png[16..24].fill(0);
    let mut gif = encoded(picture(), ImageFormat::Gif);
    gif[6..10].fill(0);
    for bytes in [bmp, png, gif] {
        let result = open(&bytes);
        assert!(is_undecodable(&result), "{result:?}");
    }
}

#[test]
fn nothing_and_noise_are_no_picture() {
    for bytes in [b"".as_slice(), b"\0", b"not a photo", &[0x5a; 4096]] {
        assert!(matches!(open(bytes), Err(ImageError::UnsupportedFormat { .. })));
    }
}

#[test]
fn damage_anywhere_never_panics_and_is_named_as_damage() {
    let mut noise = 1_u32;
    let mut random = || {
        noise = noise.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (noise >> 16) as usize
    };
    let limits = DecodeLimits { memory: Arc::new(MemoryBudget::new(256 << 20)), ..DecodeLimits::default() };
    let files =
        [data("data/image/progressive.jpg"), data("data/image/cmyk.jpg"), photo("exif_Landscape_6.jpg")];
    for whole in FORMATS.map(|format| encoded(picture(), format)).into_iter().chain(files) {
        for _ in 0..150 {
            let mut bytes = whole.clone();
            for _ in 0..1 + random() % 8 {
                // Behind the signature; half of the damage goes to the headers.
                let within = if random() % 2 == 0 { bytes.len().min(200) } else { bytes.len() };
                bytes[12 + random() % (within - 12)] = random() as u8;
            }
            match decode(&bytes, &limits) {
                Ok(decoded) => assert_eq!(decoded.data().len(), decoded.width() * decoded.height() * 3),
                Err(error) => assert!(!matches!(error, ImageError::UnsupportedFormat { .. }), "{error}"),
            }
        }
    }
    assert_eq!(limits.memory.reserved(), 0);
}

#[test]
fn a_folder_of_hostile_files_leaves_no_panic_and_no_reservation() {
    let Some(folder) = std::env::var_os("FEATHERLIGHT_HOSTILE").map(PathBuf::from) else {
        println!("not run: FEATHERLIGHT_HOSTILE names no folder");
        return;
    };
    let limits = DecodeLimits { memory: Arc::new(MemoryBudget::new(1 << 30)), ..DecodeLimits::default() };
    let mut files: Vec<PathBuf> =
        std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    assert!(!files.is_empty());
    for file in files {
        let bytes = std::fs::read(&file).unwrap();
        let outcome = match decode(&bytes, &limits) {
            Ok(decoded) => format!("decoded {} × {}", decoded.width(), decoded.height()),
            Err(error) => error.to_string(),
        };
        println!("{:<60} {outcome}", file.file_name().unwrap().to_string_lossy());
        assert_eq!(limits.memory.reserved(), 0);
    }
}
