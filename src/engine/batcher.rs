//! When a free device takes a batch, and how much of what waits.
//!
//! A pure rule, asked by the queue whenever something changed; it reads no clock and holds no entry, so its tests
//! need no time to pass. A batch is never frozen ahead: until it is taken, whoever arrives may still join.

use std::time::{Duration, Instant};

/// How batches form.
#[derive(Debug, Clone, Copy)]
pub(super) struct BatchRule {
    /// Photos in a batch, at most.
    pub(super) limit: usize,
    /// How long a batch below the limit is held back, counted from its oldest photo's arrival.
    pub(super) max_delay: Duration,
    /// How long a pass takes, by the last one measured: nobody is held back until it is too late for one.
    pub(super) pass: Duration,
}

/// The photos that a batch would be made of.
#[derive(Debug, Clone, Copy)]
pub(super) struct Waiting {
    /// How many there are.
    pub(super) count: usize,
    /// When the oldest arrived.
    pub(super) oldest: Instant,
    /// When the first of their clients goes.
    pub(super) deadline: Instant,
}

/// Whether a hold-back still applies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mood {
    /// Small batches may be held back.
    Patient,
    /// The service is draining: whatever waits goes at once.
    Hurried,
}

/// What a free device does now.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Decision {
    /// The batch is small: look again at this instant, or when another photo comes.
    HoldUntil(Instant),
    /// Take the first so many.
    Take(usize),
}

impl BatchRule {
    /// One at a time, as soon as it is there.
    pub(super) const SINGLE: Self = Self { limit: 1, max_delay: Duration::ZERO, pass: Duration::ZERO };

    /// Decides for those that wait.
    pub(super) fn decide(&self, waiting: Waiting, mood: Mood, now: Instant) -> Decision {
        let limit = self.limit.max(1);
        // Twice the time of a pass: one may take longer than another.
        let latest = waiting.deadline.checked_sub(self.pass * 2).unwrap_or(now);
        let due = waiting.oldest.checked_add(self.max_delay).unwrap_or(now).min(latest);
        if waiting.count >= limit || due <= now || mood == Mood::Hurried {
            Decision::Take(waiting.count.min(limit))
        } else {
            Decision::HoldUntil(due)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PROMPT: BatchRule =
        BatchRule { limit: 4, max_delay: Duration::ZERO, pass: Duration::from_millis(2) };
    const PATIENT: BatchRule = BatchRule { max_delay: Duration::from_millis(10), ..PROMPT };

    fn waiting(count: usize, oldest: Instant) -> Waiting {
        Waiting { count, oldest, deadline: oldest + Duration::from_secs(60) }
    }

    #[test]
    fn an_idle_device_takes_a_lone_photo_at_once() {
        let now = Instant::now();
        assert_eq!(PROMPT.decide(waiting(1, now), Mood::Patient, now), Decision::Take(1));
    }

    #[test]
    fn a_batch_never_exceeds_the_limit() {
        let now = Instant::now();
        assert_eq!(PROMPT.decide(waiting(9, now), Mood::Patient, now), Decision::Take(4));
    }

    #[test]
    fn a_small_batch_is_held_back_from_its_oldest_photo_until_the_delay_is_over() {
        let arrived = Instant::now();
        let due = arrived + Duration::from_millis(10);
        let early = arrived + Duration::from_millis(9);
        assert_eq!(PATIENT.decide(waiting(3, arrived), Mood::Patient, early), Decision::HoldUntil(due));
        assert_eq!(PATIENT.decide(waiting(3, arrived), Mood::Patient, due), Decision::Take(3));
    }

    #[test]
    fn nobody_is_held_back_until_it_is_too_late_for_a_pass() {
        let arrived = Instant::now();
        let after = |milliseconds| arrived + Duration::from_millis(milliseconds);
        let hurried = Waiting { deadline: after(9), ..waiting(3, arrived) };
        assert_eq!(PATIENT.decide(hurried, Mood::Patient, arrived), Decision::HoldUntil(after(5)));
        assert_eq!(PATIENT.decide(hurried, Mood::Patient, after(5)), Decision::Take(3));
    }

    #[test]
    fn a_full_batch_or_a_draining_service_waits_for_no_delay() {
        let now = Instant::now();
        assert_eq!(PATIENT.decide(waiting(4, now), Mood::Patient, now), Decision::Take(4));
        assert_eq!(PATIENT.decide(waiting(1, now), Mood::Hurried, now), Decision::Take(1));
    }
}
