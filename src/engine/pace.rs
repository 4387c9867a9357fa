//! The pace of the engine: measured seconds a photo, and what follows for those that wait.
//!
//! Measured where photos leave (answered by the devices, or refused by the decoder), as time between departures while there
//! is work, so that decoding, several devices and other work on the machine are all in it. `Engine::admit` asks it
//! whether a deadline can be met, and what a refused client is told.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Measured seconds a photo; zero until something was measured.
#[derive(Default)]
pub(super) struct Pace(Mutex<Measured>);

/// Two sums that forget: time at work, and the photos that left in it.
#[derive(Default)]
struct Measured {
    seconds: f64,
    photos: f64,
    /// The last departure, or when work began after an idle time.
    since: Option<Instant>,
    /// Photos that left together last.
    batch: usize,
    /// Whether photos have been answered yet; until then the warm-up's passes stand in for them.
    real: bool,
}

impl Pace {
    /// Departures are remembered for about so many seconds, so that a change of load shows soon …
    const MEMORY: f64 = 1.0;
    /// … or for about so many batches, where those are slower.
    const BATCHES: f64 = 8.0;
    /// What an estimate is multiplied by before a deadline is compared with it.
    const CAUTION: f64 = 1.1;

    /// A warm-up pass: `photos` took `time` on one of `devices`.
    pub(super) fn warmed(&self, time: Duration, photos: usize, devices: usize) {
        let mut measured = self.lock();
        if !measured.real {
            measured.seconds = time.as_secs_f64() / devices.max(1) as f64;
            measured.photos = photos.max(1) as f64;
        }
    }

    /// The first photo after an idle time is there: from now on there is work.
    pub(super) fn begun(&self, now: Instant) {
        self.lock().since = Some(now);
    }

    /// So many photos are done with.
    pub(super) fn departed(&self, photos: usize, now: Instant) {
        let mut measured = self.lock();
        let Some(since) = measured.since.replace(now) else { return };
        let seconds = now.saturating_duration_since(since).as_secs_f64();
        let memory = Self::MEMORY.max(Self::BATCHES * seconds);
        let kept = if measured.real { (-seconds / memory).exp() } else { 0.0 };
        measured.real = true;
        measured.batch = photos;
        measured.seconds = measured.seconds * kept + seconds;
        measured.photos = measured.photos * kept + photos as f64;
    }

    /// The time until the last of so many photos, behind `ahead` others, is answered, where that is more than is `left`. On the
    /// safe side, as it is answered together with those of its batch, and a measure is never quite right. Where nobody is ahead
    /// there is always time: a pace that was measured in a bad moment could otherwise never be measured again.
    pub(super) fn too_late(&self, ahead: usize, photos: usize, left: Duration) -> Option<Duration> {
        let batch = self.lock().batch.saturating_sub(1);
        let wait = self.wait(ahead.saturating_add(photos).saturating_add(batch)).mul_f64(Self::CAUTION);
        (ahead > 0 && wait > left).then_some(wait)
    }

    /// The time until so many photos are done.
    pub(super) fn wait(&self, photos: usize) -> Duration {
        let measured = self.lock();
        let each = if measured.photos > 0.0 { measured.seconds / measured.photos } else { 0.0 };
        // A day bounds the conversion; no estimate of use is longer.
        Duration::from_secs_f64((photos as f64 * each).clamp(0.0, 86_400.0))
    }

    /// The time a refused client should stay away: until `queued` photos are done, in whole seconds, at least one.
    pub(super) fn retry_after(&self, queued: usize) -> Duration {
        Duration::from_secs(self.wait(queued).as_secs_f64().ceil().max(1.0) as u64)
    }

    /// Whoever panicked holding the lock left two sums: any values of them are usable.
    fn lock(&self) -> MutexGuard<'_, Measured> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn milliseconds(number: u64) -> Duration {
        Duration::from_millis(number)
    }

    #[test]
    fn the_time_to_come_back_is_photos_times_pace_rounded_up_and_at_least_a_second() {
        let pace = Pace::default();
        assert_eq!(pace.retry_after(100), Duration::from_secs(1), "nothing is known yet");
        pace.warmed(milliseconds(2400), 8, 1);
        assert_eq!(pace.retry_after(1), Duration::from_secs(1));
        assert_eq!(pace.retry_after(11), Duration::from_secs(4));
        assert_eq!(pace.wait(11), milliseconds(3300));
        pace.warmed(milliseconds(2400), 8, 2);
        assert_eq!(pace.retry_after(11), Duration::from_secs(2), "two devices empty the queue twice as fast");
    }

    #[test]
    fn it_is_the_time_between_departures_and_idle_time_is_none() {
        let (pace, start) = (Pace::default(), Instant::now());
        pace.warmed(Duration::from_secs(60), 1, 1);
        pace.begun(start);
        pace.departed(8, start + milliseconds(400));
        assert_eq!(pace.wait(10), milliseconds(500), "the warm-up is forgotten with the first photos");
        pace.begun(start + Duration::from_secs(3600));
        pace.departed(8, start + Duration::from_secs(3600) + milliseconds(400));
        assert_eq!(pace.wait(10), milliseconds(500));
    }

    #[test]
    fn it_follows_the_devices_whether_they_are_fast_or_slow() {
        for (before, after) in [(10, 80), (80, 10), (4_000, 32_000), (32_000, 4_000)] {
            let (pace, mut now) = (Pace::default(), Instant::now());
            pace.begun(now);
            for (time, batches) in [(before, 600), (after, 600)] {
                for _ in 0..batches {
                    now += milliseconds(time);
                    pace.departed(4, now);
                }
                let (found, want) = (pace.wait(4).as_secs_f64(), time as f64 / 1000.0);
                assert!((found / want - 1.0).abs() < 0.02, "{before} → {after}: {found} for {want}");
            }
        }
    }

    #[test]
    fn two_devices_that_answer_together_count_together() {
        let (pace, mut now) = (Pace::default(), Instant::now());
        pace.begun(now);
        for _ in 0..50 {
            now += milliseconds(100);
            pace.departed(4, now);
            pace.departed(4, now);
        }
        assert!((pace.wait(8).as_secs_f64() - 0.1).abs() < 1e-6);
    }
}
