//! Tells a picture's format from its first bytes, never from its name or content type.
//!
//! `decode` asks here which decoder to run. Formats that are not served are recognised too where that is easy, so that
//! the refusal can say what was sent.

use super::ImageError;

/// A format that is served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    Jpeg,
    Png,
    WebP,
    Gif,
    Bmp,
    Tiff,
}

impl Format {
    /// The name people know it by.
    pub fn name(self) -> &'static str {
        match self {
            Self::Jpeg => "JPEG",
            Self::Png => "PNG",
            Self::WebP => "WebP",
            Self::Gif => "GIF",
            Self::Bmp => "BMP",
            Self::Tiff => "TIFF",
        }
    }

    /// An [`ImageError::Undecodable`] of this format.
    pub fn undecodable(self, reason: impl Into<String>) -> ImageError {
        ImageError::Undecodable { format: self.name(), reason: reason.into() }
    }
}

/// First bytes of the formats that are served. Signatures are cut to what distinguishes them, so that a damaged
/// header is reported as damage and not as an unknown format.
const SERVED: &[(&[u8], Format)] = &[
    (b"\xff\xd8", Format::Jpeg),
    (b"\x89PNG", Format::Png),
    (b"GIF8", Format::Gif),
    (b"BM", Format::Bmp),
    (b"II*\0", Format::Tiff),
    (b"MM\0*", Format::Tiff),
    (b"II+\0", Format::Tiff),
    (b"MM\0+", Format::Tiff),
];

/// First bytes of formats that people send and that are not served.
const FOREIGN: &[(&[u8], &str)] = &[
    (b"\0\0\x01\0", "this is an ICO icon"),
    (b"\0\0\x02\0", "this is a CUR cursor"),
    (b"#?RADIANCE", "this is a Radiance HDR picture"),
    (b"#?RGBE", "this is a Radiance HDR picture"),
    (b"v/1\x01", "this is an OpenEXR picture"),
    (b"8BPS", "this is a Photoshop document"),
    (b"qoif", "this is a QOI picture"),
    (b"DDS ", "this is a DDS texture"),
    (b"farbfeld", "this is a farbfeld picture"),
    (b"\0\0\0\x0cJXL ", "this is a JPEG XL picture"),
    (b"\xff\x0a", "this is a JPEG XL picture"),
    (b"\0\0\0\x0cjP  ", "this is a JPEG 2000 picture"),
    (b"%PDF", "this is a PDF document"),
    (b"PK\x03\x04", "this is a ZIP archive"),
    (b"\x1f\x8b", "this is gzip data"),
    (b"RIFF", "this is a RIFF file, but not a WebP picture"),
];

/// Brands of the ISO media container (`ftyp` box) that people send as photos.
const BRANDS: &[(&[u8], &str)] = &[
    (b"avif", "this is an AVIF picture"),
    (b"avis", "this is an AVIF picture"),
    (b"heic", "this is a HEIC picture"),
    (b"heix", "this is a HEIC picture"),
    (b"mif1", "this is a HEIF picture"),
    (b"msf1", "this is a HEIF picture"),
];

/// The format of `bytes`.
///
/// # Errors
/// [`ImageError::UnsupportedFormat`] that says what the bytes are, where that is known.
pub fn sniff(bytes: &[u8]) -> Result<Format, ImageError> {
    if bytes.starts_with(b"RIFF") && bytes.get(8..12) == Some(b"WEBP") {
        return Ok(Format::WebP);
    }
    match SERVED.iter().find(|(magic, _)| bytes.starts_with(magic)) {
        Some((_, format)) => Ok(*format),
        None => Err(ImageError::UnsupportedFormat { found: foreign(bytes) }),
    }
}

fn foreign(bytes: &[u8]) -> &'static str {
    if bytes.is_empty() {
        return "there are no bytes";
    }
    if let Some((_, found)) = FOREIGN.iter().find(|(magic, _)| bytes.starts_with(magic)) {
        return found;
    }
    if bytes.get(4..8) == Some(b"ftyp") {
        let brand = bytes.get(8..12).unwrap_or_default();
        let known = BRANDS.iter().find(|(name, _)| *name == brand);
        return known.map_or("this is an ISO media file, such as MP4", |(_, found)| found);
    }
    let start = bytes.get(..1024).unwrap_or(bytes);
    let start = start.strip_prefix(b"\xef\xbb\xbf").unwrap_or(start).trim_ascii_start().to_ascii_lowercase();
    if start.windows(4).any(|word| word == b"<svg") {
        "this is an SVG drawing"
    } else if start.starts_with(b"<!doctype html") || start.starts_with(b"<html") {
        "this is an HTML page"
    } else if start.iter().all(|byte| matches!(byte, b'\t' | b'\n' | b'\r' | b' '..=b'~')) {
        "this is text"
    } else {
        "the bytes are of no known picture format"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_served_format_is_known_by_its_first_bytes() {
        let cases: &[(&[u8], Format)] = &[
            (b"\xff\xd8\xff\xe0", Format::Jpeg),
            (b"\x89PNG\r\n\x1a\n", Format::Png),
            (b"RIFF\x10\0\0\0WEBPVP8 ", Format::WebP),
            (b"GIF89a", Format::Gif),
            (b"BM\0\0", Format::Bmp),
            (b"II*\0\x08", Format::Tiff),
            (b"MM\0*\0", Format::Tiff),
        ];
        for (bytes, format) in cases {
            assert_eq!(sniff(bytes), Ok(*format));
        }
    }

    #[test]
    fn what_is_not_served_is_named_along_with_what_is() {
        let cases: &[(&[u8], &str)] = &[
            (b"", "no bytes"),
            (b"\0\0\x01\0\x01\0", "ICO"),
            (b"#?RADIANCE\n", "HDR"),
            (b"\0\0\0\x20ftypavif\0\0\0\0", "AVIF"),
            (b"\0\0\0\x18ftypheic\0\0\0\0", "HEIC"),
            (b"\0\0\0\x18ftypisom\0\0\0\0", "ISO media"),
            (b"<?xml version=\"1.0\"?><svg xmlns=\"\"/>", "SVG"),
            (b"<!DOCTYPE html><html></html>", "HTML"),
            (b"hello", "text"),
            (b"RIFF\x10\0\0\0WAVEfmt ", "RIFF"),
            (b"\x01\x02\x03\x04", "no known"),
        ];
        for (bytes, word) in cases {
            let message = sniff(bytes).unwrap_err().to_string();
            assert!(message.contains(word) && message.contains("WebP, GIF, BMP and TIFF"), "{message}");
        }
    }
}
