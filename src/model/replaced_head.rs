//! A model read for other labels than its file's: its head need not fit, and is made anew where it does not.

use crate::nn::{Initialization, ParameterError, Source, is_head};
use candle_core::Tensor;
use std::cell::Cell;

/// What became of the classification head when a model was loaded for other labels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Head {
    /// It was read from the file.
    Kept,
    /// It was missing or had another size: fresh values.
    Fresh,
}

/// A checkpoint whose head is replaced by `fresh` values where it is missing or has another size.
pub(super) struct ReplacedHead<'a, F> {
    source: &'a dyn Source,
    fresh: F,
    replaced: Cell<bool>,
}

impl<'a, F> ReplacedHead<'a, F> {
    pub(super) fn of(source: &'a dyn Source, fresh: F) -> Self {
        Self { source, fresh, replaced: Cell::new(false) }
    }

    /// What became of it so far.
    pub(super) fn head(&self) -> Head {
        if self.replaced.get() { Head::Fresh } else { Head::Kept }
    }
}

impl<F: Source> Source for ReplacedHead<'_, F> {
    fn tensor(
        &self,
        name: &str,
        shape: &[usize],
        initialization: Initialization,
    ) -> Result<Tensor, ParameterError> {
        match self.source.tensor(name, shape, initialization) {
            Err(ParameterError::Missing { .. } | ParameterError::Shape { .. }) if is_head(name) => {
                self.replaced.set(true);
                self.fresh.tensor(name, shape, initialization)
            }
            found => found,
        }
    }

    fn has(&self, name: &str) -> bool {
        self.source.has(name)
    }
}
