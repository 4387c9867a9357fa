//! Two small counts: places in the queue, and entries not yet answered.
//!
//! `Engine::admit` takes slots and enters entries; both are given back by dropping, so no path can forget them.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use prometheus::IntGauge;
use tokio::sync::watch;

use super::lane::{InLane, Lane};

/// The places of the queue.
pub(super) struct Slots {
    limit: usize,
    used: Arc<AtomicUsize>,
    gauge: IntGauge,
}

/// One place; free again when dropped.
pub(super) struct Slot {
    used: Arc<AtomicUsize>,
    gauge: IntGauge,
}

impl Slots {
    pub(super) fn new(limit: usize, gauge: IntGauge) -> Self {
        Self { limit, used: Arc::default(), gauge }
    }

    pub(super) fn used(&self) -> usize {
        self.used.load(Ordering::Acquire)
    }

    pub(super) fn free(&self) -> usize {
        self.limit.saturating_sub(self.used())
    }

    /// `count` places, or none at all.
    pub(super) fn take(&self, count: usize) -> Option<Vec<Slot>> {
        let grown = |used: usize| used.checked_add(count).filter(|sum| *sum <= self.limit);
        self.used.fetch_update(Ordering::AcqRel, Ordering::Acquire, grown).ok()?;
        let slot = || {
            self.gauge.inc();
            Slot { used: self.used.clone(), gauge: self.gauge.clone() }
        };
        Some((0..count).map(|_| slot()).collect())
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.used.fetch_sub(1, Ordering::AcqRel);
        self.gauge.dec();
    }
}

/// How many admitted entries have no answer yet.
pub(super) struct Outstanding(Arc<watch::Sender<usize>>);

/// One unanswered entry; counted until dropped.
pub(super) struct Unanswered {
    count: Arc<watch::Sender<usize>>,
    _lane: InLane,
}

impl Default for Outstanding {
    fn default() -> Self {
        Self(Arc::new(watch::Sender::new(0)))
    }
}

impl Outstanding {
    /// How many there are.
    pub(super) fn count(&self) -> usize {
        *self.0.borrow()
    }

    pub(super) fn enter(&self, lane: &Arc<Lane>) -> Unanswered {
        self.0.send_modify(|count| *count += 1);
        Unanswered { count: self.0.clone(), _lane: lane.enter() }
    }

    /// Resolves when every entry is answered.
    pub(super) async fn none(&self) {
        // Fails only when the sender is gone, and `self` holds it.
        let _ = self.0.subscribe().wait_for(|count| *count == 0).await;
    }
}

impl Drop for Unanswered {
    fn drop(&mut self) {
        self.count.send_modify(|count| *count -= 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slots(limit: usize) -> Slots {
        Slots::new(limit, IntGauge::new("queue", "test").expect("a valid name"))
    }

    #[test]
    fn a_request_of_n_photos_takes_n_slots_or_none() {
        let slots = slots(3);
        let two = slots.take(2).expect("two of three are free");
        assert!(slots.take(2).is_none());
        assert_eq!((slots.used(), slots.gauge.get()), (2, 2));
        drop(two);
        assert_eq!((slots.used(), slots.gauge.get()), (0, 0));
        assert!(slots.take(3).is_some());
    }
}
