//! A model that the engine's devices hold: what callers name when they hand in photos.
//!
//! `Engine::load` makes a [`Model`]; whoever holds one may submit to it. When the last handle and the last photo of it are
//! gone, each device drops its copy. A new version of a model is another [`Model`], so photos under way end on the version
//! that they began with.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, Weak};

use super::lane::Lane;
use super::{ModelSpec, Prepare};

/// A handle to a loaded model; clones share it.
#[derive(Clone)]
pub struct Model(Arc<Version>);

/// What stands behind the handles.
struct Version {
    id: u64,
    spec: ModelSpec,
    prepare: Arc<dyn Prepare>,
    /// Photos in one forward pass, at most, for each device; set when it is warm there.
    limits: Vec<OnceLock<usize>>,
    lane: Arc<Lane>,
}

/// Tells whether a model is still wanted, without keeping it.
pub(super) struct Wanted(Weak<Version>);

impl Wanted {
    pub(super) fn still(&self) -> bool {
        self.0.strong_count() > 0
    }
}

static NEXT: AtomicU64 = AtomicU64::new(0);

impl Model {
    pub(super) fn new(spec: ModelSpec, prepare: Arc<dyn Prepare>, devices: usize) -> Self {
        let id = NEXT.fetch_add(1, Ordering::Relaxed);
        let limits = (0..devices).map(|_| OnceLock::new()).collect();
        Self(Arc::new(Version { id, spec, prepare, limits, lane: Arc::default() }))
    }

    /// Its name, for logs; two versions may share one.
    pub fn name(&self) -> &str {
        &self.0.spec.name
    }

    /// What it takes: name, height and width.
    pub fn spec(&self) -> &ModelSpec {
        &self.0.spec
    }

    /// Photos in one forward pass, at most, for each device in the engine's order; `None` where it is not warm yet.
    pub fn max_batch_sizes(&self) -> Vec<Option<usize>> {
        self.0.limits.iter().map(|limit| limit.get().copied()).collect()
    }

    /// No other model of this process has it.
    pub(super) fn id(&self) -> u64 {
        self.0.id
    }

    pub(super) fn prepare(&self) -> &dyn Prepare {
        &*self.0.prepare
    }

    /// Its photos in the engine, and their pace.
    pub(super) fn lane(&self) -> &Arc<Lane> {
        &self.0.lane
    }

    pub(super) fn wanted(&self) -> Wanted {
        Wanted(Arc::downgrade(&self.0))
    }

    /// It is warm on device `index`, with batches up to `limit`.
    pub(super) fn warmed(&self, index: usize, limit: usize) {
        // A device warms a model once.
        let _ = self.0.limits.get(index).map(|known| known.set(limit));
    }
}

impl fmt::Debug for Model {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Model({}#{})", self.name(), self.id())
    }
}
