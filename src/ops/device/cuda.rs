//! What the CUDA driver says of its devices, and how one is opened.

use super::libraries;
use super::{CudaInfo, DeviceError, Memory};
use candle_core::Device;
use candle_core::cuda_backend::cudarc::driver::result::{self, DriverError};
use candle_core::cuda_backend::cudarc::driver::{CudaContext, sys};

fn missing(what: &str, error: DriverError) -> DeviceError {
    DeviceError::NoCuda { reason: format!("{what}: {error}") }
}

/// Every device, in the driver's order. Nothing is allocated on them.
pub(super) fn list() -> Result<Vec<CudaInfo>, DeviceError> {
    libraries::load().map_err(|reason| DeviceError::NoCuda { reason })?;
    let count = match result::init().and_then(|()| result::device::get_count()) {
        Ok(count) => usize::try_from(count).unwrap_or(0),
        // So says `init` too, where the cards are hidden by CUDA_VISIBLE_DEVICES.
        Err(DriverError(sys::CUresult::CUDA_ERROR_NO_DEVICE)) => 0,
        Err(error) => return Err(missing("the driver does not list its devices", error)),
    };
    (0..count)
        .map(|ordinal| describe(ordinal).map_err(|error| missing(&format!("cuda:{ordinal}"), error)))
        .collect()
}

fn describe(ordinal: usize) -> Result<CudaInfo, DriverError> {
    use sys::CUdevice_attribute as Attribute;
    let device = result::device::get(ordinal as i32)?;
    // SAFETY: `device` came from `cuDeviceGet`, which is all that these calls ask for.
    let (total, major, minor) = unsafe {
        (
            result::device::total_mem(device)?,
            result::device::get_attribute(device, Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?,
            result::device::get_attribute(device, Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?,
        )
    };
    Ok(CudaInfo {
        ordinal,
        name: result::device::get_name(device)?,
        compute_capability: (major.unsigned_abs(), minor.unsigned_abs()),
        total_memory: total as u64,
    })
}

/// candle's handle of the device. A stream of its own, so that several devices' threads never meet on a default one.
pub(super) fn open(info: &CudaInfo) -> Result<Device, DeviceError> {
    libraries::load().map_err(|reason| DeviceError::NoCuda { reason })?;
    Device::new_cuda_with_stream(info.ordinal).map_err(|error| DeviceError::Failed {
        device: format!("cuda:{}", info.ordinal),
        reason: error.to_string(),
    })
}

/// Free and total memory. The primary context is retained for the question: cheap once the device is open.
pub(super) fn memory(info: &CudaInfo) -> Option<Memory> {
    let context = CudaContext::new(info.ordinal).ok()?;
    context.bind_to_thread().ok()?;
    let (free, total) = result::mem_get_info().ok()?;
    Some(Memory { free: free as u64, total: total as u64 })
}
