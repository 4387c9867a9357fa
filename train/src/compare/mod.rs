//! `compare`: several trainings on one data set beside each other, with what they reach and what they cost.
//!
//! A TOML file ([`plan`], read by [`mod@file`] with the settings of [`flags`]) says which variants there are. [`mod@jobs`]
//! makes runs of them and refuses whatever can be refused beforehand; [`resume`] finds out which are done; [`run`] has the
//! rest done, each by a process of its own; [`result`] gathers their figures, and [`figures`] lays them out for the pages of
//! [`markdown`], [`mod@csv`] and [`html`]. Nothing here trains or measures, and nothing knows an architecture.

pub mod csv;
pub mod figures;
pub mod file;
pub mod fingerprint;
pub mod flags;
pub mod html;
pub mod jobs;
pub mod markdown;
pub mod plan;
mod plot;
pub mod result;
pub mod resume;
pub mod run;

use crate::progress::Progress;
use featherlight::model::{ModelError, create_folder, save_text};
use figures::{Column, JobOutcome, Report};
use file::PlanError;
use flags::FitCommand;
use jobs::{Job, JobError, jobs};
use plan::Plan;
use result::ResultError;
use resume::{State, state};
use run::{Lock, RunError, Runner};
use std::fmt::Write;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

/// What a comparison was told.
#[derive(Debug, Clone)]
pub struct CompareSettings {
    /// The TOML file.
    pub config: PathBuf,
    /// The folder for everything it writes.
    pub output: PathBuf,
    /// Whether finished runs of something else are replaced.
    pub overwrite: bool,
    /// Whether to tell what would be done, and do nothing.
    pub dry_run: bool,
    /// Threads that compute, in every process.
    pub threads: Option<NonZeroUsize>,
    /// The program whose commands are run: this one.
    pub program: PathBuf,
    /// Raised to end early.
    pub stop: Arc<AtomicBool>,
}

/// What a comparison came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// What would be done, for a person.
    Planned(String),
    /// Everything was tried.
    Done {
        /// Runs that have their figures, earlier ones among them.
        finished: usize,
        /// Runs that failed.
        failed: usize,
    },
}

/// Why a comparison ended early.
#[derive(Debug, thiserror::Error)]
pub enum CompareError {
    /// The file.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// The variants.
    #[error("{}: {source}", file.display())]
    Job {
        /// The file.
        file: PathBuf,
        /// What is wrong with one of them.
        source: JobError,
    },
    /// Finished runs of something else.
    #[error(
        "{}: holds finished runs of something else: {}. --overwrite runs these again; another --output keeps them",
        output.display(), runs.join("; ")
    )]
    Taken {
        /// The comparison's folder.
        output: PathBuf,
        /// The runs and what differs.
        runs: Vec<String>,
    },
    /// A process, or a file of the comparison.
    #[error(transparent)]
    Run(#[from] RunError),
    /// A file of an earlier run.
    #[error(transparent)]
    Result(#[from] ResultError),
    /// A page.
    #[error(transparent)]
    Write(#[from] ModelError),
    /// The CSV.
    #[error(transparent)]
    Csv(#[from] ::csv::Error),
}

/// A flag that SIGINT, SIGTERM and SIGHUP raise from now on, instead of ending the process.
///
/// # Errors
/// If the system refuses.
pub fn stop_on_signals() -> std::io::Result<Arc<AtomicBool>> {
    use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [SIGHUP, SIGINT, SIGTERM] {
        signal_hook::flag::register(signal, Arc::clone(&stop))?;
    }
    Ok(stop)
}

/// Runs what is not done yet of the comparison that `settings.config` describes. A run that fails does not keep the others from
/// being tried; the pages are written anew after each.
///
/// # Errors
/// If the file, a model or the photos cannot be used (before anything runs), finished runs would be lost, a file cannot be
/// written, or a signal came.
pub fn compare(
    settings: &CompareSettings,
    fit: &FitCommand,
    progress: &mut Progress,
) -> Result<Outcome, CompareError> {
    let plan = Plan::read(&settings.config, fit)?;
    let output = std::path::absolute(&settings.output)
        .map_err(|source| RunError::Io { file: settings.output.clone(), source })?;
    let jobs = jobs(&plan, &output, fit)
        .map_err(|source| CompareError::Job { file: settings.config.clone(), source })?;
    let look = || jobs.iter().map(state).collect::<Result<Vec<_>, _>>();
    if settings.dry_run {
        return Ok(Outcome::Planned(planned(&plan, &jobs, &look()?)));
    }
    create_folder(&output)?;
    let mut runner = Runner {
        program: &settings.program,
        threads: settings.threads,
        stop: &settings.stop,
        lock: Lock::take(&output)?,
    };
    // Not before the folder is ours: another comparison might have finished something in between.
    let states = look()?;
    refuse_loss(settings, &jobs, &states)?;
    let mut outcomes: Vec<JobOutcome> = states
        .iter()
        .map(|state| match state {
            State::Finished(result) => JobOutcome::Finished(result.clone()),
            _ => JobOutcome::Waiting,
        })
        .collect();
    write_pages(&plan, &jobs, &outcomes, &output)?;
    for (at, (job, state)) in jobs.iter().zip(&states).enumerate() {
        let place = format!("[{}/{}] {}", at + 1, jobs.len(), job.name);
        let trained = match state {
            State::Finished(_) => {
                progress.say(&format!("{place}: finished before, kept"));
                continue;
            }
            State::Trained => Ok(()),
            State::Untrained | State::Changed(_) | State::Foreign => {
                progress.say(&format!("{place}: training; {}", job.folder.join("log.txt").display()));
                runner.train(job, progress)
            }
        };
        let measured = trained.and_then(|()| {
            progress.say(&format!("{place}: measuring"));
            runner.measure(job, &plan, progress)
        });
        outcomes[at] = match measured {
            Ok(result) => {
                let show =
                    |column: Column| column.of(&result).map_or("–".to_owned(), |value| column.show(value));
                progress.say(&format!(
                    "{place}: top-1 {}, trained in {}",
                    show(Column::Top1),
                    show(Column::TrainingTime)
                ));
                JobOutcome::Finished(Box::new(result))
            }
            Err(RunError::Interrupted) => return Err(RunError::Interrupted.into()),
            Err(error) => {
                progress.say(&format!("{place}: failed: {error}"));
                JobOutcome::Failed(error.to_string())
            }
        };
        write_pages(&plan, &jobs, &outcomes, &output)?;
    }
    let count = |wanted: fn(&JobOutcome) -> bool| outcomes.iter().filter(|outcome| wanted(outcome)).count();
    Ok(Outcome::Done {
        finished: count(|outcome| matches!(outcome, JobOutcome::Finished(_))),
        failed: count(|outcome| matches!(outcome, JobOutcome::Failed(_))),
    })
}

/// Refuses to replace what was finished, unless asked to.
fn refuse_loss(settings: &CompareSettings, jobs: &[Job], states: &[State]) -> Result<(), CompareError> {
    let lost = jobs.iter().zip(states).filter_map(|(job, state)| match state {
        State::Changed(differences) => Some(format!("{} ({})", job.name, differences.join(", "))),
        State::Foreign => Some(format!("{} (not made by a comparison)", job.name)),
        _ => None,
    });
    let runs: Vec<String> = lost.collect();
    if runs.is_empty() || settings.overwrite {
        return Ok(());
    }
    Err(CompareError::Taken { output: settings.output.clone(), runs })
}

fn write_pages(
    plan: &Plan,
    jobs: &[Job],
    outcomes: &[JobOutcome],
    output: &Path,
) -> Result<(), CompareError> {
    let report = Report::new(plan, jobs, outcomes);
    save_text(&markdown::markdown(&report), &output.join("comparison.md"))?;
    save_text(&csv::csv(&report)?, &output.join("comparison.csv"))?;
    Ok(save_text(&html::html(&report), &output.join("comparison.html"))?)
}

/// The plan in words: every run with its command line, and the tables.
fn planned(plan: &Plan, jobs: &[Job], states: &[State]) -> String {
    let mut text = String::new();
    // `write!` to a String cannot fail.
    for (job, state) in jobs.iter().zip(states) {
        let what = match state {
            State::Finished(_) => "finished, will be kept".to_owned(),
            State::Trained => "trained, will be measured".to_owned(),
            State::Untrained => "will be trained and measured".to_owned(),
            State::Changed(differences) => {
                format!("finished with other settings, needs --overwrite: {}", differences.join(", "))
            }
            State::Foreign => "a run that no comparison made, needs --overwrite".to_owned(),
        };
        let words: Vec<String> = job.words.iter().map(|word| quoted(&word.to_string_lossy())).collect();
        let _ = writeln!(text, "{}: {what}\n  fit {}", job.name, words.join(" "));
    }
    for table in &plan.tables {
        let names: Vec<&str> = table.variants.iter().map(|at| plan.variants[*at].name.as_str()).collect();
        let _ = writeln!(text, "table `{}`: {}", table.title, names.join(", "));
    }
    text
}

/// A word as a shell takes it.
fn quoted(word: &str) -> String {
    let plain = |letter: char| letter.is_alphanumeric() || "-_=./,+:@".contains(letter);
    if word.chars().all(plain) { word.to_owned() } else { format!("'{}'", word.replace('\'', "'\\''")) }
}

#[cfg(test)]
mod tests;
