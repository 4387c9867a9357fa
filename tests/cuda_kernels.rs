//! The CUDA kernels' arithmetic, without a GPU: compiled for the CPU with enough of CUDA around them to run
//! (tests/cuda_emulation), and compared with their formulas. Needs a C++20 compiler.

#![allow(clippy::expect_used, clippy::panic, reason = "a test's own helpers fail by panicking")]

use featherlight::randomness::indexed_uniform;
use std::path::{Path, PathBuf};
use std::process::Command;

fn compiled(folder: &Path) -> PathBuf {
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cuda_emulation");
    let program = folder.join("kernels");
    let compiler = std::env::var("CXX").unwrap_or_else(|_| "c++".to_owned());
    let mut command = Command::new(&compiler);
    command.args(["-std=c++20", "-O1", "-pthread", "-I"]).arg(&sources);
    let output = command.arg(sources.join("kernels.cpp")).arg("-o").arg(&program).output();
    let output =
        output.unwrap_or_else(|error| panic!("{compiler} (a C++20 compiler, named by CXX): {error}"));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    program
}

#[test]
#[ignore = "slow"]
fn kernels_compute_their_formulas_in_every_format() {
    let folder = tempfile::tempdir().expect("a folder");
    let output = Command::new(compiled(folder.path())).output().expect("the program runs");
    let text = String::from_utf8_lossy(&output.stdout);
    println!("{text}");
    assert!(output.status.success(), "{text}");
    assert_eq!(text.lines().count(), 51, "comparisons");
}

#[test]
#[ignore = "slow"]
fn the_dropout_kernel_draws_the_numbers_of_the_cpu() {
    let folder = tempfile::tempdir().expect("a folder");
    for key in [0, 7, u64::MAX] {
        let output = Command::new(compiled(folder.path())).args(["uniform", &key.to_string()]).output();
        let text = String::from_utf8(output.expect("the program runs").stdout).expect("numbers");
        let found: Vec<f32> = text.lines().map(|line| line.parse().expect("a number")).collect();
        let want: Vec<f32> = (0..64).map(|index| indexed_uniform(key, index)).collect();
        assert_eq!(found, want);
    }
}
