//! The pace of the engine: measured seconds a photo, and what follows for those that wait.
//!
//! Measured where photos leave, so that decoding, several devices and other work on the machine are all in it, for each model
//! ([`Lane`]). What is wanted is the pace of a queue that is emptied, so time counts where photos waited behind those that left: a
//! photo alone takes the time of every stage, and a small batch hardly less than a large one. The time without a queue shows
//! two things only: so fast it was, and a full batch takes no less time than that of a few. Until there was a queue the warm-up's pass stands in. `Engine::admit` asks the pace whether
//! a deadline can be met, with the caution that the model's photos have taught, and what a refused client is told.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use super::lane::{CAUTION, Lane};

/// What all models share of it.
#[derive(Default)]
pub(super) struct Pace(Mutex<State>);

/// Who waits at one moment.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Queued {
    /// Photos for a decode thread.
    pub(super) encoded: bool,
    /// Prepared photos for a device.
    pub(super) ready: bool,
}

/// Photos of one model leave a device.
#[derive(Clone, Copy)]
pub(super) struct Departure<'a> {
    pub(super) lane: &'a Arc<Lane>,
    pub(super) photos: usize,
    /// When the device took them …
    pub(super) taken: Instant,
    /// … and who was left behind then.
    pub(super) behind: Queued,
    /// The time of their pass, shared out among the devices, …
    pub(super) pass: Duration,
    /// … and the photos that it could have been for.
    pub(super) limit: usize,
    /// Now.
    pub(super) now: Instant,
    /// Who waits now.
    pub(super) waiting: Queued,
    /// Photos that are still in the engine, wherever.
    pub(super) others: usize,
}

#[derive(Default)]
struct State {
    /// Of the models that are warm somewhere.
    lanes: Vec<Weak<Lane>>,
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
    /// The model that is looked at, which is the first of which photos left, …
    lane: Weak<Lane>,
    /// … and how many did since.
    left: usize,
}

impl Departure<'_> {
    /// Seconds a photo in batches that are full, as those take no less time than this one.
    fn at_best(&self) -> f64 {
        self.pass.as_secs_f64() / self.limit.max(1) as f64
    }
}

impl Spell {
    fn new(start: Instant, inside: usize) -> Self {
        Self { start, inside, lane: Weak::new(), left: 0 }
    }
}

/// Photos that are ahead of those that come.
struct Ahead {
    photos: usize,
    seconds: f64,
    lanes: Vec<Arc<Lane>>,
}

impl Pace {
    /// A time without a queue is looked at for so long …
    const SPELL: Duration = Duration::from_secs(1);
    /// … or until so many times the photos that it began with have come and left.
    const THROUGH: usize = 4;

    /// A model's warm-up pass: `photos` took `time` on one of `devices`. Its photos are known from now on.
    pub(super) fn warmed(&self, lane: &Arc<Lane>, time: Duration, photos: usize, devices: usize) {
        lane.warmed(time.as_secs_f64() / devices.max(1) as f64, photos);
        let mut state = self.lock();
        let known = Arc::downgrade(lane);
        state.lanes.retain(|lane| lane.strong_count() > 0 && !lane.ptr_eq(&known));
        state.lanes.push(known);
    }

    /// The first photo after an idle time is there: from now on there is work.
    pub(super) fn begun(&self, now: Instant) {
        let mut state = self.lock();
        state.last = None;
        state.spell = Some(Spell::new(now, 0));
    }

    /// Photos are done with.
    pub(super) fn departed(&self, departure: Departure<'_>) {
        let Departure { lane, photos, taken, behind, now, waiting, others, .. } = departure;
        let mut state = self.lock();
        let start = match state.last {
            // The decode threads had no rest, whatever the device had.
            Some((last, true)) if behind.encoded => Some(last),
            // The device may have had one before it took these.
            Some((last, _)) if behind.ready => Some(last.max(taken)),
            None if behind.ready => Some(taken),
            _ => None,
        };
        match start {
            Some(start) => {
                lane.add(now.saturating_duration_since(start), photos);
                state.spell = Some(Spell::new(now, others));
            }
            // Less is within the caution of every estimate.
            None if departure.at_best() > CAUTION * lane.each().unwrap_or(f64::INFINITY) => {
                lane.add(departure.pass, departure.limit);
            }
            None => state.without_a_queue(departure),
        }
        state.last = Some((now, waiting.encoded));
        state.batch = photos;
    }

    /// The decoder refuses a photo. That is part of the pace only where the decode threads set it.
    pub(super) fn refused(&self, lane: &Lane, waiting: Queued, now: Instant) {
        let mut state = self.lock();
        if !waiting.encoded {
            return;
        }
        if let Some((last, true)) = state.last {
            lane.add(now.saturating_duration_since(last), 1);
        }
        state.last = Some((now, true));
    }

    /// The time until the last of so many photos, behind those that are there, is answered, where that is more than is `left`. On
    /// the safe side, as it is answered together with those of its batch, and a measure is never quite right. Where nobody is ahead
    /// there is always time: a pace that was measured in a bad moment could otherwise never be measured again. Whose model is not
    /// known yet is taken to be as those ahead.
    pub(super) fn too_late(
        &self,
        lane: Option<&Lane>,
        photos: usize,
        left: Duration,
        now: Instant,
    ) -> Option<Duration> {
        let state = self.lock();
        let ahead = state.ahead();
        let caution =
            lane.into_iter().fold(ahead.caution(now), |caution, lane| caution.max(lane.caution(now)));
        let each = lane.map_or(ahead.each(), |lane| lane.each().unwrap_or_default());
        let behind = photos.saturating_add(state.batch.saturating_sub(1));
        let wait = duration((ahead.seconds + behind as f64 * each) * caution);
        (ahead.photos > 0 && wait > left).then_some(wait)
    }

    /// The time a refused client should stay away: until `queued` photos are done, in whole seconds, at least one.
    pub(super) fn retry_after(&self, queued: usize) -> Duration {
        let time = duration(queued as f64 * self.lock().ahead().each());
        Duration::from_secs(time.as_secs_f64().ceil().max(1.0) as u64)
    }

    /// Whoever panicked holding the lock left a whole state, or one measure less.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn ahead(&self) -> Ahead {
        let mut ahead = Ahead { photos: 0, seconds: 0.0, lanes: Vec::new() };
        for lane in self.lanes.iter().filter_map(Weak::upgrade) {
            let own = lane.unanswered();
            if own > 0 {
                ahead.photos += own;
                ahead.seconds += own as f64 * lane.each().unwrap_or_default();
                ahead.lanes.push(lane);
            }
        }
        ahead
    }

    /// Photos that came and left within a time were possible in it: a pace slower than that is wrong, a faster one may be right.
    fn without_a_queue(&mut self, departure: Departure<'_>) {
        let Departure { lane, photos, now, others, .. } = departure;
        let Some(spell) = &mut self.spell else { return };
        if spell.left == 0 {
            spell.lane = Arc::downgrade(lane);
        }
        let time = now.saturating_duration_since(spell.start);
        let old = time > Pace::SPELL;
        let mut faster = false;
        if std::ptr::eq(spell.lane.as_ptr(), Arc::as_ptr(lane)) {
            spell.left += photos;
            // Those inside are not through, so that a short spell shows less than there is.
            let through = spell.left.saturating_sub(spell.inside);
            let whole = through >= Pace::THROUGH * spell.inside;
            let each = lane.each().unwrap_or(f64::INFINITY);
            faster = (whole || old) && time.as_secs_f64() < each * through as f64;
            if faster {
                lane.add(time, through);
            }
        }
        if faster || old {
            *spell = Spell::new(now, others);
        }
    }
}

impl Ahead {
    /// The greatest of their models'.
    fn caution(&self, now: Instant) -> f64 {
        self.lanes.iter().map(|lane| lane.caution(now)).fold(CAUTION, f64::max)
    }

    /// Seconds a photo, on average.
    fn each(&self) -> f64 {
        if self.photos > 0 { self.seconds / self.photos as f64 } else { 0.0 }
    }
}

/// A day bounds the conversion; no estimate of use is longer.
fn duration(seconds: f64) -> Duration {
    Duration::from_secs_f64(seconds.clamp(0.0, 86_400.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn milliseconds(number: u64) -> Duration {
        Duration::from_millis(number)
    }

    fn lane() -> Arc<Lane> {
        Arc::default()
    }

    #[test]
    fn the_time_to_come_back_is_photos_times_pace_rounded_up_and_at_least_a_second() {
        let (pace, lane) = (Pace::default(), lane());
        let _one = lane.enter();
        assert_eq!(pace.retry_after(100), Duration::from_secs(1), "nothing is known yet");
        pace.warmed(&lane, milliseconds(2400), 8, 1);
        assert_eq!(pace.retry_after(1), Duration::from_secs(1));
        assert_eq!(pace.retry_after(11), Duration::from_secs(4));
        pace.warmed(&lane, milliseconds(2400), 8, 2);
        assert_eq!(pace.retry_after(11), Duration::from_secs(2), "two devices empty the queue twice as fast");
    }

    #[test]
    fn photos_of_a_slow_model_are_not_judged_by_those_of_a_fast_one() {
        let (pace, fast, slow, start) = (Pace::default(), lane(), lane(), Instant::now());
        pace.warmed(&fast, milliseconds(10), 1, 1);
        pace.warmed(&slow, milliseconds(100), 1, 1);
        pace.begun(start);
        for number in 0..100 {
            let taken = start + milliseconds(10 * number);
            pace.departed(of_a_queue(&fast, 1, taken, taken + milliseconds(10)));
        }
        let left = milliseconds(1000);
        let one = fast.enter();
        assert_eq!(pace.too_late(Some(&fast), 20, left, start), None);
        assert_eq!(pace.too_late(Some(&slow), 20, left, start), Some(milliseconds(2211)));
        let many: Vec<_> = (0..9).map(|_| slow.enter()).collect();
        assert_eq!(pace.too_late(Some(&fast), 20, left, start), Some(milliseconds(1221)));
        assert_eq!(
            pace.retry_after(10),
            Duration::from_secs(1),
            "910 ms for one fast photo and nine slow ones"
        );
        drop(one);
        assert_eq!(pace.too_late(None, 1, left, start), Some(milliseconds(1100)), "as those ahead");
        drop(many);
        assert_eq!(pace.too_late(Some(&fast), 1000, left, start), None, "nobody is ahead");
    }

    /// Photos taken when others waited behind them.
    fn of_a_queue(lane: &Arc<Lane>, photos: usize, taken: Instant, now: Instant) -> Departure<'_> {
        let queued = Queued { encoded: false, ready: true };
        let (pass, limit) = (Duration::ZERO, 8);
        Departure { lane, photos, taken, pass, limit, behind: queued, now, waiting: queued, others: 8 }
    }

    /// The last photos in the engine.
    fn alone(lane: &Arc<Lane>, photos: usize, taken: Instant, now: Instant) -> Departure<'_> {
        let nobody = Queued::default();
        let (pass, limit) = (now - taken, 8);
        Departure { lane, photos, taken, pass, limit, behind: nobody, now, waiting: nobody, others: 0 }
    }

    #[test]
    fn it_is_the_time_between_departures_and_a_device_at_rest_counts_for_nothing() {
        let (pace, lane, start) = (Pace::default(), lane(), Instant::now());
        pace.warmed(&lane, Duration::from_secs(60), 1, 1);
        pace.begun(start);
        let mut now = start + milliseconds(100);
        for _ in 0..3 {
            pace.departed(of_a_queue(&lane, 8, now, now + milliseconds(400)));
            now += milliseconds(400);
            assert_eq!(lane.time_of(10), milliseconds(500), "the warm-up is forgotten with the first photos");
        }
        // Held back for company, say.
        now += Duration::from_secs(5);
        pace.departed(of_a_queue(&lane, 8, now, now + milliseconds(400)));
        assert_eq!(lane.time_of(10), milliseconds(500));
        pace.begun(now + Duration::from_secs(3600));
        now += Duration::from_secs(3601);
        pace.departed(of_a_queue(&lane, 8, now, now + milliseconds(400)));
        assert_eq!(lane.time_of(10), milliseconds(500));
    }

    #[test]
    fn photos_without_a_queue_show_only_that_it_is_faster_than_believed() {
        let (pace, lane, mut now) = (Pace::default(), lane(), Instant::now());
        pace.warmed(&lane, milliseconds(10), 1, 1);
        let mut lone = |time| {
            pace.begun(now);
            pace.departed(alone(&lane, 1, now, now + milliseconds(time)));
            now += milliseconds(1000);
            lane.time_of(100)
        };
        assert_eq!(lone(30), milliseconds(1000));
        assert_eq!(lone(8), milliseconds(800));
        assert_eq!(lone(8), milliseconds(800));
        assert_eq!(lone(30), milliseconds(800));
    }

    #[test]
    fn a_pass_that_is_too_long_even_for_a_full_batch_shows_without_a_queue() {
        let (pace, lane, mut now) = (Pace::default(), lane(), Instant::now());
        pace.warmed(&lane, milliseconds(80), 8, 1);
        let mut lone = |time| {
            pace.begun(now);
            pace.departed(alone(&lane, 1, now, now + milliseconds(time)));
            now += milliseconds(1000);
            lane.time_of(8)
        };
        assert_eq!(lone(85), milliseconds(80), "a pass is not quite like another");
        assert_eq!(lone(400), milliseconds(400));
    }

    #[test]
    fn photos_that_were_there_when_a_spell_began_prove_nothing() {
        let (pace, lane, mut now) = (Pace::default(), lane(), Instant::now());
        pace.begun(now);
        now += milliseconds(400);
        pace.departed(of_a_queue(&lane, 4, now - milliseconds(400), now));
        // Eight others were there, done but for the last step.
        now += milliseconds(10);
        pace.departed(Departure { others: 4, ..alone(&lane, 4, now, now) });
        pace.departed(alone(&lane, 4, now, now));
        assert_eq!(lane.time_of(4), milliseconds(400));
    }

    #[test]
    fn photos_that_the_decoder_refuses_count_where_it_is_behind() {
        let (pace, lane, start) = (Pace::default(), lane(), Instant::now());
        pace.warmed(&lane, milliseconds(10), 1, 1);
        let (nobody, queue) = (Queued::default(), Queued { encoded: true, ready: false });
        pace.begun(start);
        for number in 0..5 {
            pace.refused(&lane, nobody, start + milliseconds(number));
        }
        assert_eq!(lane.time_of(100), milliseconds(1000));
        for number in 0..50 {
            pace.refused(&lane, queue, start + milliseconds(20 * number));
        }
        assert_eq!(lane.time_of(100), milliseconds(2000));
    }

    #[test]
    fn two_devices_that_answer_together_count_together() {
        let (pace, lane, mut now) = (Pace::default(), lane(), Instant::now());
        pace.begun(now);
        for _ in 0..50 {
            let before = now;
            now += milliseconds(100);
            pace.departed(of_a_queue(&lane, 4, before, now));
            pace.departed(of_a_queue(&lane, 4, before, now));
        }
        assert!((lane.time_of(8).as_secs_f64() - 0.1).abs() < 1e-6);
    }
}
