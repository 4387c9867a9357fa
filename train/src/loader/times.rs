//! Where a loader's time goes: what a step waits for, and what the threads do meanwhile.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Where the time went: since the loader was made, or in one epoch.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Times {
    /// The caller waited for the first batch of an epoch, which nobody could have prepared ahead.
    pub starting: Duration,
    /// The caller waited for the batches after it: time that the device had nothing to do because the threads were too slow.
    pub waiting: Duration,
    /// Reading and decoding, all threads together.
    pub decoding: Duration,
    /// Augmentation and resizing, all threads together.
    pub augmenting: Duration,
}

impl Times {
    /// What was spent after `earlier`, times of the same loader.
    pub fn since(&self, earlier: &Self) -> Self {
        Self {
            starting: self.starting.saturating_sub(earlier.starting),
            waiting: self.waiting.saturating_sub(earlier.waiting),
            decoding: self.decoding.saturating_sub(earlier.decoding),
            augmenting: self.augmenting.saturating_sub(earlier.augmenting),
        }
    }
}

/// What time is spent on.
#[derive(Debug, Clone, Copy)]
pub(super) enum Spent {
    Starting,
    Waiting,
    Decoding,
    Augmenting,
}

/// Nanoseconds of each, summed up over threads.
#[derive(Debug, Default)]
pub(super) struct Stopwatches([AtomicU64; 4]);

impl Stopwatches {
    /// Adds the time since `start`.
    pub(super) fn add(&self, spent: Spent, start: Instant) {
        let nanoseconds = u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX);
        self.0[spent as usize].fetch_add(nanoseconds, Ordering::Relaxed);
    }

    pub(super) fn times(&self) -> Times {
        let total = |spent| Duration::from_nanos(self.0[spent as usize].load(Ordering::Relaxed));
        Times {
            starting: total(Spent::Starting),
            waiting: total(Spent::Waiting),
            decoding: total(Spent::Decoding),
            augmenting: total(Spent::Augmenting),
        }
    }
}
