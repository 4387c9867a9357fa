//! A running service for whole-HTTP tests: real sockets, a real decoder, and a runner that needs no weights.
//!
//! The runner's logits are the mean red, green and blue of a photo, so that every photo has an answer of its own. It
//! can be held, to decide what happens while the device is busy, and some colours make it fail.
#![allow(dead_code, reason = "each test program uses its own part of this harness")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a failed step of a test is its failure"
)]

pub mod client;
pub mod hostile;
pub mod inference;
pub mod load;
pub mod photos;

use std::net::SocketAddr;
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use featherlight::engine::{
    DeviceChoice, Engine, EngineMetrics, ModelParts, ModelSpec, Prepared, Runner, RunnerError, RunnerFactory,
    Warmup, device_names,
};
use featherlight::http::{Listeners, ModelInfo, ModelSource, ServeSettings, Service};
use featherlight::image::{DecodeLimits, ImageError, MemoryBudget, Pixels, Processor};
use featherlight::ops::device::{DeviceInfo, Memory, Precision};
use featherlight::scores::Function;
use featherlight::telemetry::Telemetry;
use tokio::sync::oneshot;

pub use client::{Answer, Connection};

/// A photo of this colour makes the model return an error for its batch.
pub const POISON: [u8; 3] = [1, 2, 3];
/// A photo of this colour makes the model panic.
pub const PANIC: [u8; 3] = [3, 2, 1];
/// A photo of this colour gets scores that are not numbers.
pub const NOT_A_NUMBER: [u8; 3] = [2, 1, 3];
/// A photo of this colour takes the device down.
pub const DEVICE_LOSS: [u8; 3] = [2, 3, 1];
/// A photo of this colour needs more memory than the device has, with others and alone.
pub const TOO_LARGE: [u8; 3] = [1, 3, 2];

/// Where the runner claims to run.
const CPU: DeviceChoice = DeviceChoice { device: DeviceInfo::Cpu, precision: Precision::F32 };

pub fn labels() -> [&'static str; 3] {
    ["red", "green", "blue"]
}

/// The hand on the device: while held, a forward pass does not begin.
#[derive(Clone, Default)]
pub struct Hand(Arc<(Mutex<bool>, Condvar)>);

impl Hand {
    pub fn hold(&self) {
        *self.0.0.lock().expect("unpoisoned") = true;
    }

    pub fn release(&self) {
        *self.0.0.lock().expect("unpoisoned") = false;
        self.0.1.notify_all();
    }

    fn wait(&self) {
        let held = self.0.0.lock().expect("unpoisoned");
        drop(self.0.1.wait_while(held, |held| *held).expect("unpoisoned"));
    }
}

struct MeanColour {
    hand: Hand,
    pace: Duration,
}

impl Runner for MeanColour {
    fn run(&mut self, batch: &[Prepared]) -> Result<Vec<Vec<f32>>, RunnerError> {
        self.hand.wait();
        std::thread::sleep(self.pace);
        batch.iter().map(score).collect()
    }

    fn memory(&self) -> Option<Memory> {
        Some(Memory { free: 5 << 30, total: 80 << 30 })
    }
}

fn score(photo: &Prepared) -> Result<Vec<f32>, RunnerError> {
    let mut means = [0.0_f32; 3];
    match photo {
        Prepared::Pixels(pixels) => {
            let count = (pixels.width() * pixels.height()) as f32;
            for pixel in pixels.data().chunks_exact(3) {
                for (mean, value) in means.iter_mut().zip(pixel) {
                    *mean += f32::from(*value) / count;
                }
            }
        }
        Prepared::Tensor(values) => {
            let plane = values.len() / 3;
            for (mean, values) in means.iter_mut().zip(values.chunks_exact(plane)) {
                *mean = values.iter().sum::<f32>() / plane as f32;
            }
        }
    }
    match means.map(|mean| mean.round() as u8) {
        POISON => Err(RunnerError::Batch("poison".to_owned())),
        PANIC => panic!("a model's bug"),
        DEVICE_LOSS => Err(RunnerError::Device("the device fell off the bus".to_owned())),
        TOO_LARGE => Err(RunnerError::OutOfMemory("no room".to_owned())),
        NOT_A_NUMBER => Ok(vec![f32::NAN, 0.0, 0.0]),
        _ => Ok(means.to_vec()),
    }
}

/// The real decoder, and a processor that squeezes a photo to 8 × 8 pixels.
fn prepare(settings: &ServeSettings) -> impl Fn(&[u8]) -> Result<Pixels, ImageError> + Send + Sync + 'static {
    let config = serde_json::json!({
        "do_resize": true, "size": {"height": 8, "width": 8}, "resample": 2, "do_center_crop": false,
        "do_rescale": true, "rescale_factor": 1.0 / 255.0,
        "do_normalize": true, "image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5],
    });
    let processor = Processor::from_json(&config).expect("a processor");
    let limits = DecodeLimits {
        max_pixels: settings.max_pixels,
        memory: Arc::new(MemoryBudget::new(settings.decode_memory_bytes)),
    };
    move |bytes| processor.prepare(bytes, &limits)
}

/// A model whose logits are a photo's mean colours, on a runner for each device.
pub fn colours(
    hand: Hand,
    pace: Duration,
    settings: &ServeSettings,
    devices: Vec<DeviceChoice>,
) -> Arc<dyn ModelSource> {
    let prepare = Arc::new(prepare(settings));
    Arc::new(move || {
        let runner = |choice: &DeviceChoice| {
            let runner = MeanColour { hand: hand.clone(), pace };
            RunnerFactory::new(choice.device.name(), Warmup::OnePhoto, move || Ok(runner))
        };
        let parts = ModelParts {
            spec: ModelSpec { name: "colours".into(), height: 8, width: 8 },
            prepare: prepare.clone(),
            runners: devices.iter().map(runner).collect(),
        };
        let info = ModelInfo {
            architecture: "mean".to_owned(),
            labels: labels().map(str::to_owned).to_vec().into(),
            function: Function::default_for(3, false),
            height: 8,
            width: 8,
            devices: devices.clone(),
        };
        Ok((parts, info))
    })
}

/// What a test may choose.
#[derive(Clone)]
pub struct Setup {
    pub settings: ServeSettings,
    /// Time one forward pass takes.
    pub pace: Duration,
    /// Held from the start: the engine never gets through its warm-up until released.
    pub cold: bool,
    /// Where the runners claim to run, one each.
    pub devices: Vec<DeviceChoice>,
}

impl Default for Setup {
    fn default() -> Self {
        Self { settings: ServeSettings::default(), pace: Duration::ZERO, cold: false, devices: vec![CPU] }
    }
}

/// A service at work on a port of its own.
pub struct Running {
    pub address: SocketAddr,
    /// Where the settings have an admin port.
    pub admin: Option<SocketAddr>,
    /// Where `/metrics` gathers.
    pub registry: prometheus::Registry,
    pub hand: Hand,
    pub service: Service,
    shutdown: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Running {
    pub fn start() -> Self {
        Self::with(Setup::default())
    }

    pub fn with_settings(change: impl FnOnce(&mut ServeSettings)) -> Self {
        let mut setup = Setup::default();
        change(&mut setup.settings);
        Self::with(setup)
    }

    pub fn with(setup: Setup) -> Self {
        let Setup { settings, pace, cold, devices } = setup;
        let hand = Hand::default();
        if cold {
            hand.hold();
        }
        let telemetry = Telemetry::new().expect("a fresh registry");
        let metrics = EngineMetrics::register(&telemetry.registry).expect("a fresh registry");
        let registry = telemetry.registry.clone();
        let has_admin_port = settings.admin_port.is_some();
        let engine = Engine::start(settings.engine.clone(), device_names(&devices), metrics);
        let source = colours(hand.clone(), pace, &settings, devices);
        let service = Service::new(engine.expect("threads"), settings, telemetry).expect("a new registry");

        let (shutdown, signal) = oneshot::channel::<()>();
        let (public, address) = listen();
        let (admin_socket, admin) = has_admin_port.then(listen).unzip();
        let inner = service.clone();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
            runtime.expect("a runtime").block_on(async move {
                let listener = |socket| tokio::net::TcpListener::from_std(socket).expect("a listener");
                let listeners = Listeners { public: listener(public), admin: admin_socket.map(listener) };
                let loading = inner.clone();
                let loading = tokio::spawn(async move {
                    loading.load("colours", source).await.expect("a model");
                    loading.open();
                });
                if !cold {
                    loading.await.expect("no panic");
                }
                let signal = async {
                    let _ = signal.await;
                };
                featherlight::http::serve(listeners, inner, signal).await;
            });
        });
        let (shutdown, thread) = (Some(shutdown), Some(thread));
        let running = Self { address, admin, registry, hand, service, shutdown, thread };
        if !cold {
            running.until(|running| running.service.ready());
        }
        running
    }

    pub fn connect(&self) -> Connection {
        Connection::open(self.address)
    }

    pub fn get(&self, path: &str) -> Answer {
        self.connect().send("GET", path, &[], b"")
    }

    /// Posts to `/classify` + `query`, on a connection of its own.
    pub fn classify(&self, query: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
        self.connect().send("POST", &format!("/classify{query}"), headers, body)
    }

    /// The value of one line of `/metrics`.
    pub fn metric(&self, line: &str) -> f64 {
        let address = self.admin.unwrap_or(self.address);
        metric(&Connection::open(address).send("GET", "/metrics", &[], b"").text(), line)
    }

    pub fn until(&self, mut condition: impl FnMut(&Self) -> bool) {
        let patience = Instant::now() + Duration::from_secs(30);
        while !condition(self) {
            assert!(Instant::now() < patience, "waited 30 s in vain");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// The signal to end.
    pub fn signal(&mut self) {
        if let Some(shutdown) = self.shutdown.take() {
            let _ = shutdown.send(());
        }
    }

    /// Waits until `serve` has returned; says whether it did within 30 s.
    pub fn ended(&mut self) -> bool {
        self.signal();
        self.ended_by_itself()
    }

    /// The same without a signal.
    pub fn ended_by_itself(&mut self) -> bool {
        let Some(thread) = self.thread.take() else { return true };
        let patience = Instant::now() + Duration::from_secs(30);
        while !thread.is_finished() && Instant::now() < patience {
            std::thread::sleep(Duration::from_millis(5));
        }
        thread.is_finished() && thread.join().is_ok()
    }
}

fn listen() -> (std::net::TcpListener, SocketAddr) {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.set_nonblocking(true).expect("a socket");
    let address = listener.local_addr().expect("a bound socket");
    (listener, address)
}

impl Drop for Running {
    fn drop(&mut self) {
        self.hand.release();
        if !std::thread::panicking() {
            assert!(self.ended(), "the service did not end");
        }
    }
}

/// The value on the line of `/metrics` that begins with `line` and a space; panics when there is none.
pub fn metric(text: &str, line: &str) -> f64 {
    let value = text.lines().find_map(|found| found.strip_prefix(line)?.strip_prefix(' '));
    value.unwrap_or_else(|| panic!("no metric {line} in\n{text}")).parse().expect("a number")
}
