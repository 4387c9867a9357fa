//! The queue: entries that wait for a thread, the decode pool's or the device's.
//!
//! Handlers and decode threads push; a thread that is free takes what [`BatchRule`] grants. An entry whose client has
//! gone, or whose deadline has passed, is answered and counted here and never reaches a thread. Nothing in this file
//! knows about tensors or HTTP.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::batcher::{BatchRule, Decision, Mood};
use super::slots::{Slot, Unanswered};
use super::{EngineError, EngineMetrics, Scores};

/// One admitted photo: what is left to be worked on, and whom to answer.
pub(super) struct Entry<P> {
    pub(super) payload: P,
    pub(super) call: Call,
}

/// The claim of an admitted photo; ends in exactly one answer.
pub(super) struct Call {
    /// Past this instant the client no longer waits.
    deadline: Instant,
    /// Holds the place in the queue; `None` once the device has taken the entry.
    slot: Option<Slot>,
    /// When it came into the queue it is in.
    arrived: Instant,
    /// Time spent waiting in earlier queues.
    waited: Duration,
    reply: oneshot::Sender<Result<Scores, EngineError>>,
    /// Counted among the unanswered until the answer is sent: a drain waits for it.
    _unanswered: Unanswered,
}

impl Call {
    pub(super) fn new(
        deadline: Instant,
        slot: Slot,
        reply: oneshot::Sender<Result<Scores, EngineError>>,
        unanswered: Unanswered,
    ) -> Self {
        let arrived = Instant::now();
        Self { deadline, slot: Some(slot), arrived, waited: Duration::ZERO, reply, _unanswered: unanswered }
    }

    /// Answers and gives everything back. A client that has gone is no error.
    pub(super) fn answer(mut self, result: Result<Scores, EngineError>) {
        self.slot = None;
        let _ = self.reply.send(result);
    }

    /// The device has it: the place is free, and the time it waited is known.
    pub(super) fn leave_queue(&mut self) -> Duration {
        self.slot = None;
        self.waited
    }

    /// Answers and counts an entry nobody waits for; gives back one that is still wanted.
    ///
    /// The deadline is looked at first: a caller leaves when it passes, and that is no disconnection.
    pub(super) fn unless_given_up(self, now: Instant, metrics: &EngineMetrics) -> Option<Self> {
        if self.deadline <= now {
            metrics.dropped_deadline.inc();
            self.answer(Err(EngineError::DeadlineExceeded));
            None
        } else if self.reply.is_closed() {
            metrics.dropped_disconnected.inc();
            None
        } else {
            Some(self)
        }
    }

    fn given_up(&self, now: Instant) -> bool {
        self.deadline <= now || self.reply.is_closed()
    }
}

/// First in, first out; shared between threads.
pub(super) struct Queue<P> {
    state: Mutex<State<P>>,
    changed: Condvar,
    metrics: EngineMetrics,
}

struct State<P> {
    entries: VecDeque<Entry<P>>,
    mood: Mood,
    open: bool,
}

impl<P> Queue<P> {
    pub(super) fn new(metrics: EngineMetrics) -> Self {
        let state = State { entries: VecDeque::new(), mood: Mood::Patient, open: true };
        Self { state: Mutex::new(state), changed: Condvar::new(), metrics }
    }

    /// Appends an entry; a closed queue hands it back.
    pub(super) fn push(&self, mut entry: Entry<P>) -> Result<(), Entry<P>> {
        let mut state = self.lock();
        if !state.open {
            return Err(entry);
        }
        entry.call.arrived = Instant::now();
        state.entries.push_back(entry);
        drop(state);
        self.changed.notify_one();
        Ok(())
    }

    /// Blocks until the rule grants a batch; `None` once the queue is closed.
    pub(super) fn take(&self, rule: &BatchRule) -> Option<Vec<Entry<P>>> {
        let mut state = self.lock();
        loop {
            if !state.open {
                return None;
            }
            let now = Instant::now();
            self.discard(&mut state, now);
            let oldest = state.entries.front().map(|entry| entry.call.arrived);
            match rule.decide(state.entries.len(), oldest, state.mood, now) {
                Decision::Take(count) => {
                    let mut batch: Vec<_> = state.entries.drain(..count).collect();
                    for entry in &mut batch {
                        entry.call.waited += now.saturating_duration_since(entry.call.arrived);
                    }
                    return Some(batch);
                }
                Decision::Sleep => {
                    state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
                }
                Decision::HoldUntil(due) => {
                    let pause = due.saturating_duration_since(now);
                    let woken =
                        self.changed.wait_timeout(state, pause).unwrap_or_else(PoisonError::into_inner);
                    state = woken.0;
                }
            }
        }
    }

    /// Removes the entries nobody waits for any more.
    pub(super) fn sweep(&self, now: Instant) {
        self.discard(&mut self.lock(), now);
    }

    /// From now on no batch is held back.
    pub(super) fn hurry(&self) {
        self.lock().mood = Mood::Hurried;
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

    fn discard(&self, state: &mut State<P>, now: Instant) {
        if !state.entries.iter().any(|entry| entry.call.given_up(now)) {
            return;
        }
        let entries = std::mem::take(&mut state.entries);
        let kept = entries.into_iter().filter_map(|Entry { payload, call }| {
            call.unless_given_up(now, &self.metrics).map(|call| Entry { payload, call })
        });
        state.entries = kept.collect();
    }

    /// A thread that panicked holding the lock left a whole queue: no operation above can be cut in half.
    fn lock(&self) -> MutexGuard<'_, State<P>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
