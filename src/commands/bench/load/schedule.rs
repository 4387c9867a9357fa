//! When requests of an open loop are due: evenly spaced from a start, whatever becomes of them.
//!
//! A thread of its own keeps the time, since the runtime's timers are a millisecond coarse, and that would be part of every latency.

use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

/// `rate` requests a second for `time`.
#[derive(Clone, Copy, Debug)]
pub struct Schedule {
    pub rate: f64,
    pub time: Duration,
}

impl Schedule {
    /// When request `number` (from 0) is due, counted from the start; `None`: the schedule is over.
    fn due(&self, number: u64) -> Option<Duration> {
        let due = Duration::try_from_secs_f64(number as f64 / self.rate).ok()?;
        (due < self.time).then_some(due)
    }

    /// Starts now: each request's time is received when it has come. Whoever drops the [`Clock`] stops it.
    ///
    /// # Errors
    /// If there is no thread for it.
    pub fn start(self) -> std::io::Result<(UnboundedReceiver<Instant>, Clock)> {
        let (sender, receiver) = unbounded_channel();
        let (clock, stopped) = mpsc::channel();
        let start = Instant::now();
        thread::Builder::new().name("schedule".to_owned()).spawn(move || {
            for due in (0..).map_while(|number| self.due(number)) {
                let due = start + due;
                let wait = due.saturating_duration_since(Instant::now());
                if stopped.recv_timeout(wait) != Err(RecvTimeoutError::Timeout) || sender.send(due).is_err() {
                    return;
                }
            }
        })?;
        Ok((receiver, Clock(clock)))
    }
}

/// Keeps a schedule going.
pub struct Clock(#[expect(dead_code, reason = "its end is the signal")] mpsc::Sender<()>);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_due_evenly_from_the_start_until_the_time_is_over() {
        let dues = |rate, time| {
            let schedule = Schedule { rate, time: Duration::from_millis(time) };
            (0..).map_while(|number| schedule.due(number)).map(|due| due.as_micros()).collect::<Vec<_>>()
        };
        assert_eq!(dues(50.0, 100), [0, 20_000, 40_000, 60_000, 80_000]);
        assert_eq!(dues(0.5, 1000), [0], "one at least");
        assert_eq!(dues(0.5, 2001), [0, 2_000_000]);
        let many = dues(3000.0, 10_000);
        assert_eq!(many.len(), 30_000, "no error adds up");
        assert_eq!(many.last(), Some(&9_999_666));
    }

    #[test]
    fn times_are_told_in_order_when_they_have_come_and_end_with_the_schedule() {
        let begin = Instant::now();
        let (mut dues, _clock) =
            Schedule { rate: 200.0, time: Duration::from_millis(50) }.start().expect("a thread");
        let mut told = Vec::new();
        while let Some(due) = dues.blocking_recv() {
            assert!(due <= Instant::now(), "told early");
            told.push(due);
        }
        assert_eq!(told.len(), 10);
        assert!(told[0] >= begin);
        for (number, due) in told.iter().enumerate() {
            assert_eq!(*due - told[0], Duration::from_millis(5) * number as u32);
        }
    }

    #[test]
    fn a_dropped_clock_stops_a_schedule_that_waits() {
        let (mut dues, clock) =
            Schedule { rate: 0.01, time: Duration::from_secs(3600) }.start().expect("a thread");
        assert!(dues.blocking_recv().is_some(), "the first is due at once");
        drop(clock);
        assert!(dues.blocking_recv().is_none(), "and not after a hundred seconds");
    }
}
