//! The report of a run: `report.html`, `curves/`, `results.csv`, `classes.csv` in its folder.

use super::charts::{CHARTS, charts};
use super::history::{EvaluationLine, History};
use super::mosaic::Mosaic;
use super::page::{Figure, Page};
use super::{ReportError, accuracy, count, picture, tables};
use crate::dataset::Sample;
use crate::evaluation::Evaluation;
use crate::units::{bytes, duration, three_digits};
use featherlight::model::{create_folder, save_bytes, save_text};
use serde_json::Value;
use std::path::Path;

/// Parts of `run.json` that have a place of their own in the page.
const SHOWN_ELSEWHERE: [&str; 8] =
    ["settings", "labels", "data", "evaluation", "unreadable_photos", "warnings", "state", "error"];

/// What a run's folder does not say.
#[derive(Debug, Clone, Copy, Default)]
pub struct RunDetails<'a> {
    /// The label of each class.
    pub labels: &'a [String],
    /// The last evaluation.
    pub evaluation: Option<&'a Evaluation>,
    /// The photos that its answers' indices point to.
    pub samples: &'a [Sample],
    /// The first photos of the training, as the model sees them.
    pub mosaic: Option<&'a Mosaic>,
    /// What was noticed about the photos.
    pub warnings: &'a [String],
    /// The share of the time in which the model waited for photos.
    pub waiting_share: Option<f64>,
}

/// Writes the report of the run in `folder`, whose `run.json` and `metrics.jsonl` it reads. Each file is replaced whole.
///
/// # Errors
/// If one of them cannot be read, or the report cannot be written.
pub fn write_run(folder: &Path, details: &RunDetails<'_>) -> Result<(), ReportError> {
    let history = History::read(&folder.join("metrics.jsonl"))?;
    let file = folder.join("run.json");
    let text =
        std::fs::read_to_string(&file).map_err(|source| ReportError::Io { file: file.clone(), source })?;
    let run = serde_json::from_str(&text).map_err(|problem| ReportError::Json { file, problem })?;

    save_text(&tables::results(&history.epochs())?, &folder.join("results.csv"))?;
    if let Some(evaluation) = details.evaluation {
        save_text(&tables::classes(evaluation, details.labels)?, &folder.join("classes.csv"))?;
    }
    let pictures = folder.join("curves");
    create_folder(&pictures)?;
    let charts = charts(&history);
    for chart in &charts {
        save_bytes(&picture::draw(&chart.svg())?, &pictures.join(format!("{}.png", chart.file)))?;
    }
    // What a run that was here before had and this one has not.
    let absent = CHARTS.iter().filter(|file| charts.iter().all(|chart| chart.file != **file));
    absent.for_each(|file| drop(std::fs::remove_file(pictures.join(format!("{file}.png")))));
    if history.evaluations.is_empty() {
        let _ = std::fs::remove_file(folder.join("classes.csv"));
    }
    Ok(save_text(&page(&run, &history, details).html(), &folder.join("report.html"))?)
}

fn page<'a>(run: &Value, history: &History, details: &RunDetails<'a>) -> Page<'a> {
    let unreadable = run["unreadable_photos"].as_array().into_iter().flatten();
    let named = |value: &Value, but: &[&str]| {
        let fields = value.as_object().into_iter().flatten();
        fields
            .filter(|(name, value)| !but.contains(&name.as_str()) && !value.is_null())
            .map(|(name, value)| (name.trim_end_matches("_bytes").replace('_', " "), words(name, value)))
            .collect()
    };
    Page {
        title: match run["architecture"].as_str() {
            Some(architecture) => format!("{architecture}, {} classes", details.labels.len()),
            None => "A training run".to_owned(),
        },
        state: state(run, history),
        error: run["error"].as_str().map(str::to_owned),
        headline: headline(run, history, details),
        warnings: details.warnings.to_vec(),
        charts: charts(history),
        labels: details.labels,
        evaluation: details.evaluation,
        no_evaluation: match (run["validation_photos"].as_u64(), history.evaluations.is_empty()) {
            (Some(0), _) => "The run has no validation photos: nothing was measured.",
            (_, true) => "Nothing has been measured yet.",
            (_, false) => {
                "The answers to single photos are known after the next evaluation; `featherlight-train evaluate --report` shows them as well."
            }
        },
        samples: details.samples,
        mosaic: details.mosaic,
        unreadable: unreadable
            .map(|photo| (words("", &photo["file"]), words("", &photo["reason"])))
            .collect(),
        settings: named(&run["settings"], &[]),
        facts: named(run, &SHOWN_ELSEWHERE),
    }
}

/// Where the run stands, as a sentence.
fn state(run: &Value, history: &History) -> String {
    let (epochs, of) = (run["epochs_completed"].as_u64().unwrap_or(0), run["settings"]["epochs"].as_u64());
    let epochs = of.map_or_else(|| format!("{epochs} epochs"), |of| format!("{epochs} of {of} epochs"));
    let steps = count(history.steps.last().map_or(0, |step| step.step));
    let start = words("", &run["settings"]["model"]);
    let data = words("", &run["settings"]["data"]);
    match run["state"].as_str() {
        Some("running") => format!(
            "Under way: {epochs}, {steps} steps, from {start} on {data}. This page is written anew after every epoch; reload it."
        ),
        Some("interrupted") => format!(
            "Stopped after {epochs}, {steps} steps, from {start} on {data}; --resume goes on from there."
        ),
        Some("failed") => format!("Ended early after {epochs}, {steps} steps, from {start} on {data}."),
        _ => format!("Trained for {epochs}, {steps} steps, from {start} on {data}."),
    }
}

fn headline(run: &Value, history: &History, details: &RunDetails<'_>) -> Vec<Figure> {
    let mut figures = match (details.evaluation, history.evaluations.last()) {
        (Some(evaluation), _) => accuracy(evaluation),
        (None, Some(last)) => from_line(last),
        (None, None) => Vec::new(),
    };
    if let (Some(first), Some(note)) = (figures.first_mut(), best(&history.evaluations)) {
        first.note = note;
    }
    if let Some(name) = figures.iter_mut().find(|figure| figure.name == "Loss") {
        name.name = "Validation loss";
    }
    let mut add = |name, value: Option<String>, note: String| {
        figures.extend(value.map(|value| Figure { name, value, note }));
    };
    let epochs = history.epochs();
    let last = epochs.last();
    let loss = last.and_then(|line| line.training_loss).map(|loss| format!("{loss:.4}"));
    add("Training loss", loss, last.map_or_else(String::new, |line| format!("mean of epoch {}", line.epoch)));
    let validation = run["validation_photos"].as_u64().filter(|photos| *photos > 0);
    let validation = validation
        .map_or("no validation photos".to_owned(), |photos| format!("{} to validate on", count(photos)));
    add("Training photos", run["training_photos"].as_u64().map(count), validation);
    let (trained, all) = (run["trainable_parameters"].as_u64(), run["parameters"].as_u64());
    let share = trained.zip(all).map(|(trained, all)| {
        format!("{:.2} % of {}", 100.0 * trained as f64 / all.max(1) as f64, count(all))
    });
    add("Trained parameters", trained.map(count), share.unwrap_or_default());
    add("Time", run["seconds"].as_f64().map(duration), "evaluations included".to_owned());
    let speed = last.and_then(|line| line.images_per_second).map(three_digits);
    add("Images/s", speed, "training, loading included".to_owned());
    add("Peak memory", run["peak_memory_bytes"].as_f64().map(bytes), "of the process".to_owned());
    add("Peak GPU memory", run["peak_device_memory_bytes"].as_f64().map(bytes), String::new());
    let waiting = details.waiting_share.map(|share| format!("{:.1} %", 100.0 * share));
    add("Waiting for photos", waiting, "of the time".to_owned());
    figures
}

/// The figures of an evaluation of which the line alone is known.
fn from_line(line: &EvaluationLine) -> Vec<Figure> {
    let percent = |share: Option<f64>| share.map(|share| format!("{:.2} %", 100.0 * share));
    let figures = [
        ("Top-1", percent(line.top1)),
        ("Top-5", percent(line.top5)),
        ("Loss", line.loss.map(|loss| format!("{loss:.4}"))),
    ];
    let known = figures.into_iter().filter_map(|(name, value)| Some((name, value?)));
    known.map(|(name, value)| Figure { name, value, note: String::new() }).collect()
}

/// When the model was better than it is now, if it was.
fn best(evaluations: &[EvaluationLine]) -> Option<String> {
    let top1 = |line: &EvaluationLine| line.top1.unwrap_or(f64::NEG_INFINITY);
    let best = evaluations.iter().reduce(|best, line| if top1(line) > top1(best) { line } else { best })?;
    let now = evaluations.last()?;
    (top1(best) > top1(now)).then(|| format!("{:.2} % after epoch {}", 100.0 * top1(best), best.epoch))
}

/// A value of `run.json` as a person reads it; `name` tells what unit it has.
fn words(name: &str, value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Bool(true) => "yes".to_owned(),
        Value::Bool(false) => "no".to_owned(),
        Value::Array(items) => items.iter().map(|item| words("", item)).collect::<Vec<_>>().join(", "),
        Value::Number(number) => match number.as_f64() {
            Some(size) if name.ends_with("bytes") => bytes(size),
            Some(seconds) if name == "seconds" => duration(seconds),
            Some(_) if ["photos", "parameters", "steps"].iter().any(|unit| name.ends_with(unit)) => {
                number.as_u64().map_or_else(|| number.to_string(), count)
            }
            _ => number.to_string(),
        },
        Value::Null => "–".to_owned(),
        Value::Object(_) => value.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::evaluation::tests::{evaluation, sure};
    use crate::report::history::tests::TWO_EPOCHS;
    use serde_json::json;

    fn run() -> Value {
        json!({
            "state": "running", "version": "1.2.3", "architecture": "beit", "labels": ["a", "b"],
            "settings": { "model": "m", "data": "<d>", "epochs": 2, "lora_target": ["query", "value"], "image_root": null },
            "training_photos": 1234, "validation_photos": 4, "parameters": 1000, "trainable_parameters": 10,
            "seconds": 100.0, "peak_memory_bytes": 3_u64 << 30, "epochs_completed": 1,
            "unreadable_photos": [{ "file": "x<y.jpg", "reason": "cut short" }],
        })
    }

    fn written(run: &Value, metrics: &str, details: &RunDetails<'_>) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("run.json"), run.to_string()).unwrap();
        std::fs::write(folder.path().join("metrics.jsonl"), metrics).unwrap();
        write_run(folder.path(), details).unwrap();
        folder
    }

    #[test]
    fn a_report_has_its_page_pictures_and_tables() {
        let labels = ["a".to_owned(), "b".to_owned()];
        let evaluation = evaluation(&sure::<2>(&[0, 1, 0, 1]), &[0, 1, 1, 1]);
        let warnings = ["1 photo is there twice".to_owned()];
        let details = RunDetails {
            labels: &labels,
            evaluation: Some(&evaluation),
            warnings: &warnings,
            waiting_share: Some(0.123),
            ..RunDetails::default()
        };
        let folder = written(&run(), TWO_EPOCHS, &details);
        let read = |name: &str| std::fs::read_to_string(folder.path().join(name)).unwrap();
        let page = read("report.html");
        for shown in [
            "75.00 %",
            "Macro F1",
            "1.00 % of 1,000",
            "1 min 40 s",
            "3.00 GiB",
            "12.3 %",
            "1,234",
            "4 to validate on",
            "1 photo is there twice",
            "x&lt;y.jpg",
            "lora target",
            "query, value",
            "1.2.3",
            "1 of 2 epochs, 3 steps",
        ] {
            assert!(page.contains(shown), "{shown}: {page}");
        }
        assert!(!page.contains("image root") && !page.contains("<d>"));
        assert_eq!(read("results.csv").lines().count(), 3);
        assert_eq!(read("classes.csv").lines().count(), 3);
        for name in ["learning_rate", "loss", "accuracy", "gradient_norm"] {
            let bytes = std::fs::read(folder.path().join(format!("curves/{name}.png"))).unwrap();
            assert!(bytes.starts_with(b"\x89PNG"), "{name}");
        }
    }

    #[test]
    fn a_run_without_validation_or_without_a_step_has_a_report_as_well() {
        let mut run = run();
        run["validation_photos"] = json!(0);
        let steps: Vec<&str> = TWO_EPOCHS.lines().filter(|line| !line.contains("top1")).collect();
        for metrics in [steps.join("\n"), steps[0].to_owned(), String::new()] {
            let folder = written(&run, &metrics, &RunDetails::default());
            let page = std::fs::read_to_string(folder.path().join("report.html")).unwrap();
            assert!(page.contains("no validation photos") && !page.contains("NaN"), "{page}");
            assert!(!folder.path().join("curves/accuracy.png").exists());
        }
    }

    #[test]
    fn an_earlier_better_epoch_is_said() {
        let lines = crate::report::history::tests::history(
            "{\"step\":1,\"epoch\":1,\"top1\":0.5,\"top5\":1,\"loss\":1}\n{\"step\":2,\"epoch\":2,\"top1\":0.75,\"top5\":1,\"loss\":1}\n",
        );
        assert_eq!(best(&lines.evaluations), None);
        let mut fallen = lines.evaluations;
        fallen[0].top1 = Some(0.8);
        assert_eq!(best(&fallen), Some("80.00 % after epoch 1".to_owned()));
    }
}
