//! Promises of the engine, kept by a runner that stands at a gate instead of a device.
//!
//! The gate lets one batch through a permit, so that tests decide what happens while the device is busy. They wait for what they
//! can see (a batch begun, photos before the device), and for a clock only where a deadline or a grace is the subject.

mod bursts;
mod devices;
mod models;
mod queues;
mod simulation;
mod world;

use std::sync::mpsc;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use prometheus::Registry;

use super::*;

/// Photos of the tests are one byte: what it means to the decoder and the runner.
const CORRUPT: u8 = 250;
const DECODER_PANIC: u8 = 251;
const POISON: u8 = 252;
const RUNNER_PANIC: u8 = 253;
const NOT_A_NUMBER: u8 = 254;
const DEVICE_LOSS: u8 = 255;

fn prepare(bytes: &[u8]) -> Result<Pixels, ImageError> {
    match bytes.first().copied().unwrap_or(CORRUPT) {
        CORRUPT => Pixels::new(0, 7, vec![1]),
        DECODER_PANIC => panic!("a decoder's bug"),
        value => Pixels::new(1, 1, vec![value; 3]),
    }
}

struct Gated {
    gate: mpsc::Receiver<()>,
    batches: Arc<Mutex<Vec<Vec<u8>>>>,
}

impl Runner for Gated {
    fn run(&mut self, batch: &[Prepared]) -> Result<Vec<Vec<f32>>, RunnerError> {
        let values: Vec<u8> = batch
            .iter()
            .map(|photo| match photo {
                Prepared::Pixels(pixels) => pixels.data()[0],
                Prepared::Tensor(values) => values[0] as u8,
            })
            .collect();
        self.batches.lock().expect("no test holds it over a panic").push(values.clone());
        let _ = self.gate.recv();
        if values.contains(&RUNNER_PANIC) {
            panic!("a model's bug");
        }
        if values.contains(&POISON) {
            return Err(RunnerError::Batch("poison".to_owned()));
        }
        if values.contains(&DEVICE_LOSS) {
            return Err(RunnerError::Device("the device fell off the bus".to_owned()));
        }
        let score = |value: &u8| if *value == NOT_A_NUMBER { f32::NAN } else { f32::from(*value) };
        Ok(values.iter().map(|value| vec![score(value), 1.0]).collect())
    }
}

struct Rig {
    engine: Engine,
    model: Model,
    metrics: EngineMetrics,
    gate: mpsc::Sender<()>,
    batches: Arc<Mutex<Vec<Vec<u8>>>>,
}

impl Rig {
    /// An engine with a model, its device free and its gate shut.
    async fn new(settings: EngineSettings) -> Self {
        let metrics = EngineMetrics::register(&Registry::new()).expect("an empty registry");
        let engine =
            Engine::start(settings, vec!["cpu".into()], metrics.clone()).expect("threads can be had");
        let (gate, permits) = mpsc::channel();
        let batches = Arc::<Mutex<Vec<Vec<u8>>>>::default();
        let runner = Gated { gate: permits, batches: batches.clone() };
        gate.send(()).expect("the runner lives");
        let factory = RunnerFactory::new("cpu", Warmup::OnePhoto, move || Ok(runner));
        let model = engine.load(parts(vec![factory])).await.expect("a model");
        Self { engine, model, metrics, gate, batches }
    }

    fn open(&self, batches: usize) {
        for _ in 0..batches {
            self.gate.send(()).expect("the runner lives");
        }
    }

    fn send(&self, value: u8) -> Ticket {
        self.try_send(value).expect("the photo is admitted")
    }

    fn try_send(&self, value: u8) -> Result<Ticket, EngineError> {
        self.try_send_until(value, Instant::now() + Duration::from_secs(60))
    }

    fn try_send_until(&self, value: u8, deadline: Instant) -> Result<Ticket, EngineError> {
        let photo = Input::Photo(Bytes::copy_from_slice(&[value]));
        self.engine.admit(vec![photo], &self.model, deadline).map(|mut tickets| tickets.remove(0))
    }

    /// Sends a photo that keeps the device busy until the gate opens.
    async fn occupy(&self) -> Ticket {
        let before = self.batches.lock().expect("unpoisoned").len();
        let ticket = self.send(1);
        until(|| self.batches.lock().expect("unpoisoned").len() > before).await;
        ticket
    }

    /// Waits until `count` photos are decoded and stand before the device.
    async fn decoded(&self, count: usize) {
        until(|| self.engine.shared().ready.len() >= count).await;
    }
}

/// A model of one pixel.
fn parts(runners: Vec<RunnerFactory>) -> ModelParts {
    let spec = ModelSpec { name: "test".into(), height: 1, width: 1 };
    ModelParts { spec, prepare: Arc::new(prepare), runners }
}

async fn until(mut condition: impl FnMut() -> bool) {
    let patience = Instant::now() + Duration::from_secs(30);
    while !condition() {
        assert!(Instant::now() < patience, "waited 30 s in vain");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

fn settings(max_batch_size: usize, max_queue_size: usize) -> EngineSettings {
    let max_batch_size = BatchLimit::Fixed(max_batch_size);
    EngineSettings { max_batch_size, max_queue_size, decode_threads: 1, ..EngineSettings::default() }
}

#[tokio::test]
async fn photos_that_come_while_the_device_is_busy_join_the_next_batch_up_to_the_limit() {
    let rig = Rig::new(settings(4, 16)).await;
    let first = rig.occupy().await;
    let later: Vec<_> = (10..16).map(|value| rig.send(value)).collect();
    rig.decoded(6).await;
    rig.open(3);
    assert_eq!(first.wait().await.expect("scores"), Scores(vec![1.0, 1.0]));
    for (ticket, value) in later.into_iter().zip(10..16_u8) {
        assert_eq!(ticket.wait().await.expect("scores"), Scores(vec![f32::from(value), 1.0]));
    }
    let batches = rig.batches.lock().expect("unpoisoned").clone();
    assert_eq!(batches, [vec![0], vec![1], vec![10, 11, 12, 13], vec![14, 15]]);
    assert_eq!(rig.metrics.batch_size.get_sample_count(), 3);
    assert_eq!(rig.metrics.predictions.get(), 7);
}

#[tokio::test]
async fn a_full_queue_refuses_at_once_with_the_time_to_come_back() {
    let rig = Rig::new(settings(1, 2)).await;
    let _busy = rig.occupy().await;
    let _waiting = [rig.send(2), rig.send(3)];
    match rig.try_send(4) {
        Err(EngineError::Overloaded { retry_after }) => assert!(retry_after >= Duration::from_secs(1)),
        other => panic!("admitted to a full queue: {other:?}"),
    }
    let patient = Instant::now() + Duration::from_secs(60);
    assert!(matches!(rig.engine.admissible(patient), Err(EngineError::Overloaded { .. })));
    assert_eq!(rig.metrics.queue_size.get(), 2);
}

#[tokio::test]
async fn a_client_that_goes_frees_its_slot_while_the_device_is_still_busy() {
    let rig = Rig::new(settings(1, 2)).await;
    let busy = rig.occupy().await;
    let (gone, stays) = (rig.send(2), rig.send(3));
    rig.decoded(2).await;
    drop(gone);
    let late = rig.send(4);
    rig.open(3);
    for ticket in [busy, stays, late] {
        ticket.wait().await.expect("scores");
    }
    assert_eq!(rig.metrics.dropped_disconnected.get(), 1);
    assert_eq!(*rig.batches.lock().expect("unpoisoned"), [[0], [1], [3], [4]]);
    assert_eq!(rig.metrics.queue_size.get(), 0);
}

#[tokio::test]
async fn a_deadline_is_kept_even_when_the_device_hangs_and_the_photo_never_reaches_it() {
    let rig = Rig::new(settings(1, 8)).await;
    let busy = rig.occupy().await;
    let late = rig.try_send_until(2, Instant::now() + Duration::from_millis(60)).expect("admitted");
    assert!(matches!(late.wait().await, Err(EngineError::DeadlineExceeded)));
    let next = rig.send(3);
    rig.open(2);
    busy.wait().await.expect("scores");
    next.wait().await.expect("scores");
    assert_eq!(rig.metrics.dropped_deadline.get(), 1);
    assert_eq!(rig.metrics.dropped_disconnected.get(), 0);
    assert_eq!(*rig.batches.lock().expect("unpoisoned"), [[0], [1], [3]]);
}

#[tokio::test]
async fn one_bad_photo_never_harms_its_batch() {
    for bad in [POISON, RUNNER_PANIC, NOT_A_NUMBER] {
        let rig = Rig::new(settings(4, 16)).await;
        let busy = rig.occupy().await;
        let tickets = [rig.send(20), rig.send(bad), rig.send(21)];
        rig.decoded(3).await;
        rig.open(5);
        busy.wait().await.expect("scores");
        let [first, harmed, last] = tickets;
        assert_eq!(first.wait().await.expect("scores"), Scores(vec![20.0, 1.0]));
        let error = harmed.wait().await.expect_err("no scores for the bad one");
        assert!(matches!(error, EngineError::Internal(_) | EngineError::NonFinite), "{error}");
        assert_eq!(last.wait().await.expect("scores"), Scores(vec![21.0, 1.0]));
        let panics = if bad == RUNNER_PANIC { 2 } else { 0 };
        assert_eq!(rig.metrics.panics_inference.get(), panics, "the batch, and the photo alone");
    }
}

#[tokio::test]
async fn a_photo_that_cannot_be_read_or_panics_the_decoder_is_answered_alone() {
    let rig = Rig::new(settings(4, 16)).await;
    assert!(matches!(rig.send(CORRUPT).wait().await, Err(EngineError::Photo(_))));
    assert!(matches!(rig.send(DECODER_PANIC).wait().await, Err(EngineError::Internal(_))));
    assert_eq!(rig.metrics.panics_decode.get(), 1);
    rig.open(1);
    rig.send(5).wait().await.expect("the pool's only thread still works");
    assert_eq!(rig.metrics.queue_size.get(), 0);
}

#[tokio::test]
async fn a_lost_device_answers_everyone_and_admits_no_one() {
    let rig = Rig::new(settings(1, 16)).await;
    let fatal = rig.send(DEVICE_LOSS);
    until(|| rig.batches.lock().expect("unpoisoned").len() == 2).await;
    let waiting = rig.send(2);
    rig.open(1);
    assert!(matches!(fatal.wait().await, Err(EngineError::DeviceUnavailable { .. })));
    assert!(matches!(waiting.wait().await, Err(EngineError::DeviceUnavailable { .. })));
    assert!(matches!(rig.try_send(3), Err(EngineError::DeviceUnavailable { .. })));
    let status = rig.engine.status().borrow().clone();
    assert_eq!(status, EngineStatus::Failed("the device fell off the bus".into()));
}

#[tokio::test]
async fn a_drain_answers_what_was_admitted_and_admits_no_more() {
    let rig = Rig::new(settings(2, 8)).await;
    let busy = rig.occupy().await;
    let waiting = [rig.send(2), rig.send(3)];
    let engine = rig.engine.clone();
    let drain = tokio::spawn(async move { engine.drain(Duration::from_secs(60)).await });
    until(|| *rig.engine.status().borrow() == EngineStatus::Draining).await;
    assert!(matches!(rig.try_send(4), Err(EngineError::ShuttingDown)));
    rig.open(3);
    busy.wait().await.expect("scores");
    for ticket in waiting {
        ticket.wait().await.expect("scores");
    }
    assert!(drain.await.expect("no panic"));
}

#[tokio::test]
async fn whoever_still_waits_when_the_grace_ends_is_told_so() {
    let rig = Rig::new(settings(1, 8)).await;
    let on_the_device = rig.occupy().await;
    let waiting = rig.send(2);
    assert!(!rig.engine.drain(Duration::from_millis(50)).await);
    assert!(matches!(waiting.wait().await, Err(EngineError::ShuttingDown)));
    assert!(matches!(on_the_device.wait().await, Err(EngineError::ShuttingDown)));
    assert_eq!(rig.metrics.queue_size.get(), 0);
}

#[tokio::test]
async fn a_request_that_asks_for_what_is_not_there_is_refused_by_name() {
    let rig = Rig::new(settings(1, 2)).await;
    let deadline = Instant::now() + Duration::from_secs(60);
    let one = || vec![Input::Tensor(vec![0.5; 3].into())];
    let short = rig.engine.admit(vec![Input::Tensor(vec![0.5; 2].into())], &rig.model, deadline);
    assert!(matches!(short, Err(EngineError::TensorSize { want: 3, found: 2 })));
    let tall = Pixels::new(1, 2, vec![0; 6]).expect("pixels");
    let tall = rig.engine.admit(vec![Input::Pixels(tall.into())], &rig.model, deadline);
    assert!(matches!(tall, Err(EngineError::PixelSize { want: (1, 1), found: (2, 1) })));
    let many = (0..3).flat_map(|_| one()).collect();
    let many = rig.engine.admit(many, &rig.model, deadline);
    assert!(matches!(many, Err(EngineError::TooManyPhotos { sent: 3, limit: 2 })));
    rig.open(2);
    let scores = rig.engine.submit(Input::Tensor(vec![7.0; 3].into()), &rig.model, deadline).await;
    assert_eq!(scores.expect("scores"), Scores(vec![7.0, 1.0]));
    let pixels = Input::Pixels(Pixels::new(1, 1, vec![9; 3]).expect("pixels").into());
    let scores = rig.engine.submit(pixels, &rig.model, deadline).await;
    assert_eq!(scores.expect("scores"), Scores(vec![9.0, 1.0]));
}

#[tokio::test]
async fn clients_that_have_left_are_not_counted_among_the_photos_ahead() {
    let rig = Rig::new(settings(1, 64)).await;
    rig.engine.shared().pace.warmed(rig.model.lane(), Duration::from_secs(10), 1, 1);
    let busy = rig.occupy().await;
    let gone: Vec<_> = (0..8)
        .map(|_| rig.try_send_until(2, Instant::now() + Duration::from_secs(600)).expect("time enough"))
        .collect();
    let soon = || Instant::now() + Duration::from_secs(60);
    assert!(matches!(rig.engine.admissible(soon()), Err(EngineError::DeadlineUnmeetable { .. })));
    drop(gone);
    rig.engine.admissible(soon()).expect("one is ahead");
    let next = rig.try_send_until(3, soon()).expect("one is ahead");
    rig.open(2);
    busy.wait().await.expect("scores");
    next.wait().await.expect("scores");
    assert_eq!(*rig.batches.lock().expect("unpoisoned"), [[0], [1], [3]]);
}

#[tokio::test]
async fn a_deadline_that_the_photos_ahead_make_impossible_is_refused_at_once_and_an_idle_engine_tries() {
    let rig = Rig::new(settings(1, 64)).await;
    // A warm-up pass that took a minute.
    rig.engine.shared().pace.warmed(rig.model.lane(), Duration::from_secs(60), 1, 1);
    let soon = || Instant::now() + Duration::from_secs(30);
    let lone = rig.try_send_until(1, soon()).expect("nobody is ahead: the measure may be old");
    until(|| rig.batches.lock().expect("unpoisoned").len() == 2).await;
    match rig.try_send_until(2, soon()) {
        Err(EngineError::DeadlineUnmeetable { wait, left, retry_after }) => {
            assert_eq!(wait.as_secs(), 132, "the one ahead, its own, and a tenth for caution");
            assert!(left <= Duration::from_secs(30) && retry_after >= Duration::from_secs(1));
        }
        other => panic!("queued in vain: {other:?}"),
    }
    assert!(matches!(rig.engine.admissible(soon()), Err(EngineError::DeadlineUnmeetable { .. })));
    let late = rig.try_send_until(3, Instant::now() + Duration::from_secs(133)).expect("time enough");
    rig.open(2);
    lone.wait().await.expect("scores");
    late.wait().await.expect("scores");
    // Measured now: both were answered in no time.
    until(|| rig.engine.admissible(soon()).is_ok()).await;
    assert_eq!(rig.metrics.queue_size.get(), 0);
}
