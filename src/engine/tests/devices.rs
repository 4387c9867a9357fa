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

/// Devices with a model on them.
struct Bench {
    engine: Engine,
    model: Model,
}

fn engine(limit: usize, cards: &[&Card]) -> Engine {
    let metrics = EngineMetrics::register(&Registry::new()).expect("an empty registry");
    let devices = cards.iter().map(|card| card.name.into()).collect();
    Engine::start(settings(limit, 64), devices, metrics).expect("threads can be had")
}

fn model(cards: &[&Card]) -> ModelParts {
    parts(cards.iter().map(|card| card.factory()).collect())
}

async fn ready(limit: usize, cards: &[&Card]) -> Bench {
    let engine = engine(limit, cards);
    let model = engine.load(model(cards)).await.expect("a model");
    for card in cards {
        card.sizes();
    }
    Bench { engine, model }
}

/// Admits photos that need no decoding, together.
fn admit(bench: &Bench, values: impl IntoIterator<Item = u8>) -> Vec<Ticket> {
    let inputs = values.into_iter().map(|value| Input::Tensor(vec![f32::from(value); 3].into())).collect();
    let deadline = Instant::now() + Duration::from_secs(60);
    bench.engine.admit(inputs, &bench.model, deadline).expect("the photos are admitted")
}

/// Admits photos that form one batch: they gather while another is on the device.
async fn admit_as_batch(bench: &Bench, card: &Card, values: impl IntoIterator<Item = u8>) -> Vec<Ticket> {
    card.hold();
    let before = card.batches();
    let first = admit(bench, [1]);
    until(|| card.batches() > before).await;
    let batch = admit(bench, values);
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

#[tokio::test]
async fn a_cuda_device_is_warmed_with_every_batch_bucket_and_the_limit_and_a_cpu_with_one_photo() {
    let (cuda, cpu) = (Card::cuda(64), Card::new("cpu", Warmup::OnePhoto, 64));
    let cards = [&cuda, &cpu];
    let model = engine(6, &cards).load(model(&cards)).await.expect("a model");
    assert_eq!(cuda.sizes(), [1, 2, 4, 6]);
    assert_eq!(cpu.sizes(), [1]);
    assert_eq!(model.max_batch_sizes(), [Some(6), Some(6)]);
}

#[tokio::test]
async fn two_devices_share_one_queue() {
    let (one, two) = (Card::cuda(64), Card::new("cuda:1", Warmup::Buckets, 64));
    let bench = ready(2, &[&one, &two]).await;
    one.hold();
    two.hold();
    // The first photo busies one of them, alone, since a free device waits for no company; the next can only go to the other.
    let first = admit(&bench, [1]);
    until(|| one.batches() + two.batches() == 1).await;
    let second = admit(&bench, [3]);
    until(|| one.batches() + two.batches() == 2).await;
    assert_eq!((one.batches(), two.batches()), (1, 1));
    let third = admit(&bench, [5, 6]);
    // Whoever is free first takes what waits.
    two.release();
    assert_eq!(scores(third).await, [5.0, 6.0]);
    assert_eq!(two.sizes(), [1, 2]);
    one.release();
    assert_eq!((scores(first).await, scores(second).await), (vec![1.0], vec![3.0]));
}

#[tokio::test]
async fn prepared_photos_of_one_request_are_one_batch_on_an_idle_device() {
    let card = Card::cuda(64);
    let bench = ready(32, &[&card]).await;
    for _ in 0..50 {
        scores(admit(&bench, 1..=32)).await;
        assert_eq!(card.sizes(), [32]);
    }
}

#[tokio::test]
async fn a_model_is_there_when_its_last_device_is_warm() {
    let (one, two) = (Card::cuda(64), Card::new("cuda:1", Warmup::Buckets, 64));
    two.hold();
    let cards = [&one, &two];
    let engine = engine(4, &cards);
    let loading = tokio::spawn({
        let (engine, parts) = (engine.clone(), model(&cards));
        async move { engine.load(parts).await }
    });
    until(|| one.batches() == 3 && two.batches() == 1).await;
    assert!(!loading.is_finished());
    two.release();
    let model = loading.await.expect("no panic").expect("a model");
    assert_eq!(model.max_batch_sizes(), [Some(4), Some(4)]);
}

#[tokio::test]
async fn a_batch_that_does_not_fit_when_warming_lowers_the_limit_of_that_device_alone() {
    let (small, large) = (Card::cuda(3), Card::new("cuda:1", Warmup::Buckets, 64));
    let cards = [&small, &large];
    let model = engine(8, &cards).load(model(&cards)).await.expect("a model");
    assert_eq!(small.sizes(), [1, 2, 4]);
    assert_eq!(model.max_batch_sizes(), [Some(2), Some(8)]);
    drop(model);

    let bench = ready(8, &[&small]).await;
    let batch = admit_as_batch(&bench, &small, 10..17).await;
    assert_eq!(scores(batch).await, [10.0, 11.0, 12.0, 13.0, 14.0, 15.0, 16.0]);
    assert_eq!(small.sizes(), [1, 2, 2, 2, 1]);
}

#[tokio::test]
async fn a_device_with_no_room_for_one_photo_or_for_the_weights_fails_the_load_and_is_named() {
    let full = Card::cuda(0);
    let engine = engine(8, &[&full]);
    let weights = || Err::<Card, _>(RunnerError::OutOfMemory("weights".to_owned()));
    let weights = RunnerFactory::new("cuda:0", Warmup::Buckets, weights);
    for parts in [model(&[&full]), parts(vec![weights])] {
        let error = engine.load(parts).await.expect_err("it has no room at all").to_string();
        assert!(error.contains("more memory than cuda:0 has"), "{error}");
        assert_eq!(*engine.status().borrow(), EngineStatus::Ready, "the device is sound");
    }
}

#[tokio::test]
async fn out_of_memory_in_service_halves_the_batch_and_everyone_is_answered() {
    let card = Card::cuda(64);
    let bench = ready(8, &[&card]).await;
    card.set_room(3);
    let batch = admit_as_batch(&bench, &card, 10..15).await;
    assert_eq!(scores(batch).await, [10.0, 11.0, 12.0, 13.0, 14.0]);
    assert_eq!(card.sizes(), [1, 5, 3, 2]);
}

#[tokio::test]
async fn what_does_not_fit_in_halves_either_is_refused_and_the_device_works_on() {
    let card = Card::cuda(64);
    let bench = ready(8, &[&card]).await;
    card.set_room(2);
    let batch = admit_as_batch(&bench, &card, 10..15).await;
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
    let alone = admit(&bench, [20]).remove(0);
    assert!(matches!(alone.wait().await, Err(EngineError::OutOfMemory { .. })));
    card.set_room(64);
    assert_eq!(scores(admit(&bench, [21])).await, [21.0]);
    assert_eq!(*bench.engine.status().borrow(), EngineStatus::Ready);
}

#[tokio::test]
async fn one_lost_device_of_two_fails_the_engine_and_nobody_waits_for_the_other() {
    let (one, two) = (Card::cuda(64), Card::new("cuda:1", Warmup::Buckets, 64));
    let bench = ready(1, &[&one, &two]).await;
    one.hold();
    two.hold();
    let first = admit(&bench, [DEVICE_LOSS]);
    until(|| one.batches() + two.batches() == 1).await;
    // The other device hangs with the second photo; the third waits for either.
    let (lost, hung) = if one.batches() == 1 { (&one, &two) } else { (&two, &one) };
    let others = admit(&bench, [2, 3]);
    until(|| hung.batches() == 1).await;
    lost.release();
    for ticket in first.into_iter().chain(others) {
        assert!(matches!(ticket.wait().await, Err(EngineError::DeviceUnavailable { .. })));
    }
    let (engine, patient) = (bench.engine, Instant::now() + Duration::from_secs(60));
    assert_eq!(*engine.status().borrow(), EngineStatus::Failed("the device fell off the bus".into()));
    assert!(matches!(engine.admissible(patient), Err(EngineError::DeviceUnavailable { .. })));
    let start = Instant::now();
    assert!(!engine.drain(Duration::from_secs(60)).await);
    assert!(start.elapsed() < Duration::from_secs(30), "a drain waits for no lost device");
    hung.release();
}

#[test]
fn a_gpu_takes_larger_batches_and_all_cores_decode_for_it() {
    use crate::ops::device::{CudaInfo, Precision};
    let cpu = DeviceChoice { device: DeviceInfo::Cpu, precision: Precision::F32 };
    let info =
        CudaInfo { ordinal: 0, name: "a card".to_owned(), compute_capability: (9, 0), total_memory: 1 << 36 };
    let cuda = DeviceChoice { device: DeviceInfo::Cuda(info), precision: Precision::Bf16 };
    let (on_cpu, on_cuda) = (EngineSettings::on(&[cpu.clone(), cpu]), EngineSettings::on(&[cuda]));
    assert_eq!(
        (on_cpu.max_batch_size, on_cuda.max_batch_size),
        (BatchLimit::Fixed(8), BatchLimit::Fixed(32))
    );
    assert!(on_cpu.decode_threads <= 4);
    assert_eq!(on_cuda.decode_threads, std::thread::available_parallelism().map_or(1, usize::from));
    assert_eq!(on_cuda.max_queue_size, on_cpu.max_queue_size);
}
