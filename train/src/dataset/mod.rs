//! A labelled set of photos: which files there are and which class each belongs to.
//!
//! `fit` and `evaluate` open their data here, from a folder with one folder a class (`folder`) or from a CSV list
//! (`list`). Labels become indices here and nowhere else. No photo is decoded: whether a file holds what its name says
//! is found out by the loader.

mod folder;
mod list;

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

/// One photo and its class.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sample {
    /// Where the file is.
    pub path: PathBuf,
    /// Index into [`Dataset::labels`].
    pub label_index: u32,
    /// What people call the photo: relative to the folder, with `/`; for a CSV its own text.
    pub name: String,
}

/// What was found beside the photos of the classes and is not part of the set.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Skipped {
    /// Files whose extension is not that of a photo.
    pub other_files: usize,
    /// Photos that lie beside the class folders and so have no label.
    pub unlabelled_photos: usize,
    /// Class folders without a photo; they are no class of the set.
    pub empty_classes: Vec<String>,
}

/// The photos in a fixed order (folders: by class, then natural order of the names; CSV: by row) and the labels.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dataset {
    /// The photos.
    pub samples: Vec<Sample>,
    /// The label of each class; [`Sample::label_index`] points here.
    pub labels: Vec<String>,
    /// What was left out.
    pub skipped: Skipped,
}

/// Where the labels of a set come from.
#[derive(Debug, Clone, Copy)]
pub enum LabelSpace<'a> {
    /// The set brings its own, in natural order (`9` before `10`). Where they are exactly the labels of the model that
    /// the training starts from, the model's order is kept, so that its head keeps its meaning.
    Found {
        /// The starting model's labels; empty where it has none.
        model: &'a [String],
    },
    /// These labels, in this order: those of the training set, or of the model that is evaluated. Another is an error.
    Known(&'a [String]),
}

/// A data set that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DatasetError {
    /// Nothing is at the path given.
    #[error("{}: there is no such folder or CSV file", .0.display())]
    NotFound(PathBuf),
    /// A file that is no list.
    #[error("{}: neither a folder with one folder a class nor a .csv file", .0.display())]
    NotAList(PathBuf),
    /// `--image-root` that is no folder.
    #[error("{}: the image root is not a folder", .0.display())]
    ImageRoot(PathBuf),
    /// `--image-root` with a folder.
    #[error("{}: an image root goes with a CSV list; a folder's photos lie in it", .0.display())]
    ImageRootOfFolder(PathBuf),
    /// The file system refused.
    #[error("{}: cannot be read: {reason}", path.display())]
    Unreadable {
        /// The folder or file.
        path: PathBuf,
        /// The system's reason.
        reason: String,
    },
    /// A name that cannot be a label.
    #[error("{}: the folder's name is not valid UTF-8, so it cannot be a label", .0.display())]
    LabelNotText(PathBuf),
    /// A folder without photos.
    #[error(
        "{}: no photos in class folders ({photo} photos lie outside of one, {other} other files); \
         expected a folder for each class, DIR/<label>/photo.jpg, with one of the extensions {extensions}",
        path.display()
    )]
    NoPhotos {
        /// The folder.
        path: PathBuf,
        /// Photos directly in the folder.
        photo: usize,
        /// Files that are no photos.
        other: usize,
        /// The extensions known.
        extensions: String,
    },
    /// A list without rows.
    #[error("{}: the list has a header but no rows", .0.display())]
    NoRows(PathBuf),
    /// Every photo has the same label.
    #[error(
        "{}: `{label}` is the only class; a classifier needs at least two to tell apart: add photos of another label",
        path.display()
    )]
    OneClass {
        /// The data set.
        path: PathBuf,
        /// Its label.
        label: String,
    },
    /// The folder above the one that was meant.
    #[error(
        "{}: its folders ({folders}) look like the parts of a data set, not like classes; \
         give one of them, as in --data {}/{first}", path.display(), path.display()
    )]
    PartsNotClasses {
        /// The folder.
        path: PathBuf,
        /// Names of the folders in it.
        folders: String,
        /// The first of these.
        first: String,
    },
    /// A label that training does not know.
    #[error(
        "{place}: the label `{label}` is unknown; the labels known are {known}; give it one of these, or leave its photos out"
    )]
    UnknownLabel {
        /// Folder, or list and row.
        place: String,
        /// The label.
        label: String,
        /// The labels known, shortened.
        known: String,
    },
    /// Photos of something else.
    #[error(
        "{}: none of its labels ({found}) is a known one ({known}): are these photos of the same classes?", path.display()
    )]
    NoKnownLabel {
        /// The data set.
        path: PathBuf,
        /// Its labels, shortened.
        found: String,
        /// The labels known, shortened.
        known: String,
    },
    /// A list without a column that it needs.
    #[error("{}: no column `{wanted}`; the columns found are {found}", path.display())]
    MissingColumn {
        /// The list.
        path: PathBuf,
        /// `file` or `label`.
        wanted: &'static str,
        /// The header.
        found: String,
    },
    /// A row that cannot be read as CSV.
    #[error("{}: {reason}", path.display())]
    MalformedList {
        /// The list.
        path: PathBuf,
        /// The CSV reader's reason, with the line.
        reason: String,
    },
    /// A row with an empty field.
    #[error("{}, row {row}: the column `{column}` is empty", path.display())]
    EmptyField {
        /// The list.
        path: PathBuf,
        /// Row of the list; the header is row 1.
        row: u64,
        /// `file` or `label`.
        column: &'static str,
    },
    /// A row that names a file that is not there.
    #[error("{}, row {row}: the file {} does not exist", path.display(), file.display())]
    MissingFile {
        /// The list.
        path: PathBuf,
        /// Row of the list; the header is row 1.
        row: u64,
        /// Where the file was looked for.
        file: PathBuf,
    },
}

impl Dataset {
    /// Opens a folder with one folder a class, or a CSV with the columns `file,label`.
    ///
    /// `image_root` is the folder that the files of a CSV are relative to; without it, the CSV's own.
    ///
    /// # Errors
    /// Whatever makes the set unusable, naming the place: see [`DatasetError`].
    pub fn open(
        path: &Path,
        image_root: Option<&Path>,
        labels: LabelSpace<'_>,
    ) -> Result<Self, DatasetError> {
        let metadata = std::fs::metadata(path).map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => DatasetError::NotFound(path.to_owned()),
            _ => DatasetError::Unreadable { path: path.to_owned(), reason: error.to_string() },
        })?;
        let (found, skipped) = if metadata.is_dir() {
            if image_root.is_some() {
                return Err(DatasetError::ImageRootOfFolder(path.to_owned()));
            }
            folder::read(path)?
        } else if path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("csv")) {
            (list::read(path, image_root)?, Skipped::default())
        } else {
            return Err(DatasetError::NotAList(path.to_owned()));
        };
        let labels = choose_labels(path, &found, labels)?;
        // A model may carry one label twice (ImageNet's "crane"): the first one stands.
        let mut index_of: HashMap<&str, u32> = HashMap::with_capacity(labels.len());
        for (label, index) in labels.iter().zip(0u32..) {
            index_of.entry(label).or_insert(index);
        }
        if !found.iter().any(|photo| index_of.contains_key(photo.label.as_str())) {
            let mut own: Vec<String> = found.into_iter().map(|photo| photo.label).collect();
            own.sort_by(|a, b| natural_order(a, b));
            own.dedup();
            let (found, known) = (shorten(&own), shorten(&labels));
            return Err(DatasetError::NoKnownLabel { path: path.to_owned(), found, known });
        }
        let mut samples = Vec::with_capacity(found.len());
        for photo in found {
            let Some(&label_index) = index_of.get(photo.label.as_str()) else {
                let known = shorten(&labels);
                return Err(DatasetError::UnknownLabel { place: photo.place, label: photo.label, known });
            };
            samples.push(Sample { path: photo.path, label_index, name: photo.name });
        }
        if metadata.is_dir() {
            samples.sort_by(|a, b| {
                a.label_index.cmp(&b.label_index).then_with(|| natural_order(&a.name, &b.name))
            });
        }
        Ok(Self { samples, labels, skipped })
    }

    /// The set of the samples at `indices`, in that order; the labels stay. Indices outside of the set are left out.
    pub fn subset(&self, indices: &[usize]) -> Self {
        let samples = indices.iter().filter_map(|&index| self.samples.get(index).cloned()).collect();
        Self { samples, labels: self.labels.clone(), skipped: Skipped::default() }
    }

    /// The number of photos of each class, in the order of the labels.
    pub fn class_sizes(&self) -> Vec<usize> {
        let mut sizes = vec![0; self.labels.len()];
        for sample in &self.samples {
            if let Some(size) = sizes.get_mut(sample.label_index as usize) {
                *size += 1;
            }
        }
        sizes
    }

    /// What a person should know about the files left out, a sentence each.
    pub fn warnings(&self) -> Vec<String> {
        let Skipped { other_files, unlabelled_photos, empty_classes } = &self.skipped;
        let mut warnings = Vec::new();
        if *other_files > 0 {
            warnings.push(format!("{other_files} files skipped that are no photos by their extension"));
        }
        if *unlabelled_photos > 0 {
            warnings
                .push(format!("{unlabelled_photos} photos skipped that lie outside of the class folders"));
        }
        if !empty_classes.is_empty() {
            warnings.push(format!("no photos in {}: no such class is trained", shorten(empty_classes)));
        }
        warnings
    }
}

/// A photo as a reader found it, its label still in words.
struct FoundPhoto {
    path: PathBuf,
    label: String,
    name: String,
    /// For an error message: the folder, or the list and its row.
    place: String,
}

fn choose_labels(
    path: &Path,
    found: &[FoundPhoto],
    labels: LabelSpace<'_>,
) -> Result<Vec<String>, DatasetError> {
    let model = match labels {
        LabelSpace::Known(labels) => return Ok(labels.to_vec()),
        LabelSpace::Found { model } => model,
    };
    let mut distinct: Vec<String> =
        found.iter().map(|photo| (photo.label.clone(), ())).collect::<BTreeMap<_, _>>().into_keys().collect();
    if let [label] = distinct.as_slice() {
        return Err(DatasetError::OneClass { path: path.to_owned(), label: label.clone() });
    }
    let mut of_model = model.to_vec();
    of_model.sort_unstable();
    if of_model == distinct {
        return Ok(model.to_vec());
    }
    distinct.sort_by(|a, b| natural_order(a, b));
    Ok(distinct)
}

/// `photo2` before `photo10`; names that differ only in what that order overlooks (spaces) stay apart.
fn natural_order(a: &str, b: &str) -> std::cmp::Ordering {
    natord::compare(a, b).then_with(|| a.cmp(b))
}

/// The first few of many names, for a message.
fn shorten(names: &[String]) -> String {
    const SHOWN: usize = 10;
    let shown = names.iter().take(SHOWN).map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
    match names.len().saturating_sub(SHOWN) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}
