//! Work done ahead of time by several threads, its results handed out in order.
//!
//! The loader runs its decoding through this: threads take positions 0, 1, 2 … as they become free, but never further
//! than a window ahead of what was taken out, so that memory stays bounded. Which thread did what cannot be seen from the
//! results. Nothing here knows about photos.

use std::any::Any;
use std::collections::HashMap;
use std::io;
use std::num::NonZeroUsize;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

/// How far and how wide to work ahead.
pub(super) struct Extent {
    /// Number of results in all.
    pub count: usize,
    /// Results finished or in the making that nobody has taken yet, at most.
    pub window: usize,
    /// Threads that work.
    pub threads: NonZeroUsize,
}

/// The threads and what they have finished. Dropping it stops them after the piece each is at, and waits for that.
pub(super) struct Pipeline<T> {
    shared: Arc<Shared<T>>,
    threads: Vec<JoinHandle<()>>,
}

struct Shared<T> {
    count: usize,
    window: usize,
    state: Mutex<State<T>>,
    /// A result was taken (there is room in the window), or the work was stopped.
    room: Condvar,
    /// A result was finished.
    finished: Condvar,
}

struct State<T> {
    /// The next position to work on.
    next: usize,
    /// The next position to hand out.
    taken: usize,
    ready: HashMap<usize, Result<T, String>>,
    stopped: bool,
}

impl<T: Send + 'static> Pipeline<T> {
    /// Starts the threads; `work` makes the result of a position.
    ///
    /// # Errors
    /// The system's, when it gives no thread.
    pub(super) fn start(
        extent: Extent,
        work: impl Fn(usize) -> T + Send + Sync + 'static,
    ) -> io::Result<Self> {
        let state = State { next: 0, taken: 0, ready: HashMap::new(), stopped: false };
        let shared = Arc::new(Shared {
            count: extent.count,
            window: extent.window.max(1),
            state: Mutex::new(state),
            room: Condvar::new(),
            finished: Condvar::new(),
        });
        let work = Arc::new(work);
        let mut pipeline = Self { shared, threads: Vec::new() };
        for _ in 0..extent.threads.get().min(extent.count) {
            let (shared, work) = (Arc::clone(&pipeline.shared), Arc::clone(&work));
            let thread = std::thread::Builder::new().name("loader".to_owned()).spawn(move || {
                while let Some(position) = shared.claim() {
                    // A position without a result would leave the consumer waiting for ever.
                    let result = catch_unwind(AssertUnwindSafe(|| work(position)));
                    shared.finish(position, result.map_err(|panic| message_of(panic.as_ref())));
                }
            })?;
            pipeline.threads.push(thread);
        }
        Ok(pipeline)
    }

    /// The next result in order, or the message of the panic that took its place; waits for it. `None` at the end.
    pub(super) fn take(&mut self) -> Option<Result<T, String>> {
        let mut state = self.shared.lock();
        if state.taken >= self.shared.count {
            return None;
        }
        loop {
            let position = state.taken;
            if let Some(result) = state.ready.remove(&position) {
                state.taken += 1;
                self.shared.room.notify_one();
                return Some(result);
            }
            state = self.shared.finished.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl<T> Drop for Pipeline<T> {
    fn drop(&mut self) {
        self.shared.lock().stopped = true;
        self.shared.room.notify_all();
        for thread in self.threads.drain(..) {
            // The thread catches its panics: there is nothing to learn from how it ended.
            let _ = thread.join();
        }
    }
}

impl<T> Shared<T> {
    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn claim(&self) -> Option<usize> {
        let mut state = self.lock();
        loop {
            if state.stopped || state.next >= self.count {
                return None;
            }
            if state.next < state.taken + self.window {
                state.next += 1;
                return Some(state.next - 1);
            }
            state = self.room.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn finish(&self, position: usize, result: Result<T, String>) {
        self.lock().ready.insert(position, result);
        self.finished.notify_one();
    }
}

fn message_of(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "no message".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    fn extent(count: usize, window: usize, threads: usize) -> Extent {
        Extent { count, window, threads: NonZeroUsize::new(threads).unwrap() }
    }

    fn all<T: Send + 'static>(mut pipeline: Pipeline<T>) -> Vec<Result<T, String>> {
        std::iter::from_fn(|| pipeline.take()).collect()
    }

    #[test]
    fn results_come_in_order_whatever_the_number_of_threads() {
        for (window, threads) in [(1, 1), (1, 4), (3, 8), (100, 3)] {
            let results = all(Pipeline::start(extent(200, window, threads), |position| position).unwrap());
            assert_eq!(results, (0..200).map(Ok).collect::<Vec<_>>());
        }
    }

    #[test]
    fn nobody_works_beyond_the_window() {
        let furthest = Arc::new(AtomicUsize::new(0));
        let seen = Arc::clone(&furthest);
        let mut pipeline = Pipeline::start(extent(100, 5, 4), move |position| {
            seen.fetch_max(position, Ordering::SeqCst);
        })
        .unwrap();
        for taken in 1..=90 {
            pipeline.take().unwrap().unwrap();
            assert!(furthest.load(Ordering::SeqCst) < taken + 5);
        }
    }

    #[test]
    fn a_panic_takes_the_place_of_its_result_alone() {
        let results = all(Pipeline::start(extent(5, 5, 2), |position| {
            assert!(position != 2, "position {position} is bad");
            position
        })
        .unwrap());
        assert_eq!(results[2], Err("position 2 is bad".to_owned()));
        assert_eq!(results[4], Ok(4));
    }

    #[test]
    fn dropping_it_early_stops_the_threads() {
        let count = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&count);
        let mut pipeline = Pipeline::start(extent(1_000_000, 8, 3), move |_| {
            counted.fetch_add(1, Ordering::SeqCst);
        })
        .unwrap();
        pipeline.take();
        drop(pipeline);
        assert!(count.load(Ordering::SeqCst) <= 9);
        assert_eq!(Arc::strong_count(&count), 1);
    }

    #[test]
    fn no_work_ends_at_once() {
        assert!(all(Pipeline::start(extent(0, 4, 2), |position| position).unwrap()).is_empty());
    }
}
