//! What all handlers share: the engine, the models, the settings, and where the service's life stands.
//!
//! Built once by `main` through [`Service::new`]; handlers read it, the server moves the phase on.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::time::Instant;

use super::auth::Keys;
use super::budget::{ByteBudget, Reservation};
use super::error::ApiError;
use super::metrics::HttpMetrics;
use super::registry::Models;
use super::settings::ServeSettings;
use crate::engine::{Engine, EngineStatus};
use crate::telemetry::Telemetry;

/// The service: a cheap handle that handlers and server share.
#[derive(Clone)]
pub struct Service {
    shared: Arc<Shared>,
}

struct Shared {
    engine: Engine,
    models: Models,
    settings: ServeSettings,
    telemetry: Telemetry,
    metrics: HttpMetrics,
    bodies: ByteBudget,
    /// The models to begin with are loaded.
    opened: AtomicBool,
    keys: Keys,
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
    /// Puts the service together and registers its meters. It has no model yet and is not ready: see [`Service::load`] and
    /// [`Service::open`].
    ///
    /// # Errors
    /// When `telemetry` already holds the meters of a service.
    pub fn new(
        engine: Engine,
        settings: ServeSettings,
        telemetry: Telemetry,
    ) -> Result<Self, prometheus::Error> {
        let metrics = HttpMetrics::register(&telemetry.registry)?;
        let bodies = ByteBudget::new(settings.max_inflight_bytes);
        let keys = Keys::new(&settings.api_keys, &settings.admin_keys);
        let phase = AtomicU8::new(Phase::Serving as u8);
        let (models, opened) = (Models::default(), AtomicBool::new(false));
        let shared = Shared { engine, models, settings, telemetry, metrics, bodies, keys, opened, phase };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// The engine behind it.
    pub fn engine(&self) -> &Engine {
        &self.shared.engine
    }

    /// The settings it was built with.
    pub fn settings(&self) -> &ServeSettings {
        &self.shared.settings
    }

    /// The models to begin with are loaded: from now on photos are welcome.
    pub fn open(&self) {
        self.shared.opened.store(true, Ordering::Release);
    }

    /// Whether photos are welcome: the models are there, the engine is ready and no end has been announced.
    pub fn ready(&self) -> bool {
        let engine = || *self.engine().status().borrow() == EngineStatus::Ready;
        self.opened() && self.phase() == Phase::Serving && engine()
    }

    pub(super) fn opened(&self) -> bool {
        self.shared.opened.load(Ordering::Acquire)
    }

    pub(super) fn registry(&self) -> &Models {
        &self.shared.models
    }

    /// From now on these keys are good, and none of before.
    pub fn replace_keys(&self, api: &[String], admin: &[String]) {
        self.shared.keys.replace(api, admin);
    }

    pub(super) fn keys(&self) -> &Keys {
        &self.shared.keys
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

    /// Promises memory for a body's bytes.
    ///
    /// # Errors
    /// `Overloaded` when it is in use.
    pub(super) fn promise(&self, bytes: u64) -> Result<Reservation, ApiError> {
        self.bodies().reserve(bytes).ok_or_else(|| self.overloaded())
    }

    /// The refusal of whatever finds no room now.
    pub(super) fn overloaded(&self) -> ApiError {
        ApiError::Overloaded { retry_after: self.engine().retry_after() }
    }

    /// Resolves when no photo is taken any more, with the reason: what is still on its way would be refused once it is there.
    pub(super) async fn closed(&self, deadline: Instant) -> ApiError {
        // Fails only when the engine is gone, and `self` holds it.
        let _ = self.engine().status().wait_for(|status| *status != EngineStatus::Ready).await;
        self.engine().admissible(deadline).map_or_else(ApiError::from, |()| ApiError::ShuttingDown)
    }

    pub(super) fn enter(&self, phase: Phase) {
        self.shared.phase.fetch_max(phase as u8, Ordering::AcqRel);
    }
}
