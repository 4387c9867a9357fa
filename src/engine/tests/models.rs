//! Promises about models: several on one device, a new version beside the old one, a broken one.
//!
//! A fake model here is a number that it adds to each photo's value; its passes wait while it is held.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use super::*;

/// A model's number and the values of the photos that it was given together.
type Batch = (u8, Vec<u8>);

/// What a test holds of a fake model.
#[derive(Clone, Default)]
struct Adder {
    number: u8,
    held: Arc<AtomicBool>,
    /// Runners that exist now.
    alive: Arc<AtomicUsize>,
    /// Every batch, in order; shared by the models of a device.
    batches: Arc<Mutex<Vec<Batch>>>,
}

struct AdderRunner(Adder);

impl Drop for AdderRunner {
    fn drop(&mut self) {
        self.0.alive.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Runner for AdderRunner {
    fn run(&mut self, batch: &[Prepared]) -> Result<Vec<Vec<f32>>, RunnerError> {
        let value = |photo: &Prepared| match photo {
            Prepared::Pixels(pixels) => pixels.data()[0],
            Prepared::Tensor(values) => values[0] as u8,
        };
        let values: Vec<u8> = batch.iter().map(value).collect();
        let scores = values.iter().map(|value| vec![f32::from(value + self.0.number)]).collect();
        self.0.batches.lock().expect("unpoisoned").push((self.0.number, values));
        while self.0.held.load(Ordering::SeqCst) {
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(scores)
    }
}

impl Adder {
    fn new(number: u8) -> Self {
        Self { number, ..Self::default() }
    }

    /// Another model that writes its batches beside this one's.
    fn beside(&self, number: u8) -> Self {
        Self { batches: self.batches.clone(), ..Self::new(number) }
    }

    fn parts(&self) -> ModelParts {
        let adder = self.clone();
        parts(vec![RunnerFactory::new("cpu", Warmup::OnePhoto, move || {
            adder.alive.fetch_add(1, Ordering::SeqCst);
            Ok(AdderRunner(adder))
        })])
    }

    fn hold(&self, held: bool) {
        self.held.store(held, Ordering::SeqCst);
    }

    fn alive(&self) -> usize {
        self.alive.load(Ordering::SeqCst)
    }

    fn batches(&self) -> Vec<Batch> {
        self.batches.lock().expect("unpoisoned").clone()
    }
}

fn start(limit: usize) -> Engine {
    let metrics = EngineMetrics::register(&Registry::new()).expect("an empty registry");
    Engine::start(settings(limit, 64), vec!["cpu".into()], metrics).expect("threads can be had")
}

fn send(engine: &Engine, model: &Model, value: u8) -> Ticket {
    let deadline = Instant::now() + Duration::from_secs(60);
    let input = vec![Input::Tensor(vec![f32::from(value); 3].into())];
    engine.admit(input, model, deadline).expect("admitted").remove(0)
}

async fn score(ticket: Ticket) -> f32 {
    ticket.wait().await.expect("scores").0[0]
}

#[tokio::test]
async fn two_models_share_a_device_and_a_batch_is_of_one_of_them_the_longest_waiting_first() {
    let (engine, one) = (start(8), Adder::new(100));
    let two = one.beside(200);
    let (first, second) =
        (engine.load(one.parts()).await.expect("a model"), engine.load(two.parts()).await.expect("a model"));
    one.hold(true);
    let busy = send(&engine, &first, 1);
    until(|| one.batches().len() == 3).await;
    let (a, b, c, d) = (
        send(&engine, &second, 2),
        send(&engine, &first, 3),
        send(&engine, &second, 4),
        send(&engine, &first, 5),
    );
    one.hold(false);
    assert_eq!([score(busy).await, score(a).await, score(b).await], [101.0, 202.0, 103.0]);
    assert_eq!([score(c).await, score(d).await], [204.0, 105.0]);
    let warm_ups_left_out = one.batches().split_off(2);
    assert_eq!(warm_ups_left_out, [(100, vec![1]), (200, vec![2, 4]), (100, vec![3, 5])]);
}

#[tokio::test]
async fn photos_end_on_the_version_they_began_with_and_an_old_version_leaves_with_the_last_of_them() {
    let (engine, old) = (start(1), Adder::new(10));
    let before = engine.load(old.parts()).await.expect("a model");
    old.hold(true);
    let under_way = [send(&engine, &before, 1), send(&engine, &before, 2)];
    until(|| old.batches().len() == 2).await;
    let new = Adder::new(20);
    let loading = tokio::spawn({
        let (engine, parts) = (engine.clone(), new.parts());
        async move { engine.load(parts).await }
    });
    drop(before);
    old.hold(false);
    let after = loading.await.expect("no panic").expect("a model");
    let next = send(&engine, &after, 3);
    let [first, second] = under_way;
    assert_eq!([score(first).await, score(second).await, score(next).await], [11.0, 12.0, 23.0]);
    until(|| old.alive() == 0).await;
    assert_eq!(new.alive(), 1);
}

#[tokio::test]
async fn a_model_that_cannot_be_built_says_why_and_the_others_go_on() {
    let (engine, adder) = (start(1), Adder::new(1));
    let model = engine.load(adder.parts()).await.expect("a model");
    let broken = || Err::<AdderRunner, _>(RunnerError::Load("no such weights".to_owned()));
    let panics = || -> Result<AdderRunner, RunnerError> { panic!("a loader's bug") };
    for (factory, said) in [
        (RunnerFactory::new("cpu", Warmup::OnePhoto, broken), "no such weights"),
        (RunnerFactory::new("cpu", Warmup::OnePhoto, panics), "building the model panicked"),
    ] {
        let error = engine.load(parts(vec![factory])).await.expect_err("it is broken");
        assert!(matches!(&error, EngineError::Load { reason } if reason == said), "{error}");
    }
    let unfit = engine.load(parts(Vec::new())).await.expect_err("one runner a device");
    assert!(matches!(unfit, EngineError::Internal(_)));
    assert_eq!(score(send(&engine, &model, 6)).await, 7.0);
}

#[tokio::test]
async fn while_a_model_is_loaded_in_pieces_photos_of_another_are_answered() {
    let (engine, adder) = (start(1), Adder::new(1));
    let model = engine.load(adder.parts()).await.expect("a model");
    let (pieces, go) = mpsc::channel::<()>();
    let slow = adder.beside(50);
    let factory = RunnerFactory::in_pieces("cpu", Warmup::OnePhoto, move |breathe| {
        // Each piece is as long as the test likes.
        while go.recv().is_ok() {
            std::thread::sleep(Duration::from_millis(25));
            breathe();
        }
        slow.alive.fetch_add(1, Ordering::SeqCst);
        Ok(AdderRunner(slow))
    });
    let loading = tokio::spawn({
        let engine = engine.clone();
        async move { engine.load(parts(vec![factory])).await }
    });
    for value in [3, 4, 5] {
        let ticket = send(&engine, &model, value);
        pieces.send(()).expect("the factory is at work");
        assert_eq!(score(ticket).await, f32::from(value) + 1.0);
        assert!(!loading.is_finished());
    }
    drop(pieces);
    let second = loading.await.expect("no panic").expect("a model");
    assert_eq!(score(send(&engine, &second, 9)).await, 59.0);
}

#[tokio::test]
async fn an_engine_that_ends_tells_whoever_waits_for_a_model() {
    let engine = start(1);
    let (never, wait) = mpsc::channel::<()>();
    let hangs = move || {
        let _ = wait.recv();
        Err::<AdderRunner, _>(RunnerError::Load("woken by the end of the test".to_owned()))
    };
    let factory = || RunnerFactory::new("cpu", Warmup::OnePhoto, hangs);
    let loading = tokio::spawn({
        let (engine, parts) = (engine.clone(), parts(vec![factory()]));
        async move { engine.load(parts).await }
    });
    tokio::task::yield_now().await;
    engine.give_up("no model to begin with");
    let error = loading.await.expect("no panic").expect_err("the engine has ended");
    assert!(matches!(error, EngineError::DeviceUnavailable { .. }), "{error}");
    drop(never);
}

/// A runner that cannot be dropped.
struct Sticky;

impl Drop for Sticky {
    fn drop(&mut self) {
        panic!("a driver's bug");
    }
}

impl Runner for Sticky {
    fn run(&mut self, batch: &[Prepared]) -> Result<Vec<Vec<f32>>, RunnerError> {
        Ok(batch.iter().map(|_| vec![0.0]).collect())
    }
}

#[tokio::test]
async fn a_device_whose_thread_panics_fails_the_engine() {
    let engine = start(1);
    let sticky = RunnerFactory::new("cpu", Warmup::OnePhoto, || Ok(Sticky));
    let (old, new) = (
        engine.load(parts(vec![sticky])).await.expect("a model"),
        engine.load(Adder::new(1).parts()).await.expect("a model"),
    );
    drop(old);
    // The device drops the old one after its next batch, if it has not yet: nothing is asked of this photo.
    let photo = vec![Input::Tensor(vec![2.0; 3].into())];
    let _ = engine.admit(photo, &new, Instant::now() + Duration::from_secs(60));
    let status = engine.status();
    until(|| *status.borrow() == EngineStatus::Failed("a device's thread panicked".into())).await;
}

#[tokio::test]
async fn an_engine_that_drains_or_is_drained_is_not_failed_by_what_comes_after() {
    let (engine, adder) = (start(1), Adder::new(1));
    let model = engine.load(adder.parts()).await.expect("a model");
    adder.hold(true);
    let busy = send(&engine, &model, 2);
    let status = engine.status();
    let drain = tokio::spawn({
        let engine = engine.clone();
        async move { engine.drain(Duration::from_secs(60)).await }
    });
    until(|| *status.borrow() == EngineStatus::Draining).await;
    engine.give_up("no model to begin with");
    assert_eq!(*status.borrow(), EngineStatus::Draining);
    adder.hold(false);
    assert_eq!(score(busy).await, 3.0);
    assert!(drain.await.expect("no panic"));
    engine.give_up("no model to begin with");
    engine.shared().fail("the device fell off the bus");
    assert_eq!(*status.borrow(), EngineStatus::Stopped);
}
