//! The models served, by name: what stands behind each, and how one is loaded anew under load.
//!
//! `main` names the sources; handlers ask for a model and keep it until their answer is written, so that photos, labels and
//! scores are of one version even while the next is put in its place. No file is opened here.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};

use tokio::sync::Mutex;

use super::error::ApiError;
use super::state::Service;
use crate::engine::{DeviceChoice, EngineError, Model, ModelParts, Scores};
use crate::scores::Function;
use crate::telemetry::ModelLabels;

/// What clients may know about a model.
#[derive(Debug, Clone)]
pub struct ModelInfo {
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
    /// Where it runs, and what it computes in there; in the order of the engine's devices.
    pub devices: Vec<DeviceChoice>,
}

impl ModelInfo {
    /// Where it runs, as `--device` is written: `cpu`, `cuda:0`, `cuda:0,1`.
    pub fn device(&self) -> String {
        let mut names: Vec<String> = self.devices.iter().map(|choice| choice.device.name()).collect();
        names.dedup();
        let mut names = names.into_iter();
        let first = names.next().unwrap_or_default();
        names.fold(first, |list, name| list + "," + name.trim_start_matches("cuda:"))
    }

    /// Scores, where there is one for each label.
    ///
    /// # Errors
    /// `Internal` otherwise.
    pub(super) fn check(&self, scores: Scores) -> Result<Scores, ApiError> {
        let (found, wanted) = (scores.0.len(), self.labels.len());
        if found == wanted {
            Ok(scores)
        } else {
            Err(ApiError::Internal(format!("{found} scores for {wanted} labels")))
        }
    }

    /// What it computes in: `f32`, `bf16` …; a list where devices differ in it.
    pub fn dtype(&self) -> String {
        let mut names: Vec<&str> = self.devices.iter().map(|choice| choice.precision.name()).collect();
        names.dedup();
        names.join(",")
    }
}

/// Where a model comes from; opened once when the service starts, and again for each reload.
pub trait ModelSource: Send + Sync {
    /// Reads the model. Called on a thread that may block.
    ///
    /// # Errors
    /// Says which file, and what is wrong with it.
    fn open(&self) -> Result<(ModelParts, ModelInfo), String>;
}

impl<F: Fn() -> Result<(ModelParts, ModelInfo), String> + Send + Sync> ModelSource for F {
    fn open(&self) -> Result<(ModelParts, ModelInfo), String> {
        self()
    }
}

/// One version of a model, ready for photos.
pub struct Served {
    /// The name clients use.
    pub name: Arc<str>,
    /// What clients may know.
    pub info: ModelInfo,
    /// Counts the versions of this name, from 1.
    pub version: u64,
    pub(super) model: Model,
}

/// All models of a service.
#[derive(Default)]
pub(super) struct Models {
    registry: RwLock<Registry>,
    /// Held while a model is loaded: one at a time, as the old version and the new take memory enough.
    loading: Mutex<()>,
}

#[derive(Default)]
struct Registry {
    /// The first that was named: what `/classify` asks.
    default: Option<Arc<str>>,
    entries: BTreeMap<Arc<str>, Entry>,
}

struct Entry {
    source: Arc<dyn ModelSource>,
    served: Arc<Served>,
}

impl Models {
    fn read<T>(&self, look: impl FnOnce(&Registry) -> T) -> T {
        // Whoever panicked holding the lock changed one entry in one step, or none.
        look(&self.registry.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn write<T>(&self, change: impl FnOnce(&mut Registry) -> T) -> T {
        change(&mut self.registry.write().unwrap_or_else(PoisonError::into_inner))
    }

    /// The model of this name, or the default one.
    pub(super) fn get(&self, name: Option<&str>) -> Option<Arc<Served>> {
        self.read(|registry| {
            let name = name.or(registry.default.as_deref())?;
            registry.entries.get(name).map(|entry| entry.served.clone())
        })
    }

    /// All of them, by name.
    pub(super) fn all(&self) -> Vec<Arc<Served>> {
        self.read(|registry| registry.entries.values().map(|entry| entry.served.clone()).collect())
    }
}

impl Service {
    /// Loads a model and serves it under `name`, beside the others; the first that is loaded is the default. One that is
    /// served under that name already goes on until the new one is warm, then gives way; requests under way end on it.
    ///
    /// # Errors
    /// If it cannot be read, loaded or warmed; then nothing has changed.
    pub async fn load(&self, name: &str, source: Arc<dyn ModelSource>) -> Result<Arc<Served>, String> {
        self.put_in_place(name, source).await.map_err(|error| match error {
            EngineError::DeviceUnavailable { reason } => reason.to_string(),
            error => error.to_string(),
        })
    }

    /// The same with the reason as the engine has it: `Load` where it is the model's fault.
    async fn put_in_place(
        &self,
        name: &str,
        source: Arc<dyn ModelSource>,
    ) -> Result<Arc<Served>, EngineError> {
        let _turn = self.registry().loading.lock().await;
        let (name, opened): (Arc<str>, _) = (name.into(), source.clone());
        let opening = tokio::task::spawn_blocking(move || opened.open());
        let opened = opening.await.unwrap_or_else(|_| Err("reading the model panicked".to_owned()));
        let (parts, info) = opened.map_err(|reason| EngineError::Load { reason })?;
        let model = self.engine().load(parts).await?;
        let (served, before) = self.registry().write(|registry| {
            let before = registry.entries.get(&name).map(|entry| entry.served.clone());
            let version = before.as_ref().map_or(1, |before| before.version + 1);
            let served = Arc::new(Served { name: name.clone(), info, version, model });
            registry.entries.insert(name.clone(), Entry { source, served: served.clone() });
            registry.default.get_or_insert_with(|| name.clone());
            (served, before)
        });
        if let Some(before) = before {
            show(&before, |labels| self.telemetry().hide_model(labels));
        }
        show(&served, |labels| self.telemetry().show_model(labels));
        tracing::info!(model = &*served.name, version = served.version, "the model is served");
        Ok(served)
    }

    /// Reads a model anew from where it came from and puts it in its own place.
    ///
    /// # Errors
    /// `ModelNotFound`; `ReloadFailed` with the reason, and the model that was there goes on; the engine's reason when it takes no
    /// model any more.
    pub(super) async fn reload(&self, name: &str) -> Result<Arc<Served>, ApiError> {
        let found = self.registry().read(|registry| Some(registry.entries.get(name)?.source.clone()));
        let source = found.ok_or_else(|| self.unknown(name))?;
        self.put_in_place(name, source).await.map_err(|error| {
            if let EngineError::Load { reason } = &error {
                tracing::error!(model = name, reason, "the model cannot be loaded anew; the old one goes on");
            }
            error.into()
        })
    }

    /// The model of this name, or the default one.
    ///
    /// # Errors
    /// `ModelNotFound` naming those there are; `NotReady` while the first are being loaded.
    pub(super) fn model(&self, name: Option<&str>) -> Result<Arc<Served>, ApiError> {
        if !self.opened() {
            return Err(ApiError::NotReady);
        }
        self.registry().get(name).ok_or_else(|| self.unknown(name.unwrap_or_default()))
    }

    /// All models served, by name.
    pub(super) fn models(&self) -> Vec<Arc<Served>> {
        self.registry().all()
    }

    fn unknown(&self, name: &str) -> ApiError {
        let names: Vec<String> = self.models().iter().map(|served| format!("`{}`", served.name)).collect();
        let name: String = name.chars().take(200).collect();
        ApiError::ModelNotFound(format!("no model `{name}`; served are {}", names.join(", ")))
    }
}

/// Hands a model's labels of `featherlight_model_info` to `with`.
fn show(served: &Served, with: impl FnOnce(ModelLabels<'_>)) {
    let (device, dtype) = (served.info.device(), served.info.dtype());
    with(ModelLabels {
        model: &served.name,
        architecture: &served.info.architecture,
        device: &device,
        dtype: &dtype,
    });
}
