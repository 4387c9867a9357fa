//! Where `merge` and `convert` put a model: a folder that holds none yet, or whose model may go.
//!
//! The model is written into a hidden folder inside, may be looked at there, and its files are moved to their places last.

use featherlight::model::{ModelError, ModelFolder, create_folder};
use std::fs;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// What makes a folder a model: moved last, so that a new one is none before it is whole.
const CONFIG: &str = "config.json";

/// Why nothing can be put there.
#[derive(Debug, thiserror::Error)]
pub enum DestinationError {
    /// A model lies there already.
    #[error("{}: holds a model; choose another --output, or replace it with --overwrite", .0.display())]
    Taken(PathBuf),
    /// The output is the input.
    #[error("{}: is the model that is read; choose another --output", .0.display())]
    Itself(PathBuf),
    /// The folder cannot be created.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// A file cannot be moved to its place, or the system refused something else.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
}

/// How the hidden folder's name begins; what a run that was killed left behind is known by it.
const HIDDEN: &str = ".writing-model-";

/// A folder that a model may be written to.
#[derive(Debug)]
pub struct Destination {
    /// Within the folder, so that moving is renaming. Before the guard: gone when that looks whether anything is left.
    hidden: TempDir,
    folder: Guard,
}

/// The folder itself; one that was not there before goes again if nothing was put into it.
#[derive(Debug)]
struct Guard {
    path: PathBuf,
    created: bool,
}

impl Drop for Guard {
    fn drop(&mut self) {
        if self.created {
            // Works for an empty one only: nothing was made.
            let _ = fs::remove_dir(&self.path);
        }
    }
}

fn io(path: &Path) -> impl FnOnce(std::io::Error) -> DestinationError {
    let path = path.to_owned();
    move |source| DestinationError::Io { path, source }
}

impl Destination {
    /// Creates the folder `output` for a model made from the one of `folder`.
    ///
    /// # Errors
    /// If it is the same folder, holds a model and `overwrite` does not say that this may go, or cannot be created.
    pub fn open(folder: &ModelFolder, output: &Path, overwrite: bool) -> Result<Self, DestinationError> {
        if let (Ok(from), Ok(to)) = (folder.path().canonicalize(), output.canonicalize())
            && from == to
        {
            return Err(DestinationError::Itself(output.to_owned()));
        }
        if !overwrite && output.join(CONFIG).exists() {
            return Err(DestinationError::Taken(output.to_owned()));
        }
        let created = !output.exists();
        create_folder(output)?;
        let folder = Guard { path: output.to_owned(), created };
        for entry in fs::read_dir(output).map_err(io(output))?.flatten() {
            if entry.file_name().to_string_lossy().starts_with(HIDDEN) {
                fs::remove_dir_all(entry.path()).map_err(io(&entry.path()))?;
            }
        }
        let hidden = tempfile::Builder::new().prefix(HIDDEN).tempdir_in(output).map_err(io(output))?;
        Ok(Self { hidden, folder })
    }

    /// The folder to write to.
    pub fn hidden(&self) -> &Path {
        self.hidden.path()
    }

    /// Moves what was written to its place. A model that goes is none from the first move on: its config goes first.
    ///
    /// # Errors
    /// If a file cannot be moved.
    pub fn keep(&self) -> Result<(), DestinationError> {
        let hidden = self.hidden();
        let mut names = fs::read_dir(hidden)
            .and_then(|entries| entries.map(|entry| Ok(entry?.file_name())).collect::<Result<Vec<_>, _>>())
            .map_err(io(hidden))?;
        names.sort_by_key(|name| name == CONFIG);
        let old = self.folder.path.join(CONFIG);
        if old.exists() {
            fs::remove_file(&old).map_err(io(&old))?;
        }
        for name in names {
            let place = self.folder.path.join(&name);
            fs::rename(hidden.join(&name), &place).map_err(io(&place))?;
        }
        Ok(())
    }
}
