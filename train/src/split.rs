//! The stratified split of one data set into a training and a validation part.
//!
//! The trainer calls it where no `--val` is given. Every class gives its share, which photos is decided by the seed
//! alone: not by the order in which a file system lists them. Copies of one photo stay on one side, so that nothing is
//! measured on what was trained. No file is opened here.

use crate::dataset::Dataset;
use featherlight::randomness::{Purpose, Randomness};
use std::collections::{BTreeMap, HashMap, HashSet};

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
        "no class has more than one photo (copies of a photo are one): nothing is left to validate on; give a validation set with --val, or train without one with --val-split 0"
    )]
    NothingToSpare,
}

/// Keeps `fraction` of the photos of every class aside for validation, each photo by itself.
///
/// # Errors
/// Those of [`stratified_by_content`].
pub fn stratified(dataset: &Dataset, fraction: f64, randomness: Randomness) -> Result<Split, SplitError> {
    let apart: Vec<u128> = (0..dataset.samples.len() as u128).collect();
    stratified_by_content(dataset, &apart, fraction, randomness)
}

/// Keeps `fraction` of the photos of every class aside for validation; photos of equal content, `contents` says which, all
/// stay on one side.
///
/// The total is `fraction` of all photos, rounded, and at least one unless `fraction` is 0. Classes take the integer part
/// of their share, the places left over go to the largest remainders; no class gives its last photo away. Copies that do
/// not fit into what is left of a share are passed over for other photos; where there are none, the total is smaller.
///
/// # Errors
/// A fraction outside 0 … 1; no class with two photos that are not copies of each other.
pub fn stratified_by_content(
    dataset: &Dataset,
    contents: &[u128],
    fraction: f64,
    randomness: Randomness,
) -> Result<Split, SplitError> {
    if !(0.0..1.0).contains(&fraction) {
        return Err(SplitError::Fraction(fraction));
    }
    let sizes = dataset.class_sizes();
    let shares = shares(&sizes, fraction);
    let total: usize = shares.iter().sum();
    if fraction > 0.0 && total == 0 {
        return Err(SplitError::NothingToSpare);
    }
    let groups = groups(dataset, contents);
    let classes = classes(dataset, &groups, randomness);
    let limits: Vec<usize> = sizes.iter().map(|size| size.saturating_sub(1)).collect();
    let mut aside = Aside { groups: &groups, held: vec![false; groups.len()], sizes: vec![0; sizes.len()] };
    for class in &classes {
        for &group in class {
            aside.hold_if_it_fits(group, &shares);
        }
    }
    // What copies left over, a group of each class in turn: one that does not fit now never will.
    let mut rest: Vec<_> = classes.iter().map(|class| class.iter()).collect();
    let mut missing = total.saturating_sub(aside.sizes.iter().sum());
    while missing > 0 && rest.iter().any(|class| class.len() > 0) {
        for &group in rest.iter_mut().filter_map(Iterator::next) {
            let size = groups[group].members.len();
            if size <= missing && aside.hold_if_it_fits(group, &limits) {
                missing -= size;
            }
        }
    }
    if total > 0 && aside.sizes.iter().all(|&size| size == 0) {
        // Every photo has more copies than the total is: the fewest, rather than none.
        let mut by_size: Vec<usize> = classes.into_iter().flatten().collect();
        by_size.sort_by_key(|&group| groups[group].members.len());
        if !by_size.into_iter().any(|group| aside.hold_if_it_fits(group, &limits)) {
            return Err(SplitError::NothingToSpare);
        }
    }
    let mut split = Split { training: Vec::new(), validation: Vec::new() };
    for (group, held) in groups.iter().zip(aside.held) {
        let side = if held { &mut split.validation } else { &mut split.training };
        side.extend_from_slice(&group.members);
    }
    split.training.sort_unstable();
    split.validation.sort_unstable();
    Ok(split)
}

/// Photos of one content.
struct Group {
    /// Indices of samples.
    members: Vec<usize>,
    /// Classes and how many of the members are in each: more than one where the same photo has two labels.
    classes: BTreeMap<usize, usize>,
}

/// The photos of `dataset` by their content.
fn groups(dataset: &Dataset, contents: &[u128]) -> Vec<Group> {
    let mut groups: Vec<Group> = Vec::new();
    let mut of_content: HashMap<u128, usize> = HashMap::with_capacity(contents.len());
    for (index, (sample, &content)) in dataset.samples.iter().zip(contents).enumerate() {
        let at = *of_content.entry(content).or_insert_with(|| {
            groups.push(Group { members: Vec::new(), classes: BTreeMap::new() });
            groups.len() - 1
        });
        groups[at].members.push(index);
        *groups[at].classes.entry(sample.label_index as usize).or_default() += 1;
    }
    groups
}

/// The groups of each class in the order in which they are kept aside: the seed's, whatever the order of the samples.
fn classes(dataset: &Dataset, groups: &[Group], randomness: Randomness) -> Vec<Vec<usize>> {
    let mut classes: Vec<Vec<(&str, usize)>> = vec![Vec::new(); dataset.labels.len()];
    for (at, group) in groups.iter().enumerate() {
        for sample in group.members.iter().map(|&index| &dataset.samples[index]) {
            if let Some(class) = classes.get_mut(sample.label_index as usize) {
                class.push((&sample.name, at));
            }
        }
    }
    let in_order = |(label, mut class): (usize, Vec<(&str, usize)>)| {
        class.sort();
        let mut order: Vec<usize> = class.into_iter().map(|(_, group)| group).collect();
        randomness.stream(Purpose::Split, 0, label as u64, 0).shuffle(&mut order);
        let mut seen = HashSet::with_capacity(order.len());
        order.retain(|group| seen.insert(*group));
        order
    };
    classes.into_iter().enumerate().map(in_order).collect()
}

/// What is kept aside so far.
struct Aside<'a> {
    groups: &'a [Group],
    /// Whether each group is.
    held: Vec<bool>,
    /// Photos of each class.
    sizes: Vec<usize>,
}

impl Aside<'_> {
    /// Keeps a group aside where no class then has more there than its limit; whether it did.
    fn hold_if_it_fits(&mut self, group: usize, limits: &[usize]) -> bool {
        let classes = &self.groups[group].classes;
        let fits = |(&class, &count): (&usize, &usize)| {
            class < limits.len() && self.sizes[class] + count <= limits[class]
        };
        if self.held[group] || !classes.iter().all(fits) {
            return false;
        }
        classes.iter().for_each(|(&class, &count)| self.sizes[class] += count);
        self.held[group] = true;
        true
    }
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

    /// Contents that are all different but for the groups given.
    fn contents(count: usize, copies: &[&[usize]]) -> Vec<u128> {
        let mut contents: Vec<u128> = (0..count as u128).collect();
        for group in copies {
            group.iter().for_each(|&index| contents[index] = 1000 + group[0] as u128);
        }
        contents
    }

    #[test]
    fn copies_of_a_photo_stay_on_one_side_whatever_the_seed() {
        let data = dataset(&[30, 30]);
        // Pairs, a triple, and a photo that has both labels.
        let copies: [&[usize]; 4] = [&[0, 1], &[2, 20], &[5, 6, 7], &[10, 40]];
        let contents = contents(60, &copies);
        let mut held = 0;
        for seed in 0..50 {
            let split = stratified_by_content(&data, &contents, 0.3, Randomness::new(seed)).unwrap();
            assert_eq!(
                (split.training.len(), split.validation.len()),
                (42, 18),
                "the total is right all the same"
            );
            let of_class = split.validation.iter().filter(|&&index| index < 30).count();
            assert_eq!(of_class, 9, "and so is each class's share");
            for group in copies {
                let aside = group.iter().filter(|index| split.validation.contains(index)).count();
                assert!(aside == 0 || aside == group.len(), "seed {seed}: {group:?} is torn");
                held += usize::from(aside > 0);
            }
        }
        assert!(held > 20, "copies are kept aside like any other: {held} of 200");
    }

    #[test]
    fn without_copies_nothing_changes() {
        let data = dataset(&[40, 7, 33]);
        for seed in 0..5 {
            let randomness = Randomness::new(seed);
            let by_content = stratified_by_content(&data, &contents(80, &[]), 0.2, randomness);
            assert_eq!(by_content, stratified(&data, 0.2, randomness));
        }
    }

    #[test]
    fn a_split_with_copies_does_not_depend_on_the_order_of_the_listing() {
        let data = dataset(&[20, 20]);
        let contents = contents(40, &[&[0, 3], &[1, 21], &[30, 31, 32]]);
        let mut reversed = (data.clone(), contents.clone());
        reversed.0.samples.reverse();
        reversed.1.reverse();
        let one = stratified_by_content(&data, &contents, 0.3, Randomness::new(4)).unwrap();
        let same = stratified_by_content(&reversed.0, &reversed.1, 0.3, Randomness::new(4)).unwrap();
        assert_eq!(names(&data, &one.validation), names(&reversed.0, &same.validation));
    }

    #[test]
    fn a_class_of_copies_alone_keeps_them_for_training_and_others_give_in_its_place() {
        let data = dataset(&[10, 10]);
        let all: Vec<usize> = (0..10).collect();
        let split = stratified_by_content(&data, &contents(20, &[&all]), 0.2, Randomness::new(1)).unwrap();
        assert_eq!(split.validation.len(), 4);
        assert!(split.validation.iter().all(|index| *index >= 10));
    }

    #[test]
    fn where_every_photo_has_a_copy_a_small_share_is_a_pair_and_where_all_are_one_it_is_refused() {
        let data = dataset(&[4, 4]);
        let pairs = contents(8, &[&[0, 1], &[2, 3], &[4, 5], &[6, 7]]);
        let split = stratified_by_content(&data, &pairs, 0.05, Randomness::new(1)).unwrap();
        assert_eq!(split.validation.len(), 2);
        let one = contents(8, &[&[0, 1, 2, 3], &[4, 5, 6, 7]]);
        let error = stratified_by_content(&data, &one, 0.05, Randomness::new(1)).unwrap_err();
        assert_eq!(error, SplitError::NothingToSpare);
    }
}
