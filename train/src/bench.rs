//! `bench`: how fast training steps are, and what memory they take.
//!
//! The steps are the trainer's own, on random weights and random photos that lie decoded in memory: nothing is learnt, and
//! no photo is waited for.

use crate::loader::Batch;
use crate::memory;
use crate::settings::Method;
use crate::start::{StartError, StartingModel};
use crate::trainer::{Run, TrainError, TrainerSettings, trained_parameters};
use featherlight::model::{ModelError, ModelFolder};
use featherlight::nn::Parameter;
use featherlight::ops::device::{DeviceError, DeviceInfo, FrozenFormat, Precision};
use featherlight::ops::{Profile, profiled};
use featherlight::randomness::{Purpose, Randomness};
use serde_json::{Value, json};
use std::fmt;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// What is measured.
#[derive(Debug, Clone, PartialEq)]
pub struct BenchSettings {
    /// A folder with a `config.json`.
    pub config: PathBuf,
    /// What is trained.
    pub method: Method,
    /// Photos in a step.
    pub batch_size: NonZeroUsize,
    /// Steps that are timed.
    pub steps: NonZeroUsize,
    /// Whether a block's activations are computed anew in the backward pass instead of kept.
    pub checkpoint_activations: bool,
    /// Whether one more step is watched op by op.
    pub profile: bool,
    /// Of weights, photos, dropout and drop path.
    pub randomness: Randomness,
    /// Where the steps compute.
    pub device: DeviceInfo,
    /// What they compute in; what is trained is kept in f32.
    pub precision: Precision,
    /// How matrices that are not trained are held.
    pub frozen: FrozenFormat,
}

/// Why nothing was measured.
#[derive(Debug, thiserror::Error)]
pub enum BenchError {
    /// The config's folder.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// The model.
    #[error(transparent)]
    Start(#[from] StartError),
    /// The device.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// A step.
    #[error(transparent)]
    Train(#[from] TrainError),
}

/// What was measured.
#[derive(Debug, Clone, PartialEq)]
pub struct BenchFigures {
    architecture: &'static str,
    device: String,
    precision: Precision,
    frozen: FrozenFormat,
    /// Of the model and its adapters; how many of them are trained.
    parameters: (usize, usize),
    method: Method,
    batch_size: usize,
    /// Seconds of each step, sorted.
    seconds: Vec<f64>,
    /// Loss of the last step.
    loss: f64,
    /// The most that the process held in main memory, bytes, where the system tells.
    peak_memory: Option<u64>,
    /// The most that the process's tensors held of the device's memory at once, bytes; `None` on the CPU.
    device_memory: Option<u64>,
    /// How long one more step took, watched op by op.
    profile: Option<(Duration, Profile)>,
}

/// Times `settings.steps` steps after one that is not counted.
///
/// # Errors
/// If the model cannot be made, or a step fails.
pub fn bench(settings: &BenchSettings) -> Result<BenchFigures, BenchError> {
    let folder = ModelFolder::open(&settings.config)?;
    let method = settings.method.for_architecture(&folder.config().architecture);
    let settings = &BenchSettings { method, ..settings.clone() };
    let placement = settings.device.place(settings.precision)?.with_frozen(settings.frozen);
    let StartingModel { classifier, config, processor, .. } = StartingModel::random(
        &folder,
        folder.config().clone(),
        &settings.method,
        settings.randomness,
        &placement,
    )?;
    let trained = trained_parameters(&*classifier);
    let count =
        |parameters: &[&Parameter]| -> usize { parameters.iter().map(|p| p.tensor().elem_count()).sum() };
    let parameters = (count(&classifier.parameters()), count(&trained));
    let noise = settings.randomness.stream(Purpose::Crop, 0, 0, 0);
    let batch = Batch::noise(settings.batch_size.get(), processor.output_size(), config.labels.len(), noise);
    let recipe = recipe(settings);
    let steps = settings.steps.get() as u64 + 1;
    let normalization = processor.normalization();
    let mut run = Run::new(&*classifier, &normalization, &recipe, steps, &[])?;
    let mut micro_batch = 0;
    // A step is over when the device has done it, not when it was told to.
    let mut step = || -> Result<(f64, f64), TrainError> {
        let start = Instant::now();
        let found = run.step(std::slice::from_ref(&batch), 0, micro_batch, Duration::ZERO)?;
        micro_batch += 1;
        placement.device.synchronize()?;
        Ok((start.elapsed().as_secs_f64(), found.map_or(f64::NAN, |step| step.loss)))
    };
    step()?;
    let timed = (0..settings.steps.get()).map(|_| step()).collect::<Result<Vec<_>, _>>()?;
    let loss = timed.last().map_or(f64::NAN, |(_, loss)| *loss);
    let (peak_memory, device_memory) = (memory::peak(), settings.device.peak_memory());
    let profile = if settings.profile {
        let start = Instant::now();
        let (step, profile) = profiled(step);
        step?;
        Some((start.elapsed(), profile))
    } else {
        None
    };
    let mut seconds: Vec<f64> = timed.into_iter().map(|(seconds, _)| seconds).collect();
    seconds.sort_unstable_by(f64::total_cmp);
    Ok(BenchFigures {
        architecture: config.architecture.name(),
        device: settings.device.name(),
        precision: settings.precision,
        frozen: settings.frozen,
        parameters,
        method: settings.method.clone(),
        batch_size: batch.len(),
        seconds,
        loss,
        peak_memory,
        device_memory,
        profile,
    })
}

/// The recipe of `fit`'s defaults, a step a batch.
fn recipe(settings: &BenchSettings) -> TrainerSettings {
    TrainerSettings {
        epochs: 1,
        accumulation_steps: NonZeroUsize::MIN,
        warmup_ratio: 0.0,
        checkpoint_activations: settings.checkpoint_activations,
        randomness: settings.randomness,
        ..TrainerSettings::default()
    }
}

impl BenchFigures {
    /// The middle one of the steps' times, seconds.
    pub fn median_seconds(&self) -> f64 {
        self.seconds.get(self.seconds.len() / 2).copied().unwrap_or(f64::NAN)
    }

    /// Photos a second at the median step.
    pub fn images_per_second(&self) -> f64 {
        self.batch_size as f64 / self.median_seconds()
    }

    /// For programs.
    pub fn to_json(&self) -> Value {
        let ms = |seconds: Option<&f64>| seconds.map(|seconds| seconds * 1000.0);
        json!({
            "architecture": self.architecture,
            "device": self.device,
            "dtype": self.precision.name(),
            "frozen_dtype": self.frozen.name_beside(self.precision),
            "parameters": self.parameters.0,
            "trainable_parameters": self.parameters.1,
            "method": self.method.to_string(),
            "batch_size": self.batch_size,
            "steps": self.seconds.len(),
            "images_per_second": self.images_per_second(),
            "median_ms": self.median_seconds() * 1000.0,
            "min_ms": ms(self.seconds.first()),
            "max_ms": ms(self.seconds.last()),
            "loss": self.loss,
            "peak_memory_bytes": self.peak_memory,
            "device_memory_bytes": self.device_memory,
            "profile": self.profile.as_ref().map(|(whole, profile)| {
                let part = |(op, calls, time): (&str, u64, Duration)| {
                    json!({ "op": op, "calls": calls, "ms": time.as_secs_f64() * 1000.0 })
                };
                profile.parts(*whole).into_iter().map(part).collect::<Vec<_>>()
            }),
        })
    }
}

impl fmt::Display for BenchFigures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = |seconds: Option<&f64>| seconds.map_or(f64::NAN, |seconds| seconds * 1000.0);
        write!(
            f,
            "{} {}, {}, {}, batch {}: {:.2} images/s, a step in {:.2} ms (median; {:.2} to {:.2}), {} steps",
            self.device,
            self.precision,
            self.architecture,
            self.method,
            self.batch_size,
            self.images_per_second(),
            self.median_seconds() * 1000.0,
            ms(self.seconds.first()),
            ms(self.seconds.last()),
            self.seconds.len()
        )?;
        let memory = [("main memory", self.peak_memory), ("memory of the device", self.device_memory)];
        for (name, bytes) in memory.into_iter().filter_map(|(name, bytes)| Some((name, bytes?))) {
            write!(f, "; {name}: at most {:.2} GiB", bytes as f64 / f64::from(1 << 30))?;
        }
        if let Some((whole, profile)) = &self.profile {
            let parts = profile.parts(*whole);
            let whole = whole.as_secs_f64() * 1000.0;
            write!(f, "\na step watched op by op: {whole:.2} ms")?;
            for (op, calls, time) in parts {
                let time = time.as_secs_f64() * 1000.0;
                write!(f, "\n  {op:<24} {calls:>5} calls {time:>10.2} ms {:>5.1} %", 100.0 * time / whole)?;
            }
        }
        Ok(())
    }
}
