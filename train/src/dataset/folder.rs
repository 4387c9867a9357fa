//! A data set that is a folder with one folder a class: `DIR/<label>/photo.jpg`.
//!
//! [`super::Dataset::open`] calls it. Folders inside a class folder are looked through, hidden files and folders are
//! passed over, links are followed. Photos are known by their extension and never opened.

use super::{DatasetError, FoundPhoto, Skipped, natural_order};
use featherlight::image::{EXTENSIONS, is_photo};
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use walkdir::{DirEntry, WalkDir};

/// Names that a folder of classes would not have all of its folders called by.
const PARTS: [&str; 6] = ["train", "training", "test", "val", "valid", "validation"];

/// The photos of all class folders, in no particular order, and what was left out.
pub(super) fn read(root: &Path) -> Result<(Vec<FoundPhoto>, Skipped), DatasetError> {
    let mut photos = Vec::new();
    let mut skipped = Skipped::default();
    let mut classes = Vec::new();
    for entry in visible(root, 1) {
        let entry = entry?;
        if entry.file_type().is_dir() {
            classes.push((label_of(&entry)?, entry.into_path()));
        } else if is_photo(entry.path()) {
            skipped.unlabelled_photos += 1;
        } else {
            skipped.other_files += 1;
        }
    }
    classes.sort_by(|(a, _), (b, _)| natural_order(a, b));
    refuse_parts(root, &classes)?;
    for (label, class) in classes {
        let before = photos.len();
        for entry in visible(&class, usize::MAX) {
            let entry = entry?;
            if entry.file_type().is_dir() {
                continue;
            }
            if !is_photo(entry.path()) {
                skipped.other_files += 1;
                continue;
            }
            let name = name_of(entry.path(), root);
            let place = class.display().to_string();
            photos.push(FoundPhoto { path: entry.into_path(), label: label.clone(), name, place });
        }
        if photos.len() == before {
            skipped.empty_classes.push(label);
        }
    }
    if photos.is_empty() {
        return Err(DatasetError::NoPhotos {
            path: root.to_owned(),
            photo: skipped.unlabelled_photos,
            other: skipped.other_files,
            extensions: EXTENSIONS.join(", "),
        });
    }
    Ok((photos, skipped))
}

/// Everything below `folder`, itself excluded, that is not hidden.
fn visible(folder: &Path, depth: usize) -> impl Iterator<Item = Result<DirEntry, DatasetError>> {
    WalkDir::new(folder)
        .min_depth(1)
        .max_depth(depth)
        .follow_links(true)
        .into_iter()
        .filter_entry(|entry| entry.depth() == 0 || !is_hidden(entry.file_name()))
        .map({
            let folder = folder.to_owned();
            move |entry| {
                entry.map_err(|error| DatasetError::Unreadable {
                    path: error.path().map_or_else(|| folder.clone(), Path::to_path_buf),
                    reason: match error.io_error() {
                        Some(reason) => reason.to_string(),
                        None => "a link that leads back into its own folder".to_owned(),
                    },
                })
            }
        })
}

fn is_hidden(name: &OsStr) -> bool {
    name.as_encoded_bytes().starts_with(b".")
}

fn label_of(entry: &DirEntry) -> Result<String, DatasetError> {
    let label = entry.file_name().to_str();
    label.map(str::to_owned).ok_or_else(|| DatasetError::LabelNotText(entry.path().to_owned()))
}

fn name_of(path: &Path, root: &Path) -> String {
    let relative = path.strip_prefix(root).unwrap_or(path);
    relative.iter().map(OsStr::to_string_lossy).collect::<Vec<_>>().join("/")
}

fn refuse_parts(root: &Path, classes: &[(String, PathBuf)]) -> Result<(), DatasetError> {
    let all_parts = classes.iter().all(|(label, _)| PARTS.contains(&label.to_ascii_lowercase().as_str()));
    let Some((first, _)) =
        classes.iter().rev().find(|(label, _)| label.starts_with("tr")).or(classes.first())
    else {
        return Ok(());
    };
    if !all_parts {
        return Ok(());
    }
    let folders = classes.iter().map(|(label, _)| label.as_str()).collect::<Vec<_>>().join(", ");
    Err(DatasetError::PartsNotClasses { path: root.to_owned(), folders, first: first.clone() })
}
