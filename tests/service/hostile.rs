//! Files that are damaged, odd or no photos at all.

use std::path::{Path, PathBuf};

/// The files of the folder that `FEATHERLIGHT_HOSTILE` names; without it, everything that lies under `tests`.
///
/// JSON files are left out: to the service they are requests of their own.
pub fn files() -> Vec<PathBuf> {
    let folder = std::env::var_os("FEATHERLIGHT_HOSTILE").map(PathBuf::from);
    let folder = folder.unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("tests"));
    let mut found = under(&folder);
    found.retain(|path| path.extension().is_none_or(|extension| extension != "json"));
    assert!(!found.is_empty(), "{} holds no file", folder.display());
    found
}

/// Every file under a folder, in the order of their paths.
pub fn under(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let entries = std::fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    for entry in entries {
        let path = entry.expect("a readable folder").path();
        if path.is_dir() { found.extend(under(&path)) } else { found.push(path) }
    }
    found.sort();
    found
}

/// Whether an answer is one that a damaged file may get; panics with what it got otherwise.
pub fn assert_fair(name: &Path, answer: &super::Answer) {
    let allowed = [200, 413, 415, 422];
    assert!(allowed.contains(&answer.status), "{}: {} {}", name.display(), answer.status, answer.text());
    if answer.status != 200 {
        answer.code();
    }
}
