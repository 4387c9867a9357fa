//! Decoded photos kept in memory.

use featherlight::image::{Decoded, Pixels};
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Decoded photos by their file, up to a number of bytes.
#[derive(Debug)]
pub(super) struct RamCache {
    /// Bytes of pixels kept at most; 0 keeps nothing.
    limit: u64,
    kept: Mutex<Kept>,
}

#[derive(Debug, Default)]
struct Kept {
    bytes: u64,
    photos: HashMap<PathBuf, Arc<Pixels>>,
}

impl RamCache {
    pub(super) fn new(limit: u64) -> Self {
        Self { limit, kept: Mutex::default() }
    }

    /// The photo of a file, if it is kept.
    pub(super) fn get(&self, path: &Path) -> Option<Arc<Pixels>> {
        self.lock().photos.get(path).map(Arc::clone)
    }

    /// Keeps a photo just decoded, or gives it back where there is no room.
    pub(super) fn offer(&self, path: &Path, decoded: Decoded) -> Result<Arc<Pixels>, Decoded> {
        let bytes = decoded.data().len() as u64;
        let mut kept = self.lock();
        if kept.photos.contains_key(path) || kept.bytes + bytes > self.limit {
            return Err(decoded);
        }
        let pixels = Arc::new(decoded.into_pixels());
        kept.bytes += bytes;
        kept.photos.insert(path.to_owned(), Arc::clone(&pixels));
        Ok(pixels)
    }

    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use featherlight::image::{DecodeLimits, decode};

    fn decoded() -> Decoded {
        let photo = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/goldens/preprocessing/tiny.png");
        decode(&std::fs::read(photo).unwrap(), &DecodeLimits::default()).unwrap()
    }

    fn kept(cache: &RamCache, photos: &[&str]) -> Vec<bool> {
        photos.iter().map(|photo| cache.get(Path::new(photo)).is_some()).collect()
    }

    #[test]
    fn photos_are_kept_up_to_the_limit_and_no_further() {
        let size = decoded().data().len() as u64;
        let cache = RamCache::new(2 * size + 1);
        for photo in ["a", "b", "c"] {
            let data = match cache.offer(Path::new(photo), decoded()) {
                Ok(kept) => kept.data().to_vec(),
                Err(fresh) => fresh.data().to_vec(),
            };
            assert_eq!(data, decoded().data());
        }
        assert_eq!(kept(&cache, &["a", "b", "c"]), [true, true, false]);
    }

    #[test]
    fn a_photo_offered_twice_counts_once() {
        let size = decoded().data().len() as u64;
        let cache = RamCache::new(2 * size);
        for photo in ["a", "a", "b"] {
            let _ = cache.offer(Path::new(photo), decoded());
        }
        assert_eq!(kept(&cache, &["a", "b"]), [true, true]);
    }

    #[test]
    fn a_limit_of_zero_keeps_nothing() {
        let cache = RamCache::new(0);
        assert!(cache.offer(Path::new("a"), decoded()).is_err());
        assert_eq!(kept(&cache, &["a"]), [false]);
    }
}
