//! The processes of a comparison: a training each, and a measurement each, with the program's own commands.
//!
//! A process of its own makes peak memory its own. What is started here ends with us: on a signal at once; where we are killed
//! outright, the lock on the comparison's folder stays with the child until it ends, so that no second one works beside it.

use super::jobs::Job;
use super::plan::Plan;
use super::result::{ResultError, RunResult};
use crate::lock::{self, Lock, LockError};
use crate::progress::Progress;
use featherlight::model::{ModelError, create_folder, save_text};
use serde_json::Value;
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// The file in a comparison's folder by which it is held.
pub const LOCK: &str = "compare.lock";

/// How often a process is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// The variable that says where CUDA's libraries are: no setting, so children keep it.
const KEPT: &str = "FEATHERLIGHT_CUDA_LIBRARIES";

/// Why a job came to nothing.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// A signal asked us to end.
    #[error("interrupted; the same command goes on where this one stopped")]
    Interrupted,
    /// The process failed: its last words.
    #[error("{0}")]
    Failed(String),
    /// A file of the comparison.
    #[error("{}: {source}", file.display())]
    Io {
        /// The file.
        file: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// A file of the comparison that is written whole.
    #[error(transparent)]
    Write(#[from] ModelError),
    /// The files that a process left.
    #[error(transparent)]
    Result(#[from] ResultError),
}

/// Keeps other comparisons out of `output`.
///
/// # Errors
/// If another comparison is at work there, or a process that one started.
pub fn take_lock(output: &Path) -> Result<Lock, RunError> {
    let file = output.join(LOCK);
    Lock::take(&file).map_err(|error| match error {
        LockError::Busy(process) => {
            let (folder, owner) = (output.display(), lock::owner(process));
            RunError::Failed(format!("{folder}: another comparison is at work in this folder{owner}"))
        }
        LockError::Io(source) => RunError::Io { file, source },
    })
}

/// What every process of a comparison has in common.
pub struct Runner<'a> {
    /// The program itself.
    pub program: &'a Path,
    /// `--threads`, handed on.
    pub threads: Option<NonZeroUsize>,
    /// Raised by a signal.
    pub stop: &'a AtomicBool,
    /// Held while anything runs.
    pub lock: Lock,
}

/// A child that does not outlive us.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Runner<'_> {
    /// Trains `job` from its start.
    ///
    /// # Errors
    /// If the process fails or is interrupted.
    pub fn train(&mut self, job: &Job, progress: &mut Progress) -> Result<(), RunError> {
        create_folder(&job.folder)?;
        // In this order: at no moment does the folder say that it holds more than it does.
        for stale in ["result.json", "evaluation.json", "run.json"] {
            remove(&job.folder.join(stale))?;
        }
        save_text(&format!("{:#}\n", job.training), &job.folder.join("asked.json"))?;
        let log = job.folder.join("log.txt");
        let file = File::create(&log).map_err(|source| RunError::Io { file: log, source })?;
        let words = std::iter::once("fit".into()).chain(job.words.iter().cloned());
        self.run(job, "fit", words.collect(), None, file, &mut Watch::new(&job.folder, progress))
    }

    /// Measures the trained model of `job` and writes its result.
    ///
    /// # Errors
    /// If the process fails or is interrupted.
    pub fn measure(
        &mut self,
        job: &Job,
        plan: &Plan,
        progress: &mut Progress,
    ) -> Result<RunResult, RunError> {
        let file = job.folder.join("evaluation.json");
        let io = |file: &Path| {
            let file = file.to_owned();
            move |source| RunError::Io { file, source }
        };
        let answer = File::create(&file).map_err(io(&file))?;
        let log = job.folder.join("log.txt");
        let append = File::options().create(true).append(true).open(&log).map_err(io(&log))?;
        let words = measurement(job, plan);
        self.run(job, "evaluate", words, Some(answer), append, &mut Watch::silent(progress))?;
        let result = RunResult::collect(job)?;
        save_text(&format!("{:#}\n", result.to_json()), &job.folder.join("result.json"))?;
        // Nobody goes on from a finished variant; its checkpoints are three times the model and more, for each of many.
        match std::fs::remove_dir_all(job.folder.join("checkpoints")) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!("{}: its checkpoints cannot be removed: {error}", job.folder.display());
            }
            _ => {}
        }
        Ok(result)
    }

    fn run(
        &mut self,
        job: &Job,
        what: &str,
        words: Vec<OsString>,
        answer: Option<File>,
        log: File,
        watch: &mut Watch<'_>,
    ) -> Result<(), RunError> {
        let started = |source| RunError::Io { file: self.program.to_owned(), source };
        let mut command = Command::new(self.program);
        command.args(&words);
        if let Some(threads) = self.threads {
            command.arg(format!("--threads={threads}"));
        }
        for (name, _) in std::env::vars_os() {
            // What a person set for this command is no setting of a variant.
            if name.to_string_lossy().starts_with("FEATHERLIGHT_") && name != KEPT {
                command.env_remove(name);
            }
        }
        command
            .stdin(Stdio::from(self.lock.share().map_err(started)?))
            .stdout(match answer {
                Some(file) => Stdio::from(file),
                None => Stdio::from(log.try_clone().map_err(started)?),
            })
            .stderr(Stdio::from(log));
        let mut child = Running(command.spawn().map_err(started)?);
        self.lock.note(child.0.id());
        let status = self.wait(&mut child, watch)?;
        self.lock.note(std::process::id());
        if status.success() {
            return Ok(());
        }
        // Ctrl-C reaches the child as well, and perhaps before us.
        std::thread::sleep(LOOK_EVERY);
        if self.stop.load(Ordering::Relaxed) {
            return Err(RunError::Interrupted);
        }
        let log = std::fs::read(job.folder.join("log.txt")).unwrap_or_default();
        Err(RunError::Failed(last_words(what, status, &String::from_utf8_lossy(&log))))
    }

    fn wait(&self, child: &mut Running, watch: &mut Watch<'_>) -> Result<ExitStatus, RunError> {
        loop {
            if self.stop.load(Ordering::Relaxed) {
                return Err(RunError::Interrupted);
            }
            let looked = child.0.try_wait();
            if let Some(status) =
                looked.map_err(|source| RunError::Io { file: self.program.to_owned(), source })?
            {
                return Ok(status);
            }
            watch.look();
            std::thread::sleep(LOOK_EVERY);
        }
    }
}

/// The words of the measurement: of every photo of the test set where there is one; else of a batch of the training's photos,
/// for its speed alone.
fn measurement(job: &Job, plan: &Plan) -> Vec<OsString> {
    let flag = |name: &str, value: &Path| {
        let mut word = OsString::from(format!("--{name}="));
        word.push(value);
        word
    };
    let settings = &job.settings;
    let data = plan.test.as_ref().map_or_else(|| settings.data.clone(), |test| plan.root.join(test));
    let mut words: Vec<OsString> = vec![
        "evaluate".into(),
        "--json".into(),
        "--speed".into(),
        format!("--batch-size={}", plan.evaluate_batch_size).into(),
        format!("--loader-threads={}", settings.loader_threads).into(),
        format!("--device={}", settings.device.name()).into(),
        format!("--dtype={}", settings.precision.name()).into(),
        flag("model", &job.folder.join("merged")),
        flag("data", &data),
    ];
    if let Some(root) = settings.image_root.as_ref().filter(|_| data.is_file()) {
        words.push(flag("image-root", root));
    }
    if plan.test.is_none() {
        words.push(format!("--max-photos={}", plan.evaluate_batch_size).into());
    }
    words
}

fn remove(file: &Path) -> Result<(), RunError> {
    match std::fs::remove_file(file) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => {
            Err(RunError::Io { file: file.to_owned(), source })
        }
        _ => Ok(()),
    }
}

/// Why a process failed, from its log: the line of its error, or the last lines there are.
fn last_words(what: &str, status: ExitStatus, log: &str) -> String {
    let lines: Vec<&str> = log.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let words =
        match lines.iter().rposition(|line| line.starts_with("error:") || line.contains("panicked at")) {
            Some(at) => lines[at..lines.len().min(at + 4)].join(" "),
            None => lines[lines.len().saturating_sub(3)..].join(" "),
        };
    match (status.code(), words.as_str()) {
        (Some(1), words) if !words.is_empty() => format!("{what}: {}", words.trim_start_matches("error: ")),
        (_, "") => format!("{what} ended with {status} and without a word"),
        // A code of its own, or a signal: memory that ran out says nothing in the log.
        (_, words) => format!("{what} ended with {status}: {words}"),
    }
}

/// Follows a training by the files it writes.
struct Watch<'a> {
    progress: &'a mut Progress,
    folder: Option<PathBuf>,
    steps: Option<u64>,
    looked: Instant,
}

impl<'a> Watch<'a> {
    fn new(folder: &Path, progress: &'a mut Progress) -> Self {
        Self { progress, folder: Some(folder.to_owned()), steps: None, looked: Instant::now() }
    }

    fn silent(progress: &'a mut Progress) -> Self {
        Self { progress, folder: None, steps: None, looked: Instant::now() }
    }

    fn look(&mut self) {
        let Some(folder) = self.folder.as_ref().filter(|_| self.looked.elapsed() >= Duration::from_secs(1))
        else {
            return;
        };
        self.looked = Instant::now();
        if self.steps.is_none() {
            let run = super::result::read_json(&folder.join("run.json")).ok().flatten();
            let Some(steps) = run.and_then(|run| run["steps"].as_u64()) else { return };
            self.progress.start(steps, "steps");
            self.steps = Some(steps);
        }
        let Some(step) = last_step(&folder.join("metrics.jsonl")) else { return };
        let figure = |name: &str| step[name].as_f64().unwrap_or(f64::NAN);
        let message = format!("loss {:.4} · {:.1} img/s", figure("loss"), figure("images_per_second"));
        self.progress.reached(step["step"].as_u64().unwrap_or(0), &message);
    }
}

impl Drop for Watch<'_> {
    fn drop(&mut self) {
        self.progress.finish();
    }
}

/// The last line of a step that is whole.
fn last_step(metrics: &Path) -> Option<Value> {
    const TAIL: u64 = 4096;
    let mut file = File::open(metrics).ok()?;
    let length = file.metadata().ok()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(TAIL))).ok()?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes).ok()?;
    let text = String::from_utf8_lossy(&bytes);
    let parsed = text.lines().rev().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    parsed.into_iter().find(|line| line.get("images_per_second").is_some())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(unix)]
    #[test]
    fn a_failure_is_told_in_the_process_s_own_last_words() {
        use std::os::unix::process::ExitStatusExt;
        let log = "epoch 1/2\nerror: the loss of step 3 is NaN:\n  a lower --learning-rate may help\n";
        let ended = |code: i32| ExitStatus::from_raw(code << 8);
        let words = last_words("fit", ended(1), log);
        assert_eq!(words, "fit: the loss of step 3 is NaN: a lower --learning-rate may help");
        let killed = last_words("fit", ExitStatus::from_raw(9), "epoch 1/2\n");
        assert!(killed.contains("signal: 9") && killed.contains("epoch 1/2"), "{killed}");
        assert!(last_words("evaluate", ended(3), "").contains("exit status: 3 and without a word"));
    }

    #[test]
    fn one_folder_is_one_comparison_s_at_a_time() {
        let folder = tempfile::tempdir().unwrap();
        let mut lock = take_lock(folder.path()).unwrap();
        lock.note(4711);
        let error = take_lock(folder.path()).err().unwrap().to_string();
        assert!(error.contains("another comparison") && error.contains("4711"), "{error}");
        let kept_by_a_child = lock.share().unwrap();
        drop(lock);
        assert!(take_lock(folder.path()).is_err(), "the child is still there");
        drop(kept_by_a_child);
        assert!(take_lock(folder.path()).is_ok());
    }

    #[test]
    fn the_last_step_is_found_behind_evaluations_and_torn_lines() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("metrics.jsonl");
        let text = "{\"step\":4,\"images_per_second\":2.0}\n{\"step\":4,\"top1\":0.5}\n{\"step\":5,\"ima";
        std::fs::write(&file, text).unwrap();
        assert_eq!(last_step(&file).unwrap()["step"], 4);
    }
}
