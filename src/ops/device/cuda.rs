//! What the CUDA driver says of its devices, and how one is opened.

use super::libraries;
use super::{CudaInfo, DeviceError, Memory, in_a_line};
use candle_core::Device;
use candle_core::cuda_backend::cudarc::driver::result::{self, DriverError};
use candle_core::cuda_backend::cudarc::driver::{CudaContext, sys};

fn missing(what: &str, error: DriverError) -> DeviceError {
    DeviceError::NoCuda { reason: format!("{what}: {error}") }
}

/// The compute capability that the kernels were compiled for: the least that can run them.
pub(super) fn least_compute_capability() -> (u32, u32) {
    let number = env!("FEATHERLIGHT_CUDA_COMPUTE_CAP").parse().unwrap_or(0);
    (number / 10, number % 10)
}

/// `13.0` for 13000.
fn version(number: u32) -> String {
    format!("{}.{}", number / 1000, number % 1000 / 10)
}

/// A driver compiles the PTX of its own CUDA version and of those before it.
fn check_driver() -> Result<(), DeviceError> {
    let mut number = 0;
    // SAFETY: the driver writes an int.
    let read = unsafe { sys::cuDriverGetVersion(&mut number) }.result();
    read.map_err(|error| missing("the driver does not say its version", error))?;
    let (has, wants) = (number.unsigned_abs(), sys::CUDA_VERSION);
    if has >= wants {
        return Ok(());
    }
    let (has, wants) = (version(has), version(wants));
    let reason = format!(
        "the driver is for CUDA {has}, this build for {wants}: a newer driver, or a build with CUDA {has}, works"
    );
    Err(DeviceError::NoCuda { reason })
}

/// Every device, in the driver's order. Nothing is allocated on them.
pub(super) fn list() -> Result<Vec<CudaInfo>, DeviceError> {
    libraries::load().map_err(|reason| DeviceError::NoCuda { reason })?;
    check_driver()?;
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

/// candle's handle of the device, for the calling thread: its work goes to that thread's own stream, which costs no events
/// between streams. Memory that tensors give back stays with this process, as PyTorch's does: to return it to the system at
/// every wait for the device, and to ask for it again, takes longer than a pass.
pub(super) fn open(info: &CudaInfo) -> Result<Device, DeviceError> {
    libraries::load().map_err(|reason| DeviceError::NoCuda { reason })?;
    let failed = |reason: String| DeviceError::Failed { device: format!("cuda:{}", info.ordinal), reason };
    let device = Device::new_cuda(info.ordinal).map_err(|error| failed(in_a_line(&error)))?;
    keep_memory(info).map_err(|error| failed(error.to_string()))?;
    Ok(device)
}

/// The pool that asynchronous allocations on the device come from.
fn pool(info: &CudaInfo) -> Result<sys::CUmemoryPool, DriverError> {
    let device = result::device::get(info.ordinal as i32)?;
    // SAFETY: `device` came from `cuDeviceGet`.
    unsafe { result::device::get_default_mem_pool(device) }
}

fn keep_memory(info: &CudaInfo) -> Result<(), DriverError> {
    use sys::CUdevice_attribute as Attribute;
    let device = result::device::get(info.ordinal as i32)?;
    // SAFETY: as above.
    let pools = unsafe {
        result::device::get_attribute(device, Attribute::CU_DEVICE_ATTRIBUTE_MEMORY_POOLS_SUPPORTED)?
    };
    if pools == 0 {
        return Ok(());
    }
    let mut threshold = u64::MAX;
    let attribute = sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD;
    // SAFETY: the pool is the device's own, and this attribute's value is a u64 that is read before the call returns.
    unsafe { result::mem_pool::set_attribute(pool(info)?, attribute, (&raw mut threshold).cast()) }
}

/// The most memory that this process's tensors have held at once, bytes; `None` where the driver has no pools.
pub(super) fn peak_memory(info: &CudaInfo) -> Option<u64> {
    let mut peak = 0u64;
    let attribute = sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_USED_MEM_HIGH;
    // SAFETY: the pool is the device's own, and this attribute's value is a u64.
    unsafe { result::mem_pool::get_attribute(pool(info).ok()?, attribute, (&raw mut peak).cast()) }.ok()?;
    Some(peak)
}

/// Free and total memory. The primary context is retained for the question: cheap once the device is open.
pub(super) fn memory(info: &CudaInfo) -> Option<Memory> {
    let context = CudaContext::new(info.ordinal).ok()?;
    context.bind_to_thread().ok()?;
    let (free, total) = result::mem_get_info().ok()?;
    Some(Memory { free: free as u64, total: total as u64 })
}
