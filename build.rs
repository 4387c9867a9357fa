//! Compiles the CUDA kernels beside the ops to PTX, in builds with feature `cuda`.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    #[cfg(feature = "cuda")]
    kernels();
}

/// For the compute capability that `CUDA_COMPUTE_CAP` names; the driver compiles PTX for later ones as well.
#[cfg(feature = "cuda")]
fn kernels() {
    let built = cudaforge::KernelBuilder::new()
        .source_dir("src/ops")
        .watch(["src/ops/kernel.cuh"])
        .arg("-std=c++17")
        .arg("-O3")
        .build_ptx();
    // The program refuses cards below it: their driver cannot compile the PTX.
    match built.and_then(|_| cudaforge::detect_compute_cap()) {
        Ok(least) => println!("cargo::rustc-env=FEATHERLIGHT_CUDA_COMPUTE_CAP={}", least.base()),
        Err(error) => println!("cargo::error=the CUDA kernels cannot be compiled: {error}"),
    }
}
