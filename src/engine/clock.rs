//! The engine's time: the system's, or in tests one that a test moves on.
//!
//! Queue, devices and pace ask here and nowhere else, so that their tests need no time to pass. What waits for a caller
//! (`Ticket::wait`) runs on tokio's clock.

#[cfg(test)]
use std::sync::Arc;
#[cfg(test)]
use std::sync::atomic::{AtomicU64, Ordering};
#[cfg(test)]
use std::time::Duration;
use std::time::Instant;

/// Where the engine reads the time; clones show the same.
#[derive(Clone, Debug, Default)]
pub(super) struct Clock {
    #[cfg(test)]
    hand: Option<(Instant, Arc<AtomicU64>)>,
}

impl Clock {
    /// A clock that stands still until [`Clock::advance`].
    #[cfg(test)]
    pub(super) fn still() -> Self {
        Self { hand: Some((Instant::now(), Arc::default())) }
    }

    pub(super) fn now(&self) -> Instant {
        #[cfg(test)]
        if let Some((start, nanoseconds)) = &self.hand {
            return *start + Duration::from_nanos(nanoseconds.load(Ordering::SeqCst));
        }
        Instant::now()
    }

    /// Moves a still clock on.
    #[cfg(test)]
    pub(super) fn advance(&self, time: Duration) {
        let (_, nanoseconds) = self.hand.as_ref().expect("a clock of the system's cannot be moved");
        nanoseconds.fetch_add(u64::try_from(time.as_nanos()).expect("a short time"), Ordering::SeqCst);
    }
}
