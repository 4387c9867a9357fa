//! Photos made for the tests, and the three ways to send them.

use std::io::Cursor;

use base64::Engine as _;
use image::{ImageFormat, Rgb, RgbImage};

/// A PNG of one colour.
pub fn plain(colour: [u8; 3]) -> Vec<u8> {
    encode(&RgbImage::from_pixel(24, 16, Rgb(colour)), ImageFormat::Png)
}

/// A photo of noise around grey, 3 MB of PNG: noise does not compress.
pub fn three_megabytes() -> Vec<u8> {
    let mut state = 1_u32;
    let mut noise = move || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    };
    let photo = RgbImage::from_fn(1024, 1024, |_, _| Rgb([noise(), noise(), noise()]));
    let bytes = encode(&photo, ImageFormat::Png);
    assert!(bytes.len() > 3_000_000, "{} bytes", bytes.len());
    bytes
}

/// A PNG whose header promises more pixels than are taken.
pub fn too_large() -> Vec<u8> {
    let mut bytes = plain([9, 9, 9]);
    bytes[16..20].copy_from_slice(&60_000_u32.to_be_bytes());
    bytes[20..24].copy_from_slice(&60_000_u32.to_be_bytes());
    // The checksum of the changed header, so that its size is believed.
    let checksum = crc(&bytes[12..29]).to_be_bytes();
    bytes[29..33].copy_from_slice(&checksum);
    bytes
}

/// A PNG cut in its middle.
pub fn truncated() -> Vec<u8> {
    let whole = three_megabytes();
    whole[..whole.len() / 2].to_vec()
}

fn encode(photo: &RgbImage, format: ImageFormat) -> Vec<u8> {
    let mut bytes = Cursor::new(Vec::new());
    photo.write_to(&mut bytes, format).expect("an encoder");
    bytes.into_inner()
}

fn crc(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0_u32, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| (crc >> 1) ^ (0xedb8_8320 & (crc & 1).wrapping_neg()))
    })
}

/// `{"inputs": …}` with more JSON after it.
pub fn json(photo: &[u8], more: &str) -> Vec<u8> {
    let text = base64::engine::general_purpose::STANDARD.encode(photo);
    format!("{{\"inputs\": \"{text}\"{more}}}").into_bytes()
}

/// The content type that goes with [`form`].
pub const FORM: &str = "multipart/form-data; boundary=xXxXx";

/// A form of files, name and bytes each.
pub fn form(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut body = Vec::new();
    for (name, bytes) in files {
        let head =
            format!("--xXxXx\r\ncontent-disposition: form-data; name=\"file\"; filename=\"{name}\"\r\n\r\n");
        body.extend_from_slice(head.as_bytes());
        body.extend_from_slice(bytes);
        body.extend_from_slice(b"\r\n");
    }
    body.extend_from_slice(b"--xXxXx--\r\n");
    body
}
