//! Memory promised before it is taken.
//!
//! Every decode reserves here the most bytes it will hold, read from the photo's header, and waits while others hold
//! too many; so a burst of large photos queues instead of exhausting the machine. Waiting is in order of arrival: a
//! large photo is not overtaken for ever by small ones. The budget counts promises; it allocates nothing itself.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use super::ImageError;

/// A number of bytes shared by all that decode.
#[derive(Debug)]
pub struct MemoryBudget {
    capacity: u64,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug)]
struct State {
    free: u64,
    /// The ticket the next comer draws.
    next: u64,
    /// The ticket whose turn it is.
    serving: u64,
}

/// Bytes promised by a [`MemoryBudget`]; given back when dropped.
#[derive(Debug)]
pub struct Reservation {
    budget: Arc<MemoryBudget>,
    bytes: u64,
}

impl MemoryBudget {
    /// A budget of `bytes` bytes.
    pub fn new(bytes: u64) -> Self {
        let state = Mutex::new(State { free: bytes, next: 0, serving: 0 });
        Self { capacity: bytes, state, changed: Condvar::new() }
    }

    /// Bytes in the whole budget.
    pub fn capacity(&self) -> u64 {
        self.capacity
    }

    /// Bytes promised now.
    pub fn reserved(&self) -> u64 {
        self.capacity - self.lock().free
    }

    /// Promises `bytes` bytes, blocking the thread until that many are free and every earlier caller was served.
    ///
    /// Whoever holds a reservation must not ask for another: two such holders could wait for each other.
    ///
    /// # Errors
    /// [`ImageError::TooMuchMemory`] at once when `bytes` is more than the whole budget.
    pub fn reserve(self: &Arc<Self>, bytes: u64) -> Result<Reservation, ImageError> {
        if bytes > self.capacity {
            return Err(ImageError::TooMuchMemory { needed: bytes, budget: self.capacity });
        }
        let mut state = self.lock();
        let ticket = state.next;
        state.next += 1;
        while state.serving != ticket || state.free < bytes {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.serving += 1;
        state.free -= bytes;
        drop(state);
        self.changed.notify_all();
        Ok(Reservation { budget: Arc::clone(self), bytes })
    }

    /// The state stays consistent at every step, so a poisoned lock is as good as any.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn give_back(&self, bytes: u64) {
        self.lock().free += bytes;
        self.changed.notify_all();
    }
}

impl Reservation {
    /// Bytes promised.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Keeps `bytes` of the promise and gives the rest back; asking for more than is held changes nothing.
    pub fn shrink(&mut self, bytes: u64) {
        let surplus = self.bytes.saturating_sub(bytes);
        if surplus > 0 {
            self.bytes = bytes;
            self.budget.give_back(surplus);
        }
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.budget.give_back(self.bytes);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::thread;
    use std::time::Duration;

    use super::*;

    /// Long enough for a thread that does not block to have answered.
    const WAIT: Duration = Duration::from_millis(50);

    #[test]
    fn more_than_the_whole_budget_is_an_error_and_not_a_wait() {
        let budget = Arc::new(MemoryBudget::new(100));
        assert_eq!(budget.reserve(101).unwrap_err(), ImageError::TooMuchMemory { needed: 101, budget: 100 });
        assert_eq!(budget.reserve(100).unwrap().bytes(), 100);
        assert_eq!(budget.reserved(), 0);
    }

    #[test]
    fn a_reservation_waits_until_enough_is_given_back() {
        let budget = Arc::new(MemoryBudget::new(100));
        let mut held = budget.reserve(80).unwrap();
        let (sender, receiver) = mpsc::channel();
        let waiting = thread::spawn({
            let budget = Arc::clone(&budget);
            move || sender.send(budget.reserve(50).unwrap()).unwrap()
        });
        assert!(receiver.recv_timeout(WAIT).is_err());
        held.shrink(60);
        assert!(receiver.recv_timeout(WAIT).is_err());
        held.shrink(50);
        let second = receiver.recv().unwrap();
        assert_eq!((second.bytes(), budget.reserved()), (50, 100));
        waiting.join().unwrap();
        drop(held);
        drop(second);
        assert_eq!(budget.reserved(), 0);
    }

    #[test]
    fn a_large_request_is_not_overtaken_by_a_later_small_one() {
        let budget = Arc::new(MemoryBudget::new(100));
        let held = budget.reserve(80).unwrap();
        let (sender, receiver) = mpsc::channel();
        let mut threads = Vec::new();
        for (index, bytes) in [90, 20].into_iter().enumerate() {
            let (shared, own) = (Arc::clone(&budget), sender.clone());
            threads.push(thread::spawn(move || {
                let reservation = shared.reserve(bytes).unwrap();
                own.send(bytes).unwrap();
                drop(reservation);
            }));
            while budget.lock().next < index as u64 + 2 {
                thread::yield_now();
            }
        }
        assert!(receiver.recv_timeout(WAIT).is_err());
        drop(held);
        assert_eq!((receiver.recv().unwrap(), receiver.recv().unwrap()), (90, 20));
        for thread in threads {
            thread.join().unwrap();
        }
    }
}
