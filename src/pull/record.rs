//! What a pull leaves beside the model: `.featherlight-pull.json`, which says whose files these are.
//!
//! A later pull knows by it which files it may replace, an offline one whether all are there.

use super::PullError;
use crate::model::save_text;
use crate::model::weight_files::is_plain_name;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::Path;

/// Its name in a model folder.
pub(super) const RECORD: &str = ".featherlight-pull.json";

/// The pull that a folder is from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Record {
    /// `ORG/NAME`.
    pub(super) repository: String,
    /// What was asked for.
    pub(super) revision: String,
    /// What that was then.
    pub(super) commit: String,
    /// By name.
    pub(super) files: BTreeMap<String, RecordedFile>,
}

/// A file of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct RecordedFile {
    /// The hub's.
    pub(super) etag: String,
    /// Bytes.
    pub(super) size: u64,
}

impl Record {
    /// The record of a folder, if there is one that can be read: a damaged one claims nothing, nor does one that reaches outside
    /// the folder, as a pull removes files that it claims.
    pub(super) fn read(folder: &Path) -> Option<Self> {
        let text = std::fs::read_to_string(folder.join(RECORD)).ok()?;
        let record: Self = serde_json::from_str(&text).ok()?;
        record.files.keys().all(|name| is_plain_name(name)).then_some(record)
    }

    /// Writes it, whole or not at all.
    ///
    /// # Errors
    /// If the folder cannot be written.
    pub(super) fn write(&self, folder: &Path) -> Result<(), PullError> {
        let path = folder.join(RECORD);
        let text = serde_json::to_string_pretty(self);
        let text = text.map_err(|error| PullError::Io { path: path.clone(), source: error.into() })?;
        Ok(save_text(&format!("{text}\n"), &path)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_that_reaches_outside_its_folder_claims_nothing() {
        let folder = tempfile::tempdir().expect("a folder");
        let record = |file: &str| Record {
            repository: "org/model".to_owned(),
            revision: "main".to_owned(),
            commit: "0123456".to_owned(),
            files: BTreeMap::from([(file.to_owned(), RecordedFile { etag: "x".to_owned(), size: 1 })]),
        };
        record("config.json").write(folder.path()).expect("written");
        assert!(Record::read(folder.path()).is_some());
        for outside in ["../notes.txt", "/etc/passwd", "a/b", ".."] {
            record(outside).write(folder.path()).expect("written");
            assert_eq!(Record::read(folder.path()), None, "{outside}");
        }
    }
}
