//! What the check of the photos found, in words for who took them.

use super::report::{ClassCount, Copies, DataReport, LabelledFile, median};

/// Of a list, so many are shown; `run.json` has all.
const SHOWN: usize = 10;

/// From here on, the largest class to the smallest, a run is worth a warning.
const IMBALANCE: usize = 10;

impl DataReport {
    /// What is worth a warning, a few sentences each; files stand on lines of their own.
    pub fn warnings(&self) -> Vec<String> {
        [
            self.unreadable_photos(),
            self.unlearnable_classes(),
            self.leaked_photos(),
            self.conflicting_labels(),
            self.duplicated_photos(),
            self.unvalidated_labels(),
            self.imbalance(),
        ]
        .into_iter()
        .flatten()
        .collect()
    }

    /// The classes' sizes in one line.
    pub fn summary(&self) -> String {
        let by_size = self.by_size();
        match (by_size.first(), by_size.last(), median(&by_size)) {
            (Some(smallest), Some(largest), Some(median)) => format!(
                "{} with photos to train on: {} (`{}`) to {} (`{}`), {median} in the median",
                counted(by_size.len(), "class", "classes"),
                smallest.training,
                smallest.label,
                counted(largest.training, "photo", "photos"),
                largest.label,
            ),
            _ => "no photos to train on".to_owned(),
        }
    }

    fn unreadable_photos(&self) -> Option<String> {
        let count = some(self.unreadable.len())?;
        let lines =
            self.unreadable.iter().map(|photo| format!("{}: {}", photo.photo.file.display(), photo.reason));
        let (photos, are) = (counted(count, "photo", "photos"), if count == 1 { "is" } else { "are" });
        Some(format!("{photos} cannot be read and {are} left out:{}", listed(lines, count)))
    }

    fn unlearnable_classes(&self) -> Option<String> {
        let said: Vec<String> = self
            .unlearnable()
            .map(|class| match class.unreadable {
                1 => format!(
                    "the only photo of `{}` cannot be read: it stays a label, but nothing can be learnt of it",
                    class.label
                ),
                photos => format!(
                    "none of the {photos} photos of `{}` can be read: it stays a label, but nothing can be learnt of it",
                    class.label
                ),
            })
            .collect();
        let count = some(said.len())?;
        match said.as_slice() {
            [one] => Some(one.clone()),
            _ => Some(format!(
                "{} have no readable photo:{}",
                counted(count, "class", "classes"),
                listed(said.iter().cloned(), count)
            )),
        }
    }

    fn leaked_photos(&self) -> Option<String> {
        let pairs = self.leaks().flat_map(|copies| {
            let trained = copies.training.first().into_iter();
            trained.flat_map(|trained| copies.validation.iter().map(move |measured| (trained, measured)))
        });
        let lines = pairs
            .map(|(trained, measured)| format!("{} = {}", measured.file.display(), trained.file.display()));
        let count = some(self.leaks().map(|copies| copies.validation.len()).sum())?;
        let photos = match count {
            1 => "1 validation photo is".to_owned(),
            _ => format!("{count} validation photos are"),
        };
        Some(format!(
            "{photos} among the training photos as well, the same file byte for byte: what is measured on them looks better \
             than it is; take them out of one of the two sets:{}",
            listed(lines, count)
        ))
    }

    fn conflicting_labels(&self) -> Option<String> {
        let count = some(self.conflicts().count())?;
        let lines = self.conflicts().map(|copies| files(copies.all(), true));
        let photos = match count {
            1 => "1 photo has".to_owned(),
            _ => format!("{count} photos have"),
        };
        Some(format!(
            "{photos} more than one label, the same file under each: all but one of them are wrong, and nothing else can be \
             learnt of it than to guess:{}",
            listed(lines, count)
        ))
    }

    fn duplicated_photos(&self) -> Option<String> {
        let groups = some(self.duplicates().count())?;
        let more: usize = self.duplicates().map(|copies| copies.training.len() - 1).sum();
        let lines = self.duplicates().map(|copies: &Copies| files(copies.training.iter(), false));
        let photos = match more {
            1 => "1 training photo is a copy of another".to_owned(),
            _ => format!("{more} training photos are copies of others"),
        };
        Some(format!("{photos}, and what they show counts twice or more:{}", listed(lines, groups)))
    }

    fn unvalidated_labels(&self) -> Option<String> {
        let labels: Vec<_> = self.unvalidated().collect();
        let count = some(labels.len())?;
        let have = if count == 1 { "label has" } else { "labels have" };
        Some(format!(
            "{count} {have} no validation photo: how well they are learnt is not measured: {}",
            named(&labels)
        ))
    }

    fn imbalance(&self) -> Option<String> {
        let by_size = self.by_size();
        let (smallest, largest) = (by_size.first()?, by_size.last()?);
        if largest.training < IMBALANCE * smallest.training {
            return None;
        }
        let small: Vec<_> =
            by_size.iter().filter(|class| class.training * IMBALANCE <= largest.training).copied().collect();
        let others = match small.len() {
            1 => String::new(),
            count => format!("; {count} classes have a tenth of the largest or less: {}", named(&small)),
        };
        Some(format!(
            "the classes are far from equal: {} of `{}`, {} of `{}` ({:.0} to 1){others}. A model learns to overlook the \
             small ones; more photos of them help most, --class-weights balanced or --balanced-sampling help",
            counted(largest.training, "photo", "photos"),
            largest.label,
            smallest.training,
            smallest.label,
            largest.training as f64 / smallest.training as f64,
        ))
    }
}

/// `None` for 0.
fn some(count: usize) -> Option<usize> {
    (count > 0).then_some(count)
}

fn counted(count: usize, one: &str, more: &str) -> String {
    format!("{count} {}", if count == 1 { one } else { more })
}

/// The first of `count` lines, each indented on its own.
fn listed(lines: impl Iterator<Item = String>, count: usize) -> String {
    let mut text: String = lines.take(SHOWN).map(|line| format!("\n    {line}")).collect();
    if count > SHOWN {
        text.push_str(&format!("\n    and {} more; run.json lists them all", count - SHOWN));
    }
    text
}

/// The first of many labels, side by side.
fn named(classes: &[&ClassCount]) -> String {
    let names: Vec<_> = classes.iter().take(SHOWN).map(|class| format!("`{}`", class.label)).collect();
    match classes.len().saturating_sub(SHOWN) {
        0 => names.join(", "),
        more => format!("{} and {more} more", names.join(", ")),
    }
}

/// Copies on one line, with their labels where those are the point.
fn files<'a>(copies: impl Iterator<Item = &'a LabelledFile>, labels: bool) -> String {
    let mut shown: Vec<String> = copies
        .map(|copy| match labels {
            true => format!("`{}`: {}", copy.label, copy.file.display()),
            false => copy.file.display().to_string(),
        })
        .collect();
    let more = shown.len().saturating_sub(SHOWN);
    shown.truncate(SHOWN);
    if more > 0 {
        shown.push(format!("{more} more"));
    }
    shown.join(if labels { ", " } else { " = " })
}
