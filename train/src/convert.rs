//! `convert`: weights in another layout — `pytorch_model.bin`, shards, timm's names — become a clean model folder in
//! safetensors, read again before anybody is told that it is there.

use crate::destination::{Destination, DestinationError};
use candle_core::{DType, Tensor};
use featherlight::model::{Classifier, Head, ModelError, ModelFolder, save_backbone, save_model};
use featherlight::nn::{Parameter, Trainable, is_head};
use featherlight::ops::device::Placement;
use featherlight::randomness::Randomness;
use std::path::{Path, PathBuf};

/// Why nothing was converted.
#[derive(Debug, thiserror::Error)]
pub enum ConvertError {
    /// A file of the model or of the output.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// The output folder.
    #[error(transparent)]
    Destination(#[from] DestinationError),
    /// What was written is not what was read.
    #[error("{}: tensor `{name}` was written as another than was read; nothing was kept", output.display())]
    Differs {
        /// The output folder.
        output: PathBuf,
        /// The tensor's name.
        name: String,
    },
}

/// What was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Converted {
    /// Tensors in the new folder.
    pub tensors: usize,
    /// Numbers in them.
    pub parameters: usize,
    /// Whether the weights had a classification head; `fit` makes a fresh one.
    pub head: bool,
    /// Names of tensors that are no part of a classifier, and stayed behind: a text model, a pooler.
    pub left_behind: Vec<String>,
}

/// Writes the model of `folder` to `output` in `dtype`, under v4 names, and reads it back: every tensor must come out as it went
/// in. A checkpoint without a head becomes one without a head.
///
/// # Errors
/// If a file cannot be read, does not fit, or cannot be written; if a model is in `output` already, unless `overwrite`.
pub fn convert_folder(
    folder: &ModelFolder,
    dtype: DType,
    output: &Path,
    overwrite: bool,
) -> Result<Converted, ConvertError> {
    let destination = Destination::open(folder, output, overwrite)?;
    let processor = folder.processor()?;
    let (classifier, head) = load(folder)?;
    let write = if head == Head::Kept { save_model } else { save_backbone };
    write(&*classifier, folder.config(), &processor, dtype, destination.hidden())?;

    let written = ModelFolder::open(destination.hidden())?;
    written.processor()?;
    let (again, _) = load(&written)?;
    let own = |model: &'_ dyn Classifier| -> Vec<Parameter> {
        let kept = |parameter: &&Parameter| head == Head::Kept || !is_head(parameter.name());
        model.parameters().into_iter().filter(kept).cloned().collect()
    };
    let (read, again) = (own(&*classifier), own(&*again));
    for (index, read) in read.iter().enumerate() {
        let again = again.get(index).filter(|again| again.name() == read.name());
        if !again.is_some_and(|again| matches!(same(read.tensor(), again.tensor(), dtype), Ok(true))) {
            return Err(ConvertError::Differs { output: output.to_owned(), name: read.name().to_owned() });
        }
    }
    let left_behind = folder.left_behind()?;
    destination.keep()?;
    Ok(Converted {
        tensors: read.len(),
        parameters: read.iter().map(|parameter| parameter.tensor().elem_count()).sum(),
        head: head == Head::Kept,
        left_behind,
    })
}

/// The weights; a head that is not there is a fresh one, which nobody keeps.
fn load(folder: &ModelFolder) -> Result<(Box<dyn Classifier>, Head), ModelError> {
    if folder.has_head()? {
        return Ok((folder.load(Trainable::None, &Placement::CPU)?, Head::Kept));
    }
    folder.load_for(folder.config(), Trainable::None, Randomness::new(0), &Placement::CPU)
}

/// Whether `again` is `tensor`, rounded to `dtype`, bit for bit.
fn same(tensor: &Tensor, again: &Tensor, dtype: DType) -> candle_core::Result<bool> {
    let bits = |tensor: &Tensor| {
        let values = tensor.flatten_all()?.to_vec1::<f32>()?;
        candle_core::Result::Ok(values.into_iter().map(f32::to_bits).collect::<Vec<_>>())
    };
    let rounded = tensor.to_dtype(dtype)?.to_dtype(DType::F32)?;
    Ok(rounded.dims() == again.dims() && bits(&rounded)? == bits(again)?)
}
