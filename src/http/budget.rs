//! The memory that all bodies share: promised before it is taken, and held as long as the bytes live.
//!
//! `body.rs` and `remote_photo` gather what arrives under a promise, the parsers promise what they copy out of it. What holds a
//! promise goes with the bytes into the engine, so that it ends with them, wherever that is.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;

use crate::engine::Held;

/// Bytes promised to bodies in flight.
#[derive(Debug, Clone)]
pub(super) struct ByteBudget {
    limit: u64,
    used: Arc<AtomicU64>,
}

/// Promised bytes; free again when dropped.
#[derive(Debug)]
pub(super) struct Reservation {
    budget: ByteBudget,
    bytes: u64,
}

impl ByteBudget {
    pub(super) fn new(limit: u64) -> Self {
        Self { limit, used: Arc::default() }
    }

    /// Whether so many bytes are free now; nothing is promised.
    pub(super) fn has(&self, bytes: u64) -> bool {
        self.used.load(Ordering::Acquire).checked_add(bytes).is_some_and(|sum| sum <= self.limit)
    }

    /// Promises `bytes`, or nothing when they are not free.
    pub(super) fn reserve(&self, bytes: u64) -> Option<Reservation> {
        let mut reservation = Reservation { budget: self.clone(), bytes: 0 };
        reservation.grow(bytes).then_some(reservation)
    }
}

impl Reservation {
    /// Promises `more` bytes; false, and nothing changed, when they are not free.
    fn grow(&mut self, more: u64) -> bool {
        let grown = |used: u64| used.checked_add(more).filter(|sum| *sum <= self.budget.limit);
        let free = self.budget.used.fetch_update(Ordering::AcqRel, Ordering::Acquire, grown).is_ok();
        if free {
            self.bytes += more;
        }
        free
    }

    /// Bytes that hold this promise as long as any slice of them lives.
    pub(super) fn hold<B: AsRef<[u8]> + Send + 'static>(self: Arc<Self>, bytes: B) -> Bytes {
        Bytes::from_owner(Held::new(bytes, self))
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.budget.used.fetch_sub(self.bytes, Ordering::AcqRel);
    }
}

/// The first promise to what gathers. Small enough that a byte on each of all connections leaves half of the memory free.
const STEP: u64 = 64 * 1024;
/// What is promised beyond what has arrived, where memory is short.
const LESS: u64 = 1024 * 1024;

/// Bytes that arrive piece by piece. What is promised to them, and taken, is as much as has arrived and as much again: what a
/// client only announces costs it nothing, and must not keep others out.
#[derive(Debug)]
pub(super) struct Gathering {
    bytes: Vec<u8>,
    /// Exactly the capacity of `bytes`.
    reservation: Reservation,
}

impl Gathering {
    /// Nothing yet.
    pub(super) fn new(budget: &ByteBudget) -> Self {
        let reservation = Reservation { budget: budget.clone(), bytes: 0 };
        Self { bytes: Vec::new(), reservation }
    }

    /// How much has been kept.
    pub(super) fn len(&self) -> u64 {
        self.bytes.len() as u64
    }

    /// Keeps the next piece of what is `whole` bytes at most; false, and nothing changed, when the memory for it is in use.
    pub(super) fn keep(&mut self, piece: &[u8], whole: u64) -> bool {
        let length = self.len() + piece.len() as u64;
        let wished = length.saturating_mul(2).max(STEP).min(whole);
        let missing = |length: u64| length.saturating_sub(self.reservation.bytes);
        let (needed, wished) = (missing(length), missing(wished));
        // Where there is no room for twice as much, smaller steps still spare most of the copying.
        let step = missing(length.saturating_add(LESS).min(whole)).min(wished);
        let promised =
            needed == 0 || [wished, step, 0].into_iter().any(|more| self.reservation.grow(needed.max(more)));
        if promised {
            let room = usize::try_from(self.reservation.bytes).unwrap_or(usize::MAX);
            self.bytes.reserve_exact(room.saturating_sub(self.bytes.len()));
            self.bytes.extend_from_slice(piece);
        }
        promised
    }

    /// All of it; the promise lives as long as the bytes.
    pub(super) fn finish(self) -> Bytes {
        Arc::new(self.reservation).hold(self.bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn promised_bytes_stay_promised_as_long_as_a_slice_of_them_lives() {
        let budget = ByteBudget::new(10);
        let bytes = Arc::new(budget.reserve(8).expect("free")).hold(vec![7; 8]);
        assert!(budget.reserve(3).is_none());
        let slice = bytes.slice(2..4);
        drop(bytes);
        assert!(budget.reserve(3).is_none());
        drop(slice);
        assert!(budget.reserve(10).is_some());
    }

    #[test]
    fn what_gathers_takes_what_it_was_promised_and_no_more_than_twice_what_arrived() {
        let budget = ByteBudget::new(1_000_000);
        let mut gathering = Gathering::new(&budget);
        assert!(gathering.keep(&[1; 10], 700_000));
        assert!(budget.has(1_000_000 - STEP), "one step, whatever is announced");
        assert!(!budget.has(1_000_001 - STEP) && !budget.has(u64::MAX));
        for _ in 0..30 {
            assert!(gathering.keep(&[2; 10_000], 700_000));
            let (promised, kept) = (gathering.reservation.bytes, gathering.len());
            assert!(promised <= (2 * kept).max(STEP), "{promised} for {kept}");
            assert!(gathering.bytes.capacity() as u64 <= promised, "{}", gathering.bytes.capacity());
        }
        let rest = budget.reserve(1_000_000 - gathering.reservation.bytes).expect("all that is free");
        while gathering.len() + 10_000 <= gathering.reservation.bytes {
            assert!(gathering.keep(&[3; 10_000], 700_000));
        }
        let before = gathering.len();
        assert!(!gathering.keep(&[3; 10_000], 700_000), "the memory is in use");
        assert_eq!(gathering.len(), before);
        drop(rest);
        assert!(gathering.keep(&[3; 10_000], 700_000));
        let bytes = gathering.finish();
        assert_eq!((bytes.len() as u64, bytes[0], bytes[20]), (before + 10_000, 1, 2));
        drop(bytes);
        assert!(budget.reserve(1_000_000).is_some());
    }
}
