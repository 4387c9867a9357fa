//! Queue, batcher and device over minutes of virtual time: one thread, a still clock, and a fake classifier whose passes move it on.
//!
//! What is checked are figures that depend on time alone: waits, batch sizes, drops, the pace and what follows from it.

use std::collections::VecDeque;

use bytes::Bytes;
use tokio::sync::oneshot;

use super::super::call::{Call, Claim};
use super::super::clock::Clock;
use super::super::decode_pool::{self, OneByOne};
use super::super::device::{Device, LoadOrder};
use super::super::queue::Entry;
use super::super::shared::Shared;
use super::*;

/// A classifier whose pass takes a fixed time and so much more a photo.
struct Timed {
    clock: Clock,
    fixed: Duration,
    each: Duration,
    sizes: Arc<Mutex<Vec<usize>>>,
}

impl Runner for Timed {
    fn run(&mut self, batch: &[Prepared]) -> Result<Vec<Vec<f32>>, RunnerError> {
        self.clock.advance(self.fixed + self.each * batch.len() as u32);
        self.sizes.lock().expect("unpoisoned").push(batch.len());
        Ok(batch.iter().map(|_| vec![1.0]).collect())
    }
}

/// The engine's parts without its threads.
struct World<'a> {
    shared: &'a Shared,
    device: Device<'a>,
    model: Model,
    /// Sizes of the batches, the warm-up's first.
    sizes: Arc<Mutex<Vec<usize>>>,
    waiting: VecDeque<Waiting>,
    /// The last pass: when it ended, and its photos.
    pass: (Instant, usize),
    seen: Seen,
}

struct Waiting {
    since: Instant,
    answer: oneshot::Receiver<Result<Scores, EngineError>>,
}

/// What became of the photos.
#[derive(Default)]
struct Seen {
    /// Times from admission to scores.
    latencies: Vec<Duration>,
    refused: usize,
    late: usize,
}

fn milliseconds(number: u32) -> Duration {
    Duration::from_millis(1) * number
}

fn shared(settings: EngineSettings) -> Shared {
    let metrics = EngineMetrics::register(&Registry::new()).expect("an empty registry");
    Shared::new(settings, vec!["cpu".into()], metrics, Clock::still())
}

impl<'a> World<'a> {
    /// A device with a model whose pass takes `fixed` + `each` × photos milliseconds.
    fn new(shared: &'a Shared, fixed: u32, each: u32) -> Self {
        let (clock, sizes) = (shared.clock.clone(), Arc::<Mutex<Vec<usize>>>::default());
        let (fixed, each) = (milliseconds(fixed), milliseconds(each));
        let runner = Timed { clock, fixed, each, sizes: sizes.clone() };
        let factory = RunnerFactory::new("cpu", Warmup::OnePhoto, move || Ok(runner));
        let ModelParts { spec, prepare, .. } = parts(Vec::new());
        let model = Model::new(spec, prepare, 1);
        let mut device = Device::new(shared, 0);
        let order = LoadOrder { model: model.clone(), factory, reply: oneshot::channel().0 };
        device.load(order).expect("a sound device");
        let pass = (shared.clock.now(), 0);
        Self { shared, device, model, sizes, waiting: VecDeque::new(), pass, seen: Seen::default() }
    }

    /// A photo comes that must be answered within `patience`; admitted as `Engine::admit` does.
    fn arrive(&mut self, now: Instant, patience: Duration) {
        let shared = self.shared;
        // What was on the device at that moment, though it is answered by now.
        let (end, photos) = self.pass;
        let ahead = shared.outstanding.count() + if now < end { photos } else { 0 };
        let hopeless = shared.pace.too_late(ahead, 1, patience).is_some();
        let slot = if hopeless { None } else { shared.slots.take(1).and_then(|mut slots| slots.pop()) };
        let Some(slot) = slot else {
            self.seen.refused += 1;
            return;
        };
        if ahead == 0 {
            shared.pace.begun(now);
        }
        let (reply, answer) = oneshot::channel();
        let (model, unanswered) = (self.model.clone(), shared.outstanding.enter());
        let call = Call::new(Claim { model, deadline: now + patience, slot, reply, unanswered }, now);
        assert!(shared.encoded.push(Entry { payload: Bytes::from_static(&[5]), call }).is_ok());
        self.waiting.push_back(Waiting { since: now, answer });
    }

    /// Photos come every `interval` for `time`; those that come during a pass are there when it ends.
    fn run(&mut self, interval: Duration, time: Duration, patience: Duration) {
        let clock = self.shared.clock.clone();
        let (mut next, end) = (clock.now(), clock.now() + time);
        while next < end || !self.waiting.is_empty() {
            while next < end && next <= clock.now() {
                self.arrive(next, patience);
                next += interval;
            }
            while let Some(entries) = self.shared.encoded.try_take(&OneByOne) {
                entries.into_iter().for_each(|entry| decode_pool::decode(self.shared, entry));
            }
            let busy = self.device.step().expect("a sound device");
            if busy {
                let last = self.sizes.lock().expect("unpoisoned").last().copied();
                self.pass = (clock.now(), last.unwrap_or_default());
            }
            self.collect(clock.now());
            if !busy && self.waiting.is_empty() && next < end {
                clock.advance(next.saturating_duration_since(clock.now()));
            } else if !busy {
                // Somebody waits for a hold-back or a deadline to end.
                clock.advance(milliseconds(1));
            }
        }
    }

    fn collect(&mut self, now: Instant) {
        let seen = &mut self.seen;
        self.waiting.retain_mut(|waiting| {
            match waiting.answer.try_recv() {
                Ok(Ok(_)) => seen.latencies.push(now - waiting.since),
                Ok(Err(EngineError::DeadlineExceeded)) => seen.late += 1,
                Ok(Err(error)) => panic!("{error}"),
                Err(oneshot::error::TryRecvError::Empty) => return true,
                Err(oneshot::error::TryRecvError::Closed) => panic!("an entry was lost"),
            }
            false
        });
    }

    /// Sizes of the batches after the warm-up.
    fn sizes(&self) -> Vec<usize> {
        self.sizes.lock().expect("unpoisoned").split_off(1)
    }

    fn slowest(&self) -> Duration {
        self.seen.latencies.iter().max().copied().unwrap_or_default()
    }
}

#[test]
fn a_device_that_keeps_up_takes_photos_one_by_one_and_nobody_waits() {
    let shared = shared(settings(8, 64));
    let mut world = World::new(&shared, 5, 5);
    world.run(milliseconds(20), Duration::from_secs(60), Duration::from_secs(30));
    assert_eq!(world.seen.latencies.len(), 3000);
    assert_eq!(world.slowest(), milliseconds(10), "a pass, and no waiting before it");
    assert!(world.sizes().iter().all(|size| *size == 1));
}

#[test]
fn batches_grow_with_the_load_until_they_keep_up() {
    let shared = shared(settings(8, 64));
    let mut world = World::new(&shared, 10, 1);
    // One photo a pass would be 91 a second; 250 come.
    world.run(milliseconds(4), Duration::from_secs(60), Duration::from_secs(30));
    assert_eq!(world.seen.latencies.len(), 15_000);
    assert!(world.slowest() <= milliseconds(30), "{:?}", world.slowest());
    let sizes = world.sizes();
    let mean = 15_000.0 / sizes.len() as f64;
    assert!((3.0..4.5).contains(&mean), "{mean} a batch");
}

#[test]
fn at_three_times_capacity_the_device_never_idles_and_no_photo_that_was_admitted_is_late() {
    let shared = shared(settings(8, 256));
    // Batches of 8 take 96 ms: 83 photos a second; 250 come. 256 in the queue would be 3 s of work, and clients wait for 1 s.
    let mut world = World::new(&shared, 0, 12);
    let (time, patience) = (Duration::from_secs(60), Duration::from_secs(1));
    world.run(milliseconds(4), time, patience);
    let (answered, capacity) = (world.seen.latencies.len() as f64, 60.0 / 0.012);
    assert!(answered >= 0.99 * capacity, "{answered} of {capacity}");
    assert_eq!(world.seen.late, 0, "of {answered}");
    assert!(world.slowest() <= patience);
    assert_eq!(world.seen.refused + world.seen.latencies.len(), 15_000);
    assert_eq!((shared.slots.used(), shared.outstanding.count()), (0, 0));
    // Back to normal at once.
    world.seen = Seen::default();
    world.run(milliseconds(20), Duration::from_secs(2), patience);
    assert_eq!((world.seen.refused, world.slowest()), (0, milliseconds(12)));
}

#[test]
fn a_device_that_turns_slow_is_believed_within_a_few_batches() {
    let shared = shared(settings(4, 256));
    let mut world = World::new(&shared, 0, 10);
    world.run(milliseconds(5), Duration::from_secs(10), Duration::from_secs(2));
    let before = shared.pace.wait(100);
    assert!(before.abs_diff(milliseconds(1000)) < milliseconds(20), "{before:?}");
    let mut slow = World::new(&shared, 0, 50);
    slow.run(milliseconds(25), Duration::from_secs(10), Duration::from_secs(2));
    let after = shared.pace.wait(100);
    assert!(after.abs_diff(milliseconds(5000)) < milliseconds(200), "{after:?}");
    let late = slow.seen.late as f64 / slow.seen.latencies.len() as f64;
    assert!(late < 0.05, "{late} of those admitted came too late");
}

#[test]
fn a_small_batch_is_held_back_for_company_as_long_as_it_is_told() {
    let mut patient = settings(4, 64);
    patient.max_queue_delay = milliseconds(50);
    let shared = shared(patient);
    let mut world = World::new(&shared, 10, 0);
    world.run(milliseconds(200), Duration::from_secs(2), Duration::from_secs(30));
    assert_eq!(world.sizes(), vec![1; 10]);
    assert_eq!(world.slowest(), milliseconds(60));
    world.run(milliseconds(10), Duration::from_secs(2), Duration::from_secs(30));
    assert!(world.sizes().iter().all(|size| *size == 4), "a full batch waits for nothing");
}
