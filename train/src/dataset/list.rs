//! A data set that is a CSV list with the columns `file` and `label`.
//!
//! [`super::Dataset::open`] calls it. Other columns are allowed and ignored. Every file must exist, whatever its
//! extension: who lists a file wants it. The rows keep their order.

use super::{DatasetError, FoundPhoto};
use std::path::Path;

/// The photos of a list, their files relative to `image_root` or else to the list's own folder.
pub(super) fn read(path: &Path, image_root: Option<&Path>) -> Result<Vec<FoundPhoto>, DatasetError> {
    let root = match image_root {
        Some(root) if !root.is_dir() => return Err(DatasetError::ImageRoot(root.to_owned())),
        Some(root) => root,
        None => path.parent().unwrap_or(Path::new("")),
    };
    let malformed = |error: csv::Error| match error.kind() {
        csv::ErrorKind::Io(reason) => {
            DatasetError::Unreadable { path: path.to_owned(), reason: reason.to_string() }
        }
        _ => DatasetError::MalformedList { path: path.to_owned(), reason: error.to_string() },
    };
    let mut reader = csv::ReaderBuilder::new().trim(csv::Trim::Headers).from_path(path).map_err(malformed)?;
    let header = reader.headers().map_err(malformed)?.clone();
    let column = |wanted: &'static str| {
        header.iter().position(|name| name == wanted).ok_or_else(|| DatasetError::MissingColumn {
            path: path.to_owned(),
            wanted,
            found: match header.is_empty() {
                true => "none: the file is empty".to_owned(),
                false => header.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", "),
            },
        })
    };
    let (file_column, label_column) = (column("file")?, column("label")?);

    let mut photos = Vec::new();
    // Rows as a spreadsheet counts them, the header being row 1: the reader's own line numbers are one short in files
    // with Windows line ends.
    for (row, record) in (2..).zip(reader.records()) {
        let record = record.map_err(malformed)?;
        let field = |index: usize, column: &'static str| match record.get(index) {
            Some(text) if !text.trim().is_empty() => Ok(text),
            _ => Err(DatasetError::EmptyField { path: path.to_owned(), row, column }),
        };
        let name = field(file_column, "file")?.to_owned();
        // "a.jpg, cat": the blank after the comma is no part of the label.
        let label = field(label_column, "label")?.trim().to_owned();
        let file = root.join(&name);
        match std::fs::metadata(&file) {
            Ok(found) if found.is_file() => {}
            Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {
                return Err(DatasetError::Unreadable { path: file, reason: error.to_string() });
            }
            _ => return Err(DatasetError::MissingFile { path: path.to_owned(), row, file }),
        }
        let place = format!("{}, row {row}", path.display());
        photos.push(FoundPhoto { path: file, label, name, place });
    }
    if photos.is_empty() {
        return Err(DatasetError::NoRows(path.to_owned()));
    }
    Ok(photos)
}
