//! The order in which an epoch visits its samples.
//!
//! The trainer asks once an epoch and hands the order to the loader. An order is a function of the seed and the epoch
//! alone: a resumed run cuts off the part that it has already seen. Nothing here reads a photo.

use featherlight::randomness::{Purpose, Randomness};

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
    fn an_empty_set_has_an_empty_order() {
        assert!(shuffled(Randomness::new(1), 0, 0).is_empty());
    }
}
