//! Photos → rows → CSV: the folder predictor.
//!
//! `featherlight predict` lists its input here ([`list`]), has every photo classified, by a model in this process
//! ([`LocalModel`]) or by a running service ([`Remote`]), and writes the rows ([`RowWriter`]). Rows come in the order of the
//! input, both ways. A photo that cannot be read ends in a row that says so. Nothing here draws or prints.

mod client;
mod csv;
mod folder;
mod local;
mod read;
mod remote;

pub use csv::RowWriter;
pub use folder::{Listing, PhotoFile, is_list, list};
pub use local::{LocalModel, LocalSettings};
pub use remote::{Patience, Remote, RemoteSettings};

use crate::scores::Prediction;
use std::path::PathBuf;

/// What became of one photo.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// The photo's name: relative to the input with `/`, or a CSV's own text.
    pub file: String,
    /// Its best labels, best first; or why there are none.
    pub outcome: Result<Vec<Prediction<String>>, String>,
}

/// What one photo came to, or the reason for its row; the outer error ends the whole run.
type Attempt<T> = Result<Result<T, String>, PredictError>;

/// Takes the rows one by one, in the order of the input; an error ends the run.
pub type Rows<'a> = dyn FnMut(Row) -> Result<(), PredictError> + 'a;

/// Why a whole run ends. What befalls one photo stands in its row instead.
#[derive(Debug, thiserror::Error)]
pub enum PredictError {
    /// The input is nothing that can be classified.
    #[error("{}: {problem}", path.display())]
    Input {
        /// The input, or the folder or list in it.
        path: PathBuf,
        /// What is wrong and what would be right.
        problem: String,
    },
    /// The CSV cannot be written.
    #[error("{}: cannot be written: {source}", path.display())]
    Output {
        /// The CSV.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// The model cannot be loaded, or its device failed.
    #[error("{0}")]
    Model(String),
    /// The service cannot be used: no such address, no answer, no such key.
    #[error("{server}: {problem}")]
    Server {
        /// Its address.
        server: String,
        /// What is wrong.
        problem: String,
    },
    /// A fault of the program or the system.
    #[error("internal: {0}")]
    Internal(String),
}
