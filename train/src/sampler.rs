//! The order in which an epoch visits its samples.
//!
//! The trainer asks once an epoch and hands the order to the loader. An order is a function of the seed and the epoch
//! alone: a resumed run cuts off the part that it has already seen. Nothing here reads a photo.

use featherlight::randomness::{Purpose, Randomness};
use std::collections::BTreeMap;

/// Which photos an epoch visits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sampling {
    /// Every photo once.
    Shuffled,
    /// As many photos, drawn with replacement so that each class comes as often as any other.
    Balanced,
}

/// The photos of `epoch`, by index; `labels` are the classes of all.
pub fn order(sampling: Sampling, randomness: Randomness, epoch: u64, labels: &[u32]) -> Vec<usize> {
    match sampling {
        Sampling::Shuffled => shuffled(randomness, epoch, labels.len()),
        Sampling::Balanced => balanced(randomness, epoch, labels),
    }
}

/// As many draws as there are photos: a class, all alike, then a photo of it. What PyTorch's `WeightedRandomSampler` does with weights
/// of one divided by the size of the photo's class.
fn balanced(randomness: Randomness, epoch: u64, labels: &[u32]) -> Vec<usize> {
    let mut classes: BTreeMap<u32, Vec<usize>> = BTreeMap::new();
    for (index, label) in labels.iter().enumerate() {
        classes.entry(*label).or_default().push(index);
    }
    let classes: Vec<Vec<usize>> = classes.into_values().collect();
    let mut stream = randomness.stream(Purpose::Sampler, epoch, 0, 0);
    let draw = |_| {
        let class = classes.get(stream.below(classes.len()))?;
        class.get(stream.below(class.len())).copied()
    };
    labels.iter().filter_map(draw).collect()
}

/// Every index below `count` once, in an order that only (seed, epoch) decide: for training.
pub fn shuffled(randomness: Randomness, epoch: u64, count: usize) -> Vec<usize> {
    let mut order = in_order(count);
    randomness.stream(Purpose::Shuffle, epoch, 0, 0).shuffle(&mut order);
    order
}

/// Every index below `count` once, ascending: for evaluation.
pub fn in_order(count: usize) -> Vec<usize> {
    (0..count).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_epoch_visits_every_sample_once_in_an_order_of_its_own() {
        let randomness = Randomness::new(42);
        let orders: Vec<Vec<usize>> = (0..3).map(|epoch| shuffled(randomness, epoch, 100)).collect();
        for order in &orders {
            let mut sorted = order.clone();
            sorted.sort_unstable();
            assert_eq!(sorted, in_order(100));
            assert_ne!(*order, in_order(100));
        }
        assert_ne!(orders[0], orders[1]);
        assert_ne!(orders[1], orders[2]);
    }

    #[test]
    fn the_order_depends_on_seed_and_epoch_alone() {
        assert_eq!(shuffled(Randomness::new(1), 5, 50), shuffled(Randomness::new(1), 5, 50));
        assert_ne!(shuffled(Randomness::new(1), 5, 50), shuffled(Randomness::new(2), 5, 50));
    }

    #[test]
    fn balanced_sampling_draws_every_class_equally_often_and_each_epoch_anew() {
        let labels: Vec<u32> = std::iter::repeat_n(0, 9_900).chain(std::iter::repeat_n(3, 100)).collect();
        let draws = |epoch| order(Sampling::Balanced, Randomness::new(1), epoch, &labels);
        let rare = draws(0).iter().filter(|index| labels[**index] == 3).count();
        assert!((4_700..5_300).contains(&rare), "{rare} of 10,000");
        assert_eq!(draws(0).len(), labels.len());
        assert_eq!(draws(0), draws(0));
        assert_ne!(draws(0), draws(1));
    }

    #[test]
    fn an_empty_set_has_an_empty_order() {
        assert!(shuffled(Randomness::new(1), 0, 0).is_empty());
        assert!(order(Sampling::Balanced, Randomness::new(1), 0, &[]).is_empty());
    }
}
