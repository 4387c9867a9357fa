//! What the check of the photos found: for people as sentences ([`super::words`]), for programs as JSON.

use super::Part;
use crate::dataset::{Dataset, Sample};
use crate::fingerprint::hashed_photos;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::path::PathBuf;

/// A photo and its label.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LabelledFile {
    /// Where it is.
    pub file: PathBuf,
    /// The label that it was given.
    pub label: String,
}

/// A photo that is in no set because it cannot be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnreadablePhoto {
    /// The photo.
    pub photo: LabelledFile,
    /// Why not.
    pub reason: String,
}

/// Photos whose files are the same, byte for byte: two or more in all.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Copies {
    /// Those among the training photos.
    pub training: Vec<LabelledFile>,
    /// Those among the validation photos.
    pub validation: Vec<LabelledFile>,
}

/// The photos of a label.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClassCount {
    /// The label.
    pub label: String,
    /// Readable photos to train on.
    pub training: usize,
    /// Readable photos to validate on.
    pub validation: usize,
    /// Photos that cannot be read.
    pub unreadable: usize,
}

/// What the check found.
#[derive(Debug, Clone, PartialEq)]
pub struct DataReport {
    /// Each label, in the order of the labels.
    pub classes: Vec<ClassCount>,
    /// The photos taken out, training before validation, in the order of the set.
    pub unreadable: Vec<UnreadablePhoto>,
    /// Photos that are there more than once, in the order of the first of each.
    pub copies: Vec<Copies>,
    /// Whether there are photos to validate on.
    pub validated: bool,
    /// Differs where the readable training photos do: in name, label, content or order: their number, and 16 hexadecimal digits.
    pub fingerprint: String,
    /// The same of the validation photos, where there are any.
    pub validation_fingerprint: Option<String>,
}

impl LabelledFile {
    pub(super) fn of(sample: &Sample, labels: &[String]) -> Self {
        let label = labels.get(sample.label_index as usize).cloned().unwrap_or_default();
        Self { file: sample.path.clone(), label }
    }

    fn to_json(&self) -> Value {
        json!({ "file": self.file.to_string_lossy(), "label": self.label })
    }
}

impl Copies {
    /// All of them, those to train on first.
    pub fn all(&self) -> impl Iterator<Item = &LabelledFile> {
        self.training.iter().chain(&self.validation)
    }

    /// Whether a model would be measured on a photo that it was trained on.
    pub fn is_leak(&self) -> bool {
        !self.training.is_empty() && !self.validation.is_empty()
    }

    /// Whether they have more than one label.
    pub fn is_conflict(&self) -> bool {
        self.all().zip(self.all().skip(1)).any(|(one, next)| one.label != next.label)
    }
}

impl DataReport {
    pub(super) fn of(training: &Part, validation: Option<&Part>, unreadable: Vec<UnreadablePhoto>) -> Self {
        let labels = &training.dataset.labels;
        let validation_sizes = validation.map_or_else(Vec::new, |part| part.dataset.class_sizes());
        let mut unreadable_of: HashMap<&str, usize> = HashMap::new();
        for UnreadablePhoto { photo, .. } in &unreadable {
            *unreadable_of.entry(photo.label.as_str()).or_default() += 1;
        }
        let classes = labels.iter().zip(training.dataset.class_sizes()).enumerate();
        let classes = classes
            .map(|(index, (label, training))| ClassCount {
                label: label.clone(),
                training,
                validation: validation_sizes.get(index).copied().unwrap_or(0),
                unreadable: unreadable_of.get(label.as_str()).copied().unwrap_or(0),
            })
            .collect();
        Self {
            classes,
            copies: copies(training, validation),
            validated: validation.is_some(),
            fingerprint: fingerprint(training),
            validation_fingerprint: validation.map(fingerprint),
            unreadable,
        }
    }

    /// Photos of the training set that are there twice or more, a group each.
    pub fn duplicates(&self) -> impl Iterator<Item = &Copies> {
        self.copies.iter().filter(|copies| copies.training.len() > 1)
    }

    /// Copies with more than one label.
    pub fn conflicts(&self) -> impl Iterator<Item = &Copies> {
        self.copies.iter().filter(|copies| copies.is_conflict())
    }

    /// Copies on both sides of the border between training and validation.
    pub fn leaks(&self) -> impl Iterator<Item = &Copies> {
        self.copies.iter().filter(|copies| copies.is_leak())
    }

    /// Labels that have photos, none of which can be read.
    pub fn unlearnable(&self) -> impl Iterator<Item = &ClassCount> {
        self.classes.iter().filter(|class| class.training == 0 && class.unreadable > 0)
    }

    /// Labels that are trained and have no photo to validate on, where others have.
    pub fn unvalidated(&self) -> impl Iterator<Item = &ClassCount> {
        let without = |class: &&ClassCount| self.validated && class.training > 0 && class.validation == 0;
        self.classes.iter().filter(without)
    }

    /// The labels that have photos to train on, fewest first; of equals, the earlier label.
    pub(super) fn by_size(&self) -> Vec<&ClassCount> {
        let mut classes: Vec<_> = self.classes.iter().filter(|class| class.training > 0).collect();
        classes.sort_by_key(|class| class.training);
        classes
    }

    /// Everything, with all files.
    pub fn to_json(&self) -> Value {
        let sum = |count: fn(&ClassCount) -> usize| -> usize { self.classes.iter().map(count).sum() };
        let files = |files: &[LabelledFile]| -> Value { files.iter().map(LabelledFile::to_json).collect() };
        let names = |classes: &mut dyn Iterator<Item = &ClassCount>| -> Value {
            classes.map(|class| json!(class.label)).collect()
        };
        let of_class = |class: &ClassCount| json!({ "label": class.label, "training": class.training, "validation": class.validation, "unreadable": class.unreadable });
        let by_size = self.by_size();
        let size = |class: Option<&&ClassCount>| {
            class.map(|class| json!({ "label": class.label, "photos": class.training }))
        };
        json!({
            "training_photos": sum(|class| class.training),
            "validation_photos": sum(|class| class.validation),
            "unreadable_photos": self.unreadable.len(),
            "classes": self.classes.iter().map(of_class).collect::<Value>(),
            "smallest_class": size(by_size.first()),
            "largest_class": size(by_size.last()),
            "median_class_photos": median(&by_size),
            "labels_without_readable_photos": names(&mut self.unlearnable()),
            "labels_without_validation_photos": names(&mut self.unvalidated()),
            "duplicates": self.duplicates().map(|copies| files(&copies.training)).collect::<Value>(),
            "label_conflicts": self.conflicts().map(|copies| copies.all().map(LabelledFile::to_json).collect::<Value>()).collect::<Value>(),
            "leaks": self.leaks().map(|copies| json!({
                "training": files(&copies.training),
                "validation": files(&copies.validation),
            })).collect::<Value>(),
            "fingerprint": self.fingerprint,
            "warnings": self.warnings(),
        })
    }

    /// The photos taken out as `run.json` lists those that could not be read: `file` and `reason`.
    pub fn unreadable_json(&self) -> Vec<Value> {
        let photo = |photo: &UnreadablePhoto| json!({ "file": photo.photo.file.to_string_lossy(), "reason": photo.reason });
        self.unreadable.iter().map(photo).collect()
    }
}

/// The middle of sorted sizes; of an even number, the mean of the two.
pub(super) fn median(by_size: &[&ClassCount]) -> Option<f64> {
    let at = |index: usize| by_size.get(index).map(|class| class.training as f64);
    let middle = by_size.len() / 2;
    if by_size.len() % 2 == 1 { at(middle) } else { Some(0.5 * (at(middle.checked_sub(1)?)? + at(middle)?)) }
}

fn copies(training: &Part, validation: Option<&Part>) -> Vec<Copies> {
    let photos = || {
        let own = training.contents.iter().enumerate().map(|(index, content)| (*content, index, true));
        let held = validation.into_iter().flat_map(|part| part.contents.iter().enumerate());
        own.chain(held.map(|(index, content)| (*content, index, false)))
    };
    // Counted first: most contents have one photo, and no group is made for it.
    let mut count: HashMap<u128, u32> = HashMap::new();
    photos().for_each(|(content, ..)| *count.entry(content).or_default() += 1);
    let mut group_of: HashMap<u128, usize> = HashMap::new();
    let mut groups: Vec<Copies> = Vec::new();
    for (content, index, trained) in photos().filter(|(content, ..)| count[content] > 1) {
        let at = *group_of.entry(content).or_insert_with(|| {
            groups.push(Copies::default());
            groups.len() - 1
        });
        let file = |dataset: &Dataset| {
            dataset.samples.get(index).map(|sample| LabelledFile::of(sample, &dataset.labels))
        };
        match (trained, validation) {
            (true, _) => groups[at].training.extend(file(&training.dataset)),
            (false, Some(part)) => groups[at].validation.extend(file(&part.dataset)),
            (false, None) => {}
        }
    }
    groups
}

fn fingerprint(part: &Part) -> String {
    hashed_photos(&part.dataset, &part.contents)
}
