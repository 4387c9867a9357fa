//! The stratified split of one data set into a training and a validation part.
//!
//! The trainer calls it where no `--val` is given. Every class gives its share, which photos is decided by the seed
//! alone: not by the order in which a file system lists them. No file is opened here.

use crate::dataset::Dataset;
use featherlight::randomness::{Purpose, Randomness};

/// Indices into the samples of the data set that was split; both lists ascend.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Split {
    /// The photos to train on: at least one of every class that has any.
    pub training: Vec<usize>,
    /// The photos kept aside.
    pub validation: Vec<usize>,
}

/// A split that cannot be made.
#[derive(Debug, thiserror::Error, PartialEq)]
pub enum SplitError {
    /// A share that is not one.
    #[error("the validation split is {0}: it must be at least 0 and below 1")]
    Fraction(f64),
    /// No class has a photo to spare.
    #[error(
        "no class has more than one photo: nothing is left to validate on; give a validation set, or split 0"
    )]
    NothingToSpare,
}

/// Keeps `fraction` of the photos of every class aside for validation.
///
/// The total is `fraction` of all photos, rounded, and at least one unless `fraction` is 0. Classes take the integer part
/// of their share, the places left over go to the largest remainders; no class gives its last photo away.
///
/// # Errors
/// A fraction outside 0 … 1; no class with two photos.
pub fn stratified(dataset: &Dataset, fraction: f64, randomness: Randomness) -> Result<Split, SplitError> {
    if !(0.0..1.0).contains(&fraction) {
        return Err(SplitError::Fraction(fraction));
    }
    let mut classes: Vec<Vec<usize>> = vec![Vec::new(); dataset.labels.len()];
    for (index, sample) in dataset.samples.iter().enumerate() {
        if let Some(class) = classes.get_mut(sample.label_index as usize) {
            class.push(index);
        }
    }
    let sizes: Vec<usize> = classes.iter().map(Vec::len).collect();
    let shares = shares(&sizes, fraction);
    if fraction > 0.0 && shares.iter().sum::<usize>() == 0 {
        return Err(SplitError::NothingToSpare);
    }
    let mut split = Split { training: Vec::new(), validation: Vec::new() };
    for (label, (mut class, share)) in classes.into_iter().zip(shares).enumerate() {
        class.sort_by(|&a, &b| dataset.samples[a].name.cmp(&dataset.samples[b].name));
        randomness.stream(Purpose::Split, 0, label as u64, 0).shuffle(&mut class);
        split.training.extend_from_slice(&class[share..]);
        split.validation.extend_from_slice(&class[..share]);
    }
    split.training.sort_unstable();
    split.validation.sort_unstable();
    Ok(split)
}

/// How many photos each class gives: the largest-remainder method, with all but one photo as each class's limit.
fn shares(sizes: &[usize], fraction: f64) -> Vec<usize> {
    if fraction == 0.0 {
        return vec![0; sizes.len()];
    }
    let limits: Vec<usize> = sizes.iter().map(|size| size.saturating_sub(1)).collect();
    let quotas: Vec<f64> = sizes.iter().map(|&size| size as f64 * fraction).collect();
    let mut shares: Vec<usize> =
        quotas.iter().zip(&limits).map(|(quota, &limit)| (quota.floor() as usize).min(limit)).collect();
    let total =
        ((sizes.iter().sum::<usize>() as f64 * fraction).round() as usize).max(1).min(limits.iter().sum());
    let mut by_remainder: Vec<usize> = (0..sizes.len()).collect();
    // Stable: equal remainders go to the earlier class.
    by_remainder.sort_by(|&a, &b| quotas[b].fract().total_cmp(&quotas[a].fract()));
    let mut missing = total.saturating_sub(shares.iter().sum());
    while missing > 0 {
        for &class in &by_remainder {
            if missing > 0 && shares[class] < limits[class] {
                shares[class] += 1;
                missing -= 1;
            }
        }
    }
    shares
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dataset::Sample;

    fn dataset(sizes: &[usize]) -> Dataset {
        let samples = sizes.iter().enumerate().flat_map(|(label, &size)| {
            (0..size).map(move |photo| {
                let name = format!("{label}/{photo}.jpg");
                Sample { path: name.clone().into(), label_index: label as u32, name }
            })
        });
        let labels = (0..sizes.len()).map(|label| label.to_string()).collect();
        Dataset { samples: samples.collect(), labels, skipped: Default::default() }
    }

    fn names(dataset: &Dataset, indices: &[usize]) -> std::collections::BTreeSet<String> {
        indices.iter().map(|&index| dataset.samples[index].name.clone()).collect()
    }

    #[test]
    fn every_photo_is_on_exactly_one_side() {
        let data = dataset(&[40, 7, 33]);
        let split = stratified(&data, 0.2, Randomness::new(1)).unwrap();
        let mut all = [split.training, split.validation].concat();
        all.sort_unstable();
        assert_eq!(all, (0..80).collect::<Vec<_>>());
    }

    #[test]
    fn the_total_is_right_and_classes_give_in_proportion() {
        assert_eq!(shares(&[180, 170, 176], 0.05), [9, 8, 9]); // 26.3 in all; remainders 0, 0.5, 0.8
        assert_eq!(shares(&[10; 10], 0.05), [1, 1, 1, 1, 1, 0, 0, 0, 0, 0]);
        assert_eq!(shares(&[100, 100], 0.25), [25, 25]);
        assert_eq!(shares(&[8], 0.05), [1]);
    }

    #[test]
    fn no_class_gives_its_last_photo_away() {
        assert_eq!(shares(&[1, 0, 2, 50], 0.99), [0, 0, 1, 49]);
        let data = dataset(&[1, 1, 30]);
        let split = stratified(&data, 0.5, Randomness::new(1)).unwrap();
        assert_eq!(split.validation.len(), 16);
        assert!(split.training.contains(&0) && split.training.contains(&1));
    }

    #[test]
    fn the_split_depends_on_the_seed_and_not_on_the_order_of_the_listing() {
        let data = dataset(&[50, 60]);
        let mut reversed = data.clone();
        reversed.samples.reverse();
        let one = stratified(&data, 0.1, Randomness::new(1)).unwrap();
        let same = stratified(&reversed, 0.1, Randomness::new(1)).unwrap();
        let other = stratified(&data, 0.1, Randomness::new(2)).unwrap();
        assert_eq!(names(&data, &one.validation), names(&reversed, &same.validation));
        assert_ne!(one, other);
    }

    #[test]
    fn a_split_of_zero_keeps_nothing_aside() {
        let split = stratified(&dataset(&[5, 5]), 0.0, Randomness::new(1)).unwrap();
        assert_eq!((split.training.len(), split.validation.len()), (10, 0));
    }

    #[test]
    fn impossible_splits_are_refused() {
        for fraction in [1.0, -0.1, f64::NAN] {
            let error = stratified(&dataset(&[5, 5]), fraction, Randomness::new(1)).unwrap_err();
            assert!(matches!(error, SplitError::Fraction(_)));
        }
        let error = stratified(&dataset(&[1, 1]), 0.5, Randomness::new(1)).unwrap_err();
        assert_eq!(error, SplitError::NothingToSpare);
    }
}
