//! Which models the flags name, and how each is read.

use crate::cli::{self, NamedFolder};
use crate::demo;
use featherlight::engine::{DeviceChoice, LoadedParts, ModelParts};
use featherlight::http::{ModelInfo, ModelSource};
use featherlight::image::DecodeLimits;
use featherlight::model::ModelFolder;
use featherlight::scores::Function;
use std::collections::BTreeSet;
use std::error::Error;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The models to serve, in the order of the flags: the first is the default.
#[derive(Clone)]
pub struct Catalog {
    models: Vec<(String, Arc<FolderSource>)>,
    repository: Option<PathBuf>,
    limits: DecodeLimits,
    devices: Vec<DeviceChoice>,
}

/// A model folder, read anew each time.
#[derive(Clone)]
pub struct FolderSource {
    name: String,
    /// `None`: the demo, compiled in.
    folder: Option<PathBuf>,
    adapter: Option<PathBuf>,
    limits: DecodeLimits,
    devices: Vec<DeviceChoice>,
}

impl Catalog {
    /// Reads the flags; of the folders themselves only the repository's list is looked at.
    ///
    /// # Errors
    /// If two models have one name, an adapter has no model, or the repository cannot be read or holds none.
    pub fn new(
        arguments: &cli::Serve,
        limits: DecodeLimits,
        devices: Vec<DeviceChoice>,
    ) -> Result<Self, Box<dyn Error>> {
        let repository = arguments.model_repository.clone();
        let mut catalog = Self { models: Vec::new(), repository, limits, devices };
        for NamedFolder { name, folder } in arguments.model.iter().flatten() {
            let name = name.clone().map_or_else(|| own_name(folder), Ok)?;
            catalog.add(name, Some(folder.clone()))?;
        }
        if let Some(repository) = catalog.repository.clone() {
            let found = model_folders(&repository).map_err(|error| {
                format!("{}: the model repository cannot be read: {error}", repository.display())
            })?;
            if found.is_empty() {
                let repository = repository.display();
                return Err(
                    format!("{repository}: holds no model folder (a folder with a config.json)").into()
                );
            }
            for (name, folder) in found {
                catalog.add(name, Some(folder))?;
            }
        }
        if catalog.models.is_empty() {
            catalog.add(demo::open(None)?.name(), None)?;
        }
        for adapter in arguments.adapter.iter().flatten() {
            catalog.attach(adapter)?;
        }
        Ok(catalog)
    }

    /// Names and sources, the default first.
    pub fn models(&self) -> &[(String, Arc<FolderSource>)] {
        &self.models
    }

    /// Model folders of the repository that have no source yet; a repository that cannot be read now has none.
    pub fn newcomers(&self) -> Vec<(String, Arc<FolderSource>)> {
        let Some(found) = self.repository.as_deref().and_then(|folder| model_folders(folder).ok()) else {
            return Vec::new();
        };
        let known: BTreeSet<&str> = self.models.iter().map(|(name, _)| name.as_str()).collect();
        let new = found.into_iter().filter(|(name, _)| !known.contains(name.as_str()));
        new.map(|(name, folder)| (name.clone(), Arc::new(self.source(name, Some(folder))))).collect()
    }

    #[cfg(test)]
    pub fn of_nothing() -> Self {
        let memory = Arc::new(featherlight::image::MemoryBudget::new(0));
        let limits = DecodeLimits { max_pixels: 0, memory };
        Self { models: Vec::new(), repository: None, limits, devices: Vec::new() }
    }

    /// Takes a newcomer in.
    pub fn admit(&mut self, name: String, source: Arc<FolderSource>) {
        self.models.push((name, source));
    }

    fn add(&mut self, name: String, folder: Option<PathBuf>) -> Result<(), Box<dyn Error>> {
        if self.models.iter().any(|(known, _)| *known == name) {
            let message = format!("two models are called {name}; give one another name: --model NAME=DIR");
            return Err(cli::usage_error(message).into());
        }
        let source = self.source(name.clone(), folder);
        self.models.push((name, Arc::new(source)));
        Ok(())
    }

    fn source(&self, name: String, folder: Option<PathBuf>) -> FolderSource {
        let (limits, devices) = (self.limits.clone(), self.devices.clone());
        FolderSource { name, folder, adapter: None, limits, devices }
    }

    fn attach(&mut self, adapter: &NamedFolder) -> Result<(), Box<dyn Error>> {
        let NamedFolder { name, folder } = adapter;
        let several = self.models.len() > 1;
        let found = match name {
            Some(name) => self.models.iter_mut().find(|(known, _)| known == name),
            None if several => None,
            None => self.models.first_mut(),
        };
        let shown = folder.display();
        let Some((_, source)) = found else {
            return Err(cli::usage_error(match name {
                Some(name) => format!("--adapter {name}={shown}: there is no model {name}"),
                None => format!("--adapter {shown}: which model is it for? --adapter NAME={shown}"),
            })
            .into());
        };
        if let Some(first) = &source.adapter {
            let first = first.display();
            let message = format!("two adapters for one model, {first} and {shown}: a model has one at most");
            return Err(cli::usage_error(message).into());
        }
        *source = Arc::new(FolderSource { adapter: Some(folder.clone()), ..source.as_ref().clone() });
        Ok(())
    }
}

/// The name of a model folder that was given none.
fn own_name(folder: &Path) -> Result<String, Box<dyn Error>> {
    Ok(ModelFolder::open(folder)?.name())
}

/// The folders of a repository that hold a `config.json`, by name; hidden ones are somebody's work in progress.
fn model_folders(repository: &Path) -> std::io::Result<Vec<(String, PathBuf)>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(repository)? {
        let path = entry?.path();
        let Some(name) = path.file_name().and_then(|name| name.to_str()).map(str::to_owned) else { continue };
        if !name.starts_with('.') && path.join("config.json").is_file() {
            found.push((name, path));
        }
    }
    found.sort_by(|(one, _), (other, _)| natord::compare(one, other));
    Ok(found)
}

impl FolderSource {
    /// The folders that the model is read from; none for the demo.
    pub fn folders(&self) -> impl Iterator<Item = &Path> {
        self.folder.iter().chain(&self.adapter).map(PathBuf::as_path)
    }
}

impl ModelSource for FolderSource {
    fn open(&self) -> Result<(ModelParts, ModelInfo), String> {
        let read = || -> Result<(ModelParts, ModelInfo), featherlight::model::ModelError> {
            let folder = match &self.folder {
                Some(folder) => ModelFolder::open(folder)?,
                None => demo::open(None)?,
            };
            let folder = folder.with_adapter(self.adapter.as_deref())?;
            let parts = LoadedParts::read(&self.name, &folder, self.limits.clone())?.on(&self.devices);
            let config = folder.config();
            let labels: Arc<[String]> = config.labels.clone().into();
            let info = ModelInfo {
                architecture: config.architecture.name().to_owned(),
                function: Function::default_for(labels.len(), config.multi_label),
                labels,
                height: parts.spec.height,
                width: parts.spec.width,
                devices: self.devices.clone(),
            };
            Ok((parts, info))
        };
        read().map_err(|error| error.to_string())
    }
}
