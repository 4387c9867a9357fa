//! `featherlight bench`: how fast a model is by itself, behind its engine, or behind a service.
//!
//! `forward` measures bare passes, `profile` their ops, `pipeline` decoding and engine together, `load` a running service; each
//! hands back figures,
//! which are printed here, for people or as one JSON object.

mod figures;
mod forward;
mod load;
mod photos;
mod pipeline;
mod profile;

use crate::cli::{self, Subject};
use crate::demo;
use featherlight::image::Processor;
use featherlight::model::{Inspection, LoadedModel, ModelFolder, build};
use featherlight::nn::{RandomSource, Trainable};
use featherlight::ops::device::Placement;
use featherlight::randomness::Randomness;
use serde_json::{Value, json};
use std::error::Error;
use std::fmt::Display;
use std::io::Write;
use std::path::PathBuf;

/// Measures and prints.
///
/// # Errors
/// If the model, the photos or the service cannot be used.
pub fn run(arguments: &cli::Bench) -> Result<(), Box<dyn Error>> {
    match arguments.subject() {
        Subject::Server(server) => serve(arguments, server),
        Subject::Config(config) => {
            let folder = ModelFolder::open(config)?;
            let classifier =
                build(folder.config(), &RandomSource(Randomness::new(0)), Trainable::None, &Placement::CPU)?;
            let processor = folder.processor_or_plain()?;
            model(
                arguments,
                &folder,
                Subject::Config(config),
                LoadedModel::new(classifier, &processor),
                processor,
            )
        }
        Subject::Model(path) => {
            let folder = demo::open(path)?;
            let loaded = LoadedModel::load(&folder, &Placement::CPU)?;
            let processor = folder.processor()?;
            model(arguments, &folder, Subject::Model(path), loaded, processor)
        }
    }
}

fn model(
    arguments: &cli::Bench,
    folder: &ModelFolder,
    subject: Subject<'_>,
    loaded: LoadedModel,
    processor: Processor,
) -> Result<(), Box<dyn Error>> {
    let (height, width) = processor.output_size();
    let weights = if matches!(subject, Subject::Config(_)) { "random" } else { "its own" };
    let mut report = Report::new(arguments.json);
    report.figure(
        "model",
        json!({
            "name": folder.name(),
            "architecture": folder.config().architecture.name(),
            "parameters": Inspection::of(folder.config())?.parameters(),
            "weights": weights,
            "height": height,
            "width": width,
            "device": arguments.compute.device.name(),
            "dtype": arguments.compute.dtype.name(),
        }),
        &format!(
            "{} ({}), {weights} weights, {height} × {width} pixels, {} {}",
            folder.name(),
            folder.config().architecture.name(),
            arguments.compute.device.name(),
            arguments.compute.dtype.name()
        ),
    )?;
    // Read first: a folder that cannot be read should not be known only after the passes.
    let photos = arguments.decode.as_ref().map(|folder| photos::read(folder)).transpose()?;
    let mut passes = Vec::new();
    for size in &arguments.batch_size {
        let figures = forward::measure(&loaded, (height, width), *size as usize, arguments.seconds)?;
        report.line(&figures)?;
        passes.push(figures.to_json());
    }
    report.json("forward", Value::Array(passes));
    if arguments.profile {
        let largest = arguments.batch_size.iter().max().copied().unwrap_or(1) as usize;
        let figures = profile::measure(&loaded, (height, width), largest)?;
        report.figure("profile", figures.to_json(), &figures)?;
    }
    if let Some(photos) = photos {
        let largest = arguments.batch_size.iter().max().copied().unwrap_or(1) as usize;
        let setup = pipeline::Setup { batch_size: largest, time: arguments.seconds };
        let figures = pipeline::measure(&setup, processor, loaded, &photos)?;
        report.figure("pipeline", figures.to_json(), &figures)?;
    }
    report.end()
}

fn serve(arguments: &cli::Bench, server: &str) -> Result<(), Box<dyn Error>> {
    let photos = arguments.decode.as_ref().map(|folder: &PathBuf| photos::read(folder)).transpose()?;
    let photos = photos.map_or_else(photos::made, Ok)?;
    let setup = load::Setup {
        server,
        api_key: arguments.calls.api_key.as_deref(),
        concurrency: arguments.calls.concurrency as usize,
        time: arguments.seconds,
    };
    let figures = load::measure(&setup, &photos)?;
    let mut report = Report::new(arguments.json);
    report.figure("load", figures.to_json(), &figures)?;
    report.end()
}

/// Prints figures as they come, or gathers them into one object.
struct Report {
    gathered: Option<serde_json::Map<String, Value>>,
}

impl Report {
    fn new(json: bool) -> Self {
        Self { gathered: json.then(serde_json::Map::new) }
    }

    fn line(&self, text: &dyn Display) -> std::io::Result<()> {
        if self.gathered.is_none() { writeln!(std::io::stdout(), "{text}") } else { Ok(()) }
    }

    fn json(&mut self, name: &str, value: Value) {
        if let Some(gathered) = &mut self.gathered {
            gathered.insert(name.to_owned(), value);
        }
    }

    fn figure(&mut self, name: &str, value: Value, text: &dyn Display) -> std::io::Result<()> {
        self.json(name, value);
        self.line(text)
    }

    fn end(self) -> Result<(), Box<dyn Error>> {
        if let Some(gathered) = self.gathered {
            writeln!(std::io::stdout(), "{}", Value::Object(gathered))?;
        }
        Ok(())
    }
}
