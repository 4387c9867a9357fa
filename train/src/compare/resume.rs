//! What of a job is done already, and what is therefore to be done.
//!
//! A job's folder holds, beside the files of `fit`: `asked.json`, what its training is made of, written before the training
//! begins; `evaluation.json`, what `evaluate` printed; `result.json`, written last. What is finished is kept, what was broken
//! off begins anew, what was made of something else is replaced only when asked.

use super::jobs::Job;
use super::result::{ResultError, RunResult, read_json};
use serde_json::Value;

/// Where a job stands.
#[derive(Debug, Clone, PartialEq)]
pub enum State {
    /// Nothing of it is there, or a training that did not come to its end.
    Untrained,
    /// Trained as asked, and not measured as asked.
    Trained,
    /// Done as asked.
    Finished(Box<RunResult>),
    /// A finished training of something else: the differences, in words.
    Changed(Vec<String>),
    /// A run that no comparison made.
    Foreign,
}

/// Looks at the folder of `job`.
///
/// # Errors
/// If a file in it cannot be read.
pub fn state(job: &Job) -> Result<State, ResultError> {
    let folder = &job.folder;
    let run = read_json(&folder.join("run.json"))?;
    let Some(asked) = read_json(&folder.join("asked.json"))? else {
        let taken = run.is_some() || folder.join("merged").exists() || folder.join("adapter").exists();
        return Ok(if taken { State::Foreign } else { State::Untrained });
    };
    if run.is_none_or(|run| run["state"] != "completed") || !folder.join("merged").exists() {
        return Ok(State::Untrained);
    }
    if asked != job.training {
        return Ok(State::Changed(differences(&asked, &job.training)));
    }
    Ok(match RunResult::read(folder) {
        Some(result) if result.training == job.training && result.evaluation == job.evaluation => {
            State::Finished(Box::new(result))
        }
        _ => State::Trained,
    })
}

/// `epochs: 25, now 10` for every leaf in which two JSON objects differ.
fn differences(before: &Value, now: &Value) -> Vec<String> {
    let mut found = Vec::new();
    let empty = serde_json::Map::new();
    let fields = |value: &Value| value.as_object().unwrap_or(&empty).clone();
    let (before, now) = (fields(before), fields(now));
    let mut keys: Vec<&String> = before.keys().collect();
    keys.extend(now.keys().filter(|key| !before.contains_key(*key)));
    for key in keys {
        let sides = [before.get(key), now.get(key)].map(|value| value.unwrap_or(&Value::Null));
        match sides {
            [before, now] if before == now => {}
            [before @ Value::Object(_), now @ Value::Object(_)] => found.extend(differences(before, now)),
            [before, now] => {
                let words = |value: &Value| match value {
                    Value::Null => "nothing".to_owned(),
                    Value::String(text) => text.clone(),
                    other => other.to_string(),
                };
                found.push(format!("{key} was {}, now {}", words(before), words(now)));
            }
        }
    }
    found
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::compare::result::MeasuredOn;
    use crate::compare::tests::{a_job, a_result};
    use serde_json::json;
    use std::path::Path;

    fn write(folder: &Path, file: &str, json: &Value) {
        std::fs::create_dir_all(folder.join("merged")).unwrap();
        std::fs::write(folder.join(file), json.to_string()).unwrap();
    }

    /// A job in a folder of its own, trained and measured.
    fn finished() -> (tempfile::TempDir, Job) {
        let folder = tempfile::tempdir().unwrap();
        let mut job = a_job("tiny");
        job.folder = folder.path().to_owned();
        write(&job.folder, "asked.json", &job.training);
        write(&job.folder, "run.json", &json!({ "state": "completed" }));
        let mut result = a_result(0.5);
        (result.training, result.evaluation) = (job.training.clone(), job.evaluation.clone());
        write(&job.folder, "result.json", &result.to_json());
        (folder, job)
    }

    #[test]
    fn what_is_finished_as_asked_is_kept_with_its_figures() {
        let (_folder, job) = finished();
        let State::Finished(result) = state(&job).unwrap() else { panic!("not finished") };
        assert_eq!((result.top1, result.measured_on), (0.5, MeasuredOn::Test));
    }

    #[test]
    fn another_test_set_asks_for_another_measurement_and_not_for_another_training() {
        let (_folder, mut job) = finished();
        job.evaluation["test"] = json!("other");
        assert_eq!(state(&job).unwrap(), State::Trained);
    }

    #[test]
    fn a_finished_training_of_something_else_is_not_touched_and_says_what_differs() {
        let (_folder, mut job) = finished();
        job.training["settings"]["epochs"] = json!(9);
        job.training["photos"] = json!("151 photos");
        let State::Changed(differences) = state(&job).unwrap() else { panic!("not changed") };
        assert_eq!(differences, ["epochs was 2, now 9", "photos was 150 photos, now 151 photos"]);
    }

    #[test]
    fn a_training_that_was_broken_off_begins_anew_whatever_it_was_made_of() {
        let (_folder, mut job) = finished();
        write(&job.folder, "run.json", &json!({ "state": "running" }));
        assert_eq!(state(&job).unwrap(), State::Untrained);
        job.training["settings"]["epochs"] = json!(9);
        assert_eq!(state(&job).unwrap(), State::Untrained);
    }

    #[test]
    fn a_run_that_no_comparison_made_is_known_as_such() {
        let (_folder, job) = finished();
        std::fs::remove_file(job.folder.join("asked.json")).unwrap();
        assert_eq!(state(&job).unwrap(), State::Foreign);
    }
}
