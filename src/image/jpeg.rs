//! JPEG, through `zune-jpeg` in strict mode.
//!
//! Strict, because a lenient decoder fills the missing rest of a truncated photo with grey and calls it a success. What
//! strictness would refuse although real photos have it is mended in a copy of the file instead (bytes between header
//! segments, Adobe's marker for plain RGB). A survey of the file's segments, made first, tells how much memory the
//! decoder will hold and whether the end marker is there. Called by `decode` alone.

use std::borrow::Cow;

use image::metadata::Orientation;
use zune_core::bytestream::ZCursor;
use zune_core::colorspace::ColorSpace;
use zune_core::options::DecoderOptions;
use zune_jpeg::JpegDecoder;
use zune_jpeg::errors::DecodeErrors;

use super::ImageError;
use super::decode::{DecodeLimits, Decoded, Plan, orientation};
use super::format::Format;

/// What zune-jpeg answers in strict mode to bytes between two header segments; libjpeg only warns.
const EXTRA_BYTES: &str = "[strict-mode]: Extra bytes between headers";

/// What the segments of a file say.
#[derive(Debug, Default)]
struct Survey {
    /// Where each header segment lies, from its 0xFF up to the next; the last is the first scan's header.
    headers: Vec<std::ops::Range<usize>>,
    /// Of each component of the frame: identifier, horizontal and vertical sampling.
    components: Vec<(u8, u64, u64)>,
    /// Whether the frame is progressive.
    progressive: bool,
    /// Components in the first scan.
    first_scan: usize,
    /// Where Adobe's colour transform byte lies, and its value.
    adobe: Option<(usize, u8)>,
    /// Whether the end marker follows the scans. Without it the file was cut.
    ended: bool,
}

/// Decodes a JPEG to RGB, upright.
pub fn decode(bytes: &[u8], limits: &DecodeLimits) -> Result<Decoded, ImageError> {
    let survey = Survey::new(bytes);
    let (bytes, space) = survey.mend_colour(bytes);
    let options = DecoderOptions::default()
        .set_strict_mode(true)
        .set_max_width(usize::MAX)
        .set_max_height(usize::MAX)
        .jpeg_set_out_colorspace(space);
    let mut decoder = JpegDecoder::new_with_options(ZCursor::new(bytes.as_ref()), options);
    let mended;
    match decoder.decode_headers() {
        Ok(()) => {}
        Err(DecodeErrors::FormatStatic(EXTRA_BYTES)) => {
            mended = survey.without_extra_bytes(&bytes);
            decoder = JpegDecoder::new_with_options(ZCursor::new(mended.as_slice()), options);
            decoder.decode_headers().map_err(refusal)?;
        }
        Err(error) => return Err(refusal(error)),
    }
    let (Some((width, height)), Some(info)) = (decoder.dimensions(), decoder.info()) else {
        return Err(Format::Jpeg.undecodable("the headers are incomplete"));
    };
    let turn = info.exif_data.as_deref().map_or(Orientation::NoTransforms, orientation);
    let plan = Plan {
        format: Format::Jpeg,
        width: width as u64,
        height: height as u64,
        bytes_per_pixel: 3,
        working: survey.working_bytes(width as u64, height as u64, usize::from(info.components)),
        orientation: turn,
    };
    // Strict as it is, the decoder does not notice when only the last rows are cut.
    if !survey.ended {
        return Err(Format::Jpeg.undecodable("the file ends too early (truncated)"));
    }
    plan.run(limits, |buffer| {
        decoder.decode_into(buffer).map_err(refusal)?;
        Ok(image::ColorType::Rgb8)
    })
}

impl Survey {
    /// Walks over the segments as zune-jpeg does; stops without complaint where the file stops making sense, since
    /// the decoder's own message will be better.
    fn new(bytes: &[u8]) -> Self {
        let mut survey = Self::default();
        let mut position = 2;
        let mut in_scan = false;
        while let Some(offset) =
            bytes.get(position..).and_then(|rest| rest.iter().position(|byte| *byte == 0xff))
        {
            let start = position + offset;
            let mut at = start + 1;
            // 0xFF may be repeated as fill. A zero after it is data within a scan, and fill too before.
            while let Some(byte) = bytes.get(at)
                && (*byte == 0xff || (*byte == 0 && !in_scan))
            {
                at += 1;
            }
            let Some(&marker) = bytes.get(at) else { break };
            position = at + 1;
            match marker {
                0x00 | 0xd0..=0xd7 if in_scan => continue,
                0xd9 => {
                    survey.ended = in_scan;
                    break;
                }
                _ => {}
            }
            let Some(length) =
                bytes.get(at + 1..at + 3).map(|word| usize::from(word[0]) << 8 | usize::from(word[1]))
            else {
                break;
            };
            let end = at + 1 + length;
            let Some(body) = bytes.get(at + 3..end) else { break };
            position = end;
            if in_scan {
                continue;
            }
            // Fill bytes are left out: one 0xFF is enough.
            survey.headers.push(at - 1..end);
            match marker {
                0xc0..=0xc2 if survey.components.is_empty() => {
                    survey.progressive = marker == 0xc2;
                    let triples = body.get(6..).unwrap_or_default().chunks_exact(3);
                    survey.components =
                        triples.map(|c| (c[0], u64::from(c[1] >> 4), u64::from(c[1] & 15))).collect();
                }
                0xee if body.starts_with(b"Adobe") => {
                    survey.adobe = body.get(11).map(|transform| (at + 3 + 11, *transform));
                }
                0xda => {
                    survey.first_scan = body.first().copied().map_or(0, usize::from);
                    in_scan = true;
                }
                _ => {}
            }
        }
        survey
    }

    /// Adobe's transform 0 on three components means that they are red, green and blue (so libjpeg and Pillow);
    /// zune-jpeg takes it for CMYK. Calling them YCbCr and asking for YCbCr leaves them as they are.
    fn mend_colour<'a>(&self, bytes: &'a [u8]) -> (Cow<'a, [u8]>, ColorSpace) {
        let named = self.components.iter().map(|(id, ..)| *id).eq(*b"RGB");
        match self.adobe {
            Some((offset, 0)) if self.components.len() == 3 && !named => {
                let mut copy = bytes.to_vec();
                if let Some(transform) = copy.get_mut(offset) {
                    *transform = 1;
                }
                (Cow::Owned(copy), ColorSpace::YCbCr)
            }
            _ => (Cow::Borrowed(bytes), ColorSpace::RGB),
        }
    }

    /// The file with nothing between its header segments.
    fn without_extra_bytes(&self, bytes: &[u8]) -> Vec<u8> {
        let mut mended = vec![0xff, 0xd8];
        for segment in &self.headers {
            // `at - 1` may be a zero used as fill.
            mended.push(0xff);
            mended.extend_from_slice(bytes.get(segment.start + 1..segment.end).unwrap_or_default());
        }
        let scans = self.headers.last().and_then(|segment| bytes.get(segment.end..));
        mended.extend_from_slice(scans.unwrap_or_default());
        mended
    }

    /// Bytes the decoder holds besides its output: rows in work, and every coefficient (i16) of a progressive photo
    /// or of one whose components come in separate scans.
    fn working_bytes(&self, width: u64, height: u64, count: usize) -> u64 {
        // The sum of the components' blocks in one unit of the widest sampling; 4 × 4 is the most there is.
        let h_max = self.components.iter().map(|(_, h, _)| *h).max().unwrap_or(1).clamp(1, 4);
        let v_max = self.components.iter().map(|(_, _, v)| *v).max().unwrap_or(1).clamp(1, 4);
        let blocks = if self.components.len() == count {
            self.components.iter().map(|(_, h, v)| h * v).sum()
        } else {
            count as u64 * h_max * v_max
        };
        let units_across = width.div_ceil(8 * h_max);
        let row = units_across * blocks * 64 * size_of::<i16>() as u64;
        let keeps_all = self.progressive || self.first_scan < count || self.components.len() != count;
        // Rows are held as coefficients and once more upsampled, for which 4 × 4 is again the most.
        let rows = row + units_across * h_max * v_max * 64 * count as u64 * 4;
        if keeps_all { rows + row * height.div_ceil(8 * v_max) } else { rows }
    }
}

fn refusal(error: DecodeErrors) -> ImageError {
    Format::Jpeg.undecodable(match error {
        DecodeErrors::ExhaustedData | DecodeErrors::IoErrors(_) => {
            "the file ends too early (truncated)".to_owned()
        }
        DecodeErrors::FormatStatic("Premature end of buffer" | "Premature End of image") => {
            "the file ends too early (truncated)".to_owned()
        }
        DecodeErrors::ZeroError => "it is zero pixels wide or high".to_owned(),
        other => super::decode::short(&other.to_string()),
    })
}
