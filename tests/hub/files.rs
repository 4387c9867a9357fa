//! What the tests' hub has, and what should have come of it.

use crate::program::data;
use std::path::Path;

const RECORD: &str = ".featherlight-pull.json";

pub fn golden(name: &str) -> Vec<u8> {
    std::fs::read(data("goldens").join(name)).expect("a golden")
}

/// The files of a golden model.
pub fn model(folder: &str, names: &[&'static str]) -> Vec<(&'static str, Vec<u8>)> {
    names.iter().map(|name| (*name, golden(&format!("{folder}/{name}")))).collect()
}

const TINY: [&str; 3] = ["config.json", "preprocessor_config.json", "model.safetensors"];

pub fn tiny() -> Vec<(&'static str, Vec<u8>)> {
    model("beit-tiny", &TINY)
}

/// All names in a folder, sorted.
pub fn names(folder: &Path) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    let mut names: Vec<String> =
        entries.map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

pub fn assert_is(folder: &Path, files: &[(&str, Vec<u8>)]) {
    for (name, bytes) in files {
        assert!(std::fs::read(folder.join(name)).expect(name) == *bytes, "{name} is another");
    }
    let mut want: Vec<&str> = files.iter().map(|(name, _)| *name).chain([RECORD]).collect();
    want.sort_unstable();
    assert_eq!(names(folder), want, "nothing more and nothing less");
}
