//! Three small counts: places in the queue, entries not yet answered, and the pace of the devices.
//!
//! `Engine::admit` takes slots and enters entries; both are given back by dropping, so no path can forget them. The
//! pace turns a number of waiting photos into the seconds a refused client should stay away.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use prometheus::IntGauge;
use tokio::sync::watch;

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
pub(super) struct Unanswered(Arc<watch::Sender<usize>>);

impl Default for Outstanding {
    fn default() -> Self {
        Self(Arc::new(watch::Sender::new(0)))
    }
}

impl Outstanding {
    pub(super) fn enter(&self) -> Unanswered {
        self.0.send_modify(|count| *count += 1);
        Unanswered(self.0.clone())
    }

    /// Resolves when every entry is answered.
    pub(super) async fn none(&self) {
        // Fails only when the sender is gone, and `self` holds it.
        let _ = self.0.subscribe().wait_for(|count| *count == 0).await;
    }
}

impl Drop for Unanswered {
    fn drop(&mut self) {
        self.0.send_modify(|count| *count -= 1);
    }
}

/// Measured seconds of device time a photo, an exponential mean over batches; zero until the first one.
pub(super) struct Pace {
    /// The mean, as bits.
    seconds: AtomicU64,
    /// How many take from the queue.
    devices: usize,
}

impl Pace {
    /// The weight of a new batch: about the last ten count, so that a change of load shows within a second or so.
    const WEIGHT: f64 = 0.2;

    pub(super) fn of(devices: usize) -> Self {
        Self { seconds: AtomicU64::default(), devices: devices.max(1) }
    }

    /// A batch of `photos` took `time` on one device.
    pub(super) fn record(&self, time: Duration, photos: usize) {
        let measured = time.as_secs_f64() / photos.max(1) as f64;
        let mean = |bits: u64| {
            let before = f64::from_bits(bits);
            let mean = if before > 0.0 { before + Self::WEIGHT * (measured - before) } else { measured };
            Some(mean.to_bits())
        };
        // Never refused: `mean` always has a value.
        let _ = self.seconds.fetch_update(Ordering::Relaxed, Ordering::Relaxed, mean);
    }

    /// The time until `queued` photos are done, rounded up to whole seconds, at least one.
    pub(super) fn retry_after(&self, queued: usize) -> Duration {
        let each = f64::from_bits(self.seconds.load(Ordering::Relaxed));
        let seconds = queued as f64 * each / self.devices as f64;
        // A day bounds the conversion; no estimate of use is longer.
        Duration::from_secs(seconds.ceil().clamp(1.0, 86_400.0) as u64)
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

    #[test]
    fn the_time_to_come_back_is_photos_times_pace_rounded_up_and_at_least_a_second() {
        let pace = Pace::of(1);
        assert_eq!(pace.retry_after(100), Duration::from_secs(1));
        pace.record(Duration::from_millis(2400), 8);
        assert_eq!(pace.retry_after(1), Duration::from_secs(1));
        assert_eq!(pace.retry_after(11), Duration::from_secs(4));
        let two = Pace::of(2);
        two.record(Duration::from_millis(2400), 8);
        assert_eq!(two.retry_after(11), Duration::from_secs(2), "two devices empty the queue twice as fast");
    }

    #[test]
    fn the_pace_follows_the_device() {
        let pace = Pace::of(1);
        pace.record(Duration::from_secs(1), 1);
        for _ in 0..40 {
            pace.record(Duration::from_secs(8), 1);
        }
        assert_eq!(pace.retry_after(10), Duration::from_secs(80));
    }
}
