//! Queue, batcher and device over minutes of virtual time.
//!
//! What is checked are figures that depend on time alone: waits, batch sizes, drops, the pace and what follows from it.

use std::future::Future;
use std::task::{Context, Wake, Waker};

use tokio::sync::oneshot;

use super::super::device::LoadOrder;
use super::world::{Machine, Seen, World, milliseconds, shared};
use super::*;

#[test]
fn a_device_that_keeps_up_takes_photos_one_by_one_and_nobody_waits() {
    let shared = shared(settings(8, 64));
    let mut world = World::new(&shared, Machine::new(5, 5));
    let seen = world.run(milliseconds(20), Duration::from_secs(60), Duration::from_secs(30));
    assert_eq!(seen.latencies.len(), 3000);
    assert_eq!(seen.slowest(), milliseconds(10), "a pass, and no waiting before it");
    assert!(world.sizes().iter().all(|size| *size == 1));
}

#[test]
fn batches_grow_with_the_load_until_they_keep_up() {
    let shared = shared(settings(8, 64));
    let mut world = World::new(&shared, Machine::new(10, 1));
    // One photo a pass would be 91 a second; 250 come.
    let seen = world.run(milliseconds(4), Duration::from_secs(60), Duration::from_secs(30));
    assert_eq!(seen.latencies.len(), 15_000);
    assert!(seen.slowest() <= milliseconds(30), "{:?}", seen.slowest());
    let sizes = world.sizes();
    let mean = 15_000.0 / sizes.len() as f64;
    assert!((3.0..4.5).contains(&mean), "{mean} a batch");
}

#[test]
fn at_three_times_capacity_the_device_never_idles_and_no_photo_that_was_admitted_is_late() {
    let shared = shared(settings(8, 256));
    // Batches of 8 take 96 ms: 83 photos a second; 250 come. 256 in the queue would be 3 s of work, and clients wait for 1 s.
    let mut world = World::new(&shared, Machine::new(0, 12));
    let (time, patience) = (Duration::from_secs(60), Duration::from_secs(1));
    let seen = world.run(milliseconds(4), time, patience);
    let (answered, capacity) = (seen.latencies.len() as f64, 60.0 / 0.012);
    assert!(answered >= 0.99 * capacity, "{answered} of {capacity}");
    assert_eq!(seen.late, 0, "of {answered}");
    assert!(seen.slowest() <= patience);
    assert_eq!(seen.refused + seen.latencies.len(), 15_000);
    assert_eq!((shared.slots.used(), shared.outstanding.count()), (0, 0));
    // Back to normal at once.
    let seen = world.run(milliseconds(20), Duration::from_secs(2), patience);
    assert_eq!((seen.refused, seen.slowest()), (0, milliseconds(12)));
}

#[test]
fn on_a_machine_that_stalls_fewer_are_let_in_until_hardly_one_is_late() {
    let shared = shared(settings(8, 256));
    // A batch in 96 ms, and every tenth in 396: a mean of 126.
    let mut world = World::new(&shared, Machine { stall: milliseconds(300), ..Machine::new(0, 12) });
    let patience = Duration::from_secs(1);
    let too_late = |seen: &Seen| seen.late + seen.latencies.iter().filter(|time| **time > patience).count();
    let learning = world.run(milliseconds(4), Duration::from_secs(60), patience);
    assert!(too_late(&learning) > 0, "it could be known beforehand");
    let seen = world.run(milliseconds(4), Duration::from_secs(60), patience);
    let (answered, capacity) = (seen.latencies.len() as f64, 60.0 * 8.0 / 0.126);
    assert!(answered >= 0.99 * capacity, "{answered} of {capacity}");
    let late = too_late(&seen) as f64 / answered;
    assert!(late < 0.005, "{late} of {answered}");
}

#[test]
fn a_device_that_turns_slow_is_believed_within_a_few_batches() {
    let shared = shared(settings(4, 256));
    let mut world = World::new(&shared, Machine::new(0, 10));
    world.run(milliseconds(5), Duration::from_secs(10), Duration::from_secs(2));
    let before = world.pace(100);
    assert!(before.abs_diff(milliseconds(1000)) < milliseconds(20), "{before:?}");
    world.becomes(Machine::new(0, 50));
    let seen = world.run(milliseconds(25), Duration::from_secs(10), Duration::from_secs(2));
    let after = world.pace(100);
    assert!(after.abs_diff(milliseconds(5000)) < milliseconds(200), "{after:?}");
    let late = seen.late as f64 / seen.latencies.len() as f64;
    assert!(late < 0.05, "{late} of those admitted came too late");
}

#[test]
fn a_small_batch_is_held_back_for_company_as_long_as_it_is_told() {
    let mut patient = settings(4, 64);
    patient.max_queue_delay = milliseconds(50);
    let shared = shared(patient);
    let mut world = World::new(&shared, Machine::new(10, 0));
    let seen = world.run(milliseconds(200), Duration::from_secs(2), Duration::from_secs(30));
    assert_eq!(world.sizes(), vec![1; 10]);
    assert_eq!(seen.slowest(), milliseconds(60));
    world.run(milliseconds(10), Duration::from_secs(2), Duration::from_secs(30));
    assert!(world.sizes().iter().all(|size| *size == 4), "a full batch waits for nothing");
}

#[test]
fn a_hold_back_that_outlasts_a_deadline_ends_in_time_for_a_pass() {
    let mut patient = settings(4, 64);
    patient.max_queue_delay = milliseconds(200);
    let shared = shared(patient);
    let mut world = World::new(&shared, Machine::new(10, 0));
    let seen = world.run(milliseconds(400), Duration::from_secs(2), milliseconds(150));
    assert_eq!((seen.late, seen.latencies), (0, vec![milliseconds(140); 5]));
}

#[test]
fn a_load_in_long_pieces_leaves_photos_of_another_model_half_of_the_time() {
    struct Quick;
    impl Runner for Quick {
        fn run(&mut self, batch: &[Prepared]) -> Result<Vec<Vec<f32>>, RunnerError> {
            Ok(batch.iter().map(|_| vec![1.0]).collect())
        }
    }
    let shared = shared(settings(1, 256));
    let mut world = World::new(&shared, Machine::new(10, 0));
    let photos = (0..50).map(|_| Input::Tensor(vec![5.0; 3].into())).collect();
    let deadline = world.now() + Duration::from_secs(60);
    let tickets = shared.admit(photos, &world.model, deadline).expect("admitted");
    let clock = shared.clock.clone();
    let factory = RunnerFactory::in_pieces("cpu", Warmup::OnePhoto, move |breathe| {
        for piece in [200, 5, 100] {
            clock.advance(milliseconds(piece));
            breathe();
        }
        Ok(Quick)
    });
    let ModelParts { spec, prepare, .. } = parts(Vec::new());
    let (reply, mut loaded) = oneshot::channel();
    world
        .device
        .load(LoadOrder { model: Model::new(spec, prepare, 1), factory, reply })
        .expect("a sound device");
    assert!(loaded.try_recv().expect("an answer").is_ok());
    // 20 in the first pause, none after 5 ms, and 11 for 105 ms.
    assert_eq!(world.sizes(), [1; 31]);
    drop(tickets);
}

/// Asks for the pace in the moment of an answer.
struct OnAnswer {
    model: Model,
    pace: Mutex<Option<Duration>>,
}

impl Wake for OnAnswer {
    fn wake(self: Arc<Self>) {
        *self.pace.lock().expect("unpoisoned") = Some(self.model.lane().time_of(1));
    }
}

#[test]
fn a_batch_is_in_the_pace_before_it_is_answered() {
    let shared = shared(settings(1, 64));
    let mut world = World::new(&shared, Machine::new(10, 0));
    shared.pace.warmed(world.model.lane(), Duration::from_secs(1), 1, 1);
    let photo = vec![Input::Tensor(vec![5.0; 3].into())];
    let ticket =
        shared.admit(photo, &world.model, world.now() + Duration::from_secs(60)).expect("admitted").remove(0);
    let answered = Arc::new(OnAnswer { model: world.model.clone(), pace: Mutex::default() });
    let mut wait = std::pin::pin!(ticket.answer);
    assert!(wait.as_mut().poll(&mut Context::from_waker(&Waker::from(answered.clone()))).is_pending());
    assert!(world.device.step().expect("a sound device"));
    assert_eq!(*answered.pace.lock().expect("unpoisoned"), Some(milliseconds(10)));
}
