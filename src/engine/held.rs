//! A value that holds something to its own end.

use std::fmt;
use std::ops::Deref;

/// A value, and what must not end before it: a promise of the memory that it takes.
pub struct Held<T> {
    value: T,
    _until_dropped: Option<Box<dyn Send + Sync>>,
}

impl<T> Held<T> {
    /// `value`, which keeps `held` as long as it lives.
    pub fn new(value: T, held: impl Send + Sync + 'static) -> Self {
        Self { value, _until_dropped: Some(Box::new(held)) }
    }
}

impl<T> From<T> for Held<T> {
    /// A value that holds nothing.
    fn from(value: T) -> Self {
        Self { value, _until_dropped: None }
    }
}

impl<T> Deref for Held<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.value
    }
}

impl<T: AsRef<[u8]>> AsRef<[u8]> for Held<T> {
    fn as_ref(&self) -> &[u8] {
        self.value.as_ref()
    }
}

impl<T: fmt::Debug> fmt::Debug for Held<T> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.value.fmt(formatter)
    }
}
