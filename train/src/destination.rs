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

/// A folder that a model may be written to.
#[derive(Debug)]
pub struct Destination {
    path: PathBuf,
    /// Whether it was not there before.
    created: bool,
    /// Within it, so that moving is renaming.
    hidden: Option<TempDir>,
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
        let mut destination = Self { path: output.to_owned(), created, hidden: None };
        let hidden = tempfile::Builder::new().prefix(".writing-").tempdir_in(output);
        destination.hidden =
            Some(hidden.map_err(|source| DestinationError::Io { path: output.to_owned(), source })?);
        Ok(destination)
    }

    /// The folder to write to.
    pub fn hidden(&self) -> &Path {
        self.hidden.as_ref().map_or(&self.path, TempDir::path)
    }

    /// Moves what was written to its place.
    ///
    /// # Errors
    /// If a file cannot be moved.
    pub fn keep(&self) -> Result<(), DestinationError> {
        let io = |path: &Path| {
            let path = path.to_owned();
            move |source| DestinationError::Io { path, source }
        };
        let hidden = self.hidden();
        let mut names = fs::read_dir(hidden)
            .and_then(|entries| entries.map(|entry| Ok(entry?.file_name())).collect::<Result<Vec<_>, _>>())
            .map_err(io(hidden))?;
        names.sort_by_key(|name| name == CONFIG);
        for name in names {
            let place = self.path.join(&name);
            fs::rename(hidden.join(&name), &place).map_err(io(&place))?;
        }
        Ok(())
    }
}

impl Drop for Destination {
    fn drop(&mut self) {
        drop(self.hidden.take());
        if self.created {
            // Works for an empty one only: nothing was made.
            let _ = fs::remove_dir(&self.path);
        }
    }
}
