//! The file that a run goes on from: weights, moments, where it stands, and what it was made of.
//!
//! `fit` writes one after every epoch and whenever else it is told to, and reads it with `--resume`. One file, written beside its
//! place and renamed: a kill at any moment leaves the one before, whole.

use crate::optimizer::{FIRST, SECOND};
use crate::trainer::{Snapshot, State};
use candle_core::Tensor;
use featherlight::model::{ModelError, create_folder, save_tensors};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::collections::HashMap;
use std::io::Read;
use std::path::{Path, PathBuf};

/// The file in a checkpoint's folder.
const FILE: &str = "checkpoint.safetensors";

/// A header longer than this is none of ours.
const LONGEST_HEADER: u64 = 100 << 20;

/// What the record of a run had come to at a checkpoint.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// Length of `metrics.jsonl`, bytes: what was written after the checkpoint is cut off, for it will be written again.
    pub metrics_bytes: u64,
    /// Sum of the losses of the epoch's photos so far, as text: JSON's numbers need not come back to the last bit.
    #[serde(with = "crate::exact")]
    pub epoch_loss: f64,
    /// How many these photos are.
    pub epoch_photos: usize,
    /// Seconds spent.
    pub seconds: f64,
    /// Seconds spent in steps, and of these waiting for photos.
    pub step_seconds: (f64, f64),
}

/// A moment of a run.
#[derive(Debug, Clone)]
pub struct Checkpoint {
    /// The trainer's part.
    pub snapshot: Snapshot,
    /// The record's part.
    pub record: Record,
    /// Settings, labels, photos and model that the run began with, by name.
    pub made_of: Map<String, Value>,
}

/// Why a checkpoint cannot be gone on from.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    /// It cannot be written.
    #[error(transparent)]
    Write(#[from] ModelError),
    /// The system does not let it be read.
    #[error("{}: the checkpoint cannot be read: {source}", file.display())]
    Io {
        /// The file.
        file: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// It is no checkpoint, or a damaged one.
    #[error(
        "{}: the checkpoint is damaged ({problem}): put a whole copy in its place, perhaps that of checkpoints/best, or begin anew with --overwrite",
        file.display()
    )]
    Damaged {
        /// The file.
        file: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// The run began with something else.
    #[error(
        "{what} was {before} when the run in {} began and is {now} now: go on with what it began with, or begin anew with --overwrite",
        folder.display()
    )]
    Changed {
        /// The output folder.
        folder: PathBuf,
        /// The flag, or what else it is.
        what: String,
        /// What the run began with.
        before: String,
        /// What was asked for.
        now: String,
    },
}

impl Checkpoint {
    /// Writes it to `folder`, whole or not at all.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn write(&self, folder: &Path) -> Result<(), CheckpointError> {
        create_folder(folder)?;
        let json = |value: Result<String, serde_json::Error>| {
            value.map_err(|error| CheckpointError::Damaged {
                file: folder.join(FILE),
                problem: error.to_string(),
            })
        };
        let made_of: Map<String, Value> =
            self.made_of.iter().map(|(key, value)| (key.clone(), exact(value))).collect();
        let metadata = [
            ("state", json(serde_json::to_string(&self.snapshot.state))?),
            ("record", json(serde_json::to_string(&self.record))?),
            ("made_of", json(serde_json::to_string(&made_of))?),
        ];
        Ok(save_tensors(self.snapshot.tensors.clone(), &metadata, &folder.join(FILE))?)
    }

    /// Whether there is one in `folder`.
    pub fn exists(folder: &Path) -> bool {
        folder.join(FILE).symlink_metadata().is_ok()
    }

    /// Puts the file of `from` into `to` as well, which then have it in common; a copy where the file system knows no links.
    ///
    /// # Errors
    /// The system's.
    pub fn share(from: &Path, to: &Path) -> Result<(), CheckpointError> {
        create_folder(to)?;
        let (file, beside) = (to.join(FILE), to.join(".writing-checkpoint"));
        let failed = |source| CheckpointError::Io { file: file.clone(), source };
        match std::fs::remove_file(&beside) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(failed(error)),
            _ => {}
        }
        let from = from.join(FILE);
        let copy = || std::fs::copy(&from, &beside).and_then(|_| std::fs::File::open(&beside)?.sync_all());
        let there = std::fs::hard_link(&from, &beside).or_else(|_| copy());
        there.and_then(|()| std::fs::rename(&beside, &file)).map_err(|error| {
            let _ = std::fs::remove_file(&beside);
            failed(error)
        })
    }
}

/// A checkpoint that was written, opened: its tensors are read when they are wanted.
pub struct Saved {
    /// Where the run stood.
    pub state: State,
    /// The record's part.
    pub record: Record,
    made_of: Map<String, Value>,
    tensors: featherlight::model::Checkpoint,
}

impl Saved {
    /// Opens the one of `folder`.
    ///
    /// # Errors
    /// If it is not there, cannot be read, or is damaged.
    pub fn open(folder: &Path) -> Result<Self, CheckpointError> {
        let file = folder.join(FILE);
        let damaged = |problem: String| CheckpointError::Damaged { file: file.clone(), problem };
        let metadata = header(&file)?;
        let text = |key: &str| metadata.get(key).ok_or_else(|| damaged(format!("it has no `{key}`")));
        let json = |error: serde_json::Error| damaged(error.to_string());
        let state = serde_json::from_str(text("state")?).map_err(json)?;
        let record = serde_json::from_str(text("record")?).map_err(json)?;
        let made_of = serde_json::from_str(text("made_of")?).map_err(json)?;
        let tensors = featherlight::model::Checkpoint::open_safetensors(&file);
        let tensors = tensors.map_err(|error| damaged(error.to_string()))?;
        Ok(Self { state, record, made_of, tensors })
    }

    /// Everything that a run goes on from.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub fn snapshot(&self) -> Result<Snapshot, CheckpointError> {
        Ok(Snapshot { tensors: self.tensors(|_| true)?, state: self.state.clone() })
    }

    /// The number that the run began with under this flag.
    ///
    /// # Errors
    /// If there is none: the file is damaged.
    pub fn number(&self, flag: &str) -> Result<usize, CheckpointError> {
        let number = self.made_of.get(flag).and_then(Value::as_str).and_then(|text| text.parse().ok());
        number.ok_or_else(|| CheckpointError::Damaged {
            file: self.tensors.file().into(),
            problem: format!("it has no number {flag}"),
        })
    }

    /// The weights alone, and their moving average.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub fn weights(&self) -> Result<HashMap<String, Tensor>, CheckpointError> {
        self.tensors(|name| !name.starts_with(FIRST) && !name.starts_with(SECOND))
    }

    fn tensors(&self, wanted: impl Fn(&str) -> bool) -> Result<HashMap<String, Tensor>, CheckpointError> {
        let damaged =
            |problem: String| CheckpointError::Damaged { file: self.tensors.file().into(), problem };
        let names = self.tensors.names().into_iter().filter(|name| wanted(name));
        names
            .map(|name| match self.tensors.read(&name) {
                Ok(Some(tensor)) => Ok((name, tensor)),
                Ok(None) => Err(damaged(format!("it has no `{name}`"))),
                Err(error) => Err(damaged(error.to_string())),
            })
            .collect()
    }

    /// That what `made_of` names is as it was when the run began; `folder` is the run's.
    ///
    /// # Errors
    /// The first that differs.
    pub fn check(&self, made_of: &Map<String, Value>, folder: &Path) -> Result<(), CheckpointError> {
        let said = |value: &Value| match exact(value) {
            Value::String(text) => text,
            _ => "not given".to_owned(),
        };
        for (key, now) in made_of {
            // What a run of an earlier version does not name was not given.
            let before = self.made_of.get(key).unwrap_or(&Value::Null);
            if before != &exact(now) {
                return Err(CheckpointError::Changed {
                    folder: folder.to_owned(),
                    what: key.clone(),
                    before: said(before),
                    now: said(now),
                });
            }
        }
        Ok(())
    }
}

/// A number as its text: JSON's need not come back to the last bit.
fn exact(value: &Value) -> Value {
    match value {
        Value::Null | Value::String(_) => value.clone(),
        other => Value::String(other.to_string()),
    }
}

/// The metadata of a safetensors file; its tensors are not read.
fn header(file: &Path) -> Result<HashMap<String, String>, CheckpointError> {
    let failed = |source| CheckpointError::Io { file: file.to_owned(), source };
    let damaged = |problem: String| CheckpointError::Damaged { file: file.to_owned(), problem };
    let mut reader = std::fs::File::open(file).map_err(failed)?;
    let mut length = [0; 8];
    reader.read_exact(&mut length).map_err(|_| damaged("it is shorter than its header".to_owned()))?;
    let size = u64::from_le_bytes(length);
    if size > LONGEST_HEADER {
        return Err(damaged("its header is none of a safetensors file".to_owned()));
    }
    let mut bytes = Vec::new();
    reader.take(size).read_to_end(&mut bytes).map_err(failed)?;
    let header: Header = serde_json::from_slice(&bytes).map_err(|error| damaged(error.to_string()))?;
    Ok(header.metadata)
}

/// The part of a safetensors header that is not about tensors. The crate's own reader wants all of the file.
#[derive(Deserialize)]
struct Header {
    #[serde(rename = "__metadata__")]
    metadata: HashMap<String, String>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;
    use serde_json::json;

    fn made_of(value: Value) -> Map<String, Value> {
        value.as_object().unwrap().clone()
    }

    fn checkpoint(loss: f64) -> Checkpoint {
        let tensor = Tensor::new(&[1f32, 2.0], &Device::Cpu).unwrap();
        let state: State = serde_json::from_value(json!({
            "step": 3, "optimizer_steps": 3, "loss_scale": "1", "best": null, "evaluations_since_best": 0,
            "stopped_early": null, "evaluation_due": false,
        }))
        .unwrap();
        let record = Record { metrics_bytes: 12, epoch_loss: loss, epoch_photos: 4, ..Record::default() };
        let snapshot = Snapshot { tensors: HashMap::from([("parameter.a".to_owned(), tensor)]), state };
        Checkpoint { snapshot, record, made_of: made_of(json!({ "--epochs": 3, "--seed": 1 })) }
    }

    #[test]
    fn what_was_written_is_read_back_to_the_last_bit() {
        let folder = tempfile::tempdir().unwrap();
        for loss in [0.1 + 0.2, 1e-300, 7.123_456_789_012_345e17, f64::MIN_POSITIVE] {
            let written = checkpoint(loss);
            written.write(folder.path()).unwrap();
            let read = Saved::open(folder.path()).unwrap();
            let snapshot = read.snapshot().unwrap();
            assert_eq!((&read.record, &snapshot.state), (&written.record, &written.snapshot.state));
            assert_eq!(snapshot.tensors["parameter.a"].to_vec1::<f32>().unwrap(), [1.0, 2.0]);
        }
    }

    #[test]
    fn a_cut_file_and_one_of_another_kind_are_called_damaged() {
        let folder = tempfile::tempdir().unwrap();
        checkpoint(1.0).write(folder.path()).unwrap();
        let file = folder.path().join(FILE);
        let whole = std::fs::read(&file).unwrap();
        for bytes in [&whole[..whole.len() - 1], &whole[..20], &whole[..3], b"no safetensors file at all"] {
            std::fs::write(&file, bytes).unwrap();
            let error = Saved::open(folder.path()).err().unwrap();
            assert!(matches!(error, CheckpointError::Damaged { .. }), "{error}");
            assert!(error.to_string().contains(FILE), "{error}");
        }
    }

    #[test]
    fn a_change_is_named_with_what_it_was_and_what_it_is_and_no_number_changes_by_being_written() {
        let folder = tempfile::tempdir().unwrap();
        let rates = [2.916_153_499_497_856_6e-5, 0.090_909_090_909_090_91, 5e-5];
        let mut written = checkpoint(1.0);
        written.made_of.insert("--rates".to_owned(), json!(rates));
        written.write(folder.path()).unwrap();
        let saved = Saved::open(folder.path()).unwrap();
        let check = |now: Value| saved.check(&made_of(now), Path::new("out")).map_err(|e| e.to_string());
        assert_eq!(check(json!({ "--seed": 1, "--epochs": 3, "--val": null, "--rates": rates })), Ok(()));
        let error = check(json!({ "--epochs": 5, "--seed": 1 })).unwrap_err();
        assert!(error.starts_with("--epochs was 3 when the run in out began and is 5 now"), "{error}");
        let error = check(json!({ "--seed": 1, "--ema-decay": 0.9 })).unwrap_err();
        assert!(error.starts_with("--ema-decay was not given"), "{error}");
    }

    #[test]
    fn best_and_last_share_a_file_and_a_newer_last_leaves_best_alone() {
        let folder = tempfile::tempdir().unwrap();
        let (best, last) = (folder.path().join("best"), folder.path().join("last"));
        checkpoint(1.0).write(&best).unwrap();
        Checkpoint::share(&best, &last).unwrap();
        assert_eq!(Saved::open(&last).unwrap().record.epoch_loss, 1.0);
        checkpoint(2.0).write(&last).unwrap();
        assert_eq!(Saved::open(&best).unwrap().record.epoch_loss, 1.0);
    }
}
