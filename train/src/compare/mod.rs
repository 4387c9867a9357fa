//! `compare`: several trainings on one data set beside each other, with what they reach and what they cost.
//!
//! A TOML file ([`plan`], read by [`mod@file`] with the settings of [`flags`]) says which variants there are. [`mod@jobs`]
//! makes runs of them and refuses whatever can be refused beforehand; [`resume`] finds out which are done; [`run`] has the
//! rest done, each by a process of its own; [`result`] gathers their figures, and [`figures`] lays them out for the pages of
//! [`markdown`], [`mod@csv`] and [`html`]. Nothing here trains or measures, and nothing knows an architecture.

pub mod csv;
pub mod figures;
pub mod file;
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
use run::{RunError, Runner, take_lock};
use std::fmt::Write;
use std::num::NonZeroUsize;
use std::path::PathBuf;
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
    /// Threads that compute, in every process.
    pub threads: Option<NonZeroUsize>,
    /// The program whose commands are run: this one.
    pub program: PathBuf,
}

/// What a comparison came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Outcome {
    /// Runs that have their figures, earlier ones among them.
    pub finished: usize,
    /// Runs that failed.
    pub failed: usize,
}

/// A comparison that was read and checked, and has written nothing yet.
pub struct Comparison<'a> {
    settings: &'a CompareSettings,
    plan: Plan,
    /// Absolute: children are given it.
    output: PathBuf,
    jobs: Vec<Job>,
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

impl<'a> Comparison<'a> {
    /// Reads the file that `settings` names, and checks whatever can be checked without training.
    ///
    /// # Errors
    /// If the file, a model or the photos cannot be used.
    pub fn plan(settings: &'a CompareSettings, fit: &FitCommand) -> Result<Self, CompareError> {
        let plan = Plan::read(&settings.config, fit)?;
        let output = std::path::absolute(&settings.output)
            .map_err(|source| RunError::Io { file: settings.output.clone(), source })?;
        let jobs = jobs(&plan, &output, fit)
            .map_err(|source| CompareError::Job { file: settings.config.clone(), source })?;
        Ok(Self { settings, plan, output, jobs })
    }

    /// What [`Comparison::run`] would do: every run with its command line, and the tables.
    ///
    /// # Errors
    /// If a file of an earlier run cannot be read.
    pub fn describe(&self) -> Result<String, CompareError> {
        let mut text = String::new();
        // `write!` to a String cannot fail.
        for (job, state) in self.jobs.iter().zip(self.states()?) {
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
        for table in &self.plan.tables {
            let names: Vec<&str> =
                table.variants.iter().map(|at| self.plan.variants[*at].name.as_str()).collect();
            let _ = writeln!(text, "table `{}`: {}", table.title, names.join(", "));
        }
        Ok(text)
    }

    /// Runs what is not done yet, until `stop` is raised. A run that fails does not keep the others from being tried; the
    /// pages are written anew after each.
    ///
    /// # Errors
    /// If finished runs would be lost, a file cannot be written, or `stop` was raised.
    pub fn run(&self, stop: &AtomicBool, progress: &mut Progress) -> Result<Outcome, CompareError> {
        let Self { settings, plan, output, jobs } = self;
        create_folder(output)?;
        let mut runner =
            Runner { program: &settings.program, threads: settings.threads, stop, lock: take_lock(output)? };
        // Not before the folder is ours: another comparison might have finished something in between.
        let states = self.states()?;
        self.refuse_loss(&states)?;
        let mut outcomes: Vec<JobOutcome> = states
            .iter()
            .map(|state| match state {
                State::Finished(result) => JobOutcome::Finished(result.clone()),
                _ => JobOutcome::Waiting,
            })
            .collect();
        self.write_pages(&outcomes)?;
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
                runner.measure(job, plan, progress)
            });
            outcomes[at] = match measured {
                Ok(result) => {
                    let show = |column: Column| {
                        column.of(&result).map_or("–".to_owned(), |value| column.show(value))
                    };
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
            self.write_pages(&outcomes)?;
        }
        let count =
            |wanted: fn(&JobOutcome) -> bool| outcomes.iter().filter(|outcome| wanted(outcome)).count();
        Ok(Outcome {
            finished: count(|outcome| matches!(outcome, JobOutcome::Finished(_))),
            failed: count(|outcome| matches!(outcome, JobOutcome::Failed(_))),
        })
    }

    fn states(&self) -> Result<Vec<State>, ResultError> {
        self.jobs.iter().map(state).collect()
    }

    /// Refuses to replace what was finished, unless asked to.
    fn refuse_loss(&self, states: &[State]) -> Result<(), CompareError> {
        let lost = self.jobs.iter().zip(states).filter_map(|(job, state)| match state {
            State::Changed(differences) => Some(format!("{} ({})", job.name, differences.join(", "))),
            State::Foreign => Some(format!("{} (not made by a comparison)", job.name)),
            _ => None,
        });
        let runs: Vec<String> = lost.collect();
        if runs.is_empty() || self.settings.overwrite {
            return Ok(());
        }
        Err(CompareError::Taken { output: self.settings.output.clone(), runs })
    }

    fn write_pages(&self, outcomes: &[JobOutcome]) -> Result<(), CompareError> {
        let report = Report::new(&self.plan, &self.jobs, outcomes);
        save_text(&markdown::markdown(&report), &self.output.join("comparison.md"))?;
        save_text(&csv::csv(&report)?, &self.output.join("comparison.csv"))?;
        Ok(save_text(&html::html(&report), &self.output.join("comparison.html"))?)
    }
}

/// A word as a shell takes it; of `--flag=value` only the value can need quotes.
fn quoted(word: &str) -> String {
    match word.split_once('=') {
        Some((flag, value)) if flag.starts_with("--") => format!("{flag}={}", shell_words::quote(value)),
        _ => shell_words::quote(word).into_owned(),
    }
}

#[cfg(test)]
mod tests;
