//! What an evaluation found: the answer to each photo, and what follows from all of them.
//!
//! `evaluate` fills an [`Evaluation`] batch by batch; the trainer, `run.json`, the model card and the report read it. The
//! averages over classes are scikit-learn's (`precision_recall_fscore_support`, `zero_division=0`): classes that have neither a
//! photo nor an answer are in none of them.

use candle_core::Tensor;
use serde_json::{Value, json};
use std::collections::HashMap;

/// What the model said of one photo.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Answer {
    /// The photo's index in the data set that was evaluated.
    pub index: u32,
    /// The right class, an index into the labels.
    pub label: u32,
    /// The class with the highest logit. Where others share it with the right one, one of them: a tie is no right answer.
    pub predicted: u32,
    /// Softmax of the right class.
    pub label_probability: f32,
    /// Softmax of the class said.
    pub predicted_probability: f32,
    /// The photo's own cross-entropy, natural logarithm.
    pub loss: f32,
}

impl Answer {
    /// Whether the model was right.
    pub fn is_right(&self) -> bool {
        self.label == self.predicted
    }
}

/// How good the answers of one class are.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct ClassFigures {
    /// Photos of the class (its support).
    pub photos: usize,
    /// Photos that were said to be of the class, rightly or not.
    pub predicted: usize,
    /// Photos of the class that were recognised.
    pub right: usize,
}

impl ClassFigures {
    /// Share of the photos said to be of the class that are; 0 where none was said to be.
    pub fn precision(&self) -> f64 {
        share(self.right, self.predicted)
    }

    /// Share of the class's photos that were recognised; 0 without photos.
    pub fn recall(&self) -> f64 {
        share(self.right, self.photos)
    }

    /// Harmonic mean of precision and recall, 2·TP / (2·TP + FP + FN).
    pub fn f1(&self) -> f64 {
        share(2 * self.right, self.photos + self.predicted)
    }
}

/// Means over the classes, each counted once.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct MacroAverages {
    /// Of [`ClassFigures::precision`].
    pub precision: f64,
    /// Of [`ClassFigures::recall`].
    pub recall: f64,
    /// Of [`ClassFigures::f1`].
    pub f1: f64,
}

/// Photos of one class that were taken for another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Confusion {
    /// The right class.
    pub label: u32,
    /// The class said.
    pub predicted: u32,
    /// How many photos.
    pub photos: usize,
}

/// The counts of one evaluation.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Evaluation {
    /// Photos that could be read.
    pub photos: usize,
    /// Photos whose label has the highest logit.
    pub top1: usize,
    /// Photos whose label is among the five highest logits.
    pub top5: usize,
    /// Sum of the photos' cross-entropies.
    loss: f64,
    /// Photos and right answers of each class.
    classes: Vec<(usize, usize)>,
    /// One a photo that could be read, in the data set's order: 24 bytes each.
    answers: Vec<Answer>,
}

impl Evaluation {
    /// An evaluation of so many photos that came to this, for tests.
    #[cfg(test)]
    pub(crate) fn counted(photos: usize, top1: usize, top5: usize, loss: f64) -> Self {
        Self { photos, top1, top5, loss, ..Self::default() }
    }

    /// Share of photos with the right label first; 0 without photos.
    pub fn top1_accuracy(&self) -> f64 {
        share(self.top1, self.photos)
    }

    /// Share of photos with the right label among the first five; 0 without photos.
    pub fn top5_accuracy(&self) -> f64 {
        share(self.top5, self.photos)
    }

    /// Mean cross-entropy, natural logarithm; 0 without photos.
    pub fn mean_loss(&self) -> f64 {
        if self.photos == 0 { 0.0 } else { self.loss / self.photos as f64 }
    }

    /// Photos and right answers of each class, in the order of the labels.
    pub fn classes(&self) -> &[(usize, usize)] {
        &self.classes
    }

    /// What was said of each photo, in the data set's order.
    pub fn answers(&self) -> &[Answer] {
        &self.answers
    }

    /// Precision, recall and F1 of each class, in the order of the labels.
    pub fn class_figures(&self) -> Vec<ClassFigures> {
        let mut figures = vec![ClassFigures::default(); self.classes.len()];
        for (figures, (photos, right)) in figures.iter_mut().zip(&self.classes) {
            (figures.photos, figures.right) = (*photos, *right);
        }
        for answer in &self.answers {
            if let Some(figures) = figures.get_mut(answer.predicted as usize) {
                figures.predicted += 1;
            }
        }
        figures
    }

    /// The means over all classes that have a photo or were said of one.
    pub fn macro_averages(&self) -> MacroAverages {
        let figures = self.class_figures();
        let known: Vec<_> = figures.iter().filter(|class| class.photos + class.predicted > 0).collect();
        let mean = |figure: fn(&ClassFigures) -> f64| {
            known.iter().map(|class| figure(class)).sum::<f64>() / known.len().max(1) as f64
        };
        MacroAverages {
            precision: mean(ClassFigures::precision),
            recall: mean(ClassFigures::recall),
            f1: mean(ClassFigures::f1),
        }
    }

    /// The cells of the confusion matrix that are not empty, its diagonal included: photos by (right class, class said).
    pub fn confusion(&self) -> HashMap<(u32, u32), usize> {
        let mut cells = HashMap::new();
        for answer in &self.answers {
            *cells.entry((answer.label, answer.predicted)).or_default() += 1;
        }
        cells
    }

    /// The pairs of classes that were mistaken for each other, the most frequent first; equal ones in the labels' order.
    pub fn most_confused(&self) -> Vec<Confusion> {
        let mistakes = self.confusion().into_iter().filter(|((label, predicted), _)| label != predicted);
        let mut pairs: Vec<_> =
            mistakes.map(|((label, predicted), photos)| Confusion { label, predicted, photos }).collect();
        pairs.sort_unstable_by_key(|pair| (std::cmp::Reverse(pair.photos), pair.label, pair.predicted));
        pairs
    }

    /// The wrong answers with the highest losses, the worst first; an undefined loss is worse than any.
    pub fn worst(&self, count: usize) -> Vec<Answer> {
        let mut wrong: Vec<Answer> =
            self.answers.iter().filter(|answer| !answer.is_right()).copied().collect();
        let badness = |answer: &Answer| if answer.loss.is_nan() { f32::INFINITY } else { answer.loss };
        wrong.sort_by(|a, b| badness(b).total_cmp(&badness(a)));
        wrong.truncate(count);
        wrong
    }

    /// For programs: shares and counts, their means over the classes, and each class that has photos under its label.
    pub fn to_json(&self, labels: &[String]) -> Value {
        let classes: serde_json::Map<String, Value> = labels
            .iter()
            .zip(self.class_figures())
            .filter(|(_, class)| class.photos > 0)
            .map(|(label, class)| {
                let figures = json!({
                    "photos": class.photos,
                    "top1": class.recall(),
                    "precision": class.precision(),
                    "recall": class.recall(),
                    "f1": class.f1(),
                });
                (label.clone(), figures)
            })
            .collect();
        let means = self.macro_averages();
        json!({
            "photos": self.photos,
            "top1": self.top1_accuracy(),
            "top5": self.top5_accuracy(),
            "loss": self.mean_loss(),
            "macro_precision": means.precision,
            "macro_recall": means.recall,
            "macro_f1": means.f1,
            "classes": classes,
        })
    }

    /// Counts a batch: `logits` is `[photos, classes]`, `loss` the batch's mean cross-entropy, `indices` say which photos of the
    /// data set they are.
    ///
    /// # Errors
    /// If `logits` is no matrix of f32.
    pub(crate) fn add(
        &mut self,
        logits: &Tensor,
        loss: f64,
        labels: &[u32],
        indices: &[usize],
    ) -> candle_core::Result<()> {
        self.loss += loss * labels.len() as f64;
        self.classes.resize(logits.dim(1)?, (0, 0));
        for ((row, &label), &index) in logits.to_vec2::<f32>()?.iter().zip(labels).zip(indices) {
            let Some(&own) = row.get(label as usize) else { continue };
            // Ties count against the model, and so does NaN: a constant output is no right answer.
            let below = row.iter().filter(|logit| **logit < own).count();
            let before = row.len() - 1 - below;
            self.photos += 1;
            self.top1 += usize::from(before < 1);
            self.top5 += usize::from(before < 5);
            if let Some((photos, right)) = self.classes.get_mut(label as usize) {
                *photos += 1;
                *right += usize::from(before < 1);
            }
            let predicted = if before < 1 { label } else { best_other(row, label) };
            self.answers.push(answer(row, index, label, predicted));
        }
        Ok(())
    }
}

/// The highest logit beside that of `label`, the first of equal ones; one that is no number ranks above all.
fn best_other(row: &[f32], label: u32) -> u32 {
    let rank = |logit: f32| if logit.is_nan() { f32::INFINITY } else { logit };
    let others = (0u32..).zip(row).filter(|(class, _)| *class != label);
    let best = others.reduce(|best, other| if rank(*other.1) > rank(*best.1) { other } else { best });
    best.map_or(label, |(class, _)| class)
}

/// Probabilities and loss of one photo, by the softmax of its logits.
fn answer(row: &[f32], index: usize, label: u32, predicted: u32) -> Answer {
    let largest = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = row.iter().map(|logit| f64::from(logit - largest).exp()).sum();
    let log_probability = |class: u32| {
        let logit = row.get(class as usize).copied().unwrap_or(f32::NAN);
        f64::from(logit - largest) - sum.ln()
    };
    Answer {
        index: u32::try_from(index).unwrap_or(u32::MAX),
        label,
        predicted,
        label_probability: log_probability(label).exp() as f32,
        predicted_probability: log_probability(predicted).exp() as f32,
        loss: -log_probability(label) as f32,
    }
}

fn share(part: usize, whole: usize) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use candle_core::Device;

    /// The evaluation of photos 0, 1, 2 … with these logits.
    pub(crate) fn evaluation<const CLASSES: usize>(rows: &[[f32; CLASSES]], labels: &[u32]) -> Evaluation {
        let values: Vec<f32> = rows.iter().flatten().copied().collect();
        let logits = Tensor::from_vec(values, (rows.len(), CLASSES), &Device::Cpu).unwrap();
        let mut evaluation = Evaluation::default();
        let indices: Vec<usize> = (0..rows.len()).collect();
        evaluation.add(&logits, 0.5, labels, &indices).unwrap();
        evaluation
    }

    /// The logits of a model that is sure of each of these classes.
    pub(crate) fn sure<const CLASSES: usize>(said: &[usize]) -> Vec<[f32; CLASSES]> {
        said.iter().map(|&said| std::array::from_fn(|class| if class == said { 5.0 } else { 0.0 })).collect()
    }

    #[test]
    fn the_label_s_place_among_the_logits_decides_top_1_and_top_5() {
        let rows = [[9., 1., 2., 3., 4., 5.], [9., 1., 2., 3., 4., 5.], [9., 1., 2., 3., 4., 5.]];
        let evaluation = evaluation(&rows, &[0, 2, 1]);
        assert_eq!((evaluation.photos, evaluation.top1, evaluation.top5), (3, 1, 2));
        assert_eq!(evaluation.classes()[..3], [(1, 1), (1, 0), (1, 0)]);
        assert_eq!(evaluation.mean_loss(), 0.5);
    }

    #[test]
    fn a_constant_or_undefined_output_is_never_right() {
        let evaluation = evaluation(&[[0.; 6], [f32::NAN; 6]], &[0, 0]);
        assert_eq!((evaluation.photos, evaluation.top1, evaluation.top5), (2, 0, 0));
        assert!(
            evaluation.answers().iter().all(|answer| answer.predicted == 1),
            "{:?}",
            evaluation.answers()
        );
        assert_eq!(evaluation.class_figures()[1].predicted, 2);
    }

    #[test]
    fn an_answer_says_the_class_both_probabilities_and_the_loss() {
        let ln = |value: f32| value.ln();
        let evaluation = evaluation(&[[ln(0.2), ln(0.7), ln(0.1)]], &[0]);
        let answer = evaluation.answers()[0];
        assert_eq!((answer.index, answer.label, answer.predicted), (0, 0, 1));
        assert!(
            (answer.label_probability - 0.2).abs() < 1e-6
                && (answer.predicted_probability - 0.7).abs() < 1e-6
        );
        assert!((answer.loss - -ln(0.2)).abs() < 1e-6);
        let far = super::tests::evaluation(&[[1e4, -1e4]], &[1]).answers()[0];
        assert_eq!((far.label_probability, far.loss), (0.0, 2e4), "no loss overflows");
    }

    #[test]
    fn precision_recall_and_f1_are_those_counted_by_hand() {
        // Of class 0: three photos, two recognised, one taken for 1. Of 1: three, one recognised, one taken for 0, one
        // for 2, which has no photo itself; nothing is known of 3.
        let rows = sure::<4>(&[0, 0, 1, 1, 0, 2]);
        let evaluation = evaluation(&rows, &[0, 0, 0, 1, 1, 1]);
        let figures = evaluation.class_figures();
        let close = |a: f64, b: f64| (a - b).abs() < 1e-12;
        assert_eq!(figures[0], ClassFigures { photos: 3, predicted: 3, right: 2 });
        assert!(close(figures[0].precision(), 2.0 / 3.0) && close(figures[0].f1(), 2.0 / 3.0));
        assert!(close(figures[1].precision(), 0.5) && close(figures[1].recall(), 1.0 / 3.0));
        assert!(close(figures[1].f1(), 0.4));
        assert_eq!((figures[2].precision(), figures[2].recall(), figures[2].f1()), (0.0, 0.0, 0.0));
        let means = evaluation.macro_averages();
        assert!(close(means.precision, (2.0 / 3.0 + 0.5) / 3.0), "class 3 is in no mean: {means:?}");
        assert!(
            close(means.recall, (2.0 / 3.0 + 1.0 / 3.0) / 3.0) && close(means.f1, (2.0 / 3.0 + 0.4) / 3.0)
        );
    }

    #[test]
    fn the_confusion_counts_every_photo_once_and_the_most_frequent_mistake_comes_first() {
        let evaluation = evaluation(&sure::<3>(&[0, 1, 1, 2, 0, 0, 2]), &[0, 0, 0, 0, 1, 2, 2]);
        let cells = evaluation.confusion();
        assert_eq!(cells.values().sum::<usize>(), 7);
        assert_eq!((cells[&(0, 1)], cells[&(0, 0)], cells.get(&(2, 1))), (2, 1, None));
        let pairs: Vec<_> =
            evaluation.most_confused().iter().map(|pair| (pair.label, pair.predicted, pair.photos)).collect();
        assert_eq!(pairs, [(0, 1, 2), (0, 2, 1), (1, 0, 1), (2, 0, 1)]);
    }

    #[test]
    fn the_worst_mistakes_are_the_surest_wrong_answers() {
        let rows = [[1., 0.], [9., 0.], [0., 9.], [f32::NAN, 0.], [3., 0.]];
        let evaluation = evaluation(&rows, &[1, 1, 1, 1, 1]);
        let worst: Vec<u32> = evaluation.worst(3).iter().map(|answer| answer.index).collect();
        assert_eq!(worst, [3, 1, 4]);
        assert_eq!(evaluation.worst(24).len(), 4, "a right answer is no mistake");
    }

    #[test]
    fn the_json_names_the_classes_that_have_photos() {
        let labels: Vec<String> = ('a'..='f').map(String::from).collect();
        let json = evaluation(&[[9., 1., 2., 3., 4., 5.]], &[0]).to_json(&labels);
        assert_eq!((&json["top1"], &json["macro_f1"]), (&json!(1.0), &json!(1.0)));
        let figures = json!({ "photos": 1, "top1": 1.0, "precision": 1.0, "recall": 1.0, "f1": 1.0 });
        assert_eq!(json["classes"], json!({ "a": figures }));
    }
}
