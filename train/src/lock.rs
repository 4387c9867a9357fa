//! A folder that one process writes to at a time. The lock goes with the process that has it, however that ends.

use std::fs::{File, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::path::Path;

/// A file that is locked for as long as this lives; it holds the number of the process that has it.
pub struct Lock(File);

/// Why a folder's lock cannot be had.
#[derive(Debug)]
pub enum LockError {
    /// Another process has it: its number, where that is known.
    Busy(Option<u32>),
    /// The file cannot be made.
    Io(io::Error),
}

impl Lock {
    /// Locks `file`, which is made where it is not there.
    ///
    /// # Errors
    /// If another process has it, or the file cannot be made.
    pub fn take(file: &Path) -> Result<Self, LockError> {
        let opened = File::options().create(true).truncate(false).read(true).write(true).open(file);
        let mut opened = opened.map_err(LockError::Io)?;
        match opened.try_lock() {
            Ok(()) => {
                let mut lock = Self(opened);
                lock.note(std::process::id());
                Ok(lock)
            }
            Err(TryLockError::WouldBlock) => {
                let mut owner = String::new();
                let _ = opened.read_to_string(&mut owner);
                Err(LockError::Busy(owner.trim().parse().ok()))
            }
            Err(TryLockError::Error(error)) => {
                tracing::warn!("{}: this file system knows no locks ({error})", file.display());
                Ok(Self(opened))
            }
        }
    }

    /// Writes down who works. Whoever reads it wants to know which process to wait for or to end.
    pub fn note(&mut self, process: u32) {
        let _ = self.0.set_len(0);
        let _ = self.0.rewind();
        let _ = write!(self.0, "{process}");
    }

    /// The locked file, for a child that is to hold the lock as well.
    ///
    /// # Errors
    /// The system's.
    pub fn share(&self) -> io::Result<File> {
        self.0.try_clone()
    }
}

/// ` (process N)`, where it is known.
pub fn owner(process: Option<u32>) -> String {
    process.map_or_else(String::new, |process| format!(" (process {process})"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_is_had_once_and_says_who_has_it() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("a.lock");
        let first = Lock::take(&file).unwrap();
        let Err(LockError::Busy(owner)) = Lock::take(&file) else { panic!("taken twice") };
        assert_eq!(owner, Some(std::process::id()));
        drop(first);
        Lock::take(&file).unwrap();
        let missing = folder.path().join("not/there.lock");
        assert!(matches!(Lock::take(&missing), Err(LockError::Io(_))));
    }
}
