//! What a person sees of a run: a page, pictures of its curves, tables for spreadsheets, event files for TensorBoard.
//!
//! `fit` has a [`Reporter`], which writes everything anew after every epoch, from what the run's folder says ([`history`],
//! `run.json`) and from what only the process knows: the answers to the validation photos and the first photos of the training.
//! `evaluate --report` writes the page without the curves ([`write_evaluation`]). Nothing here changes a run: a photo that
//! cannot be shown leaves a gap.

mod axis;
mod charts;
mod classes;
mod curve;
pub mod history;
mod matrix;
mod mistakes;
pub mod mosaic;
mod page;
mod picture;
mod run;
mod tables;
pub mod tensorboard;
mod thumbnail;

pub use mosaic::Mosaic;
pub use run::{RunDetails, write_run};
pub use tensorboard::EventFile;

use crate::dataset::Sample;
use crate::evaluate::{EvaluationReport, Views};
use crate::evaluation::Evaluation;
use featherlight::model::{ModelError, save_text};
use indicatif::HumanCount;
use page::{Figure, Page};
use std::path::{Path, PathBuf};

/// Why a report could not be made.
#[derive(Debug, thiserror::Error)]
pub enum ReportError {
    /// The system refused.
    #[error("{}: {source}", file.display())]
    Io {
        /// The file or folder.
        file: PathBuf,
        /// Its reason.
        source: std::io::Error,
    },
    /// A file of the run that is no JSON.
    #[error("{}: not JSON: {problem}", file.display())]
    Json {
        /// The file.
        file: PathBuf,
        /// Where and why not.
        problem: serde_json::Error,
    },
    /// A file could not be written.
    #[error(transparent)]
    Save(#[from] ModelError),
    /// A picture that could not be drawn or encoded.
    #[error("a picture of the report cannot be made: {problem}")]
    Picture {
        /// The reason.
        problem: String,
    },
    /// A table that could not be written.
    #[error("a table of the report cannot be made: {0}")]
    Table(#[from] csv::Error),
}

/// Writes the report of a run that is under way, again and again.
#[derive(Debug)]
pub struct Reporter {
    /// The run's.
    pub folder: PathBuf,
    /// The label of each class.
    pub labels: Vec<String>,
    /// The photos that its evaluations are about.
    pub samples: Vec<Sample>,
    /// The first photos of the training, as the model sees them.
    pub mosaic: Option<Mosaic>,
    /// What was noticed about the photos; the page repeats it.
    pub warnings: Vec<String>,
}

impl Reporter {
    /// Writes everything. `run.json` and `metrics.jsonl` must be as they are to be shown; `waiting_share` is that of the steps' time
    /// in which the model waited for photos. A report is no reason to lose a run: one that cannot be written is a warning.
    pub fn write(&self, evaluation: Option<&Evaluation>, waiting_share: Option<f64>) {
        let details = RunDetails {
            labels: &self.labels,
            evaluation,
            samples: &self.samples,
            mosaic: self.mosaic.as_ref(),
            warnings: &self.warnings,
            waiting_share,
        };
        if let Err(error) = write_run(&self.folder, &details) {
            tracing::warn!("the report could not be written: {error}");
        }
    }
}

/// Writes the page of an evaluation that stands for itself. `settings` say what was measured, and how.
///
/// # Errors
/// If the file cannot be written.
pub fn write_evaluation(
    file: &Path,
    report: &EvaluationReport,
    labels: &[String],
    settings: Vec<(String, String)>,
) -> Result<(), ReportError> {
    let evaluation = &report.evaluation;
    let mut headline = accuracy(evaluation);
    headline.push(Figure { name: "Photos", value: count(evaluation.photos as u64), note: String::new() });
    headline.push(Figure {
        name: "Time",
        value: crate::units::duration(report.seconds),
        note: String::new(),
    });
    let speed = crate::units::three_digits(evaluation.photos as f64 / report.seconds.max(f64::EPSILON));
    headline.push(Figure { name: "Images/s", value: speed, note: "loading included".to_owned() });
    if let Some(speed) = report.inference_speed {
        let note = format!("in batches of {}", speed.batch_size);
        let value = crate::units::three_digits(speed.images_per_second);
        headline.push(Figure { name: "Images/s of the model alone", value, note });
    }
    let unreadable = report.unreadable.iter();
    let page = Page {
        title: format!("{:.2} % top-1 on {} photos", 100.0 * evaluation.top1_accuracy(), count(evaluation.photos as u64)),
        state: match report.views {
            Views::Plain => "An evaluation by featherlight-train.".to_owned(),
            Views::Mirrored => "An evaluation by featherlight-train, with test-time augmentation: the mean of the probabilities of each photo and of its mirror image.".to_owned(),
        },
        headline,
        warnings: report.warnings.clone(),
        labels,
        evaluation: Some(evaluation),
        no_evaluation: "No photo could be read.",
        samples: &report.samples,
        unreadable: unreadable.map(|photo| (photo.path.display().to_string(), photo.reason.clone())).collect(),
        settings,
        facts: vec![("version".to_owned(), env!("CARGO_PKG_VERSION").to_owned())],
        ..Page::default()
    };
    Ok(save_text(&page.html(), file)?)
}

/// Top-1, top-5 (of five classes it says nothing), loss and macro F1.
fn accuracy(evaluation: &Evaluation) -> Vec<Figure> {
    let percent = |share: f64| format!("{:.2} %", 100.0 * share);
    let figure = |name, value| Figure { name, value, note: String::new() };
    let top5 = (evaluation.classes().len() > 5).then(|| figure("Top-5", percent(evaluation.top5_accuracy())));
    let mut figures = vec![figure("Top-1", percent(evaluation.top1_accuracy()))];
    figures.extend(top5);
    figures.push(figure("Loss", format!("{:.4}", evaluation.mean_loss())));
    figures.push(figure("Macro F1", percent(evaluation.macro_averages().f1)));
    figures
}

fn count(number: u64) -> String {
    HumanCount(number).to_string()
}
