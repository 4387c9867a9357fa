//! The folder that a run writes: `adapter/`, `merged/`, `checkpoints/`, `metrics.jsonl`, `run.json`.
//!
//! `fit` writes through this; what is in a checkpoint stands in [`mod@crate::checkpoint`]. Weights and `run.json` are replaced whole, `metrics.jsonl` grows a line at a time
//! and is flushed with each: a kill at any moment leaves what was there.

use crate::evaluate::Evaluation;
use crate::lock::{self, Lock, LockError};
use crate::trainer::Step;
use featherlight::model::{ModelError, create_folder, save_text};
use serde_json::{Value, json};
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

const METRICS: &str = "metrics.jsonl";

/// The files of a run; an output folder that holds one of them holds an earlier run.
const FILES: [&str; 5] = ["run.json", METRICS, "adapter", "merged", "checkpoints"];

/// Why a run's folder could not be written.
#[derive(Debug, thiserror::Error)]
pub enum OutputError {
    /// A run lies there already.
    #[error(
        "{}: holds an earlier run ({found}); go on with it with --resume, replace it with --overwrite, or choose another --output",
        folder.display()
    )]
    Taken {
        /// The output folder.
        folder: PathBuf,
        /// What is there.
        found: &'static str,
    },
    /// Another process is at it.
    #[error("{}: another run is at work in this folder{}: wait for its end, or choose another --output", folder.display(), lock::owner(*process))]
    Busy {
        /// The output folder.
        folder: PathBuf,
        /// The number of the process, where it is known.
        process: Option<u32>,
    },
    /// The record of the run that goes on is shorter than it was.
    #[error(
        "{}: is shorter than at the last checkpoint ({found} of {wanted} bytes): put the whole file back, or begin anew with --overwrite",
        file.display()
    )]
    Shortened {
        /// `metrics.jsonl`.
        file: PathBuf,
        /// Its length.
        found: u64,
        /// Its length at the checkpoint.
        wanted: u64,
    },
    /// The system refused.
    #[error("{}: {source}", file.display())]
    Io {
        /// The file.
        file: PathBuf,
        /// Its reason.
        source: std::io::Error,
    },
    /// A model file could not be written.
    #[error(transparent)]
    Model(#[from] ModelError),
}

/// A run's folder, opened for writing.
pub struct Output {
    folder: PathBuf,
    metrics: File,
}

impl Output {
    /// Creates the folder; an earlier run in it is refused. With `overwrite` its record starts anew, and its weights stay
    /// until those of this run replace them.
    ///
    /// # Errors
    /// An earlier run; a folder that cannot be written.
    pub fn create(folder: &Path, overwrite: bool) -> Result<Self, OutputError> {
        Self::refuse_taken(folder, overwrite)?;
        // First of all: nobody may go on from a run that was replaced.
        for checkpoints in [Self::last(folder), Self::best(folder)] {
            match std::fs::remove_dir_all(&checkpoints) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(OutputError::Io { file: checkpoints, source: error });
                }
                _ => {}
            }
        }
        for name in FILES {
            let path = folder.join(name);
            if path.symlink_metadata().is_ok_and(|found| !found.is_dir()) {
                std::fs::remove_file(&path).map_err(|source| OutputError::Io { file: path, source })?;
            }
        }
        create_folder(folder)?;
        Self::open(folder)
    }

    /// That an earlier run in `folder` may be replaced, or that there is none; nothing is changed.
    ///
    /// # Errors
    /// An earlier run, or a folder that cannot be looked into.
    pub fn refuse_taken(folder: &Path, overwrite: bool) -> Result<(), OutputError> {
        for name in FILES {
            let path = folder.join(name);
            match path.symlink_metadata() {
                Ok(_) if overwrite => {}
                Ok(_) => return Err(OutputError::Taken { folder: folder.to_owned(), found: name }),
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(source) => return Err(OutputError::Io { file: path, source }),
            }
        }
        Ok(())
    }

    /// Keeps other runs out of `folder`, which is made where it is not there.
    ///
    /// # Errors
    /// If a run is at work in it, or nothing can be written to it.
    pub fn lock(folder: &Path) -> Result<Lock, OutputError> {
        create_folder(folder)?;
        let file = folder.join(".fit.lock");
        let lock = Lock::take(&file).map_err(|error| match error {
            LockError::Busy(process) => OutputError::Busy { folder: folder.to_owned(), process },
            LockError::Io(source) => OutputError::Io { file, source },
        })?;
        // The lock's own file may be there from an earlier run, in a folder that takes no new ones.
        let written = tempfile::Builder::new().prefix(UNFINISHED).tempfile_in(folder);
        written.map(|_| lock).map_err(|source| OutputError::Io { file: folder.to_owned(), source })
    }

    /// Opens the folder of a run that goes on: what `metrics.jsonl` held beyond `metrics_bytes` is cut off.
    ///
    /// # Errors
    /// If the file is shorter than that, or the system refuses.
    pub fn resume(folder: &Path, metrics_bytes: u64) -> Result<Self, OutputError> {
        let output = Self::open(folder)?;
        let failed = |source| OutputError::Io { file: folder.join(METRICS), source };
        let found = output.metrics.metadata().map_err(failed)?.len();
        if found < metrics_bytes {
            let file = folder.join(METRICS);
            return Err(OutputError::Shortened { file, found, wanted: metrics_bytes });
        }
        output.metrics.set_len(metrics_bytes).map_err(failed)?;
        Ok(output)
    }

    fn open(folder: &Path) -> Result<Self, OutputError> {
        remove_unfinished(folder);
        let path = folder.join(METRICS);
        let metrics = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&path)
            .map_err(|source| OutputError::Io { file: path, source })?;
        Ok(Self { folder: folder.to_owned(), metrics })
    }

    /// The length of `metrics.jsonl`, once it is on the disk.
    ///
    /// # Errors
    /// The system's.
    pub fn metrics_bytes(&self) -> Result<u64, OutputError> {
        let length = self.metrics.sync_data().and_then(|()| self.metrics.metadata()).map(|found| found.len());
        length.map_err(|source| OutputError::Io { file: self.folder.join(METRICS), source })
    }

    /// `checkpoints/last/`: what `--resume` goes on from.
    pub fn last(folder: &Path) -> PathBuf {
        folder.join("checkpoints/last")
    }

    /// `checkpoints/best/`: after the epoch with the best evaluation so far.
    pub fn best(folder: &Path) -> PathBuf {
        folder.join("checkpoints/best")
    }

    /// The folder itself.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// `adapter/`.
    pub fn adapter(&self) -> PathBuf {
        self.folder.join("adapter")
    }

    /// `merged/`.
    pub fn merged(&self) -> PathBuf {
        self.folder.join("merged")
    }

    /// Removes the adapter of an earlier run: this one has none, and its weights are there.
    ///
    /// # Errors
    /// The system's.
    pub fn remove_adapter(&self) -> Result<(), OutputError> {
        let path = self.adapter();
        match std::fs::remove_dir_all(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(OutputError::Io { file: path, source: error })
            }
            _ => Ok(()),
        }
    }

    /// Adds the line of an optimiser step.
    ///
    /// # Errors
    /// The system's.
    pub fn step(&mut self, step: &Step) -> Result<(), OutputError> {
        self.line(&json!({
            "step": step.step,
            "epoch": step.epoch,
            "loss": step.loss,
            "lr": step.learning_rate,
            "grad_norm": step.grad_norm,
            "photos": step.photos,
            "images_per_second": step.images_per_second(),
            "waiting": if step.seconds > 0.0 { step.waiting / step.seconds } else { 0.0 },
        }))
    }

    /// Adds the line of an evaluation.
    ///
    /// # Errors
    /// The system's.
    pub fn evaluation(&mut self, epoch: u64, step: u64, evaluation: &Evaluation) -> Result<(), OutputError> {
        self.line(&json!({
            "step": step,
            "epoch": epoch,
            "top1": evaluation.top1_accuracy(),
            "top5": evaluation.top5_accuracy(),
            "loss": evaluation.mean_loss(),
        }))
    }

    /// Replaces `run.json`.
    ///
    /// # Errors
    /// The system's.
    pub fn run(&self, run: &Value) -> Result<(), OutputError> {
        Ok(save_text(&format!("{run:#}\n"), &self.folder.join("run.json"))?)
    }

    fn line(&mut self, value: &Value) -> Result<(), OutputError> {
        let failed = |source| OutputError::Io { file: self.folder.join(METRICS), source };
        // One write: a kill leaves whole lines.
        self.metrics.write_all(format!("{value}\n").as_bytes()).map_err(failed)
    }
}

/// How the names of files begin that are still being written.
const UNFINISHED: &str = ".writing-";

/// Removes what a run that was killed had begun to write: as large as a model, and of no use to anyone.
fn remove_unfinished(folder: &Path) {
    let places = [Output::last(folder), Output::best(folder), folder.join("adapter"), folder.join("merged")];
    for place in places.iter().map(PathBuf::as_path).chain([folder]) {
        for entry in std::fs::read_dir(place).into_iter().flatten().flatten() {
            let name = entry.file_name();
            let name = name.to_string_lossy();
            // The second is safetensors' own, in folders that are the run's alone.
            let unfinished = name.starts_with(UNFINISHED) || (place != folder && name.starts_with(".tmp"));
            if unfinished && entry.file_type().is_ok_and(|kind| kind.is_file()) {
                // It is in nobody's way if it stays.
                let _ = std::fs::remove_file(entry.path());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_has_one_run_at_a_time() {
        let folder = tempfile::tempdir().unwrap();
        let output = folder.path().join("out");
        let first = Output::lock(&output).unwrap();
        let error = Output::lock(&output).err().unwrap().to_string();
        assert!(error.contains("another run is at work") && error.contains("process"), "{error}");
        drop(first);
        Output::lock(&output).unwrap();
        Output::create(&output, false).unwrap();
    }

    #[test]
    fn an_earlier_run_is_refused_and_replaced_only_when_asked() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("merged")).unwrap();
        std::fs::write(folder.path().join("merged/model.safetensors"), "earned").unwrap();
        std::fs::write(folder.path().join("notes.txt"), "mine").unwrap();
        std::fs::create_dir_all(Output::last(folder.path())).unwrap();
        std::fs::write(folder.path().join("merged/.writing-x"), "half a model").unwrap();

        let error = Output::create(folder.path(), false).err().unwrap().to_string();
        assert!(error.contains("merged") && error.contains("--overwrite"), "{error}");
        assert!(folder.path().join("merged/model.safetensors").exists());

        std::fs::write(folder.path().join("metrics.jsonl"), "of the earlier run").unwrap();
        let output = Output::create(folder.path(), true).unwrap();
        assert!(folder.path().join("merged/model.safetensors").exists(), "until there is something better");
        assert_eq!(std::fs::read_to_string(folder.path().join("metrics.jsonl")).unwrap(), "");
        assert!(!Output::last(folder.path()).exists(), "nobody goes on from a run that was replaced");
        assert!(!folder.path().join("merged/.writing-x").exists(), "what was never finished");
        std::fs::create_dir(output.adapter()).unwrap();
        output.remove_adapter().unwrap();
        output.remove_adapter().unwrap();
        assert!(!output.adapter().exists());
        assert!(folder.path().join("notes.txt").exists());
    }

    #[test]
    fn every_step_is_a_line_of_json_as_soon_as_it_is_made() {
        let folder = tempfile::tempdir().unwrap();
        let mut output = Output::create(folder.path(), false).unwrap();
        let step = Step {
            step: 3,
            epoch: 0.5,
            loss: 1.25,
            learning_rate: 1e-3,
            grad_norm: 2.0,
            photos: 8,
            seconds: 2.0,
            waiting: 0.5,
        };
        output.step(&step).unwrap();
        let text = std::fs::read_to_string(folder.path().join("metrics.jsonl")).unwrap();
        let line: Value = serde_json::from_str(text.strip_suffix('\n').unwrap()).unwrap();
        let expected = json!({
            "step": 3, "epoch": 0.5, "loss": 1.25, "lr": 1e-3, "grad_norm": 2.0, "photos": 8, "images_per_second": 4.0,
            "waiting": 0.25,
        });
        assert_eq!(line, expected);
    }

    #[test]
    fn what_was_written_after_a_checkpoint_is_cut_off_and_a_shorter_record_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("metrics.jsonl");
        std::fs::write(&path, "{\"step\":1}\n{\"st").unwrap();
        let mut output = Output::resume(folder.path(), 11).unwrap();
        output.line(&json!({ "step": 2 })).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "{\"step\":1}\n{\"step\":2}\n");
        assert_eq!(output.metrics_bytes().unwrap(), 22);
        assert!(matches!(
            Output::resume(folder.path(), 23),
            Err(OutputError::Shortened { found: 22, wanted: 23, .. })
        ));
    }
}
