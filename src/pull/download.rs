//! One large file: its bytes into a hidden part beside its place, from where an earlier run stopped, compared at the end.
//!
//! The part is named after the file and its version's etag, so that no other version is ever continued. It is renamed by
//! `folder`, never here.

use super::digest::{Verdict, Version};
use super::folder::Folder;
use super::hub::{Body, Delivery, Failure, Hub};
use super::retry::{Patience, Tries};
use super::{Event, Observer, PullError};
use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

/// Bytes read from the network at a time.
const CHUNK: usize = 1 << 17;
/// So many bytes between two failures are progress.
const PROGRESS: u64 = 1 << 20;

/// What is to be brought.
pub(super) struct Order<'a> {
    pub(super) hub: &'a Hub,
    pub(super) commit: &'a str,
    pub(super) file: &'a str,
    pub(super) version: &'a Version,
    pub(super) patience: Patience,
}

/// A part on disk and how far it goes.
struct Part {
    path: PathBuf,
    file: File,
    length: u64,
}

impl Order<'_> {
    /// Brings the file as a part of `folder`, whole and compared; its path.
    ///
    /// # Errors
    /// If the hub gives no more, and the part then stays for the next run; if what came is something else, and it does not; if
    /// the folder cannot be written.
    pub(super) fn bring(&self, folder: &Folder, observer: &mut Observer<'_>) -> Result<PathBuf, PullError> {
        let mut part = Part::open(folder.part(self.file, self.version))?;
        if self.version.size.is_some_and(|size| part.length > size) {
            part.cut()?;
        }
        observer(Event::Started { file: self.file, size: self.version.size, have: part.length });
        let mut tries = Tries::new(self.patience, self.file);
        while self.version.size != Some(part.length) {
            let before = part.length;
            match self.advance(&mut part, observer) {
                Ok(()) => break,
                Err(failure) => {
                    if part.length >= before + PROGRESS {
                        tries.progress();
                    }
                    let outcome = tries.wait(failure, part.length, observer);
                    part.drop_empty(outcome)?;
                }
            }
        }
        self.compare(part, observer)
    }

    /// Adds what one request brings; well when it brought the rest.
    fn advance(&self, part: &mut Part, observer: &mut Observer<'_>) -> Result<(), Failure> {
        let Delivery { description, body } = self.hub.open(self.commit, self.file, part.length)?;
        if description.version.etag != self.version.etag {
            return Err(PullError::File {
                repository: self.hub.repository().to_string(),
                file: self.file.to_owned(),
                problem: format!("changed within commit {}: this is no hub to pull from", self.commit),
            }
            .into());
        }
        let mut reader = match body {
            Body::From(start, reader) if start == part.length => reader,
            // A server that does not go on in the middle, or goes on somewhere else.
            Body::Whole(reader) => {
                part.restart(observer)?;
                reader
            }
            Body::From(start, _) => {
                let reason = format!("asked for bytes from {} on, and got some from {start} on", part.length);
                part.restart(observer)?;
                return Err(Failure::Passing { reason, retry_after: None });
            }
            // The size is not known and everything was there already.
            Body::Beyond if self.version.size.is_none() => return Ok(()),
            Body::Beyond => {
                part.restart(observer)?;
                let reason = "the server says that the file ends where the rest should begin".to_owned();
                return Err(Failure::Passing { reason, retry_after: None });
            }
        };
        let broken = |reason: String| Failure::Passing { reason, retry_after: None };
        let mut buffer = vec![0; CHUNK];
        loop {
            let count = match reader.read(&mut buffer) {
                Ok(count) => count,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(broken(format!("the connection broke: {error}"))),
            };
            let size = self.version.size;
            if count == 0 {
                let length = part.length;
                let short = size.filter(|size| length < *size);
                return short.map_or(Ok(()), |size| {
                    Err(broken(format!("the connection ended after {length} of {size} bytes")))
                });
            }
            part.add(&buffer[..count])?;
            observer(Event::Advanced(count as u64));
            if size.is_some_and(|size| part.length > size) {
                // Longer than announced: the comparison says so.
                return Ok(());
            }
        }
    }

    /// Compares the part with the version's checksum, as it lies on the disk.
    fn compare(&self, part: Part, observer: &mut Observer<'_>) -> Result<PathBuf, PullError> {
        let Part { path, file, length } = part;
        drop(file);
        observer(Event::Comparing { file: self.file });
        let io = |source| PullError::Io { path: path.clone(), source };
        match File::open(&path).and_then(|file| self.version.judge(file, length)).map_err(io)? {
            Verdict::Same => {}
            Verdict::Unknown => {
                let file = self.file;
                observer(Event::Remark(&format!("{file}: the server has no checksum to compare it with")));
            }
            Verdict::Different(found) => {
                std::fs::remove_file(&path).map_err(io)?;
                let want = self.version.describe();
                return Err(PullError::Checksum { file: self.file.to_owned(), found, want });
            }
        }
        observer(Event::Brought { file: self.file, size: length });
        Ok(path)
    }
}

impl Part {
    fn open(path: PathBuf) -> Result<Self, PullError> {
        let open = |path: &Path| {
            let file = File::options().read(true).write(true).create(true).truncate(false).open(path)?;
            let length = file.metadata()?.len();
            Ok((file, length))
        };
        let (file, length) = open(&path).map_err(|source| PullError::Io { path: path.clone(), source })?;
        Ok(Self { path, file, length })
    }

    fn error(&self, source: std::io::Error) -> PullError {
        PullError::Io { path: self.path.clone(), source }
    }

    fn cut(&mut self) -> Result<(), PullError> {
        self.file.set_len(0).map_err(|error| self.error(error))?;
        self.length = 0;
        Ok(())
    }

    fn restart(&mut self, observer: &mut Observer<'_>) -> Result<(), PullError> {
        if self.length > 0 {
            self.cut()?;
            observer(Event::Restarted);
        }
        Ok(())
    }

    fn add(&mut self, bytes: &[u8]) -> Result<(), PullError> {
        // Where a write failed half way, the next one begins at the length that is known to be good.
        let written = self.file.seek(SeekFrom::Start(self.length)).and_then(|_| self.file.write_all(bytes));
        written.map_err(|error| self.error(error))?;
        self.length += bytes.len() as u64;
        Ok(())
    }

    /// Passes an outcome on; a failure leaves no part in which there is nothing.
    fn drop_empty(&self, outcome: Result<(), PullError>) -> Result<(), PullError> {
        if outcome.is_err() && self.length == 0 {
            std::fs::remove_file(&self.path).map_err(|error| self.error(error))?;
        }
        outcome
    }
}
