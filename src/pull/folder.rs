//! The model folder on disk: what is in it, what may be replaced, and how files get their names.
//!
//! A file that a pull did not write, or that was changed since, is somebody's work: it is replaced only where the person
//! says so, and nothing else in the folder is ever touched.

use super::digest::{Verdict, Version};
use super::names::is_plain;
use super::record::{Record, RecordedFile};
use super::{Event, Observer, PullError};
use crate::model::save_bytes;
use std::fs::{File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

/// Ends the name of what is not whole.
const PART: &str = ".incomplete";

/// A folder that one repository's model is pulled into.
pub(super) struct Folder {
    path: PathBuf,
    /// The last pull of the same repository.
    record: Option<Record>,
    /// The last pull of another one, which is to be replaced.
    replaced: Option<Record>,
    overwrite: bool,
    /// Whether it was not there before.
    created: bool,
    /// Held while a pull is at work.
    lock: Option<File>,
}

impl Drop for Folder {
    fn drop(&mut self) {
        if self.created {
            // Works for an empty one only, which is none that anybody wanted.
            let _ = std::fs::remove_dir(&self.path);
        }
    }
}

/// A file of a pull, on its way into the folder.
pub(super) struct Piece {
    pub(super) name: String,
    pub(super) version: Version,
    pub(super) content: Content,
}

/// Where a piece is before it has its place.
pub(super) enum Content {
    /// There already, the same as the hub's.
    Kept,
    /// Compared, and not yet written.
    Memory(Vec<u8>),
    /// Compared, in a hidden file beside its place.
    Part(PathBuf),
    /// Still with the hub.
    Wanted,
}

impl Folder {
    /// Looks at a folder, which need not be there yet.
    ///
    /// # Errors
    /// If it is none, or holds another repository's model and `overwrite` does not say that this may go.
    pub(super) fn open(path: &Path, repository: &str, overwrite: bool) -> Result<Self, PullError> {
        let occupied = |problem| PullError::Occupied { path: path.into(), problem };
        if path.exists() && !path.is_dir() {
            return Err(occupied("is a file; a folder wanted".to_owned()));
        }
        let record = Record::read(path);
        if let Some(other) = record.as_ref().filter(|record| record.repository != repository && !overwrite) {
            let other = &other.repository;
            let problem = format!("holds {other}; choose another --output, or replace it with --overwrite");
            return Err(occupied(problem));
        }
        let (record, replaced) = match record {
            Some(record) if record.repository == repository => (Some(record), None),
            other => (None, other),
        };
        Ok(Self { path: path.into(), record, replaced, overwrite, created: false, lock: None })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn record(&self) -> Option<&Record> {
        self.record.as_ref()
    }

    /// Creates the folder where it is not there, and keeps other pulls out of it until this one is dropped.
    ///
    /// # Errors
    /// If it cannot be created, or another pull is at work in it.
    pub(super) fn enter(&mut self) -> Result<(), PullError> {
        let io = |source| PullError::Io { path: self.path.clone(), source };
        let there = self.path.exists();
        std::fs::create_dir_all(&self.path).map_err(io)?;
        self.created = !there;
        let folder = File::open(&self.path).map_err(io)?;
        match folder.try_lock() {
            Err(TryLockError::WouldBlock) => {
                let problem =
                    "another pull is at work here; wait for it, or choose another --output".to_owned();
                Err(PullError::Occupied { path: self.path.clone(), problem })
            }
            // A file system without locks: two pulls at once would then meet in a checksum at worst.
            Ok(()) | Err(TryLockError::Error(_)) => {
                self.lock = Some(folder);
                Ok(())
            }
        }
    }

    /// Where the part of a file's version lies.
    pub(super) fn part(&self, file: &str, version: &Version) -> PathBuf {
        let plain = |letter: char| if is_plain(letter) { letter } else { '-' };
        let etag: String = version.etag.chars().take(64).map(plain).collect();
        self.path.join(format!(".{file}.{etag}{PART}"))
    }

    /// Whether the file is there as the hub has it.
    ///
    /// # Errors
    /// If what is there is another and not to be replaced, or cannot be read.
    pub(super) fn has(
        &self,
        file: &str,
        version: &Version,
        observer: &mut Observer<'_>,
    ) -> Result<bool, PullError> {
        let path = self.path.join(file);
        // Also a link that leads nowhere: it is a name that somebody gave.
        let Ok(metadata) = std::fs::symlink_metadata(&path) else { return Ok(false) };
        let whole = if metadata.is_symlink() { std::fs::metadata(&path).ok() } else { Some(metadata) };
        let length = whole.filter(|metadata| metadata.is_file()).map(|metadata| metadata.len());
        observer(Event::Comparing { file });
        let recorded = self.record.as_ref().and_then(|record| record.files.get(file));
        if self.is(file, version, recorded)? {
            return Ok(true);
        }
        let own = match recorded {
            Some(known) => self.is(file, &known.version(), recorded)?,
            None => false,
        };
        if own || self.overwrite && length.is_some() {
            return Ok(false);
        }
        let problem = match recorded {
            Some(_) => {
                "was changed since it was pulled; keep it by choosing another --output, or replace it with --overwrite"
            }
            None if length.is_none() => "is in the way, and no file; move it elsewhere",
            None => "is there already, and another; choose another --output, or replace it with --overwrite",
        };
        Err(PullError::Occupied { path, problem: problem.to_owned() })
    }

    /// Whether the file there is of that version; by the record where the version has no checksum.
    fn is(&self, file: &str, version: &Version, recorded: Option<&RecordedFile>) -> Result<bool, PullError> {
        let path = self.path.join(file);
        let Some(length) = std::fs::metadata(&path).ok().filter(|file| file.is_file()).map(|file| file.len())
        else {
            return Ok(false);
        };
        let verdict = File::open(&path).and_then(|content| version.judge(content, length));
        let verdict = verdict.map_err(|source| PullError::Io { path, source })?;
        let noted = || recorded.is_some_and(|known| known.etag == version.etag && known.size == length);
        Ok(verdict == Verdict::Same || verdict == Verdict::Unknown && noted())
    }

    /// Whether an earlier pull brought the file that is there, and nobody changed it since.
    fn left_by_a_pull(&self, file: &str, observer: &mut Observer<'_>) -> Result<bool, PullError> {
        let known = self.record.as_ref().or(self.replaced.as_ref()).and_then(|last| last.files.get(file));
        let Some(known) = known else { return Ok(false) };
        observer(Event::Comparing { file });
        // By its checksum: a size that the record tells as well proves nothing, and the file may be removed for it.
        self.is(file, &known.version(), None)
    }

    /// Refuses a file that would be read in place of the model's own, but for one that [`Self::retired`] will name.
    ///
    /// # Errors
    /// If it is there, or cannot be read.
    pub(super) fn refuse_beside(
        &self,
        weights: &str,
        before: &[&str],
        observer: &mut Observer<'_>,
    ) -> Result<(), PullError> {
        for name in before {
            let path = self.path.join(name);
            if path.exists() && !self.left_by_a_pull(name, observer)? {
                let problem = format!(
                    "would be read in place of {weights}, the weights of this model; move it elsewhere, or choose another --output"
                );
                return Err(PullError::Occupied { path, problem });
            }
        }
        Ok(())
    }

    /// The files of the last pull that are no part of this one, and would be read with it: a processor's settings that a new
    /// revision no longer has, the one file of weights that became several. Changed ones are somebody's and stay.
    ///
    /// # Errors
    /// If one cannot be read.
    pub(super) fn retired(
        &self,
        pieces: &[Piece],
        observer: &mut Observer<'_>,
    ) -> Result<Vec<PathBuf>, PullError> {
        let mut retired = Vec::new();
        let last = self.record.as_ref().or(self.replaced.as_ref());
        for file in last.into_iter().flat_map(|last| last.files.keys()) {
            if pieces.iter().any(|piece| piece.name == *file) || !self.holds(file) {
                continue;
            }
            if self.left_by_a_pull(file, observer)? {
                retired.push(self.path.join(file));
            } else {
                let remark = format!(
                    "{file} stays, though this revision has none: nothing shows that it is as it was pulled"
                );
                observer(Event::Remark(&remark));
            }
        }
        Ok(retired)
    }

    /// Whether a file of that name is there.
    pub(super) fn holds(&self, file: &str) -> bool {
        self.path.join(file).is_file()
    }

    /// The content of a small file that is there.
    ///
    /// # Errors
    /// If it cannot be read.
    pub(super) fn read(&self, file: &str) -> Result<Vec<u8>, PullError> {
        let path = self.path.join(file);
        std::fs::read(&path).map_err(|source| PullError::Io { path, source })
    }

    /// Gives every piece its name, in their order, removes what is `retired`, writes the record, and removes parts of older
    /// versions of these files.
    ///
    /// # Errors
    /// If the folder cannot be written.
    pub(super) fn settle(
        &self,
        pieces: &[Piece],
        retired: &[PathBuf],
        mut record: Record,
    ) -> Result<(), PullError> {
        for piece in pieces {
            let path = self.path.join(&piece.name);
            let io = |source| PullError::Io { path: path.clone(), source };
            match &piece.content {
                Content::Memory(bytes) => save_bytes(bytes, &path)?,
                Content::Part(part) => {
                    File::open(part).and_then(|part| part.sync_all()).map_err(io)?;
                    std::fs::rename(part, &path).map_err(io)?;
                }
                Content::Kept | Content::Wanted => {}
            }
            let size = std::fs::metadata(&path).map_err(io)?.len();
            let etag = piece.version.etag.clone();
            record.files.insert(piece.name.clone(), RecordedFile { etag, size });
        }
        for path in retired {
            std::fs::remove_file(path).map_err(|source| PullError::Io { path: path.clone(), source })?;
        }
        record.write(&self.path)?;
        self.sweep(pieces).map_err(|source| PullError::Io { path: self.path.clone(), source })
    }

    fn sweep(&self, pieces: &[Piece]) -> io::Result<()> {
        for entry in std::fs::read_dir(&self.path)? {
            let entry = entry?;
            let name = entry.file_name();
            let own = |piece: &Piece| {
                let rest = name.to_str()?.strip_prefix('.')?.strip_prefix(piece.name.as_str())?;
                let etag = rest.strip_prefix('.')?.strip_suffix(PART)?;
                (!etag.is_empty() && etag.chars().all(is_plain)).then_some(())
            };
            if entry.file_type()?.is_file() && pieces.iter().any(|piece| own(piece).is_some()) {
                std::fs::remove_file(entry.path())?;
            }
        }
        Ok(())
    }
}

impl RecordedFile {
    /// The version that was pulled.
    pub(super) fn version(&self) -> Version {
        Version { etag: self.etag.clone(), size: Some(self.size) }
    }
}
