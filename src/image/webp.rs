//! A survey of a WebP file's chunks, made before its decoder runs.
//!
//! The decoder allocates by the size in the bitstream and only then compares it with the canvas, and it allocates a
//! metadata chunk by its announced size; so `decode` looks here first. Nothing is decoded here.

/// What the chunks of a file say.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Survey<'a> {
    /// Width and height of the widest and the highest bitstream in the file, in pixels.
    pub largest: (u32, u32),
    /// Whether frames of an animation were found.
    pub animated: bool,
    /// The EXIF chunk, where there is one and it is whole.
    pub exif: Option<&'a [u8]>,
}

impl<'a> Survey<'a> {
    /// Walks over the chunks; stops without complaint where the file stops making sense, since the decoder's own
    /// message will be better.
    pub fn new(bytes: &'a [u8]) -> Self {
        let mut survey = Self::default();
        survey.walk(bytes.get(12..).unwrap_or_default());
        survey
    }

    fn walk(&mut self, bytes: &'a [u8]) {
        for (name, body, whole) in Chunks(bytes) {
            match &name {
                b"VP8 " => self.widen(lossy_size(body)),
                b"VP8L" => self.widen(lossless_size(body)),
                // A frame of an animation: 16 bytes of header, then chunks of its own.
                b"ANMF" => {
                    self.animated = true;
                    for (name, body, _) in Chunks(body.get(16..).unwrap_or_default()) {
                        match &name {
                            b"VP8 " => self.widen(lossy_size(body)),
                            b"VP8L" => self.widen(lossless_size(body)),
                            _ => {}
                        }
                    }
                }
                b"EXIF" if whole => self.exif = self.exif.or(Some(body)),
                _ => {}
            }
        }
    }

    fn widen(&mut self, size: Option<(u32, u32)>) {
        if let Some((width, height)) = size {
            self.largest = (self.largest.0.max(width), self.largest.1.max(height));
        }
    }
}

/// The chunks that follow each other in some bytes: name, body, and whether the body is all there.
struct Chunks<'a>(&'a [u8]);

impl<'a> Iterator for Chunks<'a> {
    type Item = ([u8; 4], &'a [u8], bool);

    fn next(&mut self) -> Option<Self::Item> {
        let (header, after) = self.0.split_first_chunk::<8>()?;
        let [a, b, c, d, size @ ..] = *header;
        let size = u32::from_le_bytes(size) as usize;
        // Chunks are padded to an even size.
        self.0 = after.get(size.saturating_add(size & 1)..).unwrap_or_default();
        let body = after.get(..size);
        Some(([a, b, c, d], body.unwrap_or(after), body.is_some()))
    }
}

/// From the frame header of VP8 (RFC 6386, §9.1): tag (3 bytes), start code, 14 bits of width and of height.
fn lossy_size(body: &[u8]) -> Option<(u32, u32)> {
    let side = |at: usize| Some(u32::from(u16::from_le_bytes([*body.get(at)?, *body.get(at + 1)?]) & 0x3fff));
    Some((side(6)?, side(8)?))
}

/// From the header of VP8L: signature 0x2f, then 14 bits of width − 1 and of height − 1.
fn lossless_size(body: &[u8]) -> Option<(u32, u32)> {
    let bits = u32::from_le_bytes(body.get(1..5)?.try_into().ok()?);
    Some(((bits & 0x3fff) + 1, ((bits >> 14) & 0x3fff) + 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chunk(name: &[u8; 4], body: &[u8]) -> Vec<u8> {
        let mut bytes = name.to_vec();
        bytes.extend((body.len() as u32).to_le_bytes());
        bytes.extend(body);
        bytes.extend(&[0][..body.len() % 2]);
        bytes
    }

    #[test]
    fn the_largest_bitstream_is_found_also_within_frames() {
        let lossy = chunk(b"VP8 ", &[0, 0, 0, 0x9d, 1, 0x2a, 10, 0, 20, 0]);
        let lossless = chunk(b"VP8L", &[0x2f, 30, 0, 0, 0]);
        let frame = [vec![0; 16], lossless].concat();
        let file =
            [b"RIFF\0\0\0\0WEBP".to_vec(), chunk(b"ANMF", &frame), lossy, chunk(b"EXIF", b"MM\0")].concat();
        let survey = Survey::new(&file);
        assert_eq!(survey, Survey { largest: (31, 20), animated: true, exif: Some(b"MM\0") });
    }

    #[test]
    fn a_chunk_that_is_cut_does_not_count_as_metadata() {
        let mut file = [b"RIFF\0\0\0\0WEBP".to_vec(), chunk(b"EXIF", b"MM\0*")].concat();
        file.pop();
        assert_eq!(Survey::new(&file), Survey::default());
    }
}
