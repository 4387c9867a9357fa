//! Parameters with names, and where their first values come from.
//!
//! A [`Builder`] walks the architecture's names and asks a [`Source`] for each tensor: a checkpoint, fresh random values, or
//! shapes alone (to count). Which parameters are trained is decided by name, here, once.

use crate::ops::PackedWeight;
use crate::ops::device::{FrozenFormat, Placement};
use crate::randomness::{Purpose, Randomness};
use candle_core::{DType, Device, Tensor, Var};

/// A named tensor of a model.
#[derive(Clone, Debug)]
pub struct Parameter {
    name: String,
    tensor: Tensor,
    /// What layers compute in; a trained parameter is stored in f32 all the same.
    compute: DType,
    /// Of a frozen matrix in fewer bits than that.
    packed: Option<PackedWeight>,
}

impl Parameter {
    /// A parameter with these values, moved to its place; a trained one becomes a candle variable, whose value the optimiser
    /// replaces.
    ///
    /// # Errors
    /// If the device has no room for it.
    pub fn new(
        name: String,
        tensor: Tensor,
        trainable: bool,
        placement: &Placement,
    ) -> candle_core::Result<Self> {
        let stored = if trainable { DType::F32 } else { placement.dtype };
        // Narrowed first: fewer bytes travel.
        let tensor = tensor.to_dtype(stored)?.to_device(&placement.device)?;
        let tensor = if trainable { Var::from_tensor(&tensor)?.into_inner() } else { tensor };
        Ok(Self { name, tensor, compute: placement.dtype, packed: None })
    }

    /// A frozen matrix `[out, in]` in the format that the placement has for these.
    ///
    /// # Errors
    /// If the device has no room for it, or one of its numbers is none.
    pub fn frozen(name: String, tensor: Tensor, placement: &Placement) -> candle_core::Result<Self> {
        let packed = match placement.frozen {
            FrozenFormat::Compute => return Self::new(name, tensor, false, placement),
            FrozenFormat::Bf16 => PackedWeight::bf16(&tensor, &placement.device)?,
            FrozenFormat::Int8 => PackedWeight::int8(&tensor, &placement.device)?,
        };
        let tensor = packed.values().clone();
        Ok(Self { name, tensor, compute: placement.dtype, packed: Some(packed) })
    }

    /// The matrix in few bits, where it is stored so.
    pub fn packed(&self) -> Option<&PackedWeight> {
        self.packed.as_ref()
    }

    /// The values in f32, as constants.
    ///
    /// # Errors
    /// candle's.
    pub fn in_f32(&self) -> candle_core::Result<Tensor> {
        match &self.packed {
            Some(packed) => packed.widened(DType::F32),
            None => self.tensor.detach().to_dtype(DType::F32),
        }
    }

    /// The name in a checkpoint, as transformers v4 writes it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The values as they are stored: f32 where they are trained, else the compute format, or fewer bits (see
    /// [`Parameter::packed`]).
    pub fn tensor(&self) -> &Tensor {
        &self.tensor
    }

    /// The values in the compute format, with their gradient: what layers work with.
    ///
    /// # Errors
    /// candle's.
    pub fn value(&self) -> candle_core::Result<Tensor> {
        match &self.packed {
            Some(packed) => packed.widened(self.compute),
            None => self.tensor.to_dtype(self.compute),
        }
    }

    /// Where it lies, and what layers compute in.
    pub fn placement(&self) -> Placement {
        Placement::new(self.tensor.device().clone(), self.compute)
    }

    /// Whether gradients are computed for it.
    pub fn is_trainable(&self) -> bool {
        self.tensor.is_variable()
    }
}

/// Why a parameter could not be had.
#[derive(Debug, thiserror::Error)]
pub enum ParameterError {
    /// The source has no tensor of that name.
    #[error("no tensor `{name}` (shape {want:?} is needed)")]
    Missing {
        /// The name asked for.
        name: String,
        /// The shape asked for.
        want: Vec<usize>,
    },
    /// The source's tensor has another shape.
    #[error("tensor `{name}` has shape {found:?}, the config asks for {want:?}")]
    Shape {
        /// The name asked for.
        name: String,
        /// The shape in the file.
        found: Vec<usize>,
        /// The shape asked for.
        want: Vec<usize>,
    },
    /// The tensor is there and could not be read.
    #[error("tensor `{name}` cannot be read: {source}")]
    Unreadable {
        /// The name asked for.
        name: String,
        /// What candle says.
        source: candle_core::Error,
    },
}

impl ParameterError {
    /// The name asked for.
    pub fn name(&self) -> &str {
        match self {
            Self::Missing { name, .. } | Self::Shape { name, .. } | Self::Unreadable { name, .. } => name,
        }
    }

    /// Whether there is no tensor of that name.
    pub fn is_missing(&self) -> bool {
        matches!(self, Self::Missing { .. })
    }
}

/// The first value of a parameter that no file provides.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Initialization {
    /// All the same.
    Constant(f32),
    /// Normal with mean 0 and this standard deviation.
    Normal(f32),
    /// Uniform between −bound and bound.
    Uniform(f32),
}

impl Initialization {
    /// Values for the parameter `name`: a pure function of the seed and the name.
    ///
    /// # Errors
    /// If there is no memory for it.
    pub fn tensor(self, randomness: Randomness, name: &str, shape: &[usize]) -> candle_core::Result<Tensor> {
        // FNV-1a of the name: adding a layer changes no other layer's numbers.
        let key = name
            .bytes()
            .fold(0xcbf2_9ce4_8422_2325_u64, |h, b| (h ^ u64::from(b)).wrapping_mul(0x100_0000_01b3));
        let mut stream = randomness.stream(Purpose::Initialize, 0, key, 0);
        let count = shape.iter().try_fold(1usize, |count, side| count.checked_mul(*side));
        let mut values: Vec<f32> = Vec::new();
        let reserved = count.filter(|count| values.try_reserve_exact(*count).is_ok());
        let Some(count) = reserved else {
            candle_core::bail!("shape {shape:?} is more than there is memory for");
        };
        match self {
            Self::Constant(value) => values.resize(count, value),
            Self::Normal(deviation) => values.extend((0..count).map(|_| deviation * stream.normal())),
            Self::Uniform(bound) => {
                values.extend((0..count).map(|_| bound * (2.0 * stream.uniform() - 1.0)));
            }
        }
        Tensor::from_vec(values, shape, &Device::Cpu)
    }
}

/// Where tensors come from.
pub trait Source {
    /// The tensor `name` of this shape, f32, on the CPU.
    ///
    /// # Errors
    /// If it is missing, has another shape, or cannot be read.
    fn tensor(
        &self,
        name: &str,
        shape: &[usize],
        initialization: Initialization,
    ) -> Result<Tensor, ParameterError>;

    /// Whether `name` is there at all; a source that makes values has everything.
    fn has(&self, _name: &str) -> bool {
        true
    }
}

/// Fresh values, as for training from nothing.
#[derive(Clone, Copy, Debug)]
pub struct RandomSource(pub Randomness);

impl Source for RandomSource {
    fn tensor(
        &self,
        name: &str,
        shape: &[usize],
        initialization: Initialization,
    ) -> Result<Tensor, ParameterError> {
        initialization
            .tensor(self.0, name, shape)
            .map_err(|source| ParameterError::Unreadable { name: name.to_owned(), source })
    }
}

/// Shapes without memory behind them: enough to list and count parameters.
#[derive(Clone, Copy, Debug)]
pub struct ShapeSource;

impl Source for ShapeSource {
    fn tensor(&self, name: &str, shape: &[usize], _: Initialization) -> Result<Tensor, ParameterError> {
        Tensor::zeros((), DType::F32, &Device::Cpu)
            .and_then(|zero| zero.broadcast_as(shape))
            .map_err(|source| ParameterError::Unreadable { name: name.to_owned(), source })
    }
}

/// The module that every architecture calls its classification head.
pub const HEAD: &str = "classifier";

/// Whether a parameter of this name is the head's.
pub fn is_head(name: &str) -> bool {
    name.strip_prefix(HEAD).is_some_and(|own| own.starts_with('.'))
}

/// Which parameters are trained.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trainable {
    /// None: inference.
    None,
    /// The classification head alone.
    Head,
    /// Every one.
    All,
}

/// Builds a model's parameters under a path of names.
#[derive(Clone)]
pub struct Builder<'a> {
    source: &'a dyn Source,
    trainable: Trainable,
    placement: &'a Placement,
    path: String,
}

impl<'a> Builder<'a> {
    /// A builder at the root of the names, whose parameters go to `placement`.
    pub fn new(source: &'a dyn Source, trainable: Trainable, placement: &'a Placement) -> Self {
        Self { source, trainable, placement, path: String::new() }
    }

    /// The builder one name further down.
    pub fn at(&self, name: impl std::fmt::Display) -> Self {
        let path = if self.path.is_empty() { name.to_string() } else { format!("{}.{name}", self.path) };
        Self { path, ..self.clone() }
    }

    /// Where its parameters go.
    pub fn placement(&self) -> &'a Placement {
        self.placement
    }

    /// The parameter `name` under this path.
    ///
    /// # Errors
    /// Those of [`Source::tensor`].
    pub fn parameter(
        &self,
        name: &str,
        shape: &[usize],
        initialization: Initialization,
    ) -> Result<Parameter, ParameterError> {
        let name = self.at(name).path;
        let tensor = self.source.tensor(&name, shape, initialization)?;
        Parameter::new(name.clone(), tensor, self.trains(&name), self.placement)
            .map_err(|source| ParameterError::Unreadable { name, source })
    }

    /// The matrix `name` `[out, in]` under this path, in few bits where the placement says so and it is not trained.
    ///
    /// # Errors
    /// Those of [`Source::tensor`].
    pub fn matrix(
        &self,
        name: &str,
        shape: [usize; 2],
        initialization: Initialization,
    ) -> Result<Parameter, ParameterError> {
        let full = self.at(name).path;
        if self.trains(&full) {
            return self.parameter(name, &shape, initialization);
        }
        let tensor = self.source.tensor(&full, &shape, initialization)?;
        Parameter::frozen(full.clone(), tensor, self.placement)
            .map_err(|source| ParameterError::Unreadable { name: full, source })
    }

    fn trains(&self, name: &str) -> bool {
        match self.trainable {
            Trainable::None => false,
            Trainable::Head => is_head(name),
            Trainable::All => true,
        }
    }
}
