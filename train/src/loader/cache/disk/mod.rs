//! Decoded photos kept in files, for sets that are larger than the memory and for runs that go on later.
//!
//! One file a photo: a header that says what it was made of, then the pixels as they are. A file is written beside its place
//! and renamed; a reader takes it only if the photo has not changed since (length and time) and its checksum is right, and
//! else it is removed and the photo decoded. A write that fails ends the keeping, not the run: the files are
//! removed, since what is missing on a full disk is room for the run's own results.

use crate::loader::file::{PhotoFile, Stamp};
use featherlight::image::{DecodeLimits, Pixels, Reservation};
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use xxhash_rust::xxh3::{xxh3_64, xxh3_128};

/// How the names of finished files end.
const ENDING: &str = "pixels";

/// Photos in files, by the photo's path, up to a number of bytes.
#[derive(Debug)]
pub(super) struct DiskCache {
    folder: PathBuf,
    /// Bytes of all files at most.
    limit: u64,
    state: Mutex<State>,
    /// Tells the files apart that are being written.
    written: AtomicU64,
}

/// Removes a cache's files from `folder`, and the folder if nothing else is in it: the name may be somebody's for something else.
pub(super) fn remove_files(folder: &Path) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.extension().is_some_and(|ending| ending == ENDING) || is_unfinished(&path) {
            // Files that stay take room and nothing else.
            let _ = std::fs::remove_file(path);
        }
    }
    let _ = std::fs::remove_dir(folder);
}

#[derive(Debug)]
struct State {
    /// Bytes of the files there are, and of those being written.
    bytes: u64,
    /// Whether photos are kept no more.
    off: bool,
}

impl DiskCache {
    /// What lies in `folder`, with whatever was broken off in the middle of being written removed. The folder need not be
    /// there yet.
    pub(super) fn open(folder: &Path, limit: u64) -> Self {
        let mut bytes = 0;
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.extension().is_some_and(|ending| ending == ENDING) {
                bytes += entry.metadata().map_or(0, |metadata| metadata.len());
            } else if is_unfinished(&path) {
                // It is in nobody's way if it stays.
                let _ = std::fs::remove_file(path);
            }
        }
        let state = Mutex::new(State { bytes, off: false });
        Self { folder: folder.to_owned(), limit, state, written: AtomicU64::new(0) }
    }

    /// The photo at `path`, if it is kept and has not changed since; blocks while the memory budget is taken.
    pub(super) fn get(&self, path: &Path, limits: &DecodeLimits) -> Option<(Pixels, Reservation)> {
        let place = self.place(path)?;
        let mut file = File::open(&place).ok()?;
        let found = read_header(&mut file, path).and_then(|header| {
            let bytes = header.pixel_bytes()?;
            let memory = limits.memory.reserve(bytes as u64).ok()?;
            let mut data = vec![0; bytes];
            file.read_exact(&mut data).ok()?;
            let pixels = Pixels::new(header.width as usize, header.height as usize, data).ok()?;
            (xxh3_64(pixels.data()) == header.checksum).then_some((pixels, memory))
        });
        if found.is_none() {
            self.discard(&place);
        }
        found
    }

    /// The content of the photo at `path` as its file remembers it.
    pub(super) fn content(&self, path: &Path) -> Option<u128> {
        let place = self.place(path)?;
        let header = read_header(&mut File::open(&place).ok()?, path);
        if header.is_none() {
            self.discard(&place);
        }
        header.map(|header| header.content)
    }

    /// Keeps a photo if there is room for it.
    pub(super) fn offer(&self, path: &Path, file: &PhotoFile, pixels: &Pixels) {
        let (Some(place), Some(header)) = (self.place(path), Header::of(file, pixels)) else { return };
        let bytes = (Header::BYTES + pixels.data().len()) as u64;
        {
            let mut state = self.lock();
            if state.off || state.bytes.saturating_add(bytes) > self.limit || place.exists() {
                return;
            }
            state.bytes += bytes;
        }
        if let Err(error) = self.write(&place, &header, pixels) {
            self.give_up(&error);
        }
    }

    /// Removes all files and keeps no more.
    pub(super) fn remove(&self) {
        self.lock().off = true;
        remove_files(&self.folder);
    }

    fn write(&self, place: &Path, header: &Header, pixels: &Pixels) -> io::Result<()> {
        std::fs::create_dir_all(&self.folder)?;
        let number = self.written.fetch_add(1, Ordering::Relaxed);
        let beside = self.folder.join(format!(".{number}.writing"));
        let written = File::create(&beside).and_then(|mut file| {
            file.write_all(&header.to_bytes())?;
            file.write_all(pixels.data())?;
            drop(file);
            std::fs::rename(&beside, place)
        });
        if written.is_err() {
            let _ = std::fs::remove_file(&beside);
        }
        written
    }

    fn give_up(&self, error: &io::Error) {
        if std::mem::replace(&mut self.lock().off, true) {
            return; // another thread said so
        }
        tracing::warn!(
            "{}: a decoded photo cannot be kept ({error}): the cache is removed and photos are decoded in every epoch",
            self.folder.display()
        );
        // Others may be writing into it: whatever stays goes at the end of the run.
        remove_files(&self.folder);
    }

    /// Removes a file that is no use.
    fn discard(&self, place: &Path) {
        let bytes = std::fs::metadata(place).map_or(0, |metadata| metadata.len());
        if std::fs::remove_file(place).is_ok() {
            let mut state = self.lock();
            state.bytes = state.bytes.saturating_sub(bytes);
        }
    }

    /// Where the photo at `path` is kept: the same from whatever folder the program is started in.
    fn place(&self, path: &Path) -> Option<PathBuf> {
        let path = std::path::absolute(path).ok()?;
        let key = xxh3_128(path.as_os_str().as_encoded_bytes());
        Some(self.folder.join(format!("{key:032x}.{ENDING}")))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn is_unfinished(path: &Path) -> bool {
    path.extension().is_some_and(|ending| ending == "writing")
}

/// What stands before the pixels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Header {
    /// Of the photo's file.
    stamp: Stamp,
    /// [`PhotoFile::content`].
    content: u128,
    width: u32,
    height: u32,
    /// XXH3 of the pixels.
    checksum: u64,
}

impl Header {
    /// Name and version of the form.
    const MAGIC: [u8; 8] = *b"FLpixel1";
    /// Magic, the fields, and the fields' own checksum.
    const BYTES: usize = 8 + 8 + 16 + 16 + 4 + 4 + 8 + 8;

    fn of(file: &PhotoFile, pixels: &Pixels) -> Option<Self> {
        Some(Self {
            stamp: file.stamp?,
            content: file.content(),
            width: u32::try_from(pixels.width()).ok()?,
            height: u32::try_from(pixels.height()).ok()?,
            checksum: xxh3_64(pixels.data()),
        })
    }

    fn to_bytes(self) -> Vec<u8> {
        let mut bytes = Self::MAGIC.to_vec();
        bytes.extend(self.stamp.length.to_le_bytes());
        bytes.extend(self.stamp.modified.to_le_bytes());
        bytes.extend(self.content.to_le_bytes());
        bytes.extend(self.width.to_le_bytes());
        bytes.extend(self.height.to_le_bytes());
        bytes.extend(self.checksum.to_le_bytes());
        let own = xxh3_64(&bytes);
        bytes.extend(own.to_le_bytes());
        bytes
    }

    fn from_bytes(bytes: &[u8; Self::BYTES]) -> Option<Self> {
        let mut rest = bytes.strip_prefix(&Self::MAGIC)?;
        let header = Self {
            stamp: Stamp {
                length: u64::from_le_bytes(take(&mut rest)?),
                modified: u128::from_le_bytes(take(&mut rest)?),
            },
            content: u128::from_le_bytes(take(&mut rest)?),
            width: u32::from_le_bytes(take(&mut rest)?),
            height: u32::from_le_bytes(take(&mut rest)?),
            checksum: u64::from_le_bytes(take(&mut rest)?),
        };
        (header.to_bytes() == bytes).then_some(header)
    }

    fn pixel_bytes(&self) -> Option<usize> {
        (self.width as usize).checked_mul(self.height as usize)?.checked_mul(3)
    }
}

fn take<const N: usize>(bytes: &mut &[u8]) -> Option<[u8; N]> {
    let (first, rest) = bytes.split_first_chunk::<N>()?;
    *bytes = rest;
    Some(*first)
}

/// The header of a kept file, if it is whole, the pixels have their length, and the photo at `path` is the one that it was.
fn read_header(file: &mut File, path: &Path) -> Option<Header> {
    let length = file.metadata().ok()?.len();
    let mut bytes = [0; Header::BYTES];
    file.read_exact(&mut bytes).ok()?;
    let header = Header::from_bytes(&bytes)?;
    let whole = length == (Header::BYTES + header.pixel_bytes()?) as u64;
    (whole && Stamp::of(path)? == header.stamp).then_some(header)
}

#[cfg(test)]
mod tests;
