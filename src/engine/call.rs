//! The claim of an admitted photo: whom to answer, until when, and what it holds meanwhile.
//!
//! Made by `Engine::admit`; travels with the photo through both queues and ends in exactly one answer.

use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::model::Model;
use super::slots::{Slot, Unanswered};
use super::{EngineError, EngineMetrics, Scores};

/// A client that gives less time than this is late by a pass that takes a little longer: it tells nothing to others.
const SHORT: Duration = Duration::from_millis(250);

/// The claim of one admitted photo.
pub(super) struct Call {
    model: Model,
    /// Past this instant the client no longer waits.
    deadline: Instant,
    /// The time it had, where an estimate said that this is enough.
    promised: Option<Duration>,
    /// Holds the place in the queue; `None` once the device has taken the entry.
    slot: Option<Slot>,
    /// When it came into the queue it is in.
    arrived: Instant,
    /// Time spent waiting in queues.
    waited: Duration,
    reply: oneshot::Sender<Result<Scores, EngineError>>,
    /// Counted among the unanswered until the answer is sent: a drain waits for it.
    _unanswered: Unanswered,
}

/// What a claim is made of.
pub(super) struct Claim {
    pub(super) model: Model,
    pub(super) deadline: Instant,
    pub(super) promised: Option<Duration>,
    pub(super) slot: Slot,
    pub(super) reply: oneshot::Sender<Result<Scores, EngineError>>,
    pub(super) unanswered: Unanswered,
}

impl Call {
    pub(super) fn new(claim: Claim, now: Instant) -> Self {
        let Claim { model, deadline, promised, slot, reply, unanswered } = claim;
        let (slot, waited) = (Some(slot), Duration::ZERO);
        Self { model, deadline, promised, slot, arrived: now, waited, reply, _unanswered: unanswered }
    }

    /// The model that the photo is for.
    pub(super) fn model(&self) -> &Model {
        &self.model
    }

    /// When it came into the queue it is in.
    pub(super) fn arrived(&self) -> Instant {
        self.arrived
    }

    /// Past this instant the client no longer waits.
    pub(super) fn deadline(&self) -> Instant {
        self.deadline
    }

    /// It comes into a queue.
    pub(super) fn arrive(&mut self, now: Instant) {
        self.arrived = now;
    }

    /// A thread takes it out of a queue.
    pub(super) fn taken(&mut self, now: Instant) {
        self.waited += now.saturating_duration_since(self.arrived);
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

    /// The estimates of its model hear of it where they were wrong. They know nothing of the photo itself: one that spends its time in
    /// the decoder says nothing about them.
    pub(super) fn settle(&self, now: Instant) {
        let queued = |time: Duration| time >= SHORT && 2 * self.waited >= time;
        if self.deadline <= now && self.promised.is_some_and(queued) {
            self.model.lane().missed(now);
        }
    }

    /// Counts and answers an entry nobody waits for.
    ///
    /// The deadline is looked at first: a caller leaves when it passes, and that is no disconnection.
    pub(super) fn give_up(self, now: Instant, metrics: &EngineMetrics) {
        let by_deadline = self.deadline <= now;
        if by_deadline { &metrics.dropped_deadline } else { &metrics.dropped_disconnected }.inc();
        self.settle(now);
        self.answer(Err(EngineError::DeadlineExceeded));
    }

    /// Gives up an entry nobody waits for; gives back one that is still wanted.
    pub(super) fn unless_given_up(self, now: Instant, metrics: &EngineMetrics) -> Option<Self> {
        if self.given_up(now) {
            self.give_up(now, metrics);
            return None;
        }
        Some(self)
    }

    /// Whether nobody waits for it any more; for good, once it is so.
    pub(super) fn given_up(&self, now: Instant) -> bool {
        self.deadline <= now || self.reply.is_closed()
    }
}
