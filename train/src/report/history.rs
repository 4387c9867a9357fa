//! What a run has written about itself so far: the lines of `metrics.jsonl`.
//!
//! Curves and `results.csv` are made from the file alone, so that a run that was resumed shows its whole history. A step or an
//! evaluation that was made twice, before and after an interruption, counts as it was made last.

use super::ReportError;
use serde_json::Value;
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::Path;

/// One optimiser step. A figure that is no number in the file is none here.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct StepLine {
    /// Counted from 1.
    pub step: u64,
    /// Epochs behind us after the step, a fraction.
    pub epoch: f64,
    /// Mean loss of the step's photos.
    pub loss: Option<f64>,
    /// Its learning rate.
    pub learning_rate: Option<f64>,
    /// Norm of the gradients before clipping.
    pub grad_norm: Option<f64>,
    /// Photos a second.
    pub images_per_second: Option<f64>,
    /// Photos trained on; 1 where a line of an earlier version does not say.
    pub photos: f64,
}

/// One evaluation.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct EvaluationLine {
    /// Steps made before it.
    pub step: u64,
    /// Epochs made before it.
    pub epoch: u64,
    /// Share of the validation photos with the right label first.
    pub top1: Option<f64>,
    /// Share with the right label among the first five.
    pub top5: Option<f64>,
    /// Their mean cross-entropy.
    pub loss: Option<f64>,
}

/// What an epoch came to: a row of `results.csv`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct EpochLine {
    /// Counted from 1. The last may be under way.
    pub epoch: u64,
    /// Steps made by its end.
    pub step: u64,
    /// Mean loss of its photos.
    pub training_loss: Option<f64>,
    /// The learning rate of its last step.
    pub learning_rate: Option<f64>,
    /// Photos a second over its steps, loading included, evaluations not.
    pub images_per_second: Option<f64>,
    /// What it was measured to be.
    pub evaluation: Option<EvaluationLine>,
}

/// The lines of a run, by step.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct History {
    /// The optimiser's steps.
    pub steps: Vec<StepLine>,
    /// The evaluations.
    pub evaluations: Vec<EvaluationLine>,
}

impl History {
    /// Reads a `metrics.jsonl`. Lines that are none (the last of a run that was killed while it wrote it) are passed over.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub fn read(file: &Path) -> Result<Self, ReportError> {
        let failed = |source| ReportError::Io { file: file.to_owned(), source };
        let mut lines = BufReader::new(std::fs::File::open(file).map_err(failed)?).split(b'\n');
        let (mut steps, mut evaluations) = (BTreeMap::new(), BTreeMap::new());
        while let Some(line) = lines.next().transpose().map_err(failed)? {
            let Ok(line) = serde_json::from_slice::<Value>(&line) else { continue };
            let number = |name: &str| line[name].as_f64();
            let (Some(step), Some(epoch)) = (line["step"].as_u64(), number("epoch")) else { continue };
            let loss = number("loss");
            if line.get("lr").is_some() {
                let line = StepLine {
                    step,
                    epoch,
                    loss,
                    learning_rate: number("lr"),
                    grad_norm: number("grad_norm"),
                    images_per_second: number("images_per_second"),
                    photos: number("photos").unwrap_or(1.0),
                };
                steps.insert(step, line);
            } else if line.get("top1").is_some() {
                let (top1, top5) = (number("top1"), number("top5"));
                evaluations
                    .insert(step, EvaluationLine { step, epoch: epoch.round() as u64, top1, top5, loss });
            }
        }
        Ok(Self { steps: steps.into_values().collect(), evaluations: evaluations.into_values().collect() })
    }

    /// The epochs that have a step or an evaluation.
    pub fn epochs(&self) -> Vec<EpochLine> {
        let mut epochs: BTreeMap<u64, Vec<&StepLine>> = BTreeMap::new();
        for step in &self.steps {
            // Step 12 of 4 an epoch has 3.0 behind it and is the third's last.
            epochs.entry((step.epoch - 1e-9).ceil().max(1.0) as u64).or_default().push(step);
        }
        for evaluation in &self.evaluations {
            epochs.entry(evaluation.epoch).or_default();
        }
        let epoch_line = |(epoch, steps): (u64, Vec<&StepLine>)| {
            let evaluation = self.evaluations.iter().rev().find(|line| line.epoch == epoch).copied();
            let last = steps.last();
            EpochLine {
                epoch,
                step: last.map(|step| step.step).or(evaluation.map(|line| line.step)).unwrap_or_default(),
                training_loss: mean(steps.iter().filter_map(|step| Some((step.loss?, step.photos)))),
                learning_rate: last.and_then(|step| step.learning_rate),
                // Times are added up, not speeds.
                images_per_second: mean(
                    steps
                        .iter()
                        .filter_map(|step| Some((step.images_per_second?, step.photos)))
                        .filter(|(speed, _)| *speed > 0.0)
                        .map(|(speed, photos)| (speed.recip(), photos)),
                )
                .map(f64::recip),
                evaluation,
            }
        };
        epochs.into_iter().map(epoch_line).collect()
    }
}

/// The mean of values, each with its weight.
fn mean(values: impl Iterator<Item = (f64, f64)>) -> Option<f64> {
    let (weights, sum) =
        values.fold((0.0, 0.0), |(weights, sum), (value, weight)| (weights + weight, sum + value * weight));
    (weights > 0.0).then(|| sum / weights)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A history read from these lines.
    pub(in crate::report) fn history(lines: &str) -> History {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("metrics.jsonl");
        std::fs::write(&file, lines).unwrap();
        History::read(&file).unwrap()
    }

    pub(in crate::report) const TWO_EPOCHS: &str = r#"{"step":1,"epoch":0.5,"loss":2.0,"lr":0.1,"grad_norm":3.0,"images_per_second":10.0}
{"step":2,"epoch":1.0,"loss":1.0,"lr":0.2,"grad_norm":2.0,"images_per_second":30.0}
{"step":2,"epoch":1,"top1":0.5,"top5":0.75,"loss":1.5}
{"step":3,"epoch":1.5,"loss":0.5,"lr":0.1,"grad_norm":1.0,"images_per_second":20.0}
"#;

    #[test]
    fn an_epoch_is_the_mean_of_its_steps_and_what_was_measured_after_it() {
        let epochs = history(TWO_EPOCHS).epochs();
        assert_eq!(epochs.len(), 2);
        assert_eq!((epochs[0].step, epochs[0].training_loss), (2, Some(1.5)));
        assert_eq!(epochs[0].learning_rate, Some(0.2));
        assert!(
            (epochs[0].images_per_second.unwrap() - 15.0).abs() < 1e-9,
            "as many photos in thrice the time"
        );
        assert_eq!(epochs[0].evaluation.unwrap().top5, Some(0.75));
        assert_eq!((epochs[1].step, epochs[1].evaluation), (3, None));
    }

    #[test]
    fn steps_made_again_after_an_interruption_count_once_and_half_a_line_is_none() {
        let again = r#"{"step":3,"epoch":1.5,"loss":0.25,"lr":0.1,"grad_norm":null,"images_per_second":20.0}
{"step":4,"epo"#;
        let history = history(&format!("{TWO_EPOCHS}{again}"));
        assert_eq!(history.steps.len(), 3);
        assert_eq!((history.steps[2].loss, history.steps[2].grad_norm), (Some(0.25), None));
    }
}
