//! `merge`: a model folder and its adapter become one model folder that needs no adapter any more.

use crate::destination::{Destination, DestinationError};
use candle_core::DType;
use featherlight::model::{ModelError, ModelFolder, save_model};
use featherlight::ops::device::Placement;
use std::path::Path;

/// Why merging failed.
#[derive(Debug, thiserror::Error)]
pub enum MergeError {
    /// A file of the model, of the adapter, or of the output.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// The output folder.
    #[error(transparent)]
    Destination(#[from] DestinationError),
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
    let destination = Destination::open(folder, output, overwrite)?;
    let processor = folder.processor()?;
    let classifier = folder.load_merged(&Placement::CPU)?;
    save_model(&*classifier, folder.config(), &processor, dtype, destination.hidden())?;
    Ok(destination.keep()?)
}
