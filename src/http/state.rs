//! What all handlers share: the engine, the model's description, the settings, and where the service's life stands.
//!
//! Built once by `main` through [`Service::new`]; handlers read it, the server moves the phase on.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use super::body::ByteBudget;
use super::metrics::HttpMetrics;
use super::settings::ServeSettings;
use crate::engine::{DeviceChoice, Engine, EngineStatus};
use crate::scores::Function;
use crate::telemetry::{ModelLabels, Telemetry};

/// What clients may know about the model.
#[derive(Debug, Clone)]
pub struct ModelInfo {
    /// The name clients use.
    pub name: String,
    /// `model_type` of its config.
    pub architecture: String,
    /// One a score, in the order of the scores.
    pub labels: Arc<[String]>,
    /// What turns logits into scores where the client does not say: [`Function::default_for`].
    pub function: Function,
    /// Height of the model's input, pixels.
    pub height: usize,
    /// Width of the model's input, pixels.
    pub width: usize,
    /// Where it runs, and what it computes in there; in the order of the engine's factories.
    pub devices: Vec<DeviceChoice>,
}

impl ModelInfo {
    /// Where it runs, as `--device` is written: `cpu`, `cuda:0`, `cuda:0,1`.
    pub fn device(&self) -> String {
        let mut names = self.devices.iter().map(|choice| choice.device.name());
        let first = names.next().unwrap_or_default();
        names.fold(first, |list, name| list + "," + name.trim_start_matches("cuda:"))
    }

    /// What it computes in: `f32`, `bf16` …; a list where devices differ in it.
    pub fn dtype(&self) -> String {
        let mut names: Vec<&str> = self.devices.iter().map(|choice| choice.precision.name()).collect();
        names.dedup();
        names.join(",")
    }
}

/// The service: a cheap handle that handlers and server share.
#[derive(Clone)]
pub struct Service {
    shared: Arc<Shared>,
}

struct Shared {
    engine: Engine,
    model: ModelInfo,
    settings: ServeSettings,
    telemetry: Telemetry,
    metrics: HttpMetrics,
    bodies: ByteBudget,
    phase: AtomicU8,
}

/// Where the service's life stands; it only ever moves on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd)]
pub(super) enum Phase {
    /// At work.
    Serving,
    /// The signal to end has come: unready, but still at work, until load balancers know.
    Leaving,
    /// Classifications are refused, and every answer closes its connection.
    Draining,
}

impl Service {
    /// Puts the service together and registers its meters.
    ///
    /// # Errors
    /// When `telemetry` already holds the meters of a service.
    pub fn new(
        engine: Engine,
        model: ModelInfo,
        settings: ServeSettings,
        telemetry: Telemetry,
    ) -> Result<Self, prometheus::Error> {
        telemetry.show_model(ModelLabels {
            model: &model.name,
            architecture: &model.architecture,
            device: &model.device(),
            dtype: &model.dtype(),
        });
        let metrics = HttpMetrics::register(&telemetry.registry)?;
        let bodies = ByteBudget::new(settings.max_inflight_bytes);
        let phase = AtomicU8::new(Phase::Serving as u8);
        let shared = Shared { engine, model, settings, telemetry, metrics, bodies, phase };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// The engine behind it.
    pub fn engine(&self) -> &Engine {
        &self.shared.engine
    }

    /// The model's description.
    pub fn model(&self) -> &ModelInfo {
        &self.shared.model
    }

    /// The settings it was built with.
    pub fn settings(&self) -> &ServeSettings {
        &self.shared.settings
    }

    /// Whether photos are welcome: the engine is ready and no end has been announced.
    pub fn ready(&self) -> bool {
        self.phase() == Phase::Serving && *self.engine().status().borrow() == EngineStatus::Ready
    }

    pub(super) fn telemetry(&self) -> &Telemetry {
        &self.shared.telemetry
    }

    pub(super) fn metrics(&self) -> &HttpMetrics {
        &self.shared.metrics
    }

    pub(super) fn bodies(&self) -> &ByteBudget {
        &self.shared.bodies
    }

    pub(super) fn phase(&self) -> Phase {
        match self.shared.phase.load(Ordering::Acquire) {
            0 => Phase::Serving,
            1 => Phase::Leaving,
            _ => Phase::Draining,
        }
    }

    pub(super) fn enter(&self, phase: Phase) {
        self.shared.phase.fetch_max(phase as u8, Ordering::AcqRel);
    }
}
