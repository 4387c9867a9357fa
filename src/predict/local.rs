//! Photos → rows with a model in this process.
//!
//! The engine that serves HTTP does the work: its decode pool, its batches, its care for a photo that fails. What is added
//! here is the order of the rows, and files read ahead in a window a few batches wide, so that memory does not grow with
//! the number of photos.

use super::read::{FILES_IN_MEMORY, read};
use super::{Attempt, PhotoFile, PredictError, Row, Rows};
use crate::engine::{
    DeviceChoice, Engine, EngineError, EngineMetrics, EngineSettings, EngineStatus, Input, Scores,
    model_runner, photo_input,
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
        let processor = folder.processor().map_err(|error| model(&error))?;
        let config = folder.config();
        let (labels, function) =
            (config.labels.clone(), Function::default_for(config.labels.len(), config.multi_label));
        let (spec, prepare) = photo_input(&folder.name(), processor, DecodeLimits::default());
        let defaults = EngineSettings::default();
        // For each device a batch on it, one that waits for it, one in the decoders.
        let window = 3 * settings.batch_size.max(1) * settings.devices.len().max(1) + defaults.decode_threads;
        let engine =
            EngineSettings { max_batch_size: settings.batch_size.max(1), max_queue_size: window, ..defaults };
        // The meters are kept, as ever; nobody reads these.
        let telemetry = Telemetry::new().map_err(|error| internal(&error))?;
        let metrics = EngineMetrics::register(&telemetry.registry).map_err(|error| internal(&error))?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .max_blocking_threads(READERS)
            .build()
            .map_err(|error| internal(&error))?;
        let folder = Arc::new(folder);
        let runners = settings.devices.into_iter().map(|choice| model_runner(folder.clone(), choice));
        let engine = Engine::start(engine, spec, prepare, runners.collect(), metrics)
            .map_err(|error| internal(&error))?;
        let mut status = engine.status();
        let settled = runtime.block_on(async {
            let settled = status.wait_for(|status| *status != EngineStatus::Starting).await;
            settled.map(|status| status.clone())
        });
        match settled {
            Ok(EngineStatus::Failed(reason)) => Err(PredictError::Model(reason.to_string())),
            Ok(_) => Ok(Self { runtime, engine, window, labels, function, top_k: settings.top_k }),
            Err(error) => Err(internal(&error)),
        }
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
                let (engine, path, budget) = (self.engine.clone(), photo.path.clone(), budget.clone());
                waiting.push_back((photo, tokio::spawn(scores(engine, path, budget))));
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
async fn scores(engine: Engine, path: PathBuf, budget: Arc<MemoryBudget>) -> Attempt<Scores> {
    let bytes = match tokio::task::spawn_blocking(move || read(&path, &budget)).await {
        Ok(Ok(bytes)) => bytes,
        Ok(Err(reason)) => return Ok(Err(reason)),
        Err(error) => return Err(PredictError::Internal(error.to_string())),
    };
    match engine.submit(Input::Photo(bytes), None, Instant::now() + DEADLINE).await {
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
