//! What can go wrong in a pull, in words that say what to do.

use crate::model::ModelError;
use std::path::PathBuf;

/// Why a model was not pulled. Files in the folder are then as they were, but for the hidden part of one that broke off.
#[derive(Debug, thiserror::Error)]
pub enum PullError {
    /// A variable of the environment cannot be used.
    #[error("{variable} {problem}")]
    Variable {
        /// Its name.
        variable: &'static str,
        /// What is wrong and what would be right.
        problem: String,
    },
    /// The hub shows no such repository, or not to this person.
    #[error("{repository}: {problem}")]
    Repository {
        /// `ORG/NAME`.
        repository: String,
        /// What the hub says of it and what to do.
        problem: String,
    },
    /// The repository has no such revision.
    #[error("{repository} has no revision `{revision}` (a branch, a tag, a commit or refs/pr/N wanted)")]
    Revision {
        /// `ORG/NAME`.
        repository: String,
        /// What was asked for.
        revision: String,
    },
    /// The server is none that speaks the hub's protocol.
    #[error("{url}: {problem}")]
    Server {
        /// What was asked.
        url: String,
        /// What is wrong with the answer.
        problem: String,
    },
    /// No answer, or a broken one, however often it was tried.
    #[error("{file}: {reason}; given up after {tries} tries. {}", rest(*.kept))]
    Unreachable {
        /// The file that was asked for.
        file: String,
        /// The last failure.
        reason: String,
        /// Tries without success.
        tries: u32,
        /// Bytes of the file that are kept for the next run.
        kept: u64,
    },
    /// The repository lacks what makes a model.
    #[error("{repository} at {revision} has no weights that can be read here; looked for: {tried}")]
    NoWeights {
        /// `ORG/NAME`.
        repository: String,
        /// The commit.
        revision: String,
        /// The files looked for.
        tried: String,
    },
    /// A file of the repository cannot be used.
    #[error("{file} of {repository}: {problem}")]
    File {
        /// `ORG/NAME`.
        repository: String,
        /// The file's name in the repository.
        file: String,
        /// What is wrong.
        problem: String,
    },
    /// The model is none that is known here.
    #[error("{repository}: {source}; nothing was downloaded")]
    Model {
        /// `ORG/NAME`.
        repository: String,
        /// What its `config.json` asks for.
        source: ModelError,
    },
    /// What came is not what the hub announced.
    #[error(
        "{file}: what came has {found}, the hub says {want}; it was thrown away. Run the same command again"
    )]
    Checksum {
        /// The file's name.
        file: String,
        /// The checksum or the size of what came.
        found: String,
        /// The hub's.
        want: String,
    },
    /// The folder holds something that would be lost, or would be read in the model's place.
    #[error("{path}: {problem}", path = path.display())]
    Occupied {
        /// The folder or file.
        path: PathBuf,
        /// What is in the way and what to do.
        problem: String,
    },
    /// The network is not to be used, and the folder is not complete.
    #[error("offline, and {folder} {problem}", folder = folder.display())]
    Offline {
        /// The folder.
        folder: PathBuf,
        /// What is missing.
        problem: String,
    },
    /// A file could not be written whole.
    #[error(transparent)]
    Unwritten(#[from] ModelError),
    /// The folder could not be read or written.
    #[error("{path}: {source}", path = path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
}

/// What the next run will do.
fn rest(kept: u64) -> String {
    match kept {
        0 => "Run the same command again later".to_owned(),
        kept => format!("{kept} bytes are kept: the same command goes on from there"),
    }
}
