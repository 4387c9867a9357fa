//! The pace of the engine: measured seconds a photo, and what follows for those that wait.
//!
//! Measured where photos leave, so that decoding, several devices and other work on the machine are all in it. What is wanted is
//! the pace of a queue that is emptied, so time counts where photos waited behind those that left: a photo alone takes the
//! time of every stage, and a small batch hardly less than a large one. The time without a queue shows one thing only: so
//! fast it was. Until there was a queue the warm-up's pass stands in. `Engine::admit` asks the pace whether a deadline can be
//! met, and what a refused client is told.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Measured seconds a photo; zero until something was measured.
#[derive(Default)]
pub(super) struct Pace(Mutex<Measured>);

/// Who waits at one moment.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Queued {
    /// Photos for a decode thread.
    pub(super) encoded: bool,
    /// Prepared photos for a device.
    pub(super) ready: bool,
}

/// Photos leave a device.
#[derive(Clone, Copy, Debug)]
pub(super) struct Departure {
    pub(super) photos: usize,
    /// When the device took them …
    pub(super) taken: Instant,
    /// … and who was left behind then.
    pub(super) behind: Queued,
    /// Now.
    pub(super) now: Instant,
    /// Who waits now.
    pub(super) waiting: Queued,
    /// Photos that are still in the engine, wherever.
    pub(super) others: usize,
}

/// Two sums that forget: time, and the photos that left in it.
#[derive(Default)]
struct Measured {
    seconds: f64,
    photos: f64,
    /// Whether photos of clients are in the sums; until then they are the warm-up's.
    real: bool,
    /// Photos that left together last.
    batch: usize,
    /// The last departure since the engine was idle, and whether photos waited for a decode thread then.
    last: Option<(Instant, bool)>,
    spell: Option<Spell>,
}

/// A time without a queue.
struct Spell {
    start: Instant,
    /// Photos that were in the engine when it began.
    inside: usize,
    /// Photos that left since.
    left: usize,
}

impl Pace {
    /// Departures are remembered for about so many seconds, so that a change of load shows soon …
    const MEMORY: f64 = 1.0;
    /// … or for about so many batches, where those are slower.
    const BATCHES: f64 = 6.0;
    /// A time without a queue is looked at for so long …
    const SPELL: Duration = Duration::from_secs(1);
    /// … or until so many times the photos that it began with have come and left.
    const THROUGH: usize = 4;
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
        let mut measured = self.lock();
        measured.last = None;
        measured.spell = Some(Spell { start: now, inside: 0, left: 0 });
    }

    /// Photos are done with.
    pub(super) fn departed(&self, departure: Departure) {
        let Departure { photos, taken, behind, now, waiting, others } = departure;
        let mut measured = self.lock();
        let start = match measured.last {
            // The decode threads had no rest, whatever the device had.
            Some((last, true)) if behind.encoded => Some(last),
            // The device may have had one before it took these.
            Some((last, _)) if behind.ready => Some(last.max(taken)),
            None if behind.ready => Some(taken),
            _ => None,
        };
        match start {
            Some(start) => {
                measured.add(now.saturating_duration_since(start), photos);
                measured.spell = Some(Spell { start: now, inside: others, left: 0 });
            }
            None => measured.without_a_queue(photos, others, now),
        }
        measured.last = Some((now, waiting.encoded));
        measured.batch = photos;
    }

    /// The decoder refuses a photo. That is part of the pace only where the decode threads set it.
    pub(super) fn refused(&self, waiting: Queued, now: Instant) {
        let mut measured = self.lock();
        if !waiting.encoded {
            return;
        }
        if let Some((last, true)) = measured.last {
            measured.add(now.saturating_duration_since(last), 1);
        }
        measured.last = Some((now, true));
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
        let each = self.lock().each().unwrap_or_default();
        // A day bounds the conversion; no estimate of use is longer.
        Duration::from_secs_f64((photos as f64 * each).clamp(0.0, 86_400.0))
    }

    /// The time a refused client should stay away: until `queued` photos are done, in whole seconds, at least one.
    pub(super) fn retry_after(&self, queued: usize) -> Duration {
        Duration::from_secs(self.wait(queued).as_secs_f64().ceil().max(1.0) as u64)
    }

    /// Whoever panicked holding the lock left sums: any values of them are usable.
    fn lock(&self) -> MutexGuard<'_, Measured> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Measured {
    /// Seconds a photo.
    fn each(&self) -> Option<f64> {
        (self.photos > 0.0).then(|| self.seconds / self.photos)
    }

    fn add(&mut self, time: Duration, photos: usize) {
        let seconds = time.as_secs_f64();
        let memory = Pace::MEMORY.max(Pace::BATCHES * seconds);
        let kept = if self.real { (-seconds / memory).exp() } else { 0.0 };
        self.real = true;
        self.seconds = self.seconds * kept + seconds;
        self.photos = self.photos * kept + photos as f64;
    }

    /// Photos that came and left within a time were possible in it: a pace slower than that is wrong, a faster one may be right.
    fn without_a_queue(&mut self, photos: usize, others: usize, now: Instant) {
        let each = self.each().unwrap_or(f64::INFINITY);
        let Some(spell) = &mut self.spell else { return };
        spell.left += photos;
        let (time, through) =
            (now.saturating_duration_since(spell.start), spell.left.saturating_sub(spell.inside));
        // Those inside are not through, so that a short spell shows less than there is.
        let (whole, old) = (through >= Pace::THROUGH * spell.inside, time > Pace::SPELL);
        let faster = (whole || old) && time.as_secs_f64() < each * through as f64;
        if faster || old {
            *spell = Spell { start: now, inside: others, left: 0 };
        }
        if faster {
            self.add(time, through);
        }
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

    /// Photos taken when others waited behind them.
    fn of_a_queue(photos: usize, taken: Instant, now: Instant) -> Departure {
        let queued = Queued { encoded: false, ready: true };
        Departure { photos, taken, behind: queued, now, waiting: queued, others: 8 }
    }

    /// The last photos in the engine.
    fn alone(photos: usize, taken: Instant, now: Instant) -> Departure {
        let nobody = Queued::default();
        Departure { photos, taken, behind: nobody, now, waiting: nobody, others: 0 }
    }

    #[test]
    fn it_is_the_time_between_departures_and_a_device_at_rest_counts_for_nothing() {
        let (pace, start) = (Pace::default(), Instant::now());
        pace.warmed(Duration::from_secs(60), 1, 1);
        pace.begun(start);
        let mut now = start + milliseconds(100);
        for _ in 0..3 {
            pace.departed(of_a_queue(8, now, now + milliseconds(400)));
            now += milliseconds(400);
            assert_eq!(pace.wait(10), milliseconds(500), "the warm-up is forgotten with the first photos");
        }
        // Held back for company, say.
        now += Duration::from_secs(5);
        pace.departed(of_a_queue(8, now, now + milliseconds(400)));
        assert_eq!(pace.wait(10), milliseconds(500));
        pace.begun(now + Duration::from_secs(3600));
        now += Duration::from_secs(3601);
        pace.departed(of_a_queue(8, now, now + milliseconds(400)));
        assert_eq!(pace.wait(10), milliseconds(500));
    }

    #[test]
    fn photos_without_a_queue_show_only_that_it_is_faster_than_believed() {
        let (pace, mut now) = (Pace::default(), Instant::now());
        pace.warmed(milliseconds(10), 1, 1);
        let mut lone = |time| {
            pace.begun(now);
            pace.departed(alone(1, now, now + milliseconds(time)));
            now += milliseconds(1000);
            pace.wait(100)
        };
        assert_eq!(lone(30), milliseconds(1000));
        assert_eq!(lone(8), milliseconds(800));
        assert_eq!(lone(8), milliseconds(800));
        assert_eq!(lone(30), milliseconds(800));
    }

    #[test]
    fn photos_that_were_there_when_a_spell_began_prove_nothing() {
        let (pace, mut now) = (Pace::default(), Instant::now());
        pace.begun(now);
        now += milliseconds(400);
        pace.departed(of_a_queue(4, now - milliseconds(400), now));
        // Eight others were there, done but for the last step.
        now += milliseconds(10);
        pace.departed(Departure { others: 4, ..alone(4, now, now) });
        pace.departed(alone(4, now, now));
        assert_eq!(pace.wait(4), milliseconds(400));
    }

    #[test]
    fn photos_that_the_decoder_refuses_count_where_it_is_behind() {
        let (pace, start) = (Pace::default(), Instant::now());
        pace.warmed(milliseconds(10), 1, 1);
        let (nobody, queue) = (Queued::default(), Queued { encoded: true, ready: false });
        pace.begun(start);
        for number in 0..5 {
            pace.refused(nobody, start + milliseconds(number));
        }
        assert_eq!(pace.wait(100), milliseconds(1000));
        for number in 0..50 {
            pace.refused(queue, start + milliseconds(20 * number));
        }
        assert_eq!(pace.wait(100), milliseconds(2000));
    }

    #[test]
    fn it_follows_the_devices_whether_they_are_fast_or_slow() {
        for (before, after) in [(10, 80), (80, 10), (4_000, 32_000), (32_000, 4_000)] {
            let (pace, mut now) = (Pace::default(), Instant::now());
            pace.begun(now);
            for (time, batches) in [(before, 600), (after, 600)] {
                for _ in 0..batches {
                    pace.departed(of_a_queue(4, now, now + milliseconds(time)));
                    now += milliseconds(time);
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
            let before = now;
            now += milliseconds(100);
            pace.departed(of_a_queue(4, before, now));
            pace.departed(of_a_queue(4, before, now));
        }
        assert!((pace.wait(8).as_secs_f64() - 0.1).abs() < 1e-6);
    }
}
