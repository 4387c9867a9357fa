//! `--max-batch-size auto`: the batch size beyond which a device makes hardly more photos a second.
//!
//! Asked by the warm-up, which hands in how a batch is run; sizes double from one until the gain is too small, memory ends,
//! or the time is over.

use std::fmt;
use std::time::Duration;

use super::clock::Clock;
use super::runner::RunnerError;

/// A size must make so much more photos a second than the one before it.
const GAIN: f64 = 1.05;
/// The search ends after this time with the best size measured.
const TIME: Duration = Duration::from_secs(20);
/// Passes of a size that are measured at least, after one that pays for what is allocated once; the fastest counts, since whatever
/// disturbs one only makes it longer.
const PASSES: usize = 3;
/// A size is measured for so long at least: short passes are disturbed more often.
const LEAST: Duration = Duration::from_millis(500);
/// The search ends with so many sizes in a row that are no better: one may only divide badly among the cores, or be disturbed.
const WITHOUT_GAIN: usize = 2;

/// What was found.
pub(super) struct Knee {
    /// The size to use.
    pub(super) limit: usize,
    /// Every size measured.
    pub(super) table: Vec<Row>,
    /// Why the search went no further.
    pub(super) ended: Ended,
}

/// One size.
#[derive(Clone, Copy)]
pub(super) struct Row {
    pub(super) size: usize,
    /// Its fastest pass.
    pub(super) time: Duration,
}

/// Why the search ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ended {
    Gain,
    Memory,
    Time,
    Largest,
}

impl Row {
    fn rate(self) -> f64 {
        self.size as f64 / self.time.as_secs_f64().max(1e-9)
    }
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {:.1} images/s", self.size, self.rate())
    }
}

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Gain => "larger ones are no 5 % faster",
            Self::Memory => "the next does not fit into the device's memory",
            Self::Time => "the time for the search is over",
            Self::Largest => "larger ones are not looked at",
        })
    }
}

/// Looks for the knee among 1, 2, 4 … `most`. `run` runs a batch and says how long it took.
///
/// # Errors
/// Those of `run`; out of memory only where not even one photo fits.
pub(super) fn find(
    most: usize,
    clock: &Clock,
    run: &mut dyn FnMut(usize) -> Result<Duration, RunnerError>,
) -> Result<Knee, RunnerError> {
    let start = clock.now();
    let left = || TIME.saturating_sub(clock.now().saturating_duration_since(start));
    let (mut table, mut size) = (Vec::<Row>::new(), 1);
    let (mut best, mut without_gain) = (None::<Row>, 0);
    let ended = loop {
        // A size twice as large takes up to twice as long; one that cannot be measured in time is not begun.
        if table.last().is_some_and(|last| last.time.saturating_mul(4) > left()) {
            break Ended::Time;
        }
        let row = match measure(size, clock, &left, run) {
            Ok(time) => Row { size, time },
            Err(RunnerError::OutOfMemory(_)) if best.is_some() => break Ended::Memory,
            Err(error) => return Err(error),
        };
        table.push(row);
        if best.is_some_and(|best| row.rate() < GAIN * best.rate()) {
            without_gain += 1;
        } else {
            (best, without_gain) = (Some(row), 0);
        }
        if without_gain == WITHOUT_GAIN {
            break Ended::Gain;
        }
        if size >= most {
            break if without_gain > 0 { Ended::Gain } else { Ended::Largest };
        }
        size = size.saturating_mul(2).min(most);
    };
    Ok(Knee { limit: best.map_or(1, |best| best.size), table, ended })
}

/// The fastest pass of a size, within the time left.
fn measure(
    size: usize,
    clock: &Clock,
    left: &dyn Fn() -> Duration,
    run: &mut dyn FnMut(usize) -> Result<Duration, RunnerError>,
) -> Result<Duration, RunnerError> {
    let first = run(size)?;
    let (begin, mut passes, mut fastest) = (clock.now(), 0, None::<Duration>);
    while passes < PASSES || clock.now().saturating_duration_since(begin) < LEAST {
        if fastest.unwrap_or(first) > left() {
            break;
        }
        let time = run(size)?;
        passes += 1;
        fastest = Some(fastest.map_or(time, |fastest| fastest.min(time)));
    }
    Ok(fastest.unwrap_or(first))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A device whose pass takes `fixed + each × size` milliseconds, with memory for `room` photos.
    fn search(most: usize, room: usize, fixed: u64, each: u64) -> (Knee, Vec<usize>, Duration) {
        let (clock, mut sizes) = (Clock::still(), Vec::new());
        let start = clock.now();
        let mut run = |size: usize| {
            sizes.push(size);
            if size > room {
                return Err(RunnerError::OutOfMemory("full".to_owned()));
            }
            let time = Duration::from_millis(fixed + each * size as u64);
            clock.advance(time);
            Ok(time)
        };
        let knee = find(most, &clock, &mut run).expect("one photo fits");
        sizes.dedup();
        (knee, sizes, clock.now() - start)
    }

    #[test]
    fn one_size_that_gains_nothing_does_not_end_the_search() {
        // Pairs divide badly: 1: 100/s, 2: 100/s, 4: 200/s, 8: 200/s, 16: 200/s.
        let (clock, time) = (Clock::still(), |size| [10, 20, 20, 40, 80][(size as f64).log2() as usize]);
        let mut run = |size: usize| {
            let time = Duration::from_millis(time(size));
            clock.advance(time);
            Ok(time)
        };
        let knee = find(16, &clock, &mut run).expect("one photo fits");
        assert_eq!((knee.limit, knee.ended, knee.table.len()), (4, Ended::Gain, 5));
    }

    #[test]
    fn a_size_of_short_passes_is_measured_until_a_quiet_one_is_among_them() {
        let (clock, mut passes) = (Clock::still(), 0);
        let mut run = |size: usize| {
            passes += 1;
            // Every pass but each twentieth is disturbed.
            let time = Duration::from_millis(if passes % 20 == 0 { 5 } else { 9 } * size as u64);
            clock.advance(time);
            Ok(time)
        };
        let knee = find(1, &clock, &mut run).expect("one photo fits");
        assert_eq!(knee.table[0].time, Duration::from_millis(5));
    }

    #[test]
    fn the_search_ends_where_twice_the_photos_are_no_five_percent_faster() {
        // 1: 91/s, 2: 167, 4: 286, 8: 444, 16: 615, 32: 762, 64: 865, 128: 928, 256: 962 (3.7 % more).
        let (knee, sizes, _) = search(256, 1000, 10, 1);
        assert_eq!((knee.limit, knee.ended), (128, Ended::Gain));
        assert_eq!(sizes, [1, 2, 4, 8, 16, 32, 64, 128, 256]);
        assert_eq!(knee.table.len(), 9);
        let (knee, sizes, _) = search(256, 1000, 0, 5);
        assert_eq!(
            (knee.limit, knee.ended),
            (1, Ended::Gain),
            "a device that gains nothing takes photos one by one"
        );
        assert_eq!(sizes, [1, 2, 4]);
    }

    #[test]
    fn it_ends_with_the_last_size_that_fits_or_that_is_looked_at() {
        let (knee, sizes, _) = search(256, 12, 100, 1);
        assert_eq!((knee.limit, knee.ended), (8, Ended::Memory));
        assert_eq!(sizes, [1, 2, 4, 8, 16]);
        let (knee, sizes, _) = search(6, 100, 100, 1);
        assert_eq!((knee.limit, knee.ended), (6, Ended::Largest));
        assert_eq!(sizes, [1, 2, 4, 6]);
    }

    #[test]
    fn a_slow_device_ends_it_after_twenty_seconds_with_the_best_so_far() {
        let (knee, _, time) = search(256, 1000, 1000, 10);
        assert_eq!((knee.limit, knee.ended), (8, Ended::Time));
        assert!(time <= TIME, "{time:?}");
        let (knee, sizes, _) = search(256, 1000, 60_000, 0);
        assert_eq!((knee.limit, knee.ended, sizes), (1, Ended::Time, vec![1]));
    }

    #[test]
    fn a_device_without_room_for_one_photo_is_an_error() {
        let full = find(8, &Clock::still(), &mut |_| Err(RunnerError::OutOfMemory("full".to_owned())));
        assert!(matches!(full, Err(RunnerError::OutOfMemory(_))));
    }
}
