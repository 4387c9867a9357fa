//! The input of a prediction: a folder, a single photo or a CSV list → the photos, in order.
//!
//! `featherlight predict` calls [`list`]. A folder is looked through to its depths, in natural order, photos known by their
//! extension; a list is taken as it is. No photo is opened here: one that is not there gets its row later.

use super::PredictError;
use crate::image::{EXTENSIONS, is_photo};
use std::cmp::Ordering;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use walkdir::{DirEntry, WalkDir};

/// One photo to classify.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PhotoFile {
    /// Its name in the rows: relative to the input with `/`, or a CSV's own text.
    pub file: String,
    /// Where it is.
    pub path: PathBuf,
}

/// What an input holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listing {
    /// The photos, in the order of the rows.
    pub photos: Vec<PhotoFile>,
    /// Files that are no photos by their extension, or hidden.
    pub skipped: usize,
}

/// Whether an input is a CSV list, by its extension.
pub fn is_list(input: &Path) -> bool {
    input.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("csv"))
}

/// Lists the photos of `input`: a folder, a photo, or a CSV with a column `file`.
///
/// The files of a CSV are relative to `image_root`, or else to the CSV's own folder.
///
/// # Errors
/// If the input is none of these, or a folder or list cannot be read.
pub fn list(input: &Path, image_root: Option<&Path>) -> Result<Listing, PredictError> {
    let wrong = |problem: String| PredictError::Input { path: input.into(), problem };
    let metadata = std::fs::metadata(input).map_err(|error| wrong(format!("cannot be read: {error}")))?;
    if metadata.is_dir() {
        folder(input)
    } else if is_list(input) {
        let root = image_root.or(input.parent()).unwrap_or(Path::new(""));
        Ok(Listing { photos: rows_of_list(input, root)?, skipped: 0 })
    } else if is_photo(input) {
        let file = input.file_name().unwrap_or(input.as_os_str()).to_string_lossy().into_owned();
        Ok(Listing { photos: vec![PhotoFile { file, path: input.into() }], skipped: 0 })
    } else {
        let extensions = EXTENSIONS.join(", ");
        Err(wrong(format!(
            "neither a folder, nor a .csv list, nor a photo (known by extension: {extensions})"
        )))
    }
}

fn folder(root: &Path) -> Result<Listing, PredictError> {
    let mut listing = Listing::default();
    let entries = WalkDir::new(root)
        .min_depth(1)
        .follow_links(true)
        .into_iter()
        .filter_entry(|entry| entry.depth() == 0 || !(is_hidden(entry) && entry.file_type().is_dir()));
    for entry in entries {
        let path = match entry {
            Ok(entry) if entry.file_type().is_dir() => continue,
            Ok(entry) if is_hidden(&entry) || !is_photo(entry.path()) => {
                listing.skipped += 1;
                continue;
            }
            Ok(entry) => entry.into_path(),
            Err(error) => match dangling(&error) {
                // Somebody meant a photo to be here: its row will say that it is not.
                Some(path) if is_photo(path) => path.to_owned(),
                Some(_) => {
                    listing.skipped += 1;
                    continue;
                }
                None => return Err(unreadable(root, &error)),
            },
        };
        let relative = path.strip_prefix(root).unwrap_or(&path);
        let file = relative.iter().map(OsStr::to_string_lossy).collect::<Vec<_>>().join("/");
        listing.photos.push(PhotoFile { file, path });
    }
    listing.photos.sort_by(|left, right| natural_order(&left.file, &right.file));
    Ok(listing)
}

fn is_hidden(entry: &DirEntry) -> bool {
    entry.file_name().as_encoded_bytes().starts_with(b".")
}

/// The link of a failed entry, if it leads to nothing.
fn dangling(error: &walkdir::Error) -> Option<&Path> {
    let missing = error.io_error().is_some_and(|error| error.kind() == std::io::ErrorKind::NotFound);
    error.path().filter(|path| missing && path.is_symlink())
}

fn unreadable(root: &Path, error: &walkdir::Error) -> PredictError {
    let problem = match error.io_error() {
        Some(reason) => format!("cannot be read: {reason}"),
        None => "a link that leads back into its own folder".to_owned(),
    };
    PredictError::Input { path: error.path().unwrap_or(root).into(), problem }
}

/// Folder by folder, `photo2` before `photo10`; names that differ only in what that order overlooks (blanks) stay apart.
fn natural_order(left: &str, right: &str) -> Ordering {
    let (mut lefts, mut rights) = (left.split('/'), right.split('/'));
    loop {
        let order = match (lefts.next(), rights.next()) {
            (Some(left), Some(right)) => natord::compare(left, right).then_with(|| left.cmp(right)),
            (left, right) => return left.cmp(&right),
        };
        if order != Ordering::Equal {
            return order;
        }
    }
}

/// The rows of a CSV; only the column `file` is read.
fn rows_of_list(list: &Path, root: &Path) -> Result<Vec<PhotoFile>, PredictError> {
    let wrong = |problem: String| PredictError::Input { path: list.into(), problem };
    let malformed = |error: ::csv::Error| wrong(format!("is no CSV: {error}"));
    let mut reader =
        ::csv::ReaderBuilder::new().trim(::csv::Trim::Headers).from_path(list).map_err(malformed)?;
    let header = reader.headers().map_err(malformed)?;
    let column = header.iter().position(|name| name == "file").ok_or_else(|| {
        let found = header.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
        wrong(if found.is_empty() {
            "is empty; a header with a column `file` wanted".to_owned()
        } else {
            format!("no column `file`; the columns found are {found}")
        })
    })?;
    let photo = |record: Result<::csv::StringRecord, ::csv::Error>| {
        let record = record.map_err(malformed)?;
        let file = record.get(column).unwrap_or_default().to_owned();
        Ok(PhotoFile { path: root.join(&file), file })
    };
    reader.records().map(photo).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(root: &Path, file: &str, text: &str) -> PathBuf {
        let path = root.join(file);
        std::fs::create_dir_all(path.parent().expect("a parent")).expect("a folder");
        std::fs::write(&path, text).expect("a file");
        path
    }

    fn names(listing: &Listing) -> Vec<&str> {
        listing.photos.iter().map(|photo| photo.file.as_str()).collect()
    }

    #[test]
    fn a_folder_is_listed_to_its_depths_in_natural_order_and_other_files_are_counted() {
        let root = tempfile::tempdir().expect("a folder");
        let files =
            ["b/photo10.jpg", "b/photo2.JPG", "b/photo2.jpg", "photo1.png", "b 2/x.webp", "b-1/x.gif"];
        for file in files {
            write(root.path(), file, "");
        }
        for file in ["notes.txt", "b/Thumbs.db", "b/.photo.jpg", ".hidden/photo.jpg"] {
            write(root.path(), file, "");
        }
        let listing = list(root.path(), None).expect("a listing");
        let want = ["b/photo2.JPG", "b/photo2.jpg", "b/photo10.jpg", "b-1/x.gif", "b 2/x.webp", "photo1.png"];
        assert_eq!(names(&listing), want);
        assert_eq!(listing.skipped, 3, "what lies in a hidden folder is not looked at");
    }

    #[cfg(unix)]
    #[test]
    fn links_are_followed_and_one_to_a_missing_photo_keeps_its_row() {
        use std::os::unix::fs::symlink;
        let (root, elsewhere) =
            (tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder"));
        write(elsewhere.path(), "far.jpg", "");
        symlink(elsewhere.path(), root.path().join("linked")).expect("a link");
        symlink("nowhere.jpg", root.path().join("gone.jpg")).expect("a link");
        symlink("nowhere.txt", root.path().join("gone.txt")).expect("a link");
        let listing = list(root.path(), None).expect("a listing");
        assert_eq!((names(&listing), listing.skipped), (vec!["gone.jpg", "linked/far.jpg"], 1));

        symlink(root.path(), root.path().join("round")).expect("a link");
        let error = list(root.path(), None).expect_err("a loop").to_string();
        assert!(error.contains("round") && error.contains("leads back"), "{error}");
    }

    #[test]
    fn a_list_keeps_its_own_text_and_order_and_is_relative_to_its_folder_or_the_image_root() {
        let root = tempfile::tempdir().expect("a folder");
        let text = "\u{feff}label, file \r\n7,./b//x.jpg\r\n3,\"a, b.jpg\"\r\n,/abs/y.jpg\r\n9,\r\n";
        let csv = write(root.path(), "photos.CSV", text);
        let listing = list(&csv, None).expect("a listing");
        assert_eq!(names(&listing), ["./b//x.jpg", "a, b.jpg", "/abs/y.jpg", ""]);
        assert_eq!(listing.photos[1].path, root.path().join("a, b.jpg"));
        assert_eq!(listing.photos[2].path, Path::new("/abs/y.jpg"));
        let listing = list(&csv, Some(Path::new("/photos"))).expect("a listing");
        assert_eq!(listing.photos[0].path, Path::new("/photos/b/x.jpg"));
    }

    #[test]
    fn a_list_without_the_column_says_which_it_has() {
        let root = tempfile::tempdir().expect("a folder");
        let error = list(&write(root.path(), "a.csv", "path,label\nx,y\n"), None).expect_err("no column");
        assert!(
            error.to_string().contains("no column `file`") && error.to_string().contains("`path`"),
            "{error}"
        );
        let error = list(&write(root.path(), "b.csv", ""), None).expect_err("empty");
        assert!(error.to_string().contains("is empty"), "{error}");
        let error = list(&write(root.path(), "c.csv", "file,label\na.jpg,1,2\n"), None).expect_err("ragged");
        assert!(error.to_string().contains("c.csv") && error.to_string().contains("line: 2"), "{error}");
    }

    #[test]
    fn what_is_neither_folder_nor_list_nor_photo_is_refused_with_what_would_be_right() {
        let root = tempfile::tempdir().expect("a folder");
        let error = list(&write(root.path(), "a.txt", ""), None).expect_err("text").to_string();
        assert!(error.contains("a.txt") && error.contains("jpeg") && error.contains(".csv"), "{error}");
        let error = list(&root.path().join("none"), None).expect_err("nothing").to_string();
        assert!(error.contains("none") && error.contains("No such file"), "{error}");
        let photo = write(root.path(), "one.jpeg", "");
        assert_eq!(names(&list(&photo, None).expect("a photo")), ["one.jpeg"]);
    }
}
