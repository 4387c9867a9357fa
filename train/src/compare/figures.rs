//! The figures of a comparison as its pages show them: what a column is, what a row holds, which value is the best.

use super::jobs::Job;
use super::plan::{Plan, Variant};
use super::result::{MeasuredOn, RunResult};
use crate::units::{bytes, duration, three_digits};
use indicatif::HumanCount;
use serde_json::{Value, json};

/// What became of a job so far.
#[derive(Debug, Clone, PartialEq)]
pub enum JobOutcome {
    /// Nothing yet.
    Waiting,
    /// Its figures.
    Finished(Box<RunResult>),
    /// Its last words.
    Failed(String),
}

/// A column of figures.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Column {
    /// Share of right answers.
    Top1,
    /// Share of answers with the right label among the first five.
    Top5,
    /// Parameters trained.
    Trainable,
    /// Main memory, bytes.
    PeakMemory,
    /// The device's memory, bytes.
    DeviceMemory,
    /// Seconds.
    TrainingTime,
    /// Photos a second.
    TrainingSpeed,
    /// Photos a second.
    InferenceSpeed,
}

impl Column {
    /// Every column, in the order of the tables.
    pub const ALL: [Self; 8] = [
        Self::Top1,
        Self::Top5,
        Self::Trainable,
        Self::PeakMemory,
        Self::DeviceMemory,
        Self::TrainingTime,
        Self::TrainingSpeed,
        Self::InferenceSpeed,
    ];

    /// The heading.
    pub fn title(self) -> &'static str {
        match self {
            Self::Top1 => "Top-1",
            Self::Top5 => "Top-5",
            Self::Trainable => "Trainable parameters",
            Self::PeakMemory => "Peak memory",
            Self::DeviceMemory => "Peak GPU memory",
            Self::TrainingTime => "Training time",
            Self::TrainingSpeed => "Training images/s",
            Self::InferenceSpeed => "Inference images/s",
        }
    }

    /// What the figure is, in a sentence.
    pub fn note(self) -> &'static str {
        match self {
            Self::Top1 => "photos whose right label came first",
            Self::Top5 => "photos whose right label was among the first five",
            Self::Trainable => {
                "parameters that were trained, and how many of the model's own parameters that would be"
            }
            Self::PeakMemory => {
                "the most main memory that the training's own process held: weights, photos waiting for their step, evaluations and saving included"
            }
            Self::DeviceMemory => "the most that the training's tensors held of the GPU's memory at once",
            Self::TrainingTime => {
                "from the first photo to the last file; the evaluations after each epoch and saving included, reading the model not"
            }
            Self::TrainingSpeed => {
                "photos a second at the median optimiser step, loading included, evaluations not"
            }
            Self::InferenceSpeed => {
                "photos a second of the merged model alone: the median forward pass over one batch of photos that lie decoded in memory, in a process of its own"
            }
        }
    }

    /// The figure of a run.
    pub fn of(self, result: &RunResult) -> Option<f64> {
        match self {
            Self::Top1 => Some(result.top1),
            Self::Top5 => Some(result.top5),
            Self::Trainable => Some(result.trainable_parameters as f64),
            Self::PeakMemory => result.peak_memory_bytes.map(|bytes| bytes as f64),
            Self::DeviceMemory => result.peak_device_memory_bytes.map(|bytes| bytes as f64),
            Self::TrainingTime => Some(result.training_seconds),
            Self::TrainingSpeed => result.training_images_per_second,
            Self::InferenceSpeed => result.inference_images_per_second,
        }
    }

    /// Whether less is better.
    pub fn is_cost(self) -> bool {
        matches!(self, Self::Trainable | Self::PeakMemory | Self::DeviceMemory | Self::TrainingTime)
    }

    /// A value in words.
    pub fn show(self, value: f64) -> String {
        match self {
            Self::Top1 | Self::Top5 => format!("{:.2} %", 100.0 * value),
            Self::Trainable => HumanCount(value as u64).to_string(),
            Self::PeakMemory | Self::DeviceMemory => bytes(value),
            Self::TrainingTime => duration(value),
            Self::TrainingSpeed | Self::InferenceSpeed => three_digits(value),
        }
    }
}

/// A figure over the seeds of a variant.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Spread {
    /// Their mean.
    pub mean: f64,
    /// The least.
    pub least: f64,
    /// The greatest.
    pub most: f64,
}

/// A variant.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    /// Its name.
    pub name: String,
    /// Every setting of its training; `seed` is a list where it has several.
    pub settings: Value,
    /// Its finished runs, one a seed.
    pub results: Vec<RunResult>,
    /// The runs that it is to have.
    pub runs: usize,
    /// Why runs failed.
    pub failures: Vec<String>,
}

impl Row {
    /// What the jobs of the variant at `at` came to.
    fn new(plan: &Plan, at: usize, jobs: &[Job], outcomes: &[JobOutcome]) -> Self {
        let Variant { name, seeds, .. } = &plan.variants[at];
        let mut row = Self {
            name: name.clone(),
            settings: Value::Null,
            results: Vec::new(),
            runs: 0,
            failures: Vec::new(),
        };
        for (job, outcome) in jobs.iter().zip(outcomes).filter(|(job, _)| job.variant == at) {
            if row.runs == 0 {
                row.settings = job.training["settings"].clone();
                if !seeds.is_empty() {
                    row.settings["seed"] = json!(seeds);
                }
            }
            row.runs += 1;
            match outcome {
                JobOutcome::Waiting => {}
                JobOutcome::Finished(result) => row.results.push((**result).clone()),
                JobOutcome::Failed(words) if job.name == *name => row.failures.push(words.clone()),
                JobOutcome::Failed(words) => row.failures.push(format!("{}: {words}", job.name)),
            }
        }
        row
    }

    /// The figure over the runs that are finished and have it.
    pub fn spread(&self, column: Column) -> Option<Spread> {
        let values: Vec<f64> = self.results.iter().filter_map(|result| column.of(result)).collect();
        (!values.is_empty()).then(|| Spread {
            mean: values.iter().sum::<f64>() / values.len() as f64,
            least: values.iter().copied().fold(f64::INFINITY, f64::min),
            most: values.iter().copied().fold(f64::NEG_INFINITY, f64::max),
        })
    }

    /// The cell of `column`: the mean over the seeds, for accuracies with the least and the greatest.
    pub fn cell(&self, column: Column) -> String {
        let Some(Spread { mean, least, most }) = self.spread(column) else { return "–".to_owned() };
        let shown = column.show(mean);
        match column {
            Column::Trainable => {
                let all = self.results.first().map_or(0, |result| result.parameters);
                format!("{shown} ({:.2} %)", 100.0 * mean / all.max(1) as f64)
            }
            Column::Top1 | Column::Top5 if self.results.len() > 1 => {
                format!("{shown} ({:.2}–{:.2})", 100.0 * least, 100.0 * most)
            }
            _ => shown,
        }
    }

    /// How far it is, in a word or two.
    pub fn state(&self) -> String {
        match (self.results.len(), self.failures.len(), self.runs) {
            (done, 0, runs) if done == runs => "finished".to_owned(),
            (0, 0, _) => "not run yet".to_owned(),
            (0, _, 1) => "failed".to_owned(),
            (done, 0, runs) => format!("{done} of {runs} seeds"),
            (done, failed, runs) => format!("{done} of {runs} seeds, {failed} failed"),
        }
    }
}

/// A table: the variants that are to be seen beside each other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Table {
    /// Its heading.
    pub title: String,
    /// Its rows: indices into [`Report::rows`], and the settings in which they differ, in words.
    pub rows: Vec<(usize, String)>,
}

/// A whole comparison as it stands.
#[derive(Debug, Clone, PartialEq)]
pub struct Report {
    /// The heading.
    pub title: String,
    /// Every variant.
    pub rows: Vec<Row>,
    /// What is shown of them.
    pub tables: Vec<Table>,
    /// The columns that have a figure in any row.
    pub columns: Vec<Column>,
}

impl Report {
    /// The report on `plan`, whose `jobs` came to `outcomes`.
    pub fn new(plan: &Plan, jobs: &[Job], outcomes: &[JobOutcome]) -> Self {
        let rows: Vec<Row> = (0..plan.variants.len()).map(|at| Row::new(plan, at, jobs, outcomes)).collect();
        let tables = plan
            .tables
            .iter()
            .map(|table| Table {
                title: table.title.clone(),
                rows: table.variants.iter().copied().zip(differing(&rows, &table.variants)).collect(),
            })
            .collect();
        let has = |column: &Column| rows.iter().any(|row| row.spread(*column).is_some());
        let columns = Column::ALL.into_iter().filter(|column| *column != Column::DeviceMemory || has(column));
        Self { title: plan.title.clone(), columns: columns.collect(), rows, tables }
    }

    /// The best mean in a column of a table, where there are two to choose from.
    pub fn best(&self, table: &Table, column: Column) -> Option<f64> {
        let means = || table.rows.iter().filter_map(|(at, _)| Some(self.rows[*at].spread(column)?.mean));
        if means().count() < 2 {
            return None;
        }
        if column.is_cost() { means().reduce(f64::min) } else { means().reduce(f64::max) }
    }

    /// Where and on what the figures were found, a sentence for each set of rows that has it in common.
    pub fn circumstances(&self) -> Vec<String> {
        let mut found: Vec<(String, Vec<&str>)> = Vec::new();
        for row in &self.rows {
            for result in &row.results {
                let RunResult { device, dtype, threads, photos, measured_on, version, .. } = result;
                // `fit` draws the photos that it holds back by its seed.
                let drawn = !result.training["settings"]["val_split"].is_null();
                let photos = match (measured_on, drawn) {
                    (MeasuredOn::Validation, true) => format!(
                        "{photos} photos held back from the training, which are others with another seed"
                    ),
                    _ => format!("{photos} {} photos", measured_on.name()),
                };
                let batches = result
                    .inference_batch_size
                    .map_or_else(String::new, |size| format!("; inference is timed in batches of {size}"));
                let words = format!(
                    "Trained and timed on {device} in {dtype} with {threads} threads, featherlight-train {version}. Accuracy is that \
                     on {photos}{batches}."
                );
                match found.iter_mut().find(|(known, _)| *known == words) {
                    Some((_, names)) if names.last() == Some(&row.name.as_str()) => {}
                    Some((_, names)) => names.push(&row.name),
                    None => found.push((words, vec![&row.name])),
                }
            }
        }
        match found.as_slice() {
            [(words, _)] => vec![words.clone()],
            several => {
                several.iter().map(|(words, names)| format!("{}: {words}", names.join(", "))).collect()
            }
        }
    }

    /// Whether a row stands for several seeds.
    pub fn has_seeds(&self) -> bool {
        self.rows.iter().any(|row| row.runs > 1)
    }
}

/// For each of the rows `shown` the settings that all have and not all alike.
fn differing(rows: &[Row], shown: &[usize]) -> Vec<String> {
    let all = |name: &str| shown.iter().map(|at| &rows[*at].settings[name]).collect::<Vec<_>>();
    let first = shown.first().and_then(|at| rows[*at].settings.as_object());
    let differs = |name: &&String| {
        let values = all(name);
        values.iter().all(|value| !value.is_null()) && values.iter().any(|value| *value != values[0])
    };
    let mut texts = vec![Vec::new(); shown.len()];
    for name in first.into_iter().flat_map(|fields| fields.keys()).filter(differs) {
        let mut words: Vec<String> = all(name).into_iter().map(word).collect();
        if name == "model" {
            // The last part of a path, where it tells them apart as well.
            let last =
                |path: &String| path.trim_end_matches('/').rsplit('/').next().unwrap_or_default().to_owned();
            let short: Vec<String> = words.iter().map(last).collect();
            if distinct(&short) == distinct(&words) {
                words = short;
            }
        }
        texts.iter_mut().zip(words).for_each(|(text, word)| text.push(format!("{name} {word}")));
    }
    texts.into_iter().map(|text| text.join(", ")).collect()
}

fn distinct(words: &[String]) -> usize {
    words.iter().collect::<std::collections::HashSet<_>>().len()
}

fn word(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Bool(true) => "yes".to_owned(),
        Value::Bool(false) => "no".to_owned(),
        Value::Array(values) => values.iter().map(word).collect::<Vec<_>>().join(","),
        other => other.to_string(),
    }
}
