//! Promises of the queue itself: what is done under its lock, and in which order entries leave.

use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::oneshot;

use super::super::batcher::BatchRule;
use super::super::call::{Call, Claim};
use super::super::clock::Clock;
use super::super::decode_pool::OneByOne;
use super::super::queue::{Entry, Queue, Taker};
use super::super::slots::{Outstanding, Slots};
use super::*;

type Answer = oneshot::Receiver<Result<Scores, EngineError>>;

/// What entries are made with.
struct Maker {
    metrics: EngineMetrics,
    clock: Clock,
    slots: Slots,
    outstanding: Outstanding,
}

impl Maker {
    fn new() -> Self {
        let metrics = EngineMetrics::register(&Registry::new()).expect("an empty registry");
        let slots = Slots::new(64, metrics.queue_size.clone());
        Self { metrics, clock: Clock::still(), slots, outstanding: Outstanding::default() }
    }

    fn queue<P>(&self) -> Queue<P> {
        Queue::new(self.metrics.clone(), self.clock.clone())
    }

    fn entry<P>(&self, payload: P, model: &Model) -> (Entry<P>, Answer) {
        let (reply, answer) = oneshot::channel();
        let slot = self.slots.take(1).expect("a free slot").remove(0);
        let (now, unanswered) = (self.clock.now(), self.outstanding.enter(model.lane()));
        let deadline = now + Duration::from_secs(60);
        let call =
            Call::new(Claim { model: model.clone(), deadline, promised: None, slot, reply, unanswered }, now);
        (Entry { payload, call }, answer)
    }
}

fn model() -> Model {
    let ModelParts { spec, prepare, .. } = parts(Vec::new());
    Model::new(spec, prepare, 1)
}

/// A photo's bytes, which look at the queue when they are freed.
struct Probe {
    queue: Arc<Queue<Probe>>,
    freed_outside: Arc<AtomicUsize>,
}

impl Drop for Probe {
    fn drop(&mut self) {
        if !self.queue.is_locked() {
            self.freed_outside.fetch_add(1, Ordering::SeqCst);
        }
    }
}

#[test]
fn photos_that_nobody_waits_for_are_freed_outside_of_the_lock() {
    let (maker, model) = (Maker::new(), model());
    let (queue, freed_outside) = (Arc::new(maker.queue()), Arc::<AtomicUsize>::default());
    let push = || {
        let probe = Probe { queue: queue.clone(), freed_outside: freed_outside.clone() };
        let (entry, answer) = maker.entry(probe, &model);
        assert!(queue.push(vec![entry]).is_ok());
        answer
    };
    let freed = || freed_outside.load(Ordering::SeqCst);
    drop([push(), push()]);
    queue.sweep(maker.clock.now());
    assert_eq!(freed(), 2, "by a sweep");
    drop(push());
    assert!(queue.try_take(&OneByOne).is_none());
    assert_eq!(freed(), 3, "by a look");
    drop(push());
    let _waits = push();
    let taken = queue.take(&OneByOne);
    assert_eq!(freed(), 4, "by a thread that waits for work");
    drop(taken);
    assert_eq!((maker.slots.used(), maker.metrics.dropped_disconnected.get()), (0, 4));
}

/// Takes three photos of one model.
struct Three(Model);

impl Taker for Three {
    fn rule(&self, model: &Model) -> Option<BatchRule> {
        (model.id() == self.0.id()).then_some(BatchRule { limit: 3, ..BatchRule::SINGLE })
    }
}

#[test]
fn entries_of_a_model_leave_in_order_from_between_those_of_another() {
    let (maker, one, two) = (Maker::new(), model(), model());
    let queue = maker.queue();
    let answers: Vec<_> = (0..12_u8)
        .map(|number| {
            let (entry, answer) = maker.entry(number, if number % 3 == 0 { &one } else { &two });
            assert!(queue.push(vec![entry]).is_ok());
            answer
        })
        .collect();
    let take = |model: &Model| -> Vec<u8> {
        let entries = queue.try_take(&Three(model.clone())).unwrap_or_default();
        entries.into_iter().map(|entry| entry.payload).collect()
    };
    assert_eq!(take(&two), [1, 2, 4]);
    assert_eq!(take(&one), [0, 3, 6]);
    assert_eq!(take(&two), [5, 7, 8]);
    assert_eq!(take(&one), [9]);
    assert_eq!(take(&two), [10, 11]);
    assert_eq!((take(&one).len(), take(&two).len()), (0, 0));
    drop(answers);
}
