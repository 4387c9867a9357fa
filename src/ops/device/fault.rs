//! What an error of candle means for the device: whether another batch can succeed on it.

use candle_core::Error;

/// What went wrong, as far as the device is concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Memory did not suffice: less work at once may succeed.
    OutOfMemory,
    /// The device is lost to this process: every later call fails too.
    Lost,
    /// Anything else: the work was wrong, the device is not.
    Work,
}

/// An error of candle in a line, without the backtrace that it may carry.
pub fn in_a_line(error: &Error) -> String {
    match error {
        Error::WithBacktrace { inner, .. } => in_a_line(inner),
        other => other.to_string(),
    }
}

impl Fault {
    /// Reads candle's error.
    pub fn of(error: &Error) -> Self {
        match error {
            Error::Cuda(source) => of_cuda(&**source),
            Error::WithBacktrace { inner, .. } => Self::of(inner),
            Error::Context { inner, .. } => Self::of(inner),
            Error::WithPath { inner, .. } => Self::of(inner),
            _ => Self::Work,
        }
    }

    /// The meaning of a `CUresult` of the driver (CUDA Driver API, "Data types used by CUDA driver", enum CUresult: those
    /// whose text says that the process must be ended to go on, and those of a device that is gone).
    #[cfg_attr(not(any(test, feature = "cuda")), expect(dead_code, reason = "asked in builds with CUDA"))]
    fn of_driver(code: u32) -> Self {
        match code {
            2 => Self::OutOfMemory,
            // deinitialized, no device, device unavailable
            4 | 46 | 100 | 101 => Self::Lost,
            // invalid context, uncorrectable ECC error, NVLink error, contained error
            201 | 214 | 220 | 226 => Self::Lost,
            // illegal address, launch timeout, context destroyed, assert
            700 | 702 | 709 | 710 => Self::Lost,
            // hardware stack error, illegal instruction, misaligned address, invalid address space, invalid pc, launch failed
            714..=719 => Self::Lost,
            // tensor memory leak, the MPS client was terminated, an error of another device, unknown
            721 | 810 | 911 | 999 => Self::Lost,
            _ => Self::Work,
        }
    }
}

#[cfg(feature = "cuda")]
fn of_cuda(source: &(dyn std::error::Error + 'static)) -> Fault {
    use candle_core::cuda_backend::CudaError;
    use candle_core::cuda_backend::cudarc::cublas::sys::cublasStatus_t;
    match source.downcast_ref::<CudaError>() {
        Some(CudaError::Cuda(error) | CudaError::Load { cuda: error, .. }) => {
            Fault::of_driver(error.0 as u32)
        }
        Some(CudaError::Cublas(error)) => match error.0 {
            cublasStatus_t::CUBLAS_STATUS_ALLOC_FAILED => Fault::OutOfMemory,
            // cuBLAS says so when an earlier kernel has taken the context down.
            cublasStatus_t::CUBLAS_STATUS_EXECUTION_FAILED => Fault::Lost,
            _ => Fault::Work,
        },
        _ => Fault::Work,
    }
}

#[cfg(not(feature = "cuda"))]
fn of_cuda(_: &(dyn std::error::Error + 'static)) -> Fault {
    Fault::Work
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_driver_s_codes_say_whether_the_device_can_go_on() {
        assert_eq!(Fault::of_driver(2), Fault::OutOfMemory);
        for sticky in [214, 700, 716, 719, 810, 911, 999] {
            assert_eq!(Fault::of_driver(sticky), Fault::Lost, "{sticky}");
        }
        for harmless in [1, 200, 500, 701] {
            assert_eq!(Fault::of_driver(harmless), Fault::Work, "{harmless}");
        }
    }

    #[test]
    fn an_error_of_the_work_is_no_fault_of_the_device_however_it_is_wrapped() {
        let error = Error::Msg("shapes do not fit".to_owned()).bt();
        assert_eq!(Fault::of(&error), Fault::Work);
    }
}
