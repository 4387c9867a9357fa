//! From logits to what a client reads: softmax or sigmoid, then the best labels.
//!
//! `http` and `predict` both call [`predictions`], so that a photo gets the same labels and scores whichever way it comes.
//! Pure functions over slices; computed in f64, answered in f32.

use serde::{Deserialize, Serialize};

/// What turns raw logits into scores.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Function {
    /// One of the labels is right: scores sum to one.
    Softmax,
    /// Each label is right or wrong for itself.
    Sigmoid,
    /// The logits as they are.
    None,
}

impl Function {
    /// The Hugging Face default for a config: sigmoid for one label or a multi-label problem, otherwise softmax.
    pub fn default_for(labels: usize, multi_label: bool) -> Self {
        if labels == 1 || multi_label { Self::Sigmoid } else { Self::Softmax }
    }

    /// `softmax`, `sigmoid` or `none`.
    pub fn from_name(name: &str) -> Option<Self> {
        match name {
            "softmax" => Some(Self::Softmax),
            "sigmoid" => Some(Self::Sigmoid),
            "none" => Some(Self::None),
            _ => None,
        }
    }

    /// Applies it to finite logits, one a label.
    pub fn apply(self, logits: &[f32]) -> Vec<f64> {
        let values = logits.iter().map(|logit| f64::from(*logit));
        match self {
            Self::None => values.collect(),
            Self::Sigmoid => values.map(|logit| 1.0 / (1.0 + (-logit).exp())).collect(),
            Self::Softmax => {
                // The largest logit, not the largest magnitude: the largest exponent must be zero.
                let largest = values.clone().fold(f64::NEG_INFINITY, f64::max);
                let powers: Vec<f64> = values.map(|logit| (logit - largest).exp()).collect();
                let sum: f64 = powers.iter().sum();
                powers.into_iter().map(|power| power / sum).collect()
            }
        }
    }
}

/// One label and its score.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Prediction<L> {
    /// Its name.
    pub label: L,
    /// From 0 to 1 after softmax or sigmoid, else the raw logit.
    pub score: f32,
}

/// The `top_k` best labels, best first; equal scores in the labels' order.
pub fn predictions<'a>(
    logits: &[f32],
    labels: &'a [String],
    function: Function,
    top_k: usize,
) -> Vec<Prediction<&'a str>> {
    let scores = function.apply(logits);
    let mut ranked: Vec<_> = labels.iter().map(String::as_str).zip(scores).collect();
    // Stable, so that ties keep the order of the labels.
    ranked.sort_by(|(_, left), (_, right)| right.total_cmp(left));
    ranked.truncate(top_k);
    ranked.into_iter().map(|(label, score)| Prediction { label, score: score as f32 }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(count: usize) -> Vec<String> {
        (0..count).map(|index| format!("label {index}")).collect()
    }

    #[test]
    fn softmax_stays_exact_where_the_largest_magnitude_is_negative() {
        let scores = Function::Softmax.apply(&[-1000.0, 0.0, 1.0]);
        let largest = 1.0 / (1.0 + (-1.0_f64).exp());
        assert_eq!(scores[0], 0.0);
        assert!((scores[2] - largest).abs() < 1e-12, "{scores:?}");
        assert!((scores.iter().sum::<f64>() - 1.0).abs() < 1e-12);
        assert!(Function::Softmax.apply(&[3e38, -3e38]).iter().all(|score| score.is_finite()));
    }

    #[test]
    fn ties_keep_the_order_of_the_labels_and_top_k_is_clamped() {
        let labels = labels(4);
        let best = predictions(&[1.0, 2.0, 1.0, 2.0], &labels, Function::None, 9);
        let order: Vec<_> = best.iter().map(|prediction| prediction.label).collect();
        assert_eq!(order, ["label 1", "label 3", "label 0", "label 2"]);
        assert_eq!(predictions(&[1.0, 2.0, 1.0, 2.0], &labels, Function::None, 1)[0].label, "label 1");
    }

    #[test]
    fn one_label_or_many_at_once_default_to_sigmoid() {
        assert_eq!(Function::default_for(1, false), Function::Sigmoid);
        assert_eq!(Function::default_for(9, true), Function::Sigmoid);
        assert_eq!(Function::default_for(9, false), Function::Softmax);
        assert_eq!(Function::Sigmoid.apply(&[0.0]), [0.5]);
    }
}
