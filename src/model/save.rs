//! Model folders and weights files written in the Hugging Face layout.
//!
//! Called by the trainer (`adapter/`, and `merged/` by way of `save_trained`), by `merge` and by `convert`. Every file is
//! written beside its place and renamed, so that a kill at any moment leaves the old or the new one.

use super::{Classifier, Config, ModelError, weight_files};
use crate::image::Processor;
use crate::nn::{Parameter, is_head};
use candle_core::{DType, Tensor};
use safetensors::View;
use std::borrow::Cow;
use std::cell::RefCell;
use std::collections::HashMap;
use std::io::Write;
use std::path::Path;

/// Writes `config.json`, `preprocessor_config.json` and `model.safetensors` (in `dtype`), under v4 names. Adapters must
/// have been merged.
///
/// # Errors
/// If the folder cannot be written, or an adapter is still attached.
pub fn save_model(
    model: &dyn Classifier,
    config: &Config,
    processor: &Processor,
    dtype: DType,
    folder: &Path,
) -> Result<(), ModelError> {
    save(model, model.parameters(), (config, processor), dtype, folder)
}

/// The same without the classification head: what `fit` starts from.
///
/// # Errors
/// Those of [`save_model`].
pub fn save_backbone(
    model: &dyn Classifier,
    config: &Config,
    processor: &Processor,
    dtype: DType,
    folder: &Path,
) -> Result<(), ModelError> {
    let backbone = model.parameters().into_iter().filter(|parameter| !is_head(parameter.name()));
    save(model, backbone.collect(), (config, processor), dtype, folder)
}

fn save(
    model: &dyn Classifier,
    parameters: Vec<&Parameter>,
    (config, processor): (&Config, &Processor),
    dtype: DType,
    folder: &Path,
) -> Result<(), ModelError> {
    let file = folder.join(weight_files::SINGLE);
    let damaged = |problem: String| ModelError::Damaged { file: file.clone(), problem };
    if let Some(linear) = model.linears().iter().find(|linear| linear.adapter.is_some()) {
        return Err(damaged(format!("the adapter of `{}` has not been merged", linear.name())));
    }
    if let Some(packed) = parameters.iter().find(|parameter| parameter.packed().is_some()) {
        return Err(damaged(format!("`{}` is held in few bits: it must be read again", packed.name())));
    }
    let value = |parameter: &Parameter| Ok(parameter.tensor().clone());
    save_parameters(parameters, &value, (config, processor), dtype, folder)
}

/// Writes a model folder with these parameters, each of which gets its value when its turn comes.
pub(super) fn save_parameters(
    parameters: Vec<&Parameter>,
    value: &dyn Fn(&Parameter) -> Result<Tensor, ModelError>,
    (config, processor): (&Config, &Processor),
    dtype: DType,
    folder: &Path,
) -> Result<(), ModelError> {
    let file = folder.join(weight_files::SINGLE);
    let damaged =
        |error: candle_core::Error| ModelError::Damaged { file: file.clone(), problem: error.to_string() };
    let converted = |parameter: &Parameter| -> Result<Vec<u8>, ModelError> {
        let tensor = value(parameter)?;
        if let Some(value) = overflow(&tensor, dtype).map_err(damaged)? {
            let (file, tensor) = (file.clone(), parameter.name().to_owned());
            return Err(ModelError::Overflow { file, tensor, value, dtype });
        }
        Ok(tensor.to_dtype(dtype).map_err(damaged)?.data().into_owned())
    };
    let mut json = config.to_json();
    // transformers v4 and v5 each read the type under a name of their own.
    json["dtype"] = dtype.as_str().replace("f", "float").into();
    json["torch_dtype"] = json["dtype"].clone();
    create_folder(folder)?;
    let failure = RefCell::new(None);
    let tensors = parameters.into_iter().map(|parameter| {
        let lazy = Lazy { parameter, dtype, converted: &converted, failure: &failure };
        (parameter.name().to_owned(), lazy)
    });
    replace(&file, |temporary| {
        let format = HashMap::from([FORMAT.map(str::to_owned).into()]);
        let written = safetensors::serialize_to_file(tensors, Some(format), temporary.path());
        match failure.take() {
            Some(error) => Err(error),
            None => written.map_err(|error| unwritten(error, &file)),
        }
    })?;
    save_text(&format!("{:#}\n", processor.to_json()), &folder.join("preprocessor_config.json"))?;
    save_text(&format!("{json:#}\n"), &folder.join("config.json"))
}

/// transformers refuses a weights file that does not say which framework's layout it has.
const FORMAT: [&str; 2] = ["format", "pt"];

/// A parameter on its way to a file.
struct Lazy<'a> {
    parameter: &'a Parameter,
    dtype: DType,
    converted: &'a dyn Fn(&Parameter) -> Result<Vec<u8>, ModelError>,
    /// safetensors takes no error from a tensor: the first one waits here.
    failure: &'a RefCell<Option<ModelError>>,
}

impl View for Lazy<'_> {
    fn dtype(&self) -> safetensors::Dtype {
        self.dtype.into()
    }

    fn shape(&self) -> &[usize] {
        self.parameter.tensor().dims()
    }

    fn data(&self) -> Cow<'_, [u8]> {
        // The file is thrown away where one fails: nothing more is put into it.
        if self.failure.borrow().is_some() {
            return Cow::Borrowed(&[]);
        }
        match (self.converted)(self.parameter) {
            Ok(bytes) => Cow::Owned(bytes),
            Err(error) => {
                *self.failure.borrow_mut() = Some(error);
                Cow::Borrowed(&[])
            }
        }
    }

    fn data_len(&self) -> usize {
        self.parameter.tensor().elem_count() * self.dtype.size_in_bytes()
    }
}

fn unwritten(error: safetensors::SafeTensorError, file: &Path) -> ModelError {
    match error {
        safetensors::SafeTensorError::IoError(source) => ModelError::Io { file: file.into(), source },
        other => ModelError::Damaged { file: file.into(), problem: other.to_string() },
    }
}

/// The largest magnitude in a tensor, if it is a number that becomes infinite in `dtype`.
fn overflow(tensor: &Tensor, dtype: DType) -> candle_core::Result<Option<f32>> {
    if dtype == tensor.dtype() || tensor.elem_count() == 0 {
        return Ok(None);
    }
    let largest = tensor.flatten_all()?.to_dtype(DType::F32)?.abs()?.max(0)?;
    let (value, rounded) = (largest.to_scalar::<f32>()?, largest.to_dtype(dtype)?.to_dtype(DType::F32)?);
    Ok((value.is_finite() && rounded.to_scalar::<f32>()?.is_infinite()).then_some(value))
}

/// Creates a folder and those above it.
///
/// # Errors
/// If it cannot be created.
pub fn create_folder(folder: &Path) -> Result<(), ModelError> {
    std::fs::create_dir_all(folder).map_err(|source| ModelError::Io { file: folder.into(), source })
}

/// Writes a safetensors file, whole or not at all; `metadata` stands in its header.
///
/// # Errors
/// If it cannot be written.
pub fn save_tensors(
    tensors: HashMap<String, Tensor>,
    metadata: &[(&str, String)],
    file: &Path,
) -> Result<(), ModelError> {
    let metadata = metadata.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect();
    replace(file, |temporary| {
        safetensors::serialize_to_file(tensors, Some(metadata), temporary.path())
            .map_err(|error| unwritten(error, file))
    })
}

/// Writes a weights file that transformers and PEFT read.
///
/// # Errors
/// If it cannot be written.
pub(super) fn save_weights(tensors: HashMap<String, Tensor>, file: &Path) -> Result<(), ModelError> {
    save_tensors(tensors, &[(FORMAT[0], FORMAT[1].to_owned())], file)
}

/// Writes a text file, whole or not at all.
///
/// # Errors
/// If it cannot be written.
pub fn save_text(text: &str, file: &Path) -> Result<(), ModelError> {
    save_bytes(text.as_bytes(), file)
}

/// Writes any file, whole or not at all.
///
/// # Errors
/// If it cannot be written.
pub fn save_bytes(bytes: &[u8], file: &Path) -> Result<(), ModelError> {
    replace(file, |temporary| {
        temporary.write_all(bytes).map_err(|source| ModelError::Io { file: file.into(), source })
    })
}

/// Lets `write` fill a file beside `file`, then renames it.
fn replace(
    file: &Path,
    write: impl FnOnce(&mut tempfile::NamedTempFile) -> Result<(), ModelError>,
) -> Result<(), ModelError> {
    let io = |source| ModelError::Io { file: file.into(), source };
    let folder = file.parent().unwrap_or(Path::new("."));
    let mut temporary = tempfile::Builder::new().prefix(".writing-").tempfile_in(folder).map_err(io)?;
    write(&mut temporary)?;
    // By its path: safetensors puts a file of its own in the place of the one that it was given.
    std::fs::File::open(temporary.path()).and_then(|written| written.sync_all()).map_err(io)?;
    #[cfg(unix)]
    {
        // A temporary file is its owner's alone; what is kept is for whoever serves it, too.
        use std::os::unix::fs::PermissionsExt;
        std::fs::set_permissions(temporary.path(), std::fs::Permissions::from_mode(0o644)).map_err(io)?;
    }
    temporary.persist(file).map(drop).map_err(|error| io(error.error))
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    #[test]
    fn a_number_that_a_type_cannot_hold_is_found_and_one_that_rounds_is_not() {
        let tensor = |value: f32| Tensor::new(&[1.0, -value], &Device::Cpu).expect("a tensor");
        for (value, dtype, want) in [
            (65_519.0, DType::F16, None),
            (65_520.0, DType::F16, Some(65_520.0)),
            (65_520.0, DType::BF16, None),
            (1e38, DType::F32, None),
            (f32::INFINITY, DType::F16, None),
        ] {
            assert_eq!(overflow(&tensor(value), dtype).expect("read"), want, "{value} in {dtype:?}");
        }
    }

    #[cfg(unix)]
    #[test]
    fn weights_written_can_be_read_by_other_users_than_the_one_who_trained() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().expect("a folder");
        let (weights, text) = (folder.path().join("model.safetensors"), folder.path().join("config.json"));
        let tensor = Tensor::new(&[1f32, 2.], &Device::Cpu).expect("a tensor");
        save_weights(HashMap::from([("a".to_owned(), tensor)]), &weights).expect("written");
        save_text("{}", &text).expect("written");
        for file in [weights, text] {
            let mode = std::fs::metadata(&file).expect("there").permissions().mode();
            assert_eq!(mode & 0o777, 0o644, "{}", file.display());
        }
        assert_eq!(
            std::fs::read_dir(folder.path()).expect("the folder").count(),
            2,
            "nothing is left behind"
        );
    }
}
