//! One pull from its first question to its last rename: which files a model is made of, and in what order they are asked for.
//!
//! The config comes first, and a model that cannot be run here ends there, before its weights are on their way. Large files
//! become hidden parts; names are given when all are there, so that a folder never holds two versions of a model mixed.

use super::digest::Verdict;
use super::download::Order;
use super::folder::{Content, Folder, Piece};
use super::hub::{Body, Description, Failure, Hub};
use super::names::is_plain;
use super::record::Record;
use super::retry::Tries;
use super::{Access, Event, Observer, Patience, PullError, Repository, Revision};
use crate::model::{Config, ModelError, weight_files};
use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::path::{Path, PathBuf};

const CONFIG: &str = "config.json";
const PROCESSOR: &str = "preprocessor_config.json";

/// Largest settings file taken, bytes: real ones with twenty thousand labels have one.
const MAX_SETTINGS: u64 = 10 << 20;

/// A model to be pulled.
pub struct Pull {
    /// How the hub is reached.
    pub access: Access,
    /// Which model.
    pub repository: Repository,
    /// Which version of it.
    pub revision: Revision,
    /// Where it goes; created if it is not there.
    pub folder: PathBuf,
    /// Whether files of the same names that are not from this repository, or were changed, may be replaced.
    pub overwrite: bool,
    /// When to give up.
    pub patience: Patience,
}

/// A model that is there, whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pulled {
    /// The commit that all files are from.
    pub commit: String,
    /// How many files had to be brought; 0: everything was there.
    pub brought: usize,
}

/// A pull at work.
struct Work<'a, 'b> {
    pull: &'a Pull,
    hub: Hub,
    folder: Folder,
    /// Names all files but the first: what the revision was when that was asked for.
    commit: String,
    pieces: Vec<Piece>,
    observer: &'a mut Observer<'b>,
}

impl Pull {
    /// Brings what is missing or has changed.
    ///
    /// # Errors
    /// If hub, repository or folder cannot be used; see [`PullError`].
    pub fn run(&self, observer: &mut Observer<'_>) -> Result<Pulled, PullError> {
        let hub = Hub::new(&self.access, self.repository.clone())?;
        let folder = Folder::open(&self.folder, self.repository.as_str(), self.overwrite)?;
        let commit = self.revision.to_string();
        let mut work = Work { pull: self, hub, folder, commit, pieces: Vec::new(), observer };
        work.config()?;
        work.folder.enter()?;
        work.processor()?;
        work.weights()?;
        work.bring()?;
        work.finish()
    }

    /// Looks whether the folder is complete without asking anybody.
    ///
    /// # Errors
    /// If it is not, or is another model's or revision's.
    pub fn offline(&self, observer: &mut Observer<'_>) -> Result<Pulled, PullError> {
        let offline = |problem| PullError::Offline { folder: self.folder.clone(), problem };
        let (repository, revision) = (&self.repository, &self.revision);
        let folder = Folder::open(&self.folder, repository.as_str(), false)?;
        let Some(record) = folder.record() else {
            return Err(offline(format!("holds no finished pull of {repository}")));
        };
        if ![&record.revision, &record.commit].contains(&&revision.to_string()) {
            let other = &record.revision;
            return Err(offline(format!("holds revision `{other}` of {repository}, not `{revision}`")));
        }
        for (file, known) in &record.files {
            if !folder.holds(file) {
                return Err(offline(format!("lacks {file} of {repository}")));
            }
            folder.has(file, &known.version(), observer)?;
            observer(Event::Kept { file });
        }
        Ok(Pulled { commit: record.commit.clone(), brought: 0 })
    }
}

impl Work<'_, '_> {
    /// Brings the config into memory, settles the commit, and refuses a model that is none here.
    fn config(&mut self) -> Result<(), PullError> {
        let repository = self.hub.repository().to_string();
        let description = self.look(CONFIG)?.ok_or_else(|| PullError::Repository {
            repository: repository.clone(),
            problem: format!(
                "has no {CONFIG} at revision `{}` (or the hub knows no such repository or revision)",
                self.pull.revision
            ),
        })?;
        self.commit.clone_from(&description.commit);
        let content = self.settings(CONFIG, description)?;
        let file = self.folder.path().join(CONFIG);
        let json = serde_json::from_slice(&content)
            .map_err(|source| ModelError::Json { file: CONFIG.into(), source })
            .map_err(|source| PullError::Model { repository: repository.clone(), source })?;
        match Config::from_json(json, &file) {
            Ok(_) => Ok(()),
            Err(
                source @ (ModelError::Architecture { .. }
                | ModelError::TimmArchitecture { .. }
                | ModelError::Config { .. }),
            ) => Err(PullError::Model { repository, source: named(source) }),
            // timm's sizes stand in the weights, which are not there yet, or not yet the right ones.
            Err(_) => Ok(()),
        }
    }

    fn processor(&mut self) -> Result<(), PullError> {
        match self.look(PROCESSOR)? {
            Some(description) => self.settings(PROCESSOR, description).map(drop),
            None => Ok(()),
        }
    }

    /// Finds the weights, and with them every file that has to be brought.
    fn weights(&mut self) -> Result<(), PullError> {
        let mut found = None;
        for (rank, name) in weight_files::IN_ORDER.into_iter().enumerate() {
            if let Some(description) = self.look(name)? {
                found = Some((rank, name, description));
                break;
            }
        }
        let Some((rank, name, description)) = found else {
            return Err(PullError::NoWeights {
                repository: self.hub.repository().to_string(),
                revision: self.commit.clone(),
                tried: weight_files::IN_ORDER.join(", "),
            });
        };
        self.folder.refuse_beside(name, &weight_files::IN_ORDER[..rank], self.observer)?;
        if name != weight_files::INDEX {
            return self.plan(name, description);
        }
        let index = self.settings(weight_files::INDEX, description)?;
        let shards = shards(&index).map_err(|problem| self.unusable(weight_files::INDEX, problem))?;
        for shard in shards {
            let description = self.look(&shard)?;
            let description = description.ok_or_else(|| {
                self.unusable(weight_files::INDEX, format!("names {shard}, and there is no such file"))
            })?;
            self.plan(&shard, description)?;
        }
        Ok(())
    }

    /// Downloads the large files.
    fn bring(&mut self) -> Result<(), PullError> {
        for piece in &mut self.pieces {
            match piece.content {
                Content::Kept => (self.observer)(Event::Kept { file: &piece.name }),
                Content::Wanted => {
                    let order = Order {
                        hub: &self.hub,
                        commit: &self.commit,
                        file: &piece.name,
                        version: &piece.version,
                        patience: self.pull.patience,
                    };
                    piece.content = Content::Part(order.bring(&self.folder, self.observer)?);
                }
                Content::Memory(_) | Content::Part(_) => {}
            }
        }
        Ok(())
    }

    fn finish(mut self) -> Result<Pulled, PullError> {
        let retired = self.folder.retired(&self.pieces, self.observer)?;
        // The config last: a folder without one is no model, whatever cuts a first pull off.
        self.pieces.reverse();
        let brought = self.pieces.iter().filter(|piece| !matches!(piece.content, Content::Kept)).count();
        let record = Record {
            repository: self.hub.repository().to_string(),
            revision: self.pull.revision.to_string(),
            commit: self.commit.clone(),
            files: BTreeMap::new(),
        };
        self.folder.settle(&self.pieces, &retired, record)?;
        Ok(Pulled { commit: self.commit, brought })
    }

    fn look(&mut self, file: &str) -> Result<Option<Description>, PullError> {
        let tries = Tries::new(self.pull.patience, file);
        tries.until(self.observer, || self.hub.look(&self.commit, file))
    }

    /// Notes a large file that is needed.
    fn plan(&mut self, file: &str, description: Description) -> Result<(), PullError> {
        let version = self.own(file, description)?;
        let kept = self.folder.has(file, &version, self.observer)?;
        let content = if kept { Content::Kept } else { Content::Wanted };
        self.pieces.push(Piece { name: file.to_owned(), version, content });
        Ok(())
    }

    /// Brings a settings file into memory, compared; its content.
    fn settings(&mut self, file: &str, description: Description) -> Result<Vec<u8>, PullError> {
        let version = self.own(file, description)?;
        let too_large = || format!("is larger than {MAX_SETTINGS} bytes, which no settings file is");
        if version.size.is_some_and(|size| size > MAX_SETTINGS) {
            return Err(self.unusable(file, too_large()));
        }
        if self.folder.has(file, &version, self.observer)? {
            let bytes = self.folder.read(file)?;
            self.pieces.push(Piece { name: file.to_owned(), version, content: Content::Kept });
            return Ok(bytes);
        }
        let tries = Tries::new(self.pull.patience, file);
        let bytes = tries.until(self.observer, || {
            let delivery = self.hub.open(&self.commit, file, 0)?;
            let passing = |reason| Failure::Passing { reason, retry_after: None };
            let (Body::Whole(reader) | Body::From(0, reader)) = delivery.body else {
                return Err(passing("only a part was sent".to_owned()));
            };
            let mut bytes = Vec::new();
            let read = reader.take(MAX_SETTINGS + 1).read_to_end(&mut bytes);
            read.map_err(|error| passing(format!("the connection broke: {error}")))?;
            Ok(bytes)
        })?;
        let length = bytes.len() as u64;
        if length > MAX_SETTINGS {
            return Err(self.unusable(file, too_large()));
        }
        let io = |source| PullError::Io { path: file.into(), source };
        if let Verdict::Different(found) = version.judge(&*bytes, length).map_err(io)? {
            return Err(PullError::Checksum { file: file.to_owned(), found, want: version.describe() });
        }
        (self.observer)(Event::Brought { file, size: length });
        let content = Content::Memory(bytes.clone());
        self.pieces.push(Piece { name: file.to_owned(), version, content });
        Ok(bytes)
    }

    /// The version of a file, which must be of the commit that all are from.
    fn own(&self, file: &str, description: Description) -> Result<super::digest::Version, PullError> {
        if description.commit != self.commit {
            let problem = format!("is of commit {}, and {} was asked for", description.commit, self.commit);
            return Err(self.unusable(file, problem));
        }
        Ok(description.version)
    }

    fn unusable(&self, file: &str, problem: String) -> PullError {
        PullError::File { repository: self.hub.repository().to_string(), file: file.to_owned(), problem }
    }
}

/// The same error under the file's name in the repository: its place on disk is empty.
fn named(error: ModelError) -> ModelError {
    match error {
        ModelError::Architecture { found, .. } => ModelError::Architecture { file: CONFIG.into(), found },
        ModelError::TimmArchitecture { found, .. } => {
            ModelError::TimmArchitecture { file: CONFIG.into(), found }
        }
        ModelError::Config { field, problem, .. } => {
            ModelError::Config { file: CONFIG.into(), field, problem }
        }
        other => other,
    }
}

/// The files that an index names: what needs no care in an address, and no other file of the model.
fn shards(index: &[u8]) -> Result<BTreeSet<String>, String> {
    let json = serde_json::from_slice(index).map_err(|error| format!("not valid JSON: {error}"))?;
    let shards = weight_files::shards(&json)?;
    let shard = |name: &String| {
        let suffix = Path::new(name).extension().is_some_and(|suffix| suffix == "safetensors");
        suffix && name.chars().all(is_plain) && !name.starts_with('.') && name != weight_files::SINGLE
    };
    match shards.iter().find(|name| !shard(name)) {
        Some(name) => {
            Err(format!("`weight_map` names `{name}`, a plain name that ends in .safetensors wanted"))
        }
        None => Ok(shards),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_index_reaches_nothing_but_shards_of_its_folder() {
        for name in [
            "../x.safetensors",
            "/etc/x.safetensors",
            "a/x.safetensors",
            "..\\\\x.safetensors",
            "x?y.safetensors",
            ".x.safetensors",
            "config.json",
            "model.safetensors",
            "",
        ] {
            let index = format!(r#"{{"weight_map": {{"a": "{name}"}}}}"#);
            let error = shards(index.as_bytes()).expect_err(name);
            assert!(error.contains("wanted"), "{name}: {error}");
        }
        assert!(shards(b"[").is_err());
        let index = br#"{"weight_map": {"a": "x-00001-of-00002.safetensors"}}"#;
        assert_eq!(shards(index).expect("a shard").len(), 1);
    }
}
