//! The driver and the libraries of CUDA, looked for when a device is first asked for and never at the start of a program.

use candle_core::cuda_backend::cudarc::driver::sys::CUDA_VERSION;
use libloading::os::unix::Library as Handle;
use std::ffi::{CStr, c_void};
use std::fs;
use std::path::PathBuf;
use std::sync::OnceLock;

/// The variable that names folders to search before all others.
const FOLDERS: &str = "FEATHERLIGHT_CUDA_LIBRARIES";

/// Where installations put them, when the loader does not know: the toolkit, and the driver as containers get it.
const USUAL_FOLDERS: [&str; 5] = [
    "/usr/local/cuda/lib64",
    "/usr/local/cuda/targets/x86_64-linux/lib",
    "/usr/local/cuda/targets/sbsa-linux/lib",
    "/usr/local/nvidia/lib64",
    "/usr/lib/wsl/lib",
];

/// One of the shared libraries that candle's code calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Library {
    Driver,
    Cublas,
    CublasLt,
    Curand,
    Nvrtc,
    Runtime,
}

impl Library {
    /// In the order of the variants, which is the order of their numbers.
    pub(super) const ALL: [Self; 6] =
        [Self::Driver, Self::Cublas, Self::CublasLt, Self::Curand, Self::Nvrtc, Self::Runtime];

    /// The file's name, with the major version that this program was built against.
    pub(super) fn file(self) -> String {
        let cuda = CUDA_VERSION / 1000;
        match self {
            Self::Driver => "libcuda.so.1".to_owned(),
            Self::Cublas => format!("libcublas.so.{cuda}"),
            Self::CublasLt => format!("libcublasLt.so.{cuda}"),
            // The same number in CUDA 12 and 13.
            Self::Curand => "libcurand.so.10".to_owned(),
            Self::Nvrtc => format!("libnvrtc.so.{cuda}"),
            Self::Runtime => format!("libcudart.so.{cuda}"),
        }
    }

    /// What it needs itself. Opened first, by full path where that is known: the loader then finds it by its name among
    /// what is already there, wherever the file lies.
    fn needs(self) -> Option<Self> {
        match self {
            Self::Cublas => Some(Self::CublasLt),
            Self::Curand => Some(Self::Runtime),
            _ => None,
        }
    }

    /// Opens it at the first call; it stays open as long as the process lives.
    fn open(self) -> &'static Result<Handle, String> {
        static OPENED: [OnceLock<Result<Handle, String>>; Library::ALL.len()] =
            [const { OnceLock::new() }; Library::ALL.len()];
        OPENED[self as usize].get_or_init(|| {
            if let Some(needed) = self.needs() {
                // Should it be missing, the library that needs it says so.
                let _ = needed.open();
            }
            self.search()
        })
    }

    fn search(self) -> Result<Handle, String> {
        let file = self.file();
        let mut broken = None;
        for candidate in candidates(&file) {
            // SAFETY: the initialisers of NVIDIA's libraries ask nothing of the caller. Whose file it is, is for whoever set
            // up this machine's loader to say.
            match unsafe { Handle::open(Some(&candidate), libloading::os::unix::RTLD_LAZY) } {
                Ok(handle) => return Ok(handle),
                Err(error) => {
                    let reason = std::error::Error::source(&error).unwrap_or(&error).to_string();
                    // The loader's words for a file that is not there. Any other reason is worth more to the reader.
                    let absent =
                        format!("{}: cannot open shared object file: No such file", candidate.display());
                    if broken.is_none() && !reason.starts_with(&absent) {
                        broken = Some(reason);
                    }
                }
            }
        }
        Err(match (broken, self) {
            (Some(reason), _) => format!("{file} cannot be loaded: {reason}"),
            (None, Self::Driver) => format!("{file} was not found: the NVIDIA driver is not installed"),
            (None, _) => {
                let major = CUDA_VERSION / 1000;
                format!(
                    "{file} was not found: install CUDA {major}, or name its folder in LD_LIBRARY_PATH or {FOLDERS}"
                )
            }
        })
    }
}

/// The names to try for a library, the best first: in the folders that a person listed, as the loader finds it, in the usual
/// folders.
fn candidates(file: &str) -> Vec<PathBuf> {
    let mut folders = Vec::new();
    for folder in std::env::split_paths(&std::env::var_os(FOLDERS).unwrap_or_default()) {
        if folder.as_os_str().is_empty() {
            continue;
        }
        // Python's packages of CUDA lie in `site-packages/nvidia/*/lib`.
        let packages = fs::read_dir(folder.join("nvidia")).into_iter().flatten().flatten();
        let mut packages: Vec<PathBuf> = packages.map(|package| package.path().join("lib")).collect();
        packages.sort();
        folders.push(folder);
        folders.append(&mut packages);
    }
    // A name without a folder: the loader's own search, LD_LIBRARY_PATH included.
    folders.push(PathBuf::new());
    folders.extend(USUAL_FOLDERS.map(PathBuf::from));
    folders.into_iter().map(|folder| folder.join(file)).collect()
}

/// Whether the driver and the libraries can be loaded; says in a line what is missing. To be asked before anything of CUDA
/// is called.
pub(super) fn load() -> Result<(), String> {
    // Those that candle calls to open a device and to compute. It never compiles kernels at run time (nvrtc), and its few
    // kernels that need the runtime are not called; curand brings the runtime along.
    for library in [Library::Driver, Library::CublasLt, Library::Cublas, Library::Curand] {
        library.open().as_ref().map_err(String::clone)?;
    }
    Ok(())
}

/// The address of a function; `None` if the library or the function is not there.
pub(super) fn function(library: Library, name: &CStr) -> Option<*mut c_void> {
    let handle = library.open().as_ref().ok()?;
    // SAFETY: a pointer is asked for, and an address is what there is; the caller calls it as what it is declared to be.
    let address = unsafe { handle.get::<*mut c_void>(name) }.ok()?.as_raw_ptr();
    (!address.is_null()).then_some(address)
}
