//! A photo's file: read once, decoded, known by its content.
//!
//! The loader's threads read photos through [`load`], the check before a run through [`inspect`]; both leave what they decoded in
//! the cache. An error is the reason why a photo cannot be read, in words.

use super::cache::{Photo, PhotoCache};
use featherlight::image::{DecodeLimits, decode};
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::time::UNIX_EPOCH;
use xxhash_rust::xxh3::xxh3_128;

/// The bytes of a photo's file.
pub(super) struct PhotoFile {
    pub bytes: Vec<u8>,
    /// `None` where the system keeps no times.
    pub stamp: Option<Stamp>,
}

/// What changes when a file does: its length and the time of its last change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stamp {
    pub length: u64,
    /// Nanoseconds since 1970.
    pub modified: u128,
}

impl Stamp {
    /// Of the file at `path`, links followed.
    pub(super) fn of(path: &Path) -> Option<Self> {
        Self::from(&std::fs::metadata(path).ok()?)
    }

    fn from(metadata: &std::fs::Metadata) -> Option<Self> {
        let modified = metadata.modified().ok()?.duration_since(UNIX_EPOCH).ok()?;
        Some(Self { length: metadata.len(), modified: modified.as_nanos() })
    }
}

impl PhotoFile {
    fn read(path: &Path) -> io::Result<Self> {
        let mut file = File::open(path)?;
        // Taken before the bytes: a file that changes meanwhile looks changed, never unchanged.
        let metadata = file.metadata()?;
        let mut bytes = Vec::with_capacity(usize::try_from(metadata.len()).unwrap_or(0).min(1 << 26));
        file.read_to_end(&mut bytes)?;
        Ok(Self { bytes, stamp: Stamp::from(&metadata) })
    }

    /// XXH3 of the bytes, 128 bits: the same for copies, whatever they are called.
    pub(super) fn content(&self) -> u128 {
        xxh3_128(&self.bytes)
    }
}

/// The photo at `path`, from the cache or decoded.
pub(super) fn load(path: &Path, cache: &PhotoCache, limits: &DecodeLimits) -> Result<Photo, String> {
    match cache.get(path, limits) {
        Some(photo) => Ok(photo),
        None => Ok(decoded(path, cache, limits)?.1),
    }
}

/// The content of the photo at `path`, if it can be decoded whole.
pub(super) fn inspect(path: &Path, cache: &PhotoCache, limits: &DecodeLimits) -> Result<u128, String> {
    match cache.content(path) {
        Some(content) => Ok(content),
        None => Ok(decoded(path, cache, limits)?.0.content()),
    }
}

fn decoded(path: &Path, cache: &PhotoCache, limits: &DecodeLimits) -> Result<(PhotoFile, Photo), String> {
    let file = PhotoFile::read(path).map_err(|error| error.to_string())?;
    let decoded = decode(&file.bytes, limits).map_err(|error| error.to_string())?;
    let photo = cache.offer(path, &file, decoded);
    Ok((file, photo))
}
