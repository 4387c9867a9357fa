//! The queue: entries that wait for a thread, the decode pool's or a device's.
//!
//! Handlers and decode threads push; a thread that is free takes what [`BatchRule`] grants, photos of one model at a time, the
//! one that waits longest first. An entry whose client has gone, or whose deadline has passed, is answered and counted here and
//! never reaches a thread. Nothing in this file knows about tensors or HTTP.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::EngineMetrics;
use super::batcher::{BatchRule, Decision, Mood, Waiting};
use super::call::Call;
use super::clock::Clock;
use super::model::Model;

/// One admitted photo: what is left to be worked on, and whom to answer.
pub(super) struct Entry<P> {
    pub(super) payload: P,
    pub(super) call: Call,
}

/// How a thread takes from the queue.
pub(super) trait Taker {
    /// How batches of this model form; `None` where the thread cannot run it.
    fn rule(&self, model: &Model) -> Option<BatchRule>;

    /// Whether something else is to be done first.
    fn interrupted(&self) -> bool {
        false
    }

    /// How long the thread may sleep; without end where there is nothing else to do.
    fn patience(&self) -> Option<Duration> {
        None
    }
}

/// What became of a thread's wait.
pub(super) enum Taken<P> {
    /// Entries of one model, at least one.
    Batch(Vec<Entry<P>>),
    /// [`Taker::interrupted`], or its patience is over.
    Nothing,
    /// The queue is closed: there will be no more.
    Closed,
}

/// First in, first out for each model; shared between threads.
pub(super) struct Queue<P> {
    state: Mutex<State<P>>,
    changed: Condvar,
    metrics: EngineMetrics,
    clock: Clock,
}

struct State<P> {
    entries: VecDeque<Entry<P>>,
    mood: Mood,
    open: bool,
}

/// What the entries that wait allow now.
enum Look<P> {
    Batch(Vec<Entry<P>>),
    HoldUntil(Instant),
    Nothing,
}

impl<P> Queue<P> {
    pub(super) fn new(metrics: EngineMetrics, clock: Clock) -> Self {
        let state = State { entries: VecDeque::new(), mood: Mood::Patient, open: true };
        Self { state: Mutex::new(state), changed: Condvar::new(), metrics, clock }
    }

    /// Appends entries, all at once for whoever looks; a closed queue hands them back.
    pub(super) fn push(&self, mut entries: Vec<Entry<P>>) -> Result<(), Vec<Entry<P>>> {
        let mut state = self.lock();
        if !state.open {
            return Err(entries);
        }
        let (now, count) = (self.clock.now(), entries.len());
        entries.iter_mut().for_each(|entry| entry.call.arrive(now));
        state.entries.extend(entries);
        drop(state);
        match count {
            0 => {}
            1 => self.changed.notify_one(),
            _ => self.changed.notify_all(),
        }
        Ok(())
    }

    /// Blocks until the taker's rule grants a batch, or something else is to be done.
    pub(super) fn take(&self, taker: &impl Taker) -> Taken<P> {
        let mut state = self.lock();
        loop {
            if !state.open {
                return Taken::Closed;
            }
            if taker.interrupted() {
                // The wake-up may have been meant for an entry: another thread shall take it meanwhile.
                if !state.entries.is_empty() {
                    self.changed.notify_one();
                }
                return Taken::Nothing;
            }
            let now = self.clock.now();
            let gone = state.given_up(now);
            if !gone.is_empty() {
                drop(state);
                self.end(gone, now);
                state = self.lock();
                continue;
            }
            let pause = match state.look(taker, now) {
                Look::Batch(entries) => return Taken::Batch(entries),
                Look::HoldUntil(due) => Some(due.saturating_duration_since(now)),
                Look::Nothing => None,
            };
            match (pause, taker.patience()) {
                (None, None) => state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
                (Some(pause), _) => {
                    let woken = self.changed.wait_timeout(state, pause);
                    state = woken.unwrap_or_else(PoisonError::into_inner).0;
                }
                (None, Some(patience)) => {
                    let woken = self.changed.wait_timeout(state, patience);
                    let (woken, slept) = woken.unwrap_or_else(PoisonError::into_inner);
                    if slept.timed_out() && woken.open && woken.entries.is_empty() {
                        return Taken::Nothing;
                    }
                    state = woken;
                }
            }
        }
    }

    /// What the taker's rule grants at this moment, without waiting.
    pub(super) fn try_take(&self, taker: &impl Taker) -> Option<Vec<Entry<P>>> {
        let now = self.clock.now();
        self.sweep(now);
        let look = self.lock().look(taker, now);
        match look {
            Look::Batch(entries) => Some(entries),
            Look::HoldUntil(_) | Look::Nothing => None,
        }
    }

    /// Removes the entries nobody waits for any more.
    pub(super) fn sweep(&self, now: Instant) {
        let gone = self.lock().given_up(now);
        self.end(gone, now);
    }

    /// Whether nobody waits in it.
    pub(super) fn is_empty(&self) -> bool {
        self.lock().entries.is_empty()
    }

    /// From now on no batch is held back.
    pub(super) fn hurry(&self) {
        self.lock().mood = Mood::Hurried;
        self.changed.notify_all();
    }

    /// Lets every thread look again whether it is interrupted.
    pub(super) fn nudge(&self) {
        // With the lock, so that none is between its look and its sleep.
        drop(self.lock());
        self.changed.notify_all();
    }

    /// Ends the queue and hands out what is left in it; threads that wait on it end.
    pub(super) fn close(&self) -> VecDeque<Entry<P>> {
        let mut state = self.lock();
        state.open = false;
        let rest = std::mem::take(&mut state.entries);
        drop(state);
        self.changed.notify_all();
        rest
    }

    /// Answers entries nobody waits for. Without the lock: their payloads are megabytes to be freed, and whoever is told wakes.
    fn end(&self, gone: VecDeque<Entry<P>>, now: Instant) {
        for Entry { payload, mut call } in gone {
            call.taken(now);
            call.give_up(now, &self.metrics);
            drop(payload);
        }
    }

    /// How many wait in it.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.lock().entries.len()
    }

    /// Whether a thread is inside.
    #[cfg(test)]
    pub(super) fn is_locked(&self) -> bool {
        self.state.try_lock().is_err()
    }

    /// A thread that panicked holding the lock left a whole queue: no operation above can be cut in half.
    fn lock(&self) -> MutexGuard<'_, State<P>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<P> State<P> {
    /// Takes out the entries nobody waits for any more.
    fn given_up(&mut self, now: Instant) -> VecDeque<Entry<P>> {
        if !self.entries.iter().any(|entry| entry.call.given_up(now)) {
            return VecDeque::new();
        }
        let entries = std::mem::take(&mut self.entries).into_iter();
        let (gone, kept) = entries.partition(|entry| entry.call.given_up(now));
        self.entries = kept;
        gone
    }

    /// The batch of the model whose oldest entry waits longest and whose rule grants one.
    fn look(&mut self, taker: &impl Taker, now: Instant) -> Look<P> {
        let (mut seen, mut hold) = (Vec::new(), None::<Instant>);
        for index in 0..self.entries.len() {
            let Some(first) = self.entries.get(index) else { break };
            let id = first.call.model().id();
            if seen.contains(&id) {
                continue;
            }
            seen.push(id);
            let Some(rule) = taker.rule(first.call.model()) else { continue };
            let same = self.entries.iter().skip(index).filter(|entry| entry.call.model().id() == id);
            let (oldest, deadline) = (first.call.arrived(), first.call.deadline());
            let waiting = same.take(rule.limit.max(1)).fold(
                Waiting { count: 0, oldest, deadline },
                |waiting, entry| Waiting {
                    count: waiting.count + 1,
                    deadline: waiting.deadline.min(entry.call.deadline()),
                    ..waiting
                },
            );
            match rule.decide(waiting, self.mood, now) {
                Decision::Take(count) => return Look::Batch(self.take_of(id, index, count, now)),
                Decision::HoldUntil(due) => hold = Some(hold.map_or(due, |hold| hold.min(due))),
            }
        }
        hold.map_or(Look::Nothing, Look::HoldUntil)
    }

    /// Removes the first `count` entries of a model from `index` on; the others keep their order.
    ///
    /// Costs nothing at the front, where they mostly are.
    fn take_of(&mut self, model: u64, mut index: usize, count: usize, now: Instant) -> Vec<Entry<P>> {
        let mut batch = Vec::with_capacity(count);
        while batch.len() < count {
            let Some(entry) = self.entries.get(index) else { break };
            if entry.call.model().id() != model {
                index += 1;
            } else if let Some(mut entry) = self.entries.remove(index) {
                entry.call.taken(now);
                batch.push(entry);
            }
        }
        batch
    }
}
