//! Weights: safetensors, safetensors in shards, `pytorch_model.bin`. Tensors are read one at a time, as f32.
//!
//! `folder` opens the weights of a model here, `adapter` those of an adapter. A safetensors file may also lie in memory,
//! compiled into a program; its tensors are then copied from there one by one like a file's.

use super::{ModelError, weight_files};
use crate::nn::{Initialization, ParameterError, ShapeSource, Source};
use candle_core::pickle::PthTensors;
use candle_core::{DType, Device, Tensor};
use safetensors::tensor::{Dtype, Metadata, TensorInfo};
use std::borrow::Cow;
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{Cursor, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

/// The weights of a model folder.
pub struct Checkpoint {
    /// The file a message names.
    file: PathBuf,
    storage: Storage,
}

enum Storage {
    Safetensors(BTreeMap<String, Stored>),
    Pickle(PthTensors),
}

/// A tensor of a safetensors file.
struct Stored {
    data: Data,
    /// Where the data section starts, bytes from the beginning.
    start: u64,
    info: TensorInfo,
}

/// Where a safetensors file lies.
#[derive(Clone)]
enum Data {
    File(PathBuf),
    Memory(&'static [u8]),
}

/// A header longer than this is no header: safetensors' own limit.
const MAX_HEADER: u64 = 100_000_000;

impl Checkpoint {
    /// Opens the weights of `folder`: `model.safetensors`, else its index and shards, else `pytorch_model.bin`.
    ///
    /// # Errors
    /// If there are none, or a file is damaged.
    pub fn open(folder: &Path) -> Result<Self, ModelError> {
        let there = weight_files::IN_ORDER.into_iter().find(|name| folder.join(name).is_file());
        match there {
            Some(name @ weight_files::SINGLE) => Self::open_safetensors(&folder.join(name)),
            Some(name @ weight_files::INDEX) => Self::open_shards(folder.join(name), folder),
            Some(name) => Self::open_pickle(&folder.join(name)),
            None => Err(ModelError::NoWeights { folder: folder.into() }),
        }
    }

    /// Opens one safetensors file.
    ///
    /// # Errors
    /// If it cannot be read or is damaged.
    pub fn open_safetensors(file: &Path) -> Result<Self, ModelError> {
        let mut tensors = BTreeMap::new();
        read_header(file, &mut tensors)?;
        Ok(Self { file: file.into(), storage: Storage::Safetensors(tensors) })
    }

    /// Opens a safetensors file that lies in memory; `file` is its name in messages.
    ///
    /// # Errors
    /// If it is damaged.
    pub fn from_bytes(file: &Path, bytes: &'static [u8]) -> Result<Self, ModelError> {
        let mut tensors = BTreeMap::new();
        let (length, data) = (bytes.len() as u64, Data::Memory(bytes));
        read_tensors(file, Cursor::new(bytes), length, &data, &mut tensors)?;
        Ok(Self { file: file.into(), storage: Storage::Safetensors(tensors) })
    }

    /// Opens one file written by `torch.save`.
    ///
    /// # Errors
    /// If it cannot be read or is damaged.
    pub fn open_pickle(file: &Path) -> Result<Self, ModelError> {
        let tensors = PthTensors::new(file, None).map_err(|error| ModelError::Damaged {
            file: file.into(),
            problem: not_a_zip(file).map_or_else(|| error.to_string(), str::to_owned),
        })?;
        Ok(Self { file: file.into(), storage: Storage::Pickle(tensors) })
    }

    fn open_shards(index: PathBuf, folder: &Path) -> Result<Self, ModelError> {
        let text = std::fs::read_to_string(&index)
            .map_err(|source| ModelError::Io { file: index.clone(), source })?;
        let json: serde_json::Value =
            serde_json::from_str(&text).map_err(|source| ModelError::Json { file: index.clone(), source })?;
        let shards = weight_files::shards(&json)
            .map_err(|problem| ModelError::Damaged { file: index.clone(), problem })?;
        let mut tensors = BTreeMap::new();
        for shard in shards {
            read_header(&folder.join(shard), &mut tensors)?;
        }
        Ok(Self { file: index, storage: Storage::Safetensors(tensors) })
    }

    /// The file a message about this checkpoint names.
    pub fn file(&self) -> &Path {
        &self.file
    }

    /// Names of all tensors, sorted.
    pub fn names(&self) -> Vec<String> {
        match &self.storage {
            Storage::Safetensors(tensors) => tensors.keys().cloned().collect(),
            Storage::Pickle(tensors) => {
                tensors.tensor_infos().keys().cloned().collect::<BTreeSet<_>>().into_iter().collect()
            }
        }
    }

    /// The shape of a tensor, if it is there.
    pub fn shape(&self, name: &str) -> Option<Vec<usize>> {
        match &self.storage {
            Storage::Safetensors(tensors) => tensors.get(name).map(|stored| stored.info.shape.clone()),
            Storage::Pickle(tensors) => {
                tensors.tensor_infos().get(name).map(|info| info.layout.shape().dims().to_vec())
            }
        }
    }

    fn check_shape(&self, name: &str, shape: &[usize]) -> Result<(), ParameterError> {
        match self.shape(name) {
            Some(found) if found == shape => Ok(()),
            Some(found) => Err(ParameterError::Shape { name: name.to_owned(), found, want: shape.to_vec() }),
            None => Err(ParameterError::Missing { name: name.to_owned(), want: shape.to_vec() }),
        }
    }

    /// The tensor `name` in its own type, or `None` if it is not there.
    ///
    /// # Errors
    /// If the file cannot be read or the type is none that candle has.
    pub fn read(&self, name: &str) -> candle_core::Result<Option<Tensor>> {
        match &self.storage {
            Storage::Safetensors(tensors) => {
                let Some(stored) = tensors.get(name) else { return Ok(None) };
                let info = &stored.info;
                let dtype = match info.dtype {
                    Dtype::F32 => DType::F32,
                    Dtype::F16 => DType::F16,
                    Dtype::BF16 => DType::BF16,
                    Dtype::F64 => DType::F64,
                    Dtype::I64 => DType::I64,
                    Dtype::U8 => DType::U8,
                    other => candle_core::bail!("tensor type {other:?} is not supported"),
                };
                Tensor::from_raw_buffer(&stored.bytes()?, dtype, &info.shape, &Device::Cpu).map(Some)
            }
            Storage::Pickle(tensors) => tensors.get(name),
        }
    }
}

/// What a file is that is no zip, as those of `torch.save` are; `None` for a zip, of which the reader's own words say more.
fn not_a_zip(file: &Path) -> Option<&'static str> {
    let mut beginning = Vec::new();
    File::open(file).ok()?.take(4).read_to_end(&mut beginning).ok()?;
    match beginning.as_slice() {
        [b'P', b'K', ..] => None,
        // A pickle outside any zip.
        [0x80, ..] => {
            Some("in the format of torch before 1.6; load it there and save it again, best as safetensors")
        }
        _ => Some("no file of torch.save: perhaps a page of a server in its place"),
    }
}

impl Stored {
    /// The tensor's bytes: read from the file, or borrowed from memory.
    fn bytes(&self) -> std::io::Result<Cow<'static, [u8]>> {
        let (begin, end) = self.info.data_offsets;
        match &self.data {
            Data::File(path) => {
                let mut bytes = vec![0; end - begin];
                let mut file = File::open(path)?;
                file.seek(SeekFrom::Start(self.start + begin as u64))?;
                file.read_exact(&mut bytes)?;
                Ok(Cow::Owned(bytes))
            }
            Data::Memory(bytes) => {
                let start = self.start as usize;
                let part = bytes.get(start + begin..start + end);
                part.map(Cow::Borrowed).ok_or_else(|| std::io::ErrorKind::UnexpectedEof.into())
            }
        }
    }
}

/// Adds the tensors of a safetensors file on disk.
fn read_header(path: &Path, tensors: &mut BTreeMap<String, Stored>) -> Result<(), ModelError> {
    let io = |source| ModelError::Io { file: path.into(), source };
    let file = File::open(path).map_err(io)?;
    let length = file.metadata().map_err(io)?.len();
    read_tensors(path, file, length, &Data::File(path.into()), tensors)
}

/// Adds the tensors that the header of a safetensors file of `length` bytes lists: where each lies, and what it is.
fn read_tensors(
    path: &Path,
    mut reader: impl Read,
    length: u64,
    data: &Data,
    tensors: &mut BTreeMap<String, Stored>,
) -> Result<(), ModelError> {
    let io = |source| ModelError::Io { file: path.into(), source };
    let damaged = |problem: String| ModelError::Damaged { file: path.into(), problem };
    let mut size = [0u8; 8];
    reader
        .read_exact(&mut size)
        .map_err(|_| damaged("not a safetensors file: shorter than its header".to_owned()))?;
    let header = u64::from_le_bytes(size);
    if header > MAX_HEADER || header + 8 > length {
        return Err(damaged("not a safetensors file, or cut short inside its header".to_owned()));
    }
    let mut buffer = Vec::new();
    reader.take(header).read_to_end(&mut buffer).map_err(io)?;
    let metadata: Metadata = serde_json::from_slice(&buffer)
        .map_err(|error| damaged(format!("not a valid safetensors header: {error}")))?;
    let start = header + 8;
    for (name, info) in metadata.tensors() {
        if start + info.data_offsets.1 as u64 > length {
            return Err(damaged(format!("cut short: tensor `{name}` ends beyond the file ({length} bytes)")));
        }
        tensors.insert(name, Stored { data: data.clone(), start, info: info.clone() });
    }
    Ok(())
}

impl Source for Checkpoint {
    fn tensor(&self, name: &str, shape: &[usize], _: Initialization) -> Result<Tensor, ParameterError> {
        let unreadable = |source| ParameterError::Unreadable { name: name.to_owned(), source };
        self.check_shape(name, shape)?;
        let tensor = self.read(name).map_err(unreadable)?;
        let tensor =
            tensor.ok_or_else(|| ParameterError::Missing { name: name.to_owned(), want: shape.to_vec() })?;
        tensor.to_dtype(DType::F32).and_then(|tensor| tensor.contiguous()).map_err(unreadable)
    }

    fn has(&self, name: &str) -> bool {
        self.shape(name).is_some()
    }
}

/// A checkpoint of which names and shapes alone are looked at: its tensors have no values and take no memory.
pub(super) struct Shapes<'a> {
    checkpoint: &'a Checkpoint,
    /// What was asked for and there.
    found: RefCell<BTreeSet<String>>,
}

impl<'a> Shapes<'a> {
    pub(super) fn of(checkpoint: &'a Checkpoint) -> Self {
        Self { checkpoint, found: RefCell::default() }
    }

    /// Names of the tensors that nobody asked for, sorted.
    pub(super) fn rest(self) -> Vec<String> {
        let found = self.found.into_inner();
        self.checkpoint.names().into_iter().filter(|name| !found.contains(name)).collect()
    }
}

impl Source for Shapes<'_> {
    fn tensor(&self, name: &str, shape: &[usize], init: Initialization) -> Result<Tensor, ParameterError> {
        self.checkpoint.check_shape(name, shape)?;
        self.found.borrow_mut().insert(name.to_owned());
        ShapeSource.tensor(name, shape, init)
    }

    fn has(&self, name: &str) -> bool {
        self.checkpoint.has(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bin_that_is_no_zip_says_what_it_is_and_a_broken_zip_keeps_the_reader_s_words() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("pytorch_model.bin");
        for (bytes, said) in [
            (&b"\x80\x02\x8a\x0al\xfc"[..], "before 1.6"),
            (b"<!doctype html>", "a page of a server"),
            (b"PK\x03\x04cut", "Zip archive"),
        ] {
            std::fs::write(&file, bytes).expect("written");
            let error = Checkpoint::open_pickle(&file).err().map(|error| error.to_string());
            assert!(error.as_ref().is_some_and(|error| error.contains(said)), "{said}: {error:?}");
        }
    }
}
