//! `merge`: a model folder and its adapter become one model folder that needs no adapter any more.

use candle_core::DType;
use featherlight::model::{ModelError, ModelFolder, save_model};
use featherlight::ops::device::Placement;
use std::path::{Path, PathBuf};

/// Why merging failed.
#[derive(Debug, thiserror::Error)]
pub enum MergeError {
    /// A file of the model, of the adapter, or of the output.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// A model lies there already.
    #[error("{}: holds a model; choose another --output, or replace it with --overwrite", .0.display())]
    Taken(PathBuf),
    /// The output is the input.
    #[error("{}: is the model to merge into; choose another --output", .0.display())]
    Itself(PathBuf),
}

/// Merges the adapter of `folder` into its weights, in f32, and writes the model to `output` in `dtype`, with the labels of
/// the adapter's head.
///
/// # Errors
/// If a file cannot be read, does not fit, or cannot be written; if a model is in `output` already, unless `overwrite`.
pub fn merge_folder(
    folder: &ModelFolder,
    dtype: DType,
    output: &Path,
    overwrite: bool,
) -> Result<(), MergeError> {
    if let (Ok(from), Ok(to)) = (folder.path().canonicalize(), output.canonicalize())
        && from == to
    {
        return Err(MergeError::Itself(output.to_owned()));
    }
    if !overwrite && output.join("config.json").exists() {
        return Err(MergeError::Taken(output.to_owned()));
    }
    let processor = folder.processor()?;
    let classifier = folder.load_merged(&Placement::CPU)?;
    Ok(save_model(&*classifier, folder.config(), &processor, dtype, output)?)
}
