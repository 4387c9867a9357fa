//! Pixels and drawings as the bytes of PNG and JPEG files, and as `data:` URIs within a page.

use super::ReportError;
use base64::Engine;
use featherlight::image::Pixels;
use resvg::{tiny_skia, usvg};
use std::sync::{Arc, LazyLock};

/// The letters of the pictures; its licence lies beside it.
const FONT: &[u8] = include_bytes!("font/dejavu-sans-ascii.ttf");
/// The name that the font gives itself.
const FAMILY: &str = "DejaVu Sans";
/// Pixels for each unit of a drawing: a chart becomes 1,300 wide.
const SCALE: f32 = 2.5;

/// No font but ours: a picture is the same on every machine.
static FONTS: LazyLock<Arc<usvg::fontdb::Database>> = LazyLock::new(|| {
    let mut fonts = usvg::fontdb::Database::new();
    fonts.load_font_data(FONT.to_vec());
    fonts.set_sans_serif_family(FAMILY);
    Arc::new(fonts)
});

/// Draws an SVG on white, as the bytes of a PNG.
///
/// # Errors
/// If it is no SVG.
pub(super) fn draw(svg: &str) -> Result<Vec<u8>, ReportError> {
    let failed = |problem: String| ReportError::Picture { problem };
    let options = usvg::Options {
        fontdb: Arc::clone(&FONTS),
        font_family: FAMILY.to_owned(),
        ..usvg::Options::default()
    };
    let tree = usvg::Tree::from_str(svg, &options).map_err(|error| failed(error.to_string()))?;
    let size =
        tree.size().to_int_size().scale_by(SCALE).ok_or_else(|| failed("it has no size".to_owned()))?;
    let mut canvas = tiny_skia::Pixmap::new(size.width(), size.height())
        .ok_or_else(|| failed(format!("{} × {} pixels are too many", size.width(), size.height())))?;
    canvas.fill(tiny_skia::Color::WHITE);
    resvg::render(&tree, tiny_skia::Transform::from_scale(SCALE, SCALE), &mut canvas.as_mut());
    // On white nothing is transparent: the fourth byte says nothing.
    let rgb: Vec<u8> =
        canvas.data().chunks_exact(4).flat_map(|pixel| pixel.iter().take(3)).copied().collect();
    let (width, height) = (size.width() as usize, size.height() as usize);
    let pixels = Pixels::new(width, height, rgb).map_err(|error| failed(error.to_string()))?;
    png(&pixels)
}

/// A PNG's bytes.
///
/// # Errors
/// If a side is longer than PNG can say.
pub(super) fn png(pixels: &Pixels) -> Result<Vec<u8>, ReportError> {
    let failed = |error: png::EncodingError| ReportError::Picture { problem: error.to_string() };
    let side = |side: usize| u32::try_from(side).unwrap_or(u32::MAX);
    let mut bytes = Vec::new();
    let mut encoder = png::Encoder::new(&mut bytes, side(pixels.width()), side(pixels.height()));
    encoder.set_color(png::ColorType::Rgb);
    let mut writer = encoder.write_header().map_err(failed)?;
    writer.write_image_data(pixels.data()).map_err(failed)?;
    writer.finish().map_err(failed)?;
    Ok(bytes)
}

/// A JPEG's bytes.
///
/// # Errors
/// If a side has more than 65,535 pixels.
pub(super) fn jpeg(pixels: &Pixels, quality: u8) -> Result<Vec<u8>, ReportError> {
    let failed = |problem: String| ReportError::Picture { problem };
    let side = |side: usize| u16::try_from(side).map_err(|_| failed(format!("a side has {side} pixels")));
    let (width, height) = (side(pixels.width())?, side(pixels.height())?);
    let mut bytes = Vec::new();
    jpeg_encoder::Encoder::new(&mut bytes, quality)
        .encode(pixels.data(), width, height, jpeg_encoder::ColorType::Rgb)
        .map_err(|error| failed(error.to_string()))?;
    Ok(bytes)
}

/// A picture that stands in the page itself.
pub(super) fn data_uri(media_type: &str, bytes: &[u8]) -> String {
    format!("data:{media_type};base64,{}", base64::engine::general_purpose::STANDARD.encode(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use featherlight::image::{DecodeLimits, decode};

    fn decoded(bytes: &[u8]) -> Pixels {
        decode(bytes, &DecodeLimits::default()).unwrap().into_pixels()
    }

    #[test]
    fn a_drawing_has_its_colours_and_its_letters() {
        let svg = |text: &str| {
            format!(
                "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"40\" height=\"20\" viewBox=\"0 0 40 20\">\
                 <rect class=\"x\" width=\"10\" height=\"20\" fill=\"#ff0000\"/>\
                 <text x=\"15\" y=\"15\" font-family=\"DejaVu Sans, sans-serif\" font-size=\"13\" fill=\"#000\">{text}</text></svg>"
            )
        };
        let pixels = decoded(&draw(&svg("Ag")).unwrap());
        assert_eq!((pixels.width(), pixels.height()), (100, 50));
        assert_eq!((&pixels.data()[..3], &pixels.data()[297..300]), (&[255, 0, 0][..], &[255, 255, 255][..]));
        let dark = |pixels: &Pixels| {
            pixels.data().chunks_exact(3).filter(|pixel| pixel[1] < 100 && pixel[0] < 100).count()
        };
        assert!(dark(&pixels) > 50, "letters are drawn");
        assert_eq!(dark(&decoded(&draw(&svg("")).unwrap())), 0);
        assert!(draw("<svg").is_err());
    }

    #[test]
    fn what_is_encoded_can_be_decoded() {
        let pixels = Pixels::new(3, 2, (0..18).map(|byte| byte * 10).collect()).unwrap();
        assert_eq!(decoded(&png(&pixels).unwrap()), pixels);
        let grey = Pixels::new(16, 8, vec![120; 16 * 8 * 3]).unwrap();
        assert!(decoded(&jpeg(&grey, 80).unwrap()).data().iter().all(|byte| byte.abs_diff(120) < 3));
        assert!(jpeg(&Pixels::new(70_000, 1, vec![0; 210_000]).unwrap(), 80).is_err());
        assert_eq!(data_uri("image/png", b"abc"), "data:image/png;base64,YWJj");
    }
}
