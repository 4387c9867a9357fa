//! A model's part in the pace: its photos in the engine, the measured seconds that one of them takes, and how far that can be relied on.
//!
//! Kept with the model, so that a new version begins with its own warm-up and a slow model's queue is not judged by a fast one.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// One a model, shared by its handles, its photos and the pace.
#[derive(Default)]
pub(super) struct Lane {
    unanswered: AtomicUsize,
    sums: Mutex<Sums>,
}

/// One unanswered photo of a model; counted until dropped.
pub(super) struct InLane(Arc<Lane>);

/// Two sums that forget: time, and the photos that left in it.
#[derive(Default)]
struct Sums {
    seconds: f64,
    photos: f64,
    /// Whether photos of clients are in the sums; until then they are the warm-up's.
    real: bool,
    /// Caution beyond the least as it was with the last photo that was late, and when that was.
    more_caution: Option<(f64, Instant)>,
}

/// Departures are remembered for about so many seconds, so that a change of load shows soon …
const MEMORY: f64 = 1.0;
/// … or for about so many batches, where those are slower.
const BATCHES: f64 = 6.0;

/// What an estimate is multiplied by at least, before a deadline is compared with it, …
pub(super) const CAUTION: f64 = 1.1;
/// … what is added to that at most, …
const MOST_MORE: f64 = 1.0;
/// … where photos that an estimate let in were late after all. Late photos come together, so that those of a second count once …
const MISSED: f64 = 0.1;
const TOGETHER: Duration = Duration::from_secs(1);
/// … and half of it is forgotten in this time.
const HALF: Duration = Duration::from_secs(300);

impl Lane {
    pub(super) fn enter(self: &Arc<Self>) -> InLane {
        self.unanswered.fetch_add(1, Ordering::AcqRel);
        InLane(self.clone())
    }

    /// Photos admitted and not yet answered.
    pub(super) fn unanswered(&self) -> usize {
        self.unanswered.load(Ordering::Acquire)
    }

    /// Seconds a photo; `None` until something was measured.
    pub(super) fn each(&self) -> Option<f64> {
        let sums = self.lock();
        (sums.photos > 0.0).then(|| sums.seconds / sums.photos)
    }

    /// What stands in for clients' photos until there are any.
    pub(super) fn warmed(&self, seconds: f64, photos: usize) {
        let mut sums = self.lock();
        if !sums.real {
            (sums.seconds, sums.photos) = (seconds, photos.max(1) as f64);
        }
    }

    /// So many photos left in so much time.
    pub(super) fn add(&self, time: Duration, photos: usize) {
        let (mut sums, seconds) = (self.lock(), time.as_secs_f64());
        let memory = MEMORY.max(BATCHES * seconds);
        let kept = if sums.real { (-seconds / memory).exp() } else { 0.0 };
        sums.seconds = sums.seconds * kept + seconds;
        sums.photos = sums.photos * kept + photos as f64;
        sums.real = true;
    }

    /// A photo that an estimate let in is late.
    pub(super) fn missed(&self, now: Instant) {
        let mut sums = self.lock();
        let counted = |(_, last)| now.saturating_duration_since(last) < TOGETHER;
        if !sums.more_caution.is_some_and(counted) {
            sums.more_caution = Some(((sums.more_caution(now) + MISSED).min(MOST_MORE), now));
        }
    }

    /// What an estimate is multiplied by before a deadline is compared with it: how steady a machine is shows in what was late.
    pub(super) fn caution(&self, now: Instant) -> f64 {
        CAUTION + self.lock().more_caution(now)
    }

    /// The time that so many photos take, by the pace so far.
    #[cfg(test)]
    pub(super) fn time_of(&self, photos: u32) -> Duration {
        Duration::from_secs_f64(self.each().unwrap_or_default() * f64::from(photos))
    }

    /// Whoever panicked holding the lock left sums: any values of them are usable.
    fn lock(&self) -> MutexGuard<'_, Sums> {
        self.sums.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Sums {
    fn more_caution(&self, now: Instant) -> f64 {
        let Some((more, since)) = self.more_caution else { return 0.0 };
        more * (-now.saturating_duration_since(since).div_duration_f64(HALF)).exp2()
    }
}

impl Drop for InLane {
    fn drop(&mut self) {
        self.0.unanswered.fetch_sub(1, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn caution_grows_with_each_second_in_which_photos_were_late_and_is_forgotten() {
        let (lane, mut now) = (Lane::default(), Instant::now());
        let near = |lane: &Lane, now, want: f64| (lane.caution(now) - want).abs() < 0.002;
        assert!(near(&lane, now, CAUTION));
        (0..100).for_each(|_| lane.missed(now));
        assert!(near(&lane, now, CAUTION + MISSED), "a stall makes many late at once");
        now += HALF;
        assert!(near(&lane, now, CAUTION + MISSED / 2.0));
        for _ in 0..100 {
            now += TOGETHER;
            lane.missed(now);
        }
        assert!(near(&lane, now, CAUTION + MOST_MORE), "a device that hangs leaves a way back");
        assert!(near(&lane, now + 9 * HALF, CAUTION));
    }

    #[test]
    fn it_follows_the_devices_whether_they_are_fast_or_slow() {
        for (before, after) in [(10, 80), (80, 10), (4_000, 32_000), (32_000, 4_000)] {
            let lane = Lane::default();
            for (time, batches) in [(before, 600), (after, 600)] {
                (0..batches).for_each(|_| lane.add(Duration::from_millis(time), 4));
                let (found, want) = (lane.time_of(4).as_secs_f64(), time as f64 / 1000.0);
                assert!((found / want - 1.0).abs() < 0.02, "{before} → {after}: {found} for {want}");
            }
        }
    }
}
