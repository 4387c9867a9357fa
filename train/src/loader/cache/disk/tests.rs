use super::*;
use crate::loader::file::{inspect, load};
use crate::loader::{Cache, PhotoCache};
use tempfile::TempDir;

/// A folder with photos of 4 × 3 pixels in `photos/`, and room for a cache.
struct Photos(TempDir);

/// Bytes of such a photo's file in the cache.
const KEPT: u64 = (Header::BYTES + 4 * 3 * 3) as u64;

impl Photos {
    fn new(count: usize) -> Self {
        let folder = TempDir::new().unwrap();
        std::fs::create_dir(folder.path().join("photos")).unwrap();
        let photos = Self(folder);
        (0..count).for_each(|photo| photos.write(photo, photo as u8));
        photos
    }

    fn path(&self, photo: usize) -> PathBuf {
        self.0.path().join(format!("photos/{photo}.bmp"))
    }

    fn write(&self, photo: usize, shade: u8) {
        std::fs::write(self.path(photo), crate::data_check::tests::bmp(4, 3, shade)).unwrap();
    }

    fn folder(&self) -> PathBuf {
        self.0.path().join("out/cache")
    }

    fn open(&self, limit: u64) -> PhotoCache {
        PhotoCache::open(&Cache::Disk { folder: self.folder(), limit })
    }

    fn pixels(&self, photo: usize, cache: &PhotoCache) -> Vec<u8> {
        load(&self.path(photo), cache, &DecodeLimits::default()).unwrap().data().to_vec()
    }

    /// The files of the cache, sorted.
    fn kept(&self) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(self.folder()).into_iter().flatten();
        let mut files: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
        files.sort();
        files
    }

    fn is_read_from_the_cache(&self, photo: usize, cache: &PhotoCache) -> bool {
        cache.get(&self.path(photo), &DecodeLimits::default()).is_some()
    }
}

#[test]
fn a_photo_is_decoded_once_and_found_again_by_a_run_that_goes_on() {
    let photos = Photos::new(2);
    let cache = photos.open(1 << 20);
    assert!(photos.kept().is_empty(), "no folder before there is a photo");
    let fresh = [photos.pixels(0, &cache), photos.pixels(1, &cache)];
    assert_eq!(photos.kept().len(), 2);
    drop(cache);

    let later = photos.open(1 << 20);
    assert!(photos.is_read_from_the_cache(0, &later) && photos.is_read_from_the_cache(1, &later));
    assert_eq!([photos.pixels(0, &later), photos.pixels(1, &later)], fresh);
    let content = later.content(&photos.path(0));
    assert_eq!(content, Some(xxh3_128(&std::fs::read(photos.path(0)).unwrap())));
    assert_eq!(inspect(&photos.path(0), &photos.open(0), &DecodeLimits::default()).ok(), content);
    later.remove();
    assert!(!photos.folder().exists());
    photos.pixels(0, &later);
    assert!(!photos.folder().exists(), "a run that is complete keeps nothing more");
    later.remove();
}

#[test]
fn a_damaged_file_is_thrown_away_and_the_photo_decoded() {
    let photos = Photos::new(1);
    let cache = photos.open(KEPT);
    let fresh = photos.pixels(0, &cache);
    let file = photos.kept().remove(0);
    let whole = std::fs::read(&file).unwrap();
    assert_eq!(whole.len() as u64, KEPT);
    let changed = |at: usize| {
        let mut bytes = whole.clone();
        bytes[at] ^= 1;
        bytes
    };
    // Cut short, longer, another magic, another size, another content, another pixel.
    let damages = [
        whole[..50].to_vec(),
        Vec::new(),
        [&whole[..], b"x"].concat(),
        changed(0),
        changed(48),
        changed(35),
        changed(whole.len() - 1),
    ];
    for damaged in damages {
        std::fs::write(&file, &damaged).unwrap();
        let cache = photos.open(1 << 20);
        assert!(!photos.is_read_from_the_cache(0, &cache), "{damaged:?}");
        assert_eq!(photos.pixels(0, &cache), fresh);
        assert_eq!(std::fs::read(&file).unwrap(), whole, "and kept again");
    }
}

#[test]
fn a_photo_that_was_replaced_is_decoded_anew() {
    let photos = Photos::new(1);
    let cache = photos.open(KEPT);
    let before = photos.pixels(0, &cache);
    let first = cache.content(&photos.path(0));
    photos.write(0, 200); // as long, another time
    let later = std::time::SystemTime::now() + std::time::Duration::from_secs(5);
    File::options().write(true).open(photos.path(0)).unwrap().set_modified(later).unwrap();
    assert_eq!(cache.content(&photos.path(0)), None);
    let after = photos.pixels(0, &cache);
    assert_ne!(before, after);
    assert_eq!(photos.kept().len(), 1, "in the place of the old one");
    assert!(photos.is_read_from_the_cache(0, &cache) && cache.content(&photos.path(0)) != first);
}

#[test]
fn the_files_stay_within_the_limit_those_of_an_earlier_run_included() {
    let photos = Photos::new(4);
    let cache = photos.open(2 * KEPT + KEPT / 2);
    (0..2).for_each(|photo| drop(photos.pixels(photo, &cache)));
    drop(cache);
    std::fs::write(photos.folder().join(".7.writing"), vec![0; 1000]).unwrap();
    let later = photos.open(3 * KEPT + KEPT / 2);
    for photo in 0..4 {
        photos.pixels(photo, &later);
        photos.pixels(photo, &later);
    }
    assert_eq!(
        photos.kept().len(),
        3,
        "what was broken off is gone, and does not count: {:?}",
        photos.kept()
    );
    assert!(photos.is_read_from_the_cache(2, &later) && !photos.is_read_from_the_cache(3, &later));
}

#[test]
fn a_write_that_fails_ends_the_keeping_and_not_the_run() {
    let photos = Photos::new(2);
    let cache = photos.open(1 << 20);
    let first = photos.pixels(0, &cache);
    // A name that is taken by a folder cannot be renamed over, whoever asks.
    let place = photos
        .folder()
        .join(format!("{:032x}.pixels", xxh3_128(photos.path(1).as_os_str().as_encoded_bytes())));
    let disk = DiskCache::open(&photos.folder(), 1 << 20);
    std::fs::create_dir_all(place.join("x")).unwrap();
    let file = PhotoFile { bytes: Vec::new(), stamp: Stamp::of(&photos.path(1)) };
    let pixels = Pixels::new(1, 1, vec![1, 2, 3]).unwrap();
    let error = disk.write(&place, &Header::of(&file, &pixels).unwrap(), &pixels).unwrap_err();
    disk.give_up(&error);
    let files = || {
        let entries = std::fs::read_dir(photos.folder()).into_iter().flatten().flatten();
        entries.filter(|entry| entry.path().is_file()).count()
    };
    assert_eq!(files(), 0, "what a full disk lacks is room");
    disk.offer(&photos.path(1), &file, &pixels);
    assert_eq!(files(), 0);
    assert!(place.join("x").exists(), "what is not the cache's is left alone");
    assert_eq!(photos.pixels(0, &cache), first);

    let nowhere = photos.0.path().join("file");
    std::fs::write(&nowhere, "no folder").unwrap();
    let cache = PhotoCache::open(&Cache::Disk { folder: nowhere.join("cache"), limit: 1 << 20 });
    assert_eq!(photos.pixels(0, &cache), first);
    assert_eq!(photos.pixels(0, &cache), first);
}
