//! Promises about devices: several on one queue, their warm-up, their memory, their loss.
//!
//! The fake device here has room for so many photos at once; a pass beyond that is out of memory.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Condvar, PoisonError};

use super::*;

/// What a test holds of a fake device.
#[derive(Clone)]
struct Card {
    name: &'static str,
    warmup: Warmup,
    /// Photos that fit into its memory at once.
    room: Arc<AtomicUsize>,
    /// While false, a pass does not begin.
    open: Arc<(Mutex<bool>, Condvar)>,
    /// Sizes of the batches it was given, those that did not fit included.
    sizes: Arc<Mutex<Vec<usize>>>,
}

impl Card {
    fn new(name: &'static str, warmup: Warmup, room: usize) -> Self {
        Self {
            name,
            warmup,
            room: Arc::new(AtomicUsize::new(room)),
            open: Arc::new((Mutex::new(true), Condvar::new())),
            sizes: Arc::default(),
        }
    }

    fn cuda(room: usize) -> Self {
        Self::new("cuda:0", Warmup::Buckets, room)
    }

    fn factory(&self) -> RunnerFactory {
        let card = self.clone();
        RunnerFactory::new(self.name, self.warmup, move || Ok(card))
    }

    fn set_room(&self, photos: usize) {
        self.room.store(photos, Ordering::SeqCst);
    }

    fn hold(&self) {
        *self.open.0.lock().unwrap_or_else(PoisonError::into_inner) = false;
    }

    fn release(&self) {
        *self.open.0.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.open.1.notify_all();
    }

    /// Sizes of the batches since the last call.
    fn sizes(&self) -> Vec<usize> {
        std::mem::take(&mut self.sizes.lock().expect("unpoisoned"))
    }

    fn batches(&self) -> usize {
        self.sizes.lock().expect("unpoisoned").len()
    }
}

impl Runner for Card {
    fn run(&mut self, batch: &[Prepared]) -> Result<Vec<Vec<f32>>, RunnerError> {
        self.sizes.lock().expect("unpoisoned").push(batch.len());
        let open = self.open.0.lock().unwrap_or_else(PoisonError::into_inner);
        drop(self.open.1.wait_while(open, |open| !*open).unwrap_or_else(PoisonError::into_inner));
        if batch.len() > self.room.load(Ordering::SeqCst) {
            return Err(RunnerError::OutOfMemory(format!("{} photos", batch.len())));
        }
        let value = |photo: &Prepared| match photo {
            Prepared::Pixels(pixels) => pixels.data()[0],
            Prepared::Tensor(values) => values[0] as u8,
        };
        if batch.iter().any(|photo| value(photo) == DEVICE_LOSS) {
            return Err(RunnerError::Device("the device fell off the bus".to_owned()));
        }
        Ok(batch.iter().map(|photo| vec![f32::from(value(photo))]).collect())
    }
}

fn start(limit: usize, cards: &[&Card]) -> Engine {
    let metrics = EngineMetrics::register(&Registry::new()).expect("an empty registry");
    let model = ModelSpec { name: "test".into(), height: 1, width: 1 };
    let factories = cards.iter().map(|card| card.factory()).collect();
    let settings = settings(limit, 64);
    Engine::start(settings, model, Arc::new(prepare), factories, metrics).expect("threads can be had")
}

async fn settled(engine: &Engine) -> EngineStatus {
    let mut status = engine.status();
    let settled = status.wait_for(|status| *status != EngineStatus::Starting).await;
    settled.expect("the engine lives").clone()
}

async fn ready(limit: usize, cards: &[&Card]) -> Engine {
    let engine = start(limit, cards);
    assert_eq!(settled(&engine).await, EngineStatus::Ready);
    for card in cards {
        card.sizes();
    }
    engine
}

/// Admits photos that need no decoding, together.
fn admit(engine: &Engine, values: impl IntoIterator<Item = u8>) -> Vec<Ticket> {
    let inputs = values.into_iter().map(|value| Input::Tensor(vec![f32::from(value); 3])).collect();
    engine.admit(inputs, None, Instant::now() + Duration::from_secs(60)).expect("the photos are admitted")
}

/// Admits photos that form one batch: they gather while another is on the device.
async fn admit_as_batch(engine: &Engine, card: &Card, values: impl IntoIterator<Item = u8>) -> Vec<Ticket> {
    card.hold();
    let before = card.batches();
    let first = admit(engine, [1]);
    until(|| card.batches() > before).await;
    let batch = admit(engine, values);
    card.release();
    for ticket in first {
        ticket.wait().await.expect("scores");
    }
    batch
}

async fn scores(tickets: Vec<Ticket>) -> Vec<f32> {
    let mut scores = Vec::new();
    for ticket in tickets {
        scores.push(ticket.wait().await.expect("scores").0[0]);
    }
    scores
}

fn limits(engine: &Engine) -> Vec<Option<usize>> {
    engine.devices().iter().map(|state| state.max_batch_size).collect()
}

#[tokio::test]
async fn a_cuda_device_is_warmed_with_every_batch_bucket_and_the_limit_and_a_cpu_with_one_photo() {
    let (cuda, cpu) = (Card::cuda(64), Card::new("cpu", Warmup::OnePhoto, 64));
    let engine = start(6, &[&cuda, &cpu]);
    assert_eq!(settled(&engine).await, EngineStatus::Ready);
    assert_eq!(cuda.sizes(), [1, 2, 4, 6]);
    assert_eq!(cpu.sizes(), [1]);
    assert_eq!(limits(&engine), [Some(6), Some(6)]);
}

#[tokio::test]
async fn two_devices_share_one_queue() {
    let (one, two) = (Card::cuda(64), Card::new("cuda:1", Warmup::Buckets, 64));
    let engine = ready(2, &[&one, &two]).await;
    one.hold();
    two.hold();
    // The first photo busies one of them, alone, since a free device waits for no company; the next can only go to the other.
    let first = admit(&engine, [1]);
    until(|| one.batches() + two.batches() == 1).await;
    let second = admit(&engine, [3]);
    until(|| one.batches() + two.batches() == 2).await;
    assert_eq!((one.batches(), two.batches()), (1, 1));
    let third = admit(&engine, [5, 6]);
    // Whoever is free first takes what waits.
    two.release();
    assert_eq!(scores(third).await, [5.0, 6.0]);
    assert_eq!(two.sizes(), [1, 2]);
    one.release();
    assert_eq!((scores(first).await, scores(second).await), (vec![1.0], vec![3.0]));
}

#[tokio::test]
async fn the_engine_is_ready_when_its_last_device_is_warm() {
    let (one, two) = (Card::cuda(64), Card::new("cuda:1", Warmup::Buckets, 64));
    two.hold();
    let engine = start(4, &[&one, &two]);
    until(|| limits(&engine) == [Some(4), None]).await;
    assert_eq!(*engine.status().borrow(), EngineStatus::Starting);
    assert!(matches!(engine.admissible(), Err(EngineError::NotReady)));
    two.release();
    assert_eq!(settled(&engine).await, EngineStatus::Ready);
    assert_eq!(limits(&engine), [Some(4), Some(4)]);
}

#[tokio::test]
async fn a_batch_that_does_not_fit_when_warming_lowers_the_limit_of_that_device_alone() {
    let (small, large) = (Card::cuda(3), Card::new("cuda:1", Warmup::Buckets, 64));
    let engine = start(8, &[&small, &large]);
    assert_eq!(settled(&engine).await, EngineStatus::Ready);
    assert_eq!(small.sizes(), [1, 2, 4]);
    assert_eq!(limits(&engine), [Some(2), Some(8)]);
    drop(engine);

    let engine = ready(8, &[&small]).await;
    let batch = admit_as_batch(&engine, &small, 10..17).await;
    assert_eq!(scores(batch).await, [10.0, 11.0, 12.0, 13.0, 14.0, 15.0, 16.0]);
    assert_eq!(small.sizes(), [1, 2, 2, 2, 1]);
}

#[tokio::test]
async fn a_device_with_no_room_for_one_photo_fails_the_start_and_is_named() {
    let engine = start(8, &[&Card::cuda(0)]);
    let EngineStatus::Failed(reason) = settled(&engine).await else { panic!("it has no room at all") };
    assert!(reason.contains("more memory than cuda:0 has"), "{reason}");

    let metrics = EngineMetrics::register(&Registry::new()).expect("an empty registry");
    let model = ModelSpec { name: "test".into(), height: 1, width: 1 };
    let weights = || Err::<Card, _>(RunnerError::OutOfMemory("weights".to_owned()));
    let factory = RunnerFactory::new("cuda:0", Warmup::Buckets, weights);
    let engine = Engine::start(settings(8, 8), model, Arc::new(prepare), vec![factory], metrics);
    let EngineStatus::Failed(reason) = settled(&engine.expect("threads")).await else { panic!("no room") };
    assert!(reason.contains("more memory than cuda:0 has"), "{reason}");
}

#[tokio::test]
async fn out_of_memory_in_service_halves_the_batch_and_everyone_is_answered() {
    let card = Card::cuda(64);
    let engine = ready(8, &[&card]).await;
    card.set_room(3);
    let batch = admit_as_batch(&engine, &card, 10..15).await;
    assert_eq!(scores(batch).await, [10.0, 11.0, 12.0, 13.0, 14.0]);
    assert_eq!(card.sizes(), [1, 5, 3, 2]);
}

#[tokio::test]
async fn what_does_not_fit_in_halves_either_is_refused_and_the_device_works_on() {
    let card = Card::cuda(64);
    let engine = ready(8, &[&card]).await;
    card.set_room(2);
    let batch = admit_as_batch(&engine, &card, 10..15).await;
    let mut answers = Vec::new();
    for ticket in batch {
        answers.push(match ticket.wait().await {
            Ok(scores) => scores.0[0],
            Err(EngineError::OutOfMemory { retry_after }) if retry_after >= Duration::from_secs(1) => -1.0,
            Err(error) => panic!("{error}"),
        });
    }
    assert_eq!(answers, [-1.0, -1.0, -1.0, 13.0, 14.0]);
    assert_eq!(card.sizes(), [1, 5, 3, 2], "each half once");

    card.set_room(0);
    let alone = admit(&engine, [20]).remove(0);
    assert!(matches!(alone.wait().await, Err(EngineError::OutOfMemory { .. })));
    card.set_room(64);
    assert_eq!(scores(admit(&engine, [21])).await, [21.0]);
    assert_eq!(*engine.status().borrow(), EngineStatus::Ready);
}

#[tokio::test]
async fn one_lost_device_of_two_fails_the_engine_and_nobody_waits_for_the_other() {
    let (one, two) = (Card::cuda(64), Card::new("cuda:1", Warmup::Buckets, 64));
    let engine = ready(1, &[&one, &two]).await;
    one.hold();
    two.hold();
    let first = admit(&engine, [DEVICE_LOSS]);
    until(|| one.batches() + two.batches() == 1).await;
    // The other device hangs with the second photo; the third waits for either.
    let (lost, hung) = if one.batches() == 1 { (&one, &two) } else { (&two, &one) };
    let others = admit(&engine, [2, 3]);
    until(|| hung.batches() == 1).await;
    lost.release();
    for ticket in first.into_iter().chain(others) {
        assert!(matches!(ticket.wait().await, Err(EngineError::DeviceUnavailable { .. })));
    }
    assert_eq!(*engine.status().borrow(), EngineStatus::Failed("the device fell off the bus".into()));
    assert!(matches!(engine.admissible(), Err(EngineError::DeviceUnavailable { .. })));
    let start = Instant::now();
    assert!(!engine.drain(Duration::from_secs(60)).await);
    assert!(start.elapsed() < Duration::from_secs(30), "a drain waits for no lost device");
    hung.release();
}
