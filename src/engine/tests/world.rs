//! The engine's parts without its threads: one thread, a still clock, and a fake device whose passes move it on.
//!
//! While a pass takes its time, requests come in and decode threads work, each at its own moment. They are admitted, queued
//! and answered by the engine's own code; only who sleeps and wakes is played here.

use std::collections::VecDeque;

use tokio::sync::oneshot::{self, error::TryRecvError};

use super::super::clock::Clock;
use super::super::decode_pool::{self, OneByOne};
use super::super::device::{Device, LoadOrder};
use super::super::queue::Entry;
use super::super::shared::Shared;
use super::*;

/// How long a fake machine's work takes.
#[derive(Clone, Copy)]
pub struct Machine {
    /// A pass …
    pub fixed: Duration,
    /// … and so much more of it a photo.
    pub each: Duration,
    /// A photo's decoding.
    pub decode: Duration,
    pub warmup: Warmup,
    /// What every tenth pass takes beyond that, as on a machine with other work to do.
    pub stall: Duration,
}

impl Machine {
    /// A pass of `fixed` + `each` × photos milliseconds; photos are decoded in no time.
    pub fn new(fixed: u32, each: u32) -> Self {
        let (fixed, each) = (milliseconds(fixed), milliseconds(each));
        Self { fixed, each, decode: Duration::ZERO, warmup: Warmup::OnePhoto, stall: Duration::ZERO }
    }
}

/// So many photos in one request, and how long its client waits.
#[derive(Clone, Copy)]
pub struct Request {
    pub at: Instant,
    pub photos: usize,
    pub patience: Duration,
}

/// What became of the photos.
#[derive(Default)]
pub struct Seen {
    /// Times from admission to scores.
    pub latencies: Vec<Duration>,
    pub refused: usize,
    pub late: usize,
}

impl Seen {
    pub fn slowest(&self) -> Duration {
        self.latencies.iter().max().copied().unwrap_or_default()
    }
}

/// A device with a model, and all that goes on around it.
pub struct World<'a> {
    shared: &'a Arc<Shared>,
    pub device: Device<'a>,
    pub model: Model,
    around: Arc<Mutex<Around>>,
    /// Sizes of the batches after the warm-up.
    sizes: Arc<Mutex<Vec<usize>>>,
}

/// Clients and decode threads.
struct Around {
    shared: Arc<Shared>,
    model: Model,
    machine: Machine,
    /// Photos that are being decoded, and when each is done; the first begun first.
    decoding: VecDeque<(Instant, Entry<Bytes>)>,
    requests: VecDeque<Request>,
    waiting: Vec<(Instant, Ticket)>,
    seen: Seen,
}

struct Timed {
    around: Arc<Mutex<Around>>,
    sizes: Arc<Mutex<Vec<usize>>>,
}

pub fn milliseconds(number: u32) -> Duration {
    Duration::from_millis(1) * number
}

pub fn shared(settings: EngineSettings) -> Arc<Shared> {
    let metrics = EngineMetrics::register(&Registry::new()).expect("an empty registry");
    Arc::new(Shared::new(settings, vec!["cpu".into()], metrics, Clock::still()))
}

impl Runner for Timed {
    fn run(&mut self, batch: &[Prepared]) -> Result<Vec<Vec<f32>>, RunnerError> {
        let mut sizes = self.sizes.lock().expect("unpoisoned");
        sizes.push(batch.len());
        let mut around = self.around.lock().expect("unpoisoned");
        let mut time = around.machine.fixed + around.machine.each * batch.len() as u32;
        if sizes.len().is_multiple_of(10) {
            time += around.machine.stall;
        }
        drop(sizes);
        around.live(time);
        Ok(batch.iter().map(|_| vec![1.0]).collect())
    }
}

impl Around {
    /// Lets time pass, with all that happens in it.
    fn live(&mut self, time: Duration) {
        let clock = self.shared.clock.clone();
        let end = clock.now() + time;
        loop {
            self.act();
            let Some(next) = self.next().filter(|next| *next <= end) else { break };
            clock.advance(next.saturating_duration_since(clock.now()));
        }
        clock.advance(end.saturating_duration_since(clock.now()));
    }

    /// When something happens next.
    fn next(&self) -> Option<Instant> {
        let decoded = self.decoding.front().map(|(end, _)| *end);
        let request = self.requests.front().map(|request| request.at);
        decoded.into_iter().chain(request).min()
    }

    /// Does what is due at this moment.
    fn act(&mut self) {
        let (shared, now) = (self.shared.clone(), self.shared.clock.now());
        while let Some(request) = self.requests.front().copied().filter(|request| request.at <= now) {
            self.requests.pop_front();
            let photos = (0..request.photos).map(|_| Input::Photo(Bytes::from_static(&[5]))).collect();
            match shared.admit(photos, &self.model, now + request.patience) {
                Ok(tickets) => self.waiting.extend(tickets.into_iter().map(|ticket| (now, ticket))),
                Err(_) => self.seen.refused += request.photos,
            }
        }
        loop {
            let done = self.decoding.iter().take_while(|(end, _)| *end <= now).count();
            for (_, entry) in self.decoding.drain(..done) {
                decode_pool::decode(&shared, entry);
            }
            let free = shared.settings.decode_threads - self.decoding.len();
            let begun = (0..free).map_while(|_| shared.encoded.try_take(&OneByOne)).flatten();
            let before = self.decoding.len();
            self.decoding.extend(begun.map(|entry| (now + self.machine.decode, entry)));
            if self.decoding.len() == before || !self.machine.decode.is_zero() {
                return;
            }
        }
    }

    fn collect(&mut self) {
        let (seen, now) = (&mut self.seen, self.shared.clock.now());
        self.waiting.retain_mut(|(since, ticket)| {
            match ticket.answer.try_recv() {
                Ok(Ok(_)) => seen.latencies.push(now - *since),
                Ok(Err(EngineError::DeadlineExceeded)) => seen.late += 1,
                Ok(Err(error)) => panic!("{error}"),
                Err(TryRecvError::Empty) => return true,
                Err(TryRecvError::Closed) => panic!("an entry was lost"),
            }
            false
        });
    }
}

impl<'a> World<'a> {
    pub fn new(shared: &'a Arc<Shared>, machine: Machine) -> Self {
        let ModelParts { spec, prepare, .. } = parts(Vec::new());
        let model = Model::new(spec, prepare, 1);
        let around = Arc::new(Mutex::new(Around {
            shared: shared.clone(),
            model: model.clone(),
            machine,
            decoding: VecDeque::new(),
            requests: VecDeque::new(),
            waiting: Vec::new(),
            seen: Seen::default(),
        }));
        let sizes = Arc::<Mutex<Vec<usize>>>::default();
        let runner = Timed { around: around.clone(), sizes: sizes.clone() };
        let factory = RunnerFactory::new("cpu", machine.warmup, move || Ok(runner));
        let mut device = Device::new(shared, 0);
        let order = LoadOrder { model: model.clone(), factory, reply: oneshot::channel().0 };
        device.load(order).expect("a sound device");
        sizes.lock().expect("unpoisoned").clear();
        Self { shared, device, model, around, sizes }
    }

    pub fn now(&self) -> Instant {
        self.shared.clock.now()
    }

    /// From now on its work takes another time.
    pub fn becomes(&self, machine: Machine) {
        self.around().machine = machine;
    }

    /// The time that so many photos take, by the pace.
    pub fn pace(&self, photos: u32) -> Duration {
        self.model.lane().time_of(photos)
    }

    /// One photo comes every `interval` for `time`.
    pub fn stream(&self, interval: Duration, time: Duration, patience: Duration) -> Vec<Request> {
        let (first, count) = (self.now(), time.as_nanos().div_ceil(interval.as_nanos()) as u32);
        (0..count).map(|number| Request { at: first + interval * number, photos: 1, patience }).collect()
    }

    /// Plays the requests, in order of their time, until everyone is answered; what became of their photos.
    pub fn play(&mut self, requests: Vec<Request>) -> Seen {
        self.around().requests.extend(requests);
        loop {
            self.around().act();
            let busy = self.device.step().expect("a sound device");
            let now = self.now();
            let mut around = self.around();
            around.collect();
            if busy {
                continue;
            }
            // Somebody may wait for a hold-back or a deadline to end, which is no event here.
            let soon = (!around.waiting.is_empty()).then(|| now + milliseconds(1));
            let Some(next) = around.next().into_iter().chain(soon).min() else {
                return std::mem::take(&mut around.seen);
            };
            around.live(next.saturating_duration_since(now));
        }
    }

    /// Plays a [`World::stream`].
    pub fn run(&mut self, interval: Duration, time: Duration, patience: Duration) -> Seen {
        self.play(self.stream(interval, time, patience))
    }

    /// Sizes of the batches since the last call, or since the warm-up.
    pub fn sizes(&self) -> Vec<usize> {
        std::mem::take(&mut self.sizes.lock().expect("unpoisoned"))
    }

    fn around(&self) -> std::sync::MutexGuard<'_, Around> {
        self.around.lock().expect("unpoisoned")
    }
}
