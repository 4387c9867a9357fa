//! What a step wants of the logits: the labels of its photos, smoothed, mixed, and weighted by class.
//!
//! The trainer asks for the targets of each batch and for what their losses are divided by, over the whole step.

use crate::loader::Batch;
use std::fmt;
use std::str::FromStr;

/// What a photo's loss is multiplied by for its class.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClassWeights {
    /// 1, whatever the class.
    None,
    /// As scikit-learn's `balanced`: photos / (classes · photos of the class). A class of half the size counts double.
    Balanced,
}

impl ClassWeights {
    const NAMES: [(&'static str, Self); 2] = [("none", Self::None), ("balanced", Self::Balanced)];

    /// The weight of each class of these sizes; a class without photos has none to weigh.
    fn of(self, sizes: &[usize]) -> Vec<f32> {
        let classes = sizes.iter().filter(|size| **size > 0).count();
        let photos: usize = sizes.iter().sum();
        let weight = |size: &usize| match self {
            Self::None => 1.0,
            Self::Balanced if *size == 0 => 0.0,
            Self::Balanced => photos as f32 / (classes * size) as f32,
        };
        sizes.iter().map(weight).collect()
    }
}

impl fmt::Display for ClassWeights {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = Self::NAMES.iter().find(|(_, weights)| weights == self).map_or("", |(name, _)| name);
        f.write_str(name)
    }
}

impl FromStr for ClassWeights {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let known = Self::NAMES.iter().find(|(name, _)| *name == text).map(|(_, weights)| *weights);
        known.ok_or_else(|| format!("`{text}` is no way to weigh classes: it is one of none, balanced"))
    }
}

/// The loss of a run.
#[derive(Debug, Clone)]
pub(crate) struct Objective {
    smoothing: f32,
    /// One a class.
    weights: Vec<f32>,
}

impl Objective {
    /// For classes of these sizes in the training set.
    pub(crate) fn new(smoothing: f64, weights: ClassWeights, sizes: &[usize]) -> Self {
        Self { smoothing: smoothing as f32, weights: weights.of(sizes) }
    }

    fn weight(&self, label: u32) -> f32 {
        self.weights.get(label as usize).copied().unwrap_or(1.0)
    }

    /// The label that each photo of `batch` is for a part, and how large that part is: twice, where photos are mixed.
    fn parts<'a>(&self, batch: &'a Batch) -> impl Iterator<Item = (usize, u32, f32)> + 'a {
        let mixed = batch.mixed.as_ref();
        let share = mixed.map_or(0.0, |mixed| mixed.share);
        let own = batch.labels.iter().map(move |label| (*label, 1.0 - share)).enumerate();
        let other = mixed
            .into_iter()
            .flat_map(move |mixed| mixed.labels.iter().map(move |label| (*label, share)).enumerate());
        own.chain(other).map(|(photo, (label, share))| (photo, label, share))
    }

    /// What the losses of `batch` add to the number that a step's sum is divided by: the weights of its photos (as PyTorch's
    /// `CrossEntropyLoss` with `weight`), their number where none are set.
    pub(crate) fn total(&self, batch: &Batch) -> f64 {
        self.parts(batch).map(|(_, label, share)| f64::from(share * self.weight(label))).sum()
    }

    /// `[photos, classes]`: see [`featherlight::ops::soft_cross_entropy`].
    pub(crate) fn targets(&self, batch: &Batch, classes: usize) -> Vec<f32> {
        let mut targets = vec![0f32; batch.len() * classes];
        for (photo, label, share) in self.parts(batch) {
            let Some(row) = targets.chunks_exact_mut(classes).nth(photo) else { continue };
            for (class, target) in (0u32..).zip(row) {
                let hit = if class == label { 1.0 - self.smoothing } else { 0.0 };
                *target += share * self.weight(class) * (hit + self.smoothing / classes as f32);
            }
        }
        targets
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::augment::Mixed;
    use candle_core::{Device, Tensor};
    use featherlight::ops::soft_cross_entropy;

    fn batch(labels: &[u32], mixed: Option<Mixed>) -> Batch {
        let photos = labels.len();
        Batch {
            pixels: vec![0; 3 * photos],
            labels: labels.to_vec(),
            indices: (0..photos).collect(),
            mixed,
            height: 1,
            width: 1,
        }
    }

    /// torch 2.13.0: `CrossEntropyLoss(weight=[0.5, 2, 1], label_smoothing=0.1)` on these logits and labels 0, 1, 1.
    #[test]
    fn smoothing_and_class_weights_are_pytorch_s() {
        let objective = Objective { smoothing: 0.1, weights: vec![0.5, 2.0, 1.0] };
        let batch = batch(&[0, 1, 1], None);
        let logits =
            Tensor::new(&[[1f32, 2.0, 0.5], [0.0, 1.0, -1.0], [3.0, 0.5, 0.1]], &Device::Cpu).unwrap();
        let loss =
            soft_cross_entropy(&logits, objective.targets(&batch, 3), objective.total(&batch)).unwrap();
        assert!((loss.to_scalar::<f32>().unwrap() - 1.478_664_3).abs() < 1e-5, "{loss}");
    }

    #[test]
    fn a_mixed_photo_wants_both_labels_by_their_share() {
        let objective = Objective::new(0.0, ClassWeights::None, &[1, 1, 1]);
        let batch = batch(&[0, 2], Some(Mixed { labels: vec![2, 0], share: 0.25 }));
        assert_eq!(objective.targets(&batch, 3), [0.75, 0.0, 0.25, 0.25, 0.0, 0.75]);
        assert_eq!(objective.total(&batch), 2.0);
    }

    #[test]
    fn balanced_weights_are_scikit_learn_s_and_leave_empty_classes_out() {
        assert_eq!(ClassWeights::Balanced.of(&[10, 5, 0]), [0.75, 1.5, 0.0]);
        assert_eq!(ClassWeights::None.of(&[10, 5, 0]), [1.0; 3]);
    }
}
