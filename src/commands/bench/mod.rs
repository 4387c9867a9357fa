//! `featherlight bench`: how fast a model is by itself, behind its engine, or behind a service.
//!
//! `forward` measures bare passes, `profile` their ops, `pipeline` decoding and engine together, `load` a running service; each
//! hands back figures, which are printed here, for people or as one JSON object.

mod figures;
mod forward;
mod load;
mod photos;
mod pipeline;
mod profile;
mod report;

use super::devices::find;
use crate::cli::{self, Subject};
use crate::demo;
use featherlight::engine::LoadedParts;
use featherlight::image::{DecodeLimits, Processor};
use featherlight::model::{Inspection, LoadedModel, ModelError, ModelFolder, build};
use featherlight::nn::{RandomSource, Trainable};
use featherlight::ops::Cores;
use featherlight::ops::device::{DeviceInfo, Placement};
use featherlight::randomness::Randomness;
use report::Report;
use serde_json::{Value, json};
use std::error::Error;
use std::path::PathBuf;
use std::sync::Arc;

/// Measures and prints.
///
/// # Errors
/// If the model, the device, the photos or the service cannot be used.
pub fn run(arguments: &cli::Bench) -> Result<(), Box<dyn Error>> {
    match arguments.subject() {
        Subject::Server(server) => serve(arguments, server),
        Subject::Config(config) => {
            let folder = Arc::new(ModelFolder::open(config)?);
            let processor = folder.processor_or_plain()?;
            model(arguments, &Weights::Random(folder), &processor)
        }
        Subject::Model(path) => {
            let folder = Arc::new(demo::open(path)?);
            let processor = folder.processor()?;
            model(arguments, &Weights::Own(folder), &processor)
        }
    }
}

/// A model that can be loaded wherever it is measured.
#[derive(Clone)]
enum Weights {
    /// The folder's architecture.
    Random(Arc<ModelFolder>),
    /// The folder's model.
    Own(Arc<ModelFolder>),
}

impl Weights {
    fn name(&self) -> &'static str {
        match self {
            Self::Random(_) => "random",
            Self::Own(_) => "its own",
        }
    }

    fn folder(&self) -> &ModelFolder {
        match self {
            Self::Random(folder) | Self::Own(folder) => folder,
        }
    }

    fn load(&self, placement: &Placement) -> Result<LoadedModel, ModelError> {
        match self {
            Self::Random(folder) => {
                let source = RandomSource(Randomness::new(0));
                let classifier = build(folder.config(), &source, Trainable::None, placement)
                    .map_err(|source| ModelError::Parameter { file: folder.path().into(), source })?;
                Ok(LoadedModel::new(classifier, &folder.processor_or_plain()?))
            }
            Self::Own(folder) => LoadedModel::load(folder, placement),
        }
    }
}

fn model(arguments: &cli::Bench, weights: &Weights, processor: &Processor) -> Result<(), Box<dyn Error>> {
    let choice = find(&arguments.compute)?.tell_one();
    let placement = choice.device.place(choice.precision)?;
    let loaded = weights.load(&placement)?;
    let folder = weights.folder();
    let (height, width) = processor.output_size();
    let mut report = Report::new(arguments.json);
    report.figure(
        "model",
        json!({
            "name": folder.name(),
            "architecture": folder.config().architecture.name(),
            "parameters": Inspection::of(folder.config())?.parameters(),
            "weights": weights.name(),
            "height": height,
            "width": width,
            "device": choice.device.name(),
            "dtype": choice.precision.name(),
        }),
        &format!(
            "{} ({}), {} weights, {height} × {width} pixels, {} {}",
            folder.name(),
            folder.config().architecture.name(),
            weights.name(),
            choice.device,
            choice.precision
        ),
    )?;
    // Read first: a folder that cannot be read should not be known only after the passes.
    let photos = arguments.decode.as_ref().map(|folder| photos::read(folder)).transpose()?;
    let cores = (choice.device == DeviceInfo::Cpu).then(|| Cores::of_worker(0, 1)).transpose()?;
    let setup = forward::Setup { model: &loaded, size: (height, width), cores, time: arguments.seconds };
    let mut passes = Vec::new();
    for size in &arguments.batch_size {
        let figures = forward::measure(&setup, *size as usize)?;
        report.line(&figures)?;
        passes.push(figures.to_json());
    }
    report.json("forward", Value::Array(passes));
    if arguments.profile {
        let largest = arguments.batch_size.iter().max().copied().unwrap_or(1) as usize;
        let figures = profile::measure(&setup, largest)?;
        report.figure("profile", figures.to_json(), &figures)?;
    }
    if let Some(photos) = photos {
        let largest = arguments.batch_size.iter().max().copied().unwrap_or(1) as usize;
        // The engine's thread makes a copy of its own: a device is touched by one thread alone.
        drop(setup);
        drop((loaded, placement));
        let (name, limits) = (folder.name(), DecodeLimits::default());
        let (config, model) = (folder.config(), weights.load(&Placement::CPU)?);
        let parts = LoadedParts { name: &name, config, model, processor: processor.clone(), limits };
        let setup = pipeline::Setup { batch_size: largest, time: arguments.seconds };
        let figures = pipeline::measure(&setup, parts, choice, &photos)?;
        report.figure("pipeline", figures.to_json(), &figures)?;
    }
    report.end()
}

fn serve(arguments: &cli::Bench, server: &str) -> Result<(), Box<dyn Error>> {
    let photos = arguments.decode.as_ref().map(|folder: &PathBuf| photos::read(folder)).transpose()?;
    let photos = photos.map_or_else(photos::made, Ok)?;
    let setup = load::Setup { server, load: &arguments.load, time: arguments.seconds };
    let mut report = Report::new(arguments.json);
    let outcome = load::measure(&setup, photos, &mut report);
    // Rows that were measured are figures, whatever came after them.
    report.end()?;
    outcome
}
