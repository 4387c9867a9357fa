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
    /// Nothing waits.
    Sleep,
    /// The batch is small: look again at this instant, or when another photo comes.
    HoldUntil(Instant),
    /// Take the first so many.
    Take(usize),
}

impl BatchRule {
    /// One at a time, as soon as it is there.
    pub(super) const SINGLE: Self = Self { limit: 1, max_delay: Duration::ZERO };

    /// Decides for `waiting` photos, the oldest of which arrived at `oldest`.
    pub(super) fn decide(
        &self,
        waiting: usize,
        oldest: Option<Instant>,
        mood: Mood,
        now: Instant,
    ) -> Decision {
        let Some(oldest) = oldest.filter(|_| waiting > 0) else { return Decision::Sleep };
        let limit = self.limit.max(1);
        let due = oldest.checked_add(self.max_delay).unwrap_or(now);
        if waiting >= limit || due <= now || mood == Mood::Hurried {
            Decision::Take(waiting.min(limit))
        } else {
            Decision::HoldUntil(due)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PROMPT: BatchRule = BatchRule { limit: 4, max_delay: Duration::ZERO };
    const PATIENT: BatchRule = BatchRule { limit: 4, max_delay: Duration::from_millis(10) };

    #[test]
    fn an_idle_device_takes_a_lone_photo_at_once() {
        let now = Instant::now();
        assert_eq!(PROMPT.decide(1, Some(now), Mood::Patient, now), Decision::Take(1));
    }

    #[test]
    fn a_batch_never_exceeds_the_limit() {
        let now = Instant::now();
        assert_eq!(PROMPT.decide(9, Some(now), Mood::Patient, now), Decision::Take(4));
    }

    #[test]
    fn nothing_waiting_means_sleep() {
        assert_eq!(PROMPT.decide(0, None, Mood::Hurried, Instant::now()), Decision::Sleep);
    }

    #[test]
    fn a_small_batch_is_held_back_from_its_oldest_photo_until_the_delay_is_over() {
        let arrived = Instant::now();
        let due = arrived + Duration::from_millis(10);
        let early = arrived + Duration::from_millis(9);
        assert_eq!(PATIENT.decide(3, Some(arrived), Mood::Patient, early), Decision::HoldUntil(due));
        assert_eq!(PATIENT.decide(3, Some(arrived), Mood::Patient, due), Decision::Take(3));
    }

    #[test]
    fn a_full_batch_or_a_draining_service_waits_for_no_delay() {
        let now = Instant::now();
        assert_eq!(PATIENT.decide(4, Some(now), Mood::Patient, now), Decision::Take(4));
        assert_eq!(PATIENT.decide(1, Some(now), Mood::Hurried, now), Decision::Take(1));
    }
}
