//! Decoded photos kept from epoch to epoch: in memory, in files, or not at all.
//!
//! The loader's threads and the check before a run ask here before they decode a file, and offer what they decoded. Photos
//! are kept until the limit is reached and then no more; none is thrown out again: an epoch visits every photo once, so
//! that a cache of the latest ones would never be hit. What is kept is what the decoder gave, byte for byte, so that a
//! run cannot tell whether there is a cache.

mod disk;
mod limit;
mod ram;

use super::file::PhotoFile;
use disk::DiskCache;
use featherlight::image::{DecodeLimits, Decoded, Pixels, Reservation};
pub use limit::{ByteCount, ByteCountError};
use ram::RamCache;
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Where decoded photos are kept, as a person chooses it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cache {
    /// Nowhere: each photo is decoded in each epoch.
    None,
    /// In memory, up to this many bytes.
    Ram(u64),
    /// In files that a run which goes on later finds again.
    Disk {
        /// The folder that is theirs alone; it is made when the first photo is kept.
        folder: PathBuf,
        /// Bytes of all files at most.
        limit: u64,
    },
}

impl Default for Cache {
    /// A gibibyte of memory.
    fn default() -> Self {
        Self::Ram(1 << 30)
    }
}

/// The photos kept; clones are the same cache, so that all who read photos of a run share one limit.
#[derive(Debug, Clone)]
pub struct PhotoCache(Arc<Kind>);

#[derive(Debug)]
enum Kind {
    None,
    Ram(RamCache),
    Disk(DiskCache),
}

/// A decoded photo, kept or not.
#[derive(Debug)]
pub(super) enum Photo {
    Kept(Arc<Pixels>),
    /// From a file. The second is its part of the decoders' memory budget.
    Read(Pixels, #[expect(dead_code, reason = "held, never looked at")] Reservation),
    /// Holds its part of the decoders' memory budget until it is dropped.
    Fresh(Decoded),
}

impl Deref for Photo {
    type Target = Pixels;

    fn deref(&self) -> &Pixels {
        match self {
            Self::Kept(pixels) => pixels,
            Self::Read(pixels, _) => pixels,
            Self::Fresh(decoded) => decoded,
        }
    }
}

impl PhotoCache {
    /// A cache of that kind; one on the disk has what an earlier run left in its folder.
    pub fn open(cache: &Cache) -> Self {
        Self(Arc::new(match cache {
            Cache::None => Kind::None,
            Cache::Ram(limit) => Kind::Ram(RamCache::new(*limit)),
            Cache::Disk { folder, limit } => Kind::Disk(DiskCache::open(folder, *limit)),
        }))
    }

    /// Whether photos are kept in files.
    pub fn is_on_disk(&self) -> bool {
        matches!(&*self.0, Kind::Disk(_))
    }

    /// Removes the files, if there are any, and keeps no more: the run is complete, or has no room for them. A cache in memory goes with its last clone.
    pub fn remove(&self) {
        if let Kind::Disk(disk) = &*self.0 {
            disk.remove();
        }
    }

    /// Removes the files that a cache on the disk left in `folder`.
    pub fn remove_left(folder: &Path) {
        disk::remove_files(folder);
    }

    /// The photo at `path`, if it is kept. Blocks while the memory budget is taken.
    pub(super) fn get(&self, path: &Path, limits: &DecodeLimits) -> Option<Photo> {
        match &*self.0 {
            Kind::None => None,
            Kind::Ram(ram) => ram.get(path).map(Photo::Kept),
            Kind::Disk(disk) => disk.get(path, limits).map(|(pixels, memory)| Photo::Read(pixels, memory)),
        }
    }

    /// The content of the photo at `path` ([`PhotoFile::content`]), if an earlier run decoded and kept the same file.
    pub(super) fn content(&self, path: &Path) -> Option<u128> {
        match &*self.0 {
            Kind::Disk(disk) => disk.content(path),
            Kind::None | Kind::Ram(_) => None,
        }
    }

    /// Keeps a photo just decoded from `file` if there is room, and gives it back either way.
    pub(super) fn offer(&self, path: &Path, file: &PhotoFile, decoded: Decoded) -> Photo {
        match &*self.0 {
            Kind::None => Photo::Fresh(decoded),
            Kind::Ram(ram) => match ram.offer(path, decoded) {
                Ok(kept) => Photo::Kept(kept),
                Err(decoded) => Photo::Fresh(decoded),
            },
            Kind::Disk(disk) => {
                disk.offer(path, file, &decoded);
                Photo::Fresh(decoded)
            }
        }
    }
}
