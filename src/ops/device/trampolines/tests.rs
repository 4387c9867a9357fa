//! The stand-ins against libraries made for the purpose (`tests/slow/fake_cuda.c`), in a process of their own: a process finds
//! its libraries once.

use super::super::{CudaInfo, DeviceError, DeviceInfo, DeviceRequest, cuda_devices};
use super::*;
use candle_core::cuda_backend::cudarc::cublas::sys as cublas;
use candle_core::cuda_backend::cudarc::curand::sys as curand;
use candle_core::cuda_backend::cudarc::driver::{result, sys};
use std::path::Path;
use std::process::Command;
use std::ptr::without_provenance_mut as at;
use std::sync::Barrier;

/// Read by the fake driver; that it is set tells a test that it runs beside the fakes.
const DEVICES: &str = "FAKE_CUDA_DEVICES";

stand_ins! {
    Driver: featherlight_test_many;
}

#[rustfmt::skip]
unsafe extern "C" {
    fn featherlight_test_many(
        i0: i64, f0: f64, i1: i64, f1: f64, i2: i64, f2: f64, i3: i64, f3: f64, i4: i64, f4: f64, i5: i64, f5: f64,
        i6: i64, f6: f64, i7: i64, f7: f64, i8: i64, f8: f64,
    ) -> f64;
}

/// Whether this process has the fakes. If not, runs the test named in one that has.
fn beside_fakes(test: &str, devices: u32) -> bool {
    if std::env::var_os(DEVICES).is_some() {
        return true;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/slow/fake_cuda.c");
    for library in [Library::Driver, Library::Cublas, Library::CublasLt, Library::Curand] {
        let name = library.file();
        let mut compiler = Command::new("cc");
        compiler.args(["-shared", "-fPIC", "-O1", "-o"]).arg(folder.path().join(&name)).arg(&source);
        compiler.arg(format!("-Wl,-soname,{name}"));
        assert!(compiler.status().expect("a C compiler").success());
    }
    let ran = Command::new(std::env::current_exe().expect("this program"))
        .args(["--exact", &format!("ops::device::trampolines::tests::{test}"), "--nocapture"])
        .env(DEVICES, devices.to_string())
        .env("FEATHERLIGHT_CUDA_LIBRARIES", folder.path())
        .output()
        .expect("the same program again");
    let said = String::from_utf8_lossy(&ran.stdout).into_owned() + &String::from_utf8_lossy(&ran.stderr);
    assert!(ran.status.success() && said.contains("1 passed"), "{said}");
    false
}

/// What the fake of a library was called with last.
fn seen(library: Library) -> String {
    let address = libraries::function(library, c"fake_seen").expect("a fake");
    // SAFETY: this is how the fake declares it, and its text stays.
    unsafe {
        let seen: extern "C" fn() -> *const c_char = std::mem::transmute(address);
        CStr::from_ptr(seen()).to_string_lossy().into_owned()
    }
}

#[test]
fn every_argument_comes_through_at_the_first_call_and_the_second() {
    if !beside_fakes("every_argument_comes_through_at_the_first_call_and_the_second", 1) {
        return;
    }
    for turn in 1..=2_u32 {
        let n = turn as i64;
        // SAFETY: declared as the fake is.
        let result = unsafe {
            featherlight_test_many(n, 0.5, 1, 1.5, 2, 2.5, 3, 3.5, 4, 4.5, 5, 5.5, 6, 6.5, 7, 7.5, 8, 8.5)
        };
        let wanted = format!("{n} 1 2 3 4 5 6 7 8 0.5 1.5 2.5 3.5 4.5 5.5 6.5 7.5 8.5");
        assert_eq!((result, seen(Library::Driver)), (2.5, wanted));

        // SAFETY: the fakes look at no pointer but cuBLAS's two scalars, which are alive.
        let statuses = unsafe {
            (
                sys::cuLaunchKernel(at(0x1), turn, 3, 4, 5, 6, 7, 8, at(0x9), at(0xa), at(0xb)) as u32,
                curand::curandGenerateNormal(at(0x1), at(0x4), 30, 0.25, turn as f32) as u32,
            )
        };
        assert_eq!(statuses, (0, 0));
        assert_eq!(seen(Library::Driver), format!("0x1 {turn} 3 4 5 6 7 8 0x9 0xa 0xb"));
        assert_eq!(seen(Library::Curand), format!("0x1 0x4 30 0.25 {turn}"));

        let (none, transposed) =
            (cublas::cublasOperation_t::CUBLAS_OP_N, cublas::cublasOperation_t::CUBLAS_OP_T);
        let (alpha, beta) = (1.5, turn as f32);
        let (a, b, c) = (at::<f32>(0x10), at::<f32>(0x20), at(0x30));
        // SAFETY: as above.
        let status = unsafe {
            cublas::cublasSgemm_v2(at(0x1), none, transposed, 2, 3, 4, &alpha, a, 5, b, 6, &beta, c, 7)
        };
        assert_eq!(status as u32, 0);
        assert_eq!(seen(Library::Cublas), format!("0x1 0 1 2 3 4 1.5 0x10 5 0x20 6 {turn} 0x30 7"));
    }
}

#[test]
fn threads_that_call_a_function_first_at_the_same_moment_all_reach_it() {
    if !beside_fakes("threads_that_call_a_function_first_at_the_same_moment_all_reach_it", 1) {
        return;
    }
    let together = Barrier::new(8);
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                together.wait();
                assert_eq!(result::device::get_name(40).expect("a name"), "Fake 40");
            });
        }
    });
}

#[test]
fn a_missing_function_returns_an_error_of_its_library() {
    if !beside_fakes("a_missing_function_returns_an_error_of_its_library", 1) {
        return;
    }
    // SAFETY: nothing is behind these calls that could look at their arguments.
    unsafe {
        let status = sys::cuCtxSynchronize();
        assert_eq!(status, sys::CUresult::CUDA_ERROR_SHARED_OBJECT_SYMBOL_NOT_FOUND);
        let status = cublas::cublasDestroy_v2(at(0x1));
        assert_eq!(status, cublas::cublasStatus_t::CUBLAS_STATUS_NOT_INITIALIZED);
        let status = curand::curandDestroyGenerator(at(0x1));
        assert_eq!(status, curand::curandStatus_t::CURAND_STATUS_INITIALIZATION_FAILED);
        let text = CStr::from_ptr(cublas::cublasGetStatusName(status_of_cublas()));
        assert!(text.to_string_lossy().contains("missing"));
    }
    // The device is there and cannot be opened: an error, in words.
    let device = DeviceInfo::Cuda(cuda_devices().expect("a device").remove(0));
    let error = device.place(super::super::Precision::F32).expect_err("nothing behind it");
    assert!(matches!(error, DeviceError::Failed { .. }), "{error}");
}

fn status_of_cublas() -> cublas::cublasStatus_t {
    cublas::cublasStatus_t::CUBLAS_STATUS_SUCCESS
}

#[test]
fn devices_are_listed_as_the_driver_describes_them() {
    if !beside_fakes("devices_are_listed_as_the_driver_describes_them", 2) {
        return;
    }
    let card = |ordinal| CudaInfo {
        ordinal,
        name: format!("Fake {}", 40 + ordinal),
        compute_capability: (9, 0),
        total_memory: 80 << 30,
    };
    assert_eq!(cuda_devices().expect("devices"), [card(0), card(1)]);
    let found = DeviceRequest::Auto.find().expect("a device");
    assert_eq!((found.devices, found.fallback), (vec![DeviceInfo::Cuda(card(0))], None));
    let error = DeviceRequest::Cuda(vec![2]).find().expect_err("no third").to_string();
    assert!(error.contains("cuda:1 (Fake 41)"), "{error}");
}

#[test]
fn a_driver_without_a_device_is_an_error_for_cuda_and_the_cpu_for_auto() {
    if !beside_fakes("a_driver_without_a_device_is_an_error_for_cuda_and_the_cpu_for_auto", 0) {
        return;
    }
    let found = DeviceRequest::Auto.find().expect("the CPU");
    assert_eq!(found.devices, [DeviceInfo::Cpu]);
    let why = found.fallback.expect("a reason");
    assert!(why.contains("CUDA device") && !why.contains('\n'), "{why}");
    let error = DeviceRequest::Cuda(vec![0]).find().expect_err("no device").to_string();
    assert!(!error.contains('\n'), "{error}");
}
