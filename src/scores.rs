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

/// The places of the `count` best scores, best first; equal scores in their own order.
pub fn best(scores: &[f64], count: usize) -> Vec<usize> {
    let order = |left: &usize, right: &usize| scores[*right].total_cmp(&scores[*left]).then(left.cmp(right));
    let mut places: Vec<usize> = (0..scores.len()).collect();
    // Few of many are wanted as a rule: the rest needs no order.
    if count < places.len() {
        places.select_nth_unstable_by(count, order);
        places.truncate(count);
    }
    places.sort_unstable_by(order);
    places
}

/// The `top_k` best labels, best first; equal scores in the labels' order.
pub fn predictions<'a>(
    logits: &[f32],
    labels: &'a [String],
    function: Function,
    top_k: usize,
) -> Vec<Prediction<&'a str>> {
    let mut scores = function.apply(logits);
    scores.truncate(labels.len());
    let ranked = best(&scores, top_k).into_iter();
    ranked.map(|place| Prediction { label: &*labels[place], score: scores[place] as f32 }).collect()
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
    fn the_best_of_many_are_those_that_a_whole_sort_puts_first() {
        let mut state = 1_u32;
        let mut noise = move || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            // Few values, so that many are equal.
            f64::from(state >> 28) - 8.0
        };
        for length in [0, 1, 2, 7, 1000] {
            let scores: Vec<f64> = (0..length).map(|_| noise()).collect();
            let mut sorted: Vec<usize> = (0..length).collect();
            sorted.sort_by(|left, right| scores[*right].total_cmp(&scores[*left]));
            for count in [0, 1, 2, 5, 999, 1000, usize::MAX] {
                assert_eq!(best(&scores, count), sorted[..count.min(length)], "{count} of {length}");
            }
        }
    }

    #[test]
    fn one_label_or_many_at_once_default_to_sigmoid() {
        assert_eq!(Function::default_for(1, false), Function::Sigmoid);
        assert_eq!(Function::default_for(9, true), Function::Sigmoid);
        assert_eq!(Function::default_for(9, false), Function::Softmax);
        assert_eq!(Function::Sigmoid.apply(&[0.0]), [0.5]);
    }
}
