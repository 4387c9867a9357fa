//! The check of all photos before the first step: what cannot be read, what is there twice, what a person should know.
//!
//! `fit` calls [`check`] between opening a data set and making its loaders. Every photo is read and decoded once, on the
//! loader's threads and into the loader's cache; those that cannot be read are taken out, the validation part is split
//! off with copies on one side, and the [`DataReport`] says the rest. What comes of it is the same for any number of
//! threads. Nothing is written here.

mod report;
mod words;

use crate::dataset::Dataset;
use crate::loader::{self, LoaderError, Unreadable, survey};
use crate::progress::Progress;
use crate::split::{SplitError, stratified_by_content};
use featherlight::randomness::Randomness;
pub use report::{ClassCount, Copies, DataReport, LabelledFile, UnreadablePhoto};
use std::sync::atomic::{AtomicBool, Ordering};

/// Where the validation photos come from.
#[derive(Debug)]
pub enum Held {
    /// They are a set of their own, with the labels of the training set.
    Set(Dataset),
    /// This share of every class of the training set; 0 keeps none.
    Share(f64),
}

/// The photos of a run, and what was found out about them.
#[derive(Debug)]
pub struct Checked {
    /// The readable photos to train on.
    pub training: Dataset,
    /// The readable photos to validate on; `None` where none are wanted.
    pub validation: Option<Dataset>,
    /// What a person should know.
    pub report: DataReport,
}

/// Photos that a run cannot be made of.
#[derive(Debug, thiserror::Error)]
pub enum CheckError {
    /// None of a set can be read, or they could not be checked.
    #[error(transparent)]
    Loader(#[from] LoaderError),
    /// The part kept aside.
    #[error(transparent)]
    Split(#[from] SplitError),
    /// The photos of all classes but one cannot be read.
    #[error(
        "`{label}` is the only class with photos that can be read, of {classes}; a classifier needs at least two. The first that cannot, {}: {reason}",
        file.display()
    )]
    OneClass {
        /// The class.
        label: String,
        /// How many there are.
        classes: usize,
        /// A photo that cannot be read.
        file: std::path::PathBuf,
        /// Why not.
        reason: String,
    },
}

/// A set and the content of each of its photos.
struct Part {
    dataset: Dataset,
    contents: Vec<u128>,
}

/// Reads all photos of `training` and `held`, takes out those that cannot be read, and splits off the validation part where
/// it is a share. `loading` says on how many threads and into which cache; pass clones of it to the loaders, so that what
/// the cache has room for is decoded once.
///
/// # Errors
/// If no photo of a set can be read, no thread is to be had, or the share cannot be split off.
pub fn check(
    training: Dataset,
    held: Held,
    randomness: Randomness,
    loading: &loader::Settings,
    (stop, progress): (&AtomicBool, &mut Progress),
) -> Result<Checked, CheckError> {
    let own = match &held {
        Held::Set(validation) => validation.samples.as_slice(),
        Held::Share(_) => &[],
    };
    let paths: Vec<_> = training.samples.iter().chain(own).map(|sample| sample.path.clone()).collect();
    progress.start(paths.len() as u64, "photos checked");
    let outcomes = survey(paths, loading, || {
        progress.advance(1);
        !stop.load(Ordering::Relaxed)
    });
    progress.finish();
    let mut outcomes = outcomes?.into_iter();

    let mut unreadable = Vec::new();
    let mut readable = |dataset: Dataset| readable(dataset, &mut outcomes, &mut unreadable);
    let training = readable(training)?;
    if let (Some(label), Some(first)) = (training.only_class(), unreadable.first()) {
        let (file, reason) = (first.photo.file.clone(), first.reason.clone());
        return Err(CheckError::OneClass { label, classes: training.dataset.labels.len(), file, reason });
    }
    let mut readable = |dataset: Dataset| self::readable(dataset, &mut outcomes, &mut unreadable);
    let (training, validation) = match held {
        Held::Set(validation) => (training, Some(readable(validation)?)),
        Held::Share(share) => {
            let split = stratified_by_content(&training.dataset, &training.contents, share, randomness)?;
            let validation = training.only(&split.validation);
            (training.only(&split.training), Some(validation).filter(|part| !part.contents.is_empty()))
        }
    };
    let report = DataReport::of(&training, validation.as_ref(), unreadable);
    Ok(Checked { training: training.dataset, validation: validation.map(|part| part.dataset), report })
}

/// The photos of `dataset` that can be read, as the next `outcomes` say; the others go to `unreadable`.
fn readable(
    dataset: Dataset,
    outcomes: &mut impl Iterator<Item = Result<u128, String>>,
    unreadable: &mut Vec<UnreadablePhoto>,
) -> Result<Part, LoaderError> {
    let (mut kept, mut contents) = (Vec::with_capacity(dataset.samples.len()), Vec::new());
    let mut first = None;
    for ((index, sample), outcome) in dataset.samples.iter().enumerate().zip(outcomes) {
        match outcome {
            Ok(content) => {
                kept.push(index);
                contents.push(content);
            }
            Err(reason) => {
                let path = sample.path.clone();
                first.get_or_insert_with(|| Unreadable { index, path, reason: reason.clone() });
                unreadable.push(UnreadablePhoto { photo: LabelledFile::of(sample, &dataset.labels), reason });
            }
        }
    }
    match first {
        Some(first) if kept.is_empty() => {
            Err(LoaderError::NothingReadable { photos: dataset.samples.len(), first })
        }
        Some(_) => Ok(Part { dataset: dataset.subset(&kept), contents }),
        None => Ok(Part { dataset, contents }),
    }
}

impl Part {
    /// The label of all photos, if they have one.
    fn only_class(&self) -> Option<String> {
        let mut sizes =
            self.dataset.class_sizes().into_iter().zip(&self.dataset.labels).filter(|(size, _)| *size > 0);
        let (_, label) = sizes.next()?;
        sizes.next().is_none().then(|| label.clone())
    }

    fn only(&self, indices: &[usize]) -> Self {
        let contents = indices.iter().filter_map(|&index| self.contents.get(index).copied()).collect();
        Self { dataset: self.dataset.subset(indices), contents }
    }
}

#[cfg(test)]
pub(crate) mod tests;
