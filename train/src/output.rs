//! The folder that a run writes: `adapter/`, `merged/`, `checkpoints/last/`, `metrics.jsonl`, `run.json`.
//!
//! `fit` writes through this. Weights and `run.json` are replaced whole, `metrics.jsonl` grows a line at a time
//! and is flushed with each: a kill at any moment leaves what was there.

use crate::evaluate::Evaluation;
use crate::trainer::{EpochEnd, Step};
use featherlight::model::{ModelError, create_folder, save_tensors, save_text};
use serde_json::{Value, json};
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

/// The files of a run; an output folder that holds one of them holds an earlier run.
const FILES: [&str; 5] = ["run.json", "metrics.jsonl", "adapter", "merged", "checkpoints"];

/// Why a run's folder could not be written.
#[derive(Debug, thiserror::Error)]
pub enum OutputError {
    /// A run lies there already.
    #[error(
        "{}: holds an earlier run ({found}); choose another --output, or replace it with --overwrite",
        folder.display()
    )]
    Taken {
        /// The output folder.
        folder: PathBuf,
        /// What is there.
        found: &'static str,
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
        for name in FILES {
            let path = folder.join(name);
            let failed = |source| OutputError::Io { file: path.clone(), source };
            match path.symlink_metadata() {
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => return Err(failed(error)),
                Ok(_) if !overwrite => {
                    return Err(OutputError::Taken { folder: folder.to_owned(), found: name });
                }
                Ok(found) if found.is_dir() => {}
                Ok(_) => std::fs::remove_file(&path).map_err(failed)?,
            }
        }
        create_folder(folder)?;
        let path = folder.join("metrics.jsonl");
        let metrics = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&path)
            .map_err(|source| OutputError::Io { file: path, source })?;
        Ok(Self { folder: folder.to_owned(), metrics })
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
            "images_per_second": step.images_per_second(),
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

    /// Replaces `checkpoints/last/checkpoint.safetensors`: the trained parameters, the optimiser's moments, and in its
    /// metadata `epoch`, `step` and `optimizer_steps`. One file, so that the parts cannot be of different ages.
    ///
    /// # Errors
    /// The system's.
    pub fn checkpoint(&self, end: &EpochEnd<'_>) -> Result<(), OutputError> {
        let folder = self.folder.join("checkpoints/last");
        create_folder(&folder)?;
        let metadata = [
            ("epoch", end.epoch.to_string()),
            ("step", end.step.to_string()),
            // Fewer than `step` where windows could not be read; the moments' bias correction counts these.
            ("optimizer_steps", end.optimizer.steps().to_string()),
        ];
        Ok(save_tensors(end.optimizer.state(), &metadata, &folder.join("checkpoint.safetensors"))?)
    }

    /// Replaces `run.json`.
    ///
    /// # Errors
    /// The system's.
    pub fn run(&self, run: &Value) -> Result<(), OutputError> {
        Ok(save_text(&format!("{run:#}\n"), &self.folder.join("run.json"))?)
    }

    fn line(&mut self, value: &Value) -> Result<(), OutputError> {
        let failed = |source| OutputError::Io { file: self.folder.join("metrics.jsonl"), source };
        // One write: a kill leaves whole lines.
        self.metrics.write_all(format!("{value}\n").as_bytes()).map_err(failed)
    }
}

/// The most memory this process has held, in bytes, where the system tells (Linux).
pub(crate) fn peak_memory() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kibibytes * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_earlier_run_is_refused_and_replaced_only_when_asked() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("merged")).unwrap();
        std::fs::write(folder.path().join("merged/model.safetensors"), "earned").unwrap();
        std::fs::write(folder.path().join("notes.txt"), "mine").unwrap();

        let error = Output::create(folder.path(), false).err().unwrap().to_string();
        assert!(error.contains("merged") && error.contains("--overwrite"), "{error}");
        assert!(folder.path().join("merged/model.safetensors").exists());

        std::fs::write(folder.path().join("metrics.jsonl"), "of the earlier run").unwrap();
        let output = Output::create(folder.path(), true).unwrap();
        assert!(folder.path().join("merged/model.safetensors").exists(), "until there is something better");
        assert_eq!(std::fs::read_to_string(folder.path().join("metrics.jsonl")).unwrap(), "");
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
        };
        output.step(&step).unwrap();
        let text = std::fs::read_to_string(folder.path().join("metrics.jsonl")).unwrap();
        let line: Value = serde_json::from_str(text.strip_suffix('\n').unwrap()).unwrap();
        let expected = json!({
            "step": 3, "epoch": 0.5, "loss": 1.25, "lr": 1e-3, "grad_norm": 2.0, "images_per_second": 4.0,
        });
        assert_eq!(line, expected);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn the_peak_memory_is_at_least_what_was_just_touched() {
        let touched = std::hint::black_box(vec![1u8; 64 << 20]);
        assert!(peak_memory().unwrap() >= touched.len() as u64);
    }
}
