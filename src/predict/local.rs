//! Photos → rows with a model in this process.
//!
//! The engine that serves HTTP does the work: its decode pool, its batches, its care for a photo that fails. What is added
//! here is the order of the rows, and files read ahead in a window a few batches wide, so that memory does not grow with
//! the number of photos.

use super::read::{FILES_IN_MEMORY, read};
use super::{Attempt, PhotoFile, PredictError, Row, Rows};
use crate::engine::{
    BatchLimit, DeviceChoice, Engine, EngineError, EngineMetrics, EngineSettings, Input, LoadedParts, Model,
    Scores, device_names,
};
use crate::image::{DecodeLimits, MemoryBudget};
use crate::model::ModelFolder;
use crate::scores::{Function, Prediction, predictions};
use crate::telemetry::Telemetry;
use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::runtime::Runtime;
use tokio::task::JoinHandle;

/// Nobody waits for a single photo: its deadline only bounds a device that hangs.
const DEADLINE: Duration = Duration::from_secs(24 * 60 * 60);

/// Threads that read files.
const READERS: usize = 4;

/// How photos are classified.
#[derive(Clone, Debug)]
pub struct LocalSettings {
    /// Where the model runs; each holds a copy of it and takes what it can.
    pub devices: Vec<DeviceChoice>,
    /// Photos in one forward pass, at most.
    pub batch_size: usize,
    /// Labels a photo.
    pub top_k: usize,
}

/// A loaded model behind an engine of its own.
pub struct LocalModel {
    runtime: Runtime,
    engine: Engine,
    model: Model,
    /// Photos read and not yet written as rows, at most.
    window: usize,
    labels: Vec<String>,
    function: Function,
    top_k: usize,
}

impl LocalModel {
    /// Loads the model on every device and warms it there.
    ///
    /// # Errors
    /// If it cannot be loaded, or a device cannot be used; says what is wrong with which file.
    pub fn start(folder: ModelFolder, settings: LocalSettings) -> Result<Self, PredictError> {
        let model = |error: &dyn std::fmt::Display| PredictError::Model(error.to_string());
        let internal = |error: &dyn std::fmt::Display| PredictError::Internal(error.to_string());
        let config = folder.config();
        let (labels, function) =
            (config.labels.clone(), Function::default_for(config.labels.len(), config.multi_label));
        let defaults = EngineSettings::on(&settings.devices);
        let batch_size = settings.batch_size.max(1);
        // For each device a batch on it, one that waits for it, one in the decoders.
        let window = 3 * batch_size * settings.devices.len().max(1) + defaults.decode_threads;
        let engine = EngineSettings {
            max_batch_size: BatchLimit::Fixed(batch_size),
            max_queue_size: window,
            ..defaults
        };
        // The meters are kept, as ever; nobody reads these.
        let telemetry = Telemetry::new().map_err(|error| internal(&error))?;
        let metrics = EngineMetrics::register(&telemetry.registry).map_err(|error| internal(&error))?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .max_blocking_threads(READERS)
            .build()
            .map_err(|error| internal(&error))?;
        let name = folder.name();
        let parts = LoadedParts::read(&name, &folder, DecodeLimits::default())
            .map_err(|error| model(&error))?
            .on(&settings.devices);
        let engine = Engine::start(engine, device_names(&settings.devices), metrics)
            .map_err(|error| internal(&error))?;
        let loaded = runtime.block_on(engine.load(parts)).map_err(|error| match error {
            EngineError::DeviceUnavailable { reason } => model(&reason),
            error => model(&error),
        })?;
        Ok(Self { runtime, engine, model: loaded, window, labels, function, top_k: settings.top_k })
    }

    /// Classifies the photos and hands out their rows in order.
    ///
    /// # Errors
    /// If the device fails, or `rows` does.
    pub fn run(&self, photos: &[PhotoFile], rows: &mut Rows<'_>) -> Result<(), PredictError> {
        let budget = Arc::new(MemoryBudget::new(FILES_IN_MEMORY));
        self.runtime.block_on(async {
            let mut waiting: VecDeque<(&PhotoFile, JoinHandle<_>)> = VecDeque::with_capacity(self.window);
            for photo in photos {
                if waiting.len() >= self.window {
                    self.finish(waiting.pop_front(), rows).await?;
                }
                let (engine, model) = (self.engine.clone(), self.model.clone());
                let scores = scores(engine, model, photo.path.clone(), budget.clone());
                waiting.push_back((photo, tokio::spawn(scores)));
            }
            while !waiting.is_empty() {
                self.finish(waiting.pop_front(), rows).await?;
            }
            Ok(())
        })
    }

    async fn finish(
        &self,
        first: Option<(&PhotoFile, JoinHandle<Attempt<Scores>>)>,
        rows: &mut Rows<'_>,
    ) -> Result<(), PredictError> {
        let Some((photo, scores)) = first else { return Ok(()) };
        let scores = scores.await.map_err(|error| PredictError::Internal(error.to_string()))??;
        let outcome = scores.map(|Scores(logits)| {
            let best = predictions(&logits, &self.labels, self.function, self.top_k);
            let owned =
                |best: Prediction<&str>| Prediction { label: best.label.to_owned(), score: best.score };
            best.into_iter().map(owned).collect()
        });
        rows(Row { file: photo.file.clone(), outcome })
    }
}

/// One photo: what it is worth, or why it is worth nothing; an error ends the run.
async fn scores(engine: Engine, model: Model, path: PathBuf, budget: Arc<MemoryBudget>) -> Attempt<Scores> {
    let bytes = match tokio::task::spawn_blocking(move || read(&path, &budget)).await {
        Ok(Ok(bytes)) => bytes,
        Ok(Err(reason)) => return Ok(Err(reason)),
        Err(error) => return Err(PredictError::Internal(error.to_string())),
    };
    match engine.submit(Input::Photo(bytes), &model, Instant::now() + DEADLINE).await {
        Ok(scores) => Ok(Ok(scores)),
        Err(error @ (EngineError::Photo(_) | EngineError::NonFinite | EngineError::Internal(_))) => {
            Ok(Err(error.to_string()))
        }
        // No row says this: the same photo in a smaller batch has scores.
        Err(EngineError::OutOfMemory { .. }) => {
            let problem = "the device ran out of memory; a smaller --batch-size, or --device cpu, needs less"
                .to_owned();
            Err(PredictError::Model(problem))
        }
        Err(error) => Err(PredictError::Model(error.to_string())),
    }
}
