//! Decoded photos kept in memory from epoch to epoch.
//!
//! The loader's threads ask here before they read a file. Photos are kept until the limit is reached and then no more;
//! none is thrown out again: an epoch visits every photo once, so that a cache of the latest ones would never be hit.

use featherlight::image::{Decoded, Pixels};
use std::collections::HashMap;
use std::ops::Deref;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Decoded photos by sample index, up to a number of bytes.
#[derive(Debug)]
pub(super) struct PhotoCache {
    /// Bytes of pixels kept at most; 0 keeps nothing.
    limit: u64,
    kept: Mutex<Kept>,
}

#[derive(Debug, Default)]
struct Kept {
    bytes: u64,
    photos: HashMap<usize, Arc<Pixels>>,
}

/// A decoded photo, kept or not.
#[derive(Debug)]
pub(super) enum Photo {
    Kept(Arc<Pixels>),
    /// Holds its part of the decoders' memory budget until it is dropped.
    Fresh(Decoded),
}

impl Deref for Photo {
    type Target = Pixels;

    fn deref(&self) -> &Pixels {
        match self {
            Self::Kept(pixels) => pixels,
            Self::Fresh(decoded) => decoded,
        }
    }
}

impl PhotoCache {
    pub(super) fn new(limit: u64) -> Self {
        Self { limit, kept: Mutex::default() }
    }

    /// The photo of a sample, if it is kept.
    pub(super) fn get(&self, index: usize) -> Option<Photo> {
        self.lock().photos.get(&index).map(|pixels| Photo::Kept(Arc::clone(pixels)))
    }

    /// Keeps a photo just decoded if there is room, and gives it back either way.
    pub(super) fn offer(&self, index: usize, decoded: Decoded) -> Photo {
        let bytes = decoded.data().len() as u64;
        let mut kept = self.lock();
        if kept.photos.contains_key(&index) || kept.bytes + bytes > self.limit {
            return Photo::Fresh(decoded);
        }
        let pixels = Arc::new(decoded.into_pixels());
        kept.bytes += bytes;
        kept.photos.insert(index, Arc::clone(&pixels));
        Photo::Kept(pixels)
    }

    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use featherlight::image::{DecodeLimits, decode};
    use std::path::Path;

    fn decoded() -> Decoded {
        let photo = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/goldens/preprocessing/tiny.png");
        decode(&std::fs::read(photo).unwrap(), &DecodeLimits::default()).unwrap()
    }

    #[test]
    fn photos_are_kept_up_to_the_limit_and_no_further() {
        let size = decoded().data().len() as u64;
        let cache = PhotoCache::new(2 * size + 1);
        for index in 0..3 {
            assert_eq!(cache.offer(index, decoded()).data(), decoded().data());
        }
        assert!(cache.get(0).is_some() && cache.get(1).is_some() && cache.get(2).is_none());
    }

    #[test]
    fn a_photo_offered_twice_counts_once() {
        let size = decoded().data().len() as u64;
        let cache = PhotoCache::new(2 * size);
        for index in [0, 0, 1] {
            cache.offer(index, decoded());
        }
        assert!(cache.get(1).is_some());
    }

    #[test]
    fn a_limit_of_zero_keeps_nothing() {
        let cache = PhotoCache::new(0);
        cache.offer(0, decoded());
        assert!(cache.get(0).is_none());
    }
}
