//! Which device computes, and in what number format: what a person may ask for, what the machine has, and where a model's
//! weights go.
//!
//! The programs parse a [`DeviceRequest`] and a [`PrecisionRequest`], list what answers to them ([`DeviceRequest::find`]),
//! and hand a [`DeviceInfo`] to whoever will use that device; only there, on the thread that computes, is it opened
//! ([`DeviceInfo::place`]). Listing asks the driver and allocates nothing.

#[cfg(feature = "cuda")]
mod cuda;
mod fault;
#[cfg(feature = "cuda")]
mod libraries;
mod request;
#[cfg(feature = "cuda")]
mod symbols;
#[cfg(feature = "cuda")]
mod trampolines;

pub use fault::{Fault, in_a_line};
pub use request::{DeviceRequest, Found, PrecisionRequest};

use candle_core::{DType, Device};
use serde_json::{Value, json};
use std::fmt;

/// Why a device cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    /// A CUDA device is asked for, and this build has no CUDA in it.
    #[error(
        "{wanted}: this build runs on the CPU alone; build it with `--features cuda`, or use --device cpu"
    )]
    NotSupported {
        /// The device asked for.
        wanted: String,
    },
    /// The driver, or a library of CUDA, is not on this machine.
    #[error("CUDA cannot be used here: {reason}")]
    NoCuda {
        /// What is missing.
        reason: String,
    },
    /// No such device.
    #[error("cuda:{wanted}: no such device; this machine has {known}")]
    Unknown {
        /// The number asked for.
        wanted: usize,
        /// The devices there are.
        known: String,
    },
    /// A device that this build's kernels cannot run on.
    #[error(
        "{device} ({name}) has compute capability {has}, this build needs {needs}; build with CUDA_COMPUTE_CAP={cap} (below 75 with CUDA 12), or use --device cpu"
    )]
    TooOld {
        /// `cuda:N`.
        device: String,
        /// The product's name.
        name: String,
        /// Its compute capability.
        has: String,
        /// The least that the kernels were compiled for.
        needs: String,
        /// The device's, as the build takes it.
        cap: String,
    },
    /// A number format that the device does not compute in.
    #[error(
        "{device} ({name}, compute capability {major}.{minor}) does not compute in bf16; use --dtype f16 or f32"
    )]
    NoBf16 {
        /// `cuda:N`.
        device: String,
        /// The product's name.
        name: String,
        /// Of the compute capability.
        major: u32,
        /// Of the compute capability.
        minor: u32,
    },
    /// The device is there and fails.
    #[error("{device} cannot be opened: {reason}")]
    Failed {
        /// `cuda:N`.
        device: String,
        /// What the driver says.
        reason: String,
    },
}

/// A number format that models compute in. Weights are stored in it; softmax, norms and losses accumulate in f32 always.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Precision {
    /// 32-bit floating point.
    F32,
    /// 16 bits with the range of f32.
    Bf16,
    /// 16 bits, 10 of them after the point.
    F16,
}

impl Precision {
    /// As flags, `/info` and metrics show it.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
            Self::F16 => "f16",
        }
    }

    /// candle's name of it.
    pub fn dtype(self) -> DType {
        match self {
            Self::F32 => DType::F32,
            Self::Bf16 => DType::BF16,
            Self::F16 => DType::F16,
        }
    }
}

impl fmt::Display for Precision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Memory of a device, bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory {
    /// Not taken by anybody.
    pub free: u64,
    /// All there is.
    pub total: u64,
}

/// A device of this machine, described and not yet opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DeviceInfo {
    /// The processor.
    Cpu,
    /// A CUDA device.
    Cuda(CudaInfo),
}

/// What the driver says of a CUDA device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CudaInfo {
    /// Its number, N of `cuda:N`.
    pub ordinal: usize,
    /// The product's name.
    pub name: String,
    /// Compute capability, major and minor.
    pub compute_capability: (u32, u32),
    /// Memory, bytes.
    pub total_memory: u64,
}

impl DeviceInfo {
    /// `cpu` or `cuda:N`.
    pub fn name(&self) -> String {
        match self {
            Self::Cpu => "cpu".to_owned(),
            Self::Cuda(cuda) => format!("cuda:{}", cuda.ordinal),
        }
    }

    /// What is fixed about it: its name and, where they are known, hardware, compute capability and memory in bytes.
    pub fn to_json(&self) -> Value {
        let mut json = json!({ "name": self.name() });
        if let Self::Cuda(cuda) = self {
            let (major, minor) = cuda.compute_capability;
            json["hardware"] = json!(cuda.name);
            json["compute_capability"] = json!(format!("{major}.{minor}"));
            json["total_memory"] = json!(cuda.total_memory);
        }
        json
    }

    /// What the driver says of it, where it is a CUDA device.
    pub fn cuda(&self) -> Option<&CudaInfo> {
        match self {
            Self::Cpu => None,
            Self::Cuda(cuda) => Some(cuda),
        }
    }

    /// Opens the device for weights in `precision`. Call it once, on the thread that will compute: tensors of two openings
    /// do not meet, and the device's work is ordered within that thread alone.
    ///
    /// # Errors
    /// If the driver cannot.
    pub fn place(&self, precision: Precision) -> Result<Placement, DeviceError> {
        let device = match self {
            Self::Cpu => Device::Cpu,
            #[cfg(feature = "cuda")]
            Self::Cuda(info) => cuda::open(info)?,
            #[cfg(not(feature = "cuda"))]
            Self::Cuda(_) => return Err(DeviceError::NotSupported { wanted: self.name() }),
        };
        Ok(Placement::new(device, precision.dtype()))
    }

    /// The most memory that this process's tensors have held on it at once, bytes; `None` for the CPU, or where the driver
    /// does not say. The device must have been opened.
    pub fn peak_memory(&self) -> Option<u64> {
        match self {
            Self::Cpu => None,
            #[cfg(feature = "cuda")]
            Self::Cuda(info) => cuda::peak_memory(info),
            #[cfg(not(feature = "cuda"))]
            Self::Cuda(_) => None,
        }
    }

    /// Its memory at this moment; `None` for the CPU, or where the driver does not say. The device must have been opened.
    pub fn memory(&self) -> Option<Memory> {
        match self {
            Self::Cpu => None,
            #[cfg(feature = "cuda")]
            Self::Cuda(info) => cuda::memory(info),
            #[cfg(not(feature = "cuda"))]
            Self::Cuda(_) => None,
        }
    }
}

impl fmt::Display for DeviceInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cpu => f.write_str("cpu"),
            Self::Cuda(CudaInfo { ordinal, name, compute_capability: (major, minor), total_memory }) => {
                let gib = *total_memory as f64 / f64::from(1 << 30);
                write!(f, "cuda:{ordinal} ({name}, compute capability {major}.{minor}, {gib:.1} GiB)")
            }
        }
    }
}

/// Every CUDA device that this build and this machine have.
///
/// # Errors
/// If the build has no CUDA in it, or the driver or a library is missing.
pub fn cuda_devices() -> Result<Vec<CudaInfo>, DeviceError> {
    #[cfg(feature = "cuda")]
    return cuda::list();
    #[cfg(not(feature = "cuda"))]
    Err(DeviceError::NotSupported { wanted: "cuda".to_owned() })
}

/// The least compute capability that this build's kernels run on.
fn least_compute_capability() -> (u32, u32) {
    #[cfg(feature = "cuda")]
    return cuda::least_compute_capability();
    #[cfg(not(feature = "cuda"))]
    (0, 0)
}

/// How the matrices that are not trained are stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FrozenFormat {
    /// In the compute format.
    #[default]
    Compute,
    /// In bf16, 16 bits with f32's range.
    Bf16,
    /// In 8 bits, with a scale for each row.
    Int8,
}

impl FrozenFormat {
    /// What people call it where `precision` is computed in.
    pub fn name_beside(self, precision: Precision) -> &'static str {
        match self {
            Self::Compute => precision.name(),
            Self::Bf16 => "bf16",
            Self::Int8 => "int8",
        }
    }
}

/// Where a model's weights lie, and what it computes in.
#[derive(Clone, Debug)]
pub struct Placement {
    /// candle's handle of the opened device.
    pub device: Device,
    /// The compute format. Frozen weights are stored in it; trained ones are stored in f32 and cast where they are used.
    pub dtype: DType,
    /// How matrices that are not trained are stored.
    pub frozen: FrozenFormat,
}

impl Placement {
    /// The CPU in f32.
    pub const CPU: Self = Self::new(Device::Cpu, DType::F32);

    /// This device and this compute format, in which frozen weights are stored as well.
    pub const fn new(device: Device, dtype: DType) -> Self {
        Self { device, dtype, frozen: FrozenFormat::Compute }
    }

    /// The same with frozen matrices stored in another format.
    #[must_use]
    pub fn with_frozen(self, frozen: FrozenFormat) -> Self {
        Self { frozen, ..self }
    }
}
