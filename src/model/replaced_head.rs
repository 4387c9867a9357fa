//! A model read for other labels than its file's: its head need not fit, and is made anew where it does not. What the file
//! knows of labels of the same name is carried over.

use crate::nn::{Initialization, ParameterError, Source, is_head};
use candle_core::Tensor;
use std::cell::Cell;
use std::collections::HashMap;

/// What became of the classification head when a model was loaded for other labels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Head {
    /// It was read from the file.
    Kept,
    /// Fresh values but for the rows of this many labels, which the file's head has under the same names.
    Carried(usize),
    /// It was missing or had another size, and no label of it is wanted: fresh values.
    Fresh,
}

/// A checkpoint whose head is replaced by `fresh` values where it is missing, has another size, or is another label's.
pub(super) struct ReplacedHead<'a, F> {
    source: &'a dyn Source,
    fresh: F,
    known: Option<KnownLabels>,
    head: Cell<Head>,
}

/// Which rows of a head are wanted in another one.
pub(super) struct KnownLabels {
    /// Rows of the head in the file.
    before: usize,
    /// Of each wanted label, its row in the file.
    rows: Vec<Option<usize>>,
}

impl KnownLabels {
    /// The labels `wanted` that are among the `before` ones of the file. `None` where nothing is to be carried: the same
    /// labels in the same order, none in common, or only such as nobody gave (`LABEL_0`).
    pub(super) fn of(before: &[String], wanted: &[String]) -> Option<Self> {
        if before == wanted {
            return None;
        }
        let mut row_of: HashMap<&str, usize> = HashMap::with_capacity(before.len());
        for (row, label) in before.iter().enumerate().filter(|(_, label)| !is_placeholder(label)) {
            // A model may carry one label twice (ImageNet's "crane"): the first one stands.
            row_of.entry(label).or_insert(row);
        }
        let rows: Vec<_> = wanted.iter().map(|label| row_of.get(label.as_str()).copied()).collect();
        rows.iter().any(Option::is_some).then_some(Self { before: before.len(), rows })
    }

    fn count(&self) -> usize {
        self.rows.iter().flatten().count()
    }

    /// `fresh` with the rows of known labels taken from `file`.
    fn carry(&self, fresh: &Tensor, file: &Tensor) -> candle_core::Result<Tensor> {
        let rows = (0u32..).zip(&self.rows);
        let from: Vec<u32> =
            rows.map(|(own, known)| known.map_or(own, |row| (self.rows.len() + row) as u32)).collect();
        let from = Tensor::new(from, fresh.device())?;
        Tensor::cat(&[fresh, file], 0)?.index_select(&from, 0)
    }
}

/// transformers' name for a class without one.
fn is_placeholder(label: &str) -> bool {
    label.strip_prefix("LABEL_").is_some_and(|number| number.bytes().all(|byte| byte.is_ascii_digit()))
}

impl<'a, F: Source> ReplacedHead<'a, F> {
    pub(super) fn of(source: &'a dyn Source, fresh: F, known: Option<KnownLabels>) -> Self {
        Self { source, fresh, known, head: Cell::new(Head::Kept) }
    }

    /// What became of it so far.
    pub(super) fn head(&self) -> Head {
        self.head.get()
    }

    /// The tensor of a head with known rows, if the file's head is that of its labels.
    fn carried(
        &self,
        known: &KnownLabels,
        name: &str,
        shape: &[usize],
        initialization: Initialization,
    ) -> Result<Tensor, ParameterError> {
        let mut in_file = shape.to_vec();
        in_file.iter_mut().take(1).for_each(|rows| *rows = known.before);
        let file = self.source.tensor(name, &in_file, initialization)?;
        let fresh = self.fresh.tensor(name, shape, initialization)?;
        self.head.set(Head::Carried(known.count()));
        known
            .carry(&fresh, &file)
            .map_err(|source| ParameterError::Unreadable { name: name.to_owned(), source })
    }
}

impl<F: Source> Source for ReplacedHead<'_, F> {
    fn tensor(
        &self,
        name: &str,
        shape: &[usize],
        initialization: Initialization,
    ) -> Result<Tensor, ParameterError> {
        let found = match &self.known {
            Some(known) if is_head(name) => self.carried(known, name, shape, initialization),
            _ => self.source.tensor(name, shape, initialization),
        };
        match found {
            Err(ParameterError::Missing { .. } | ParameterError::Shape { .. }) if is_head(name) => {
                if self.head.get() == Head::Kept {
                    self.head.set(Head::Fresh);
                }
                self.fresh.tensor(name, shape, initialization)
            }
            found => found,
        }
    }

    fn has(&self, name: &str) -> bool {
        self.source.has(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    fn known(before: &[&str], wanted: &[&str]) -> Option<Vec<Option<usize>>> {
        let strings = |labels: &[&str]| labels.iter().map(|label| (*label).to_owned()).collect::<Vec<_>>();
        KnownLabels::of(&strings(before), &strings(wanted)).map(|known| known.rows)
    }

    #[test]
    fn labels_of_the_same_name_are_known_and_placeholders_are_not() {
        assert_eq!(known(&["cat", "dog", "emu"], &["ant", "emu", "cat"]), Some(vec![None, Some(2), Some(0)]));
        assert_eq!(known(&["crane", "crane", "x"], &["crane", "y"]), Some(vec![Some(0), None]));
        assert_eq!(known(&["cat", "dog"], &["cat", "dog"]), None);
        assert_eq!(known(&["cat", "dog"], &["Cat", "ant"]), None);
        assert_eq!(known(&["LABEL_0", "LABEL_1"], &["LABEL_1", "LABEL_0"]), None);
    }

    #[test]
    fn rows_of_known_labels_come_from_the_file_and_the_others_are_fresh() {
        let tensor = |rows: &[[f32; 2]]| {
            Tensor::from_vec(rows.concat(), (rows.len(), 2), &Device::Cpu).expect("a tensor")
        };
        let known = KnownLabels { before: 3, rows: vec![None, Some(2), Some(0)] };
        let file = tensor(&[[1., 2.], [3., 4.], [5., 6.]]);
        let fresh = tensor(&[[-1., -2.], [-3., -4.], [-5., -6.]]);
        let carried = known.carry(&fresh, &file).and_then(|tensor| tensor.to_vec2::<f32>());
        assert_eq!(carried.expect("rows"), [[-1., -2.], [5., 6.], [1., 2.]]);
    }
}
