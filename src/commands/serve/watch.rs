//! `--watch`: model folders looked at again and again, and loaded anew when they have changed.
//!
//! By looking, not by the system's notices: those do not travel over network file systems, and end when a folder is replaced by
//! renaming, which is how a training run and Kubernetes' volumes put new files in place.

use super::catalog::{Catalog, FolderSource};
use featherlight::http::Service;
use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// Between two looks.
const PAUSE: Duration = Duration::from_secs(1);

/// What a folder's files looked like: size and time of each.
type Look = BTreeMap<PathBuf, (u64, Option<SystemTime>)>;

/// Remembers what the folders looked like when their models were read.
pub struct Watcher {
    /// By the model's name.
    loaded: HashMap<String, Look>,
    /// A look that differs, seen once: a copy may still be under way.
    pending: HashMap<String, Look>,
}

impl Watcher {
    /// Takes the folders as they are.
    pub fn new(catalog: &Catalog) -> Self {
        let looks = catalog.models().iter().map(|(name, source)| (name.clone(), look(source)));
        Self { loaded: looks.collect(), pending: HashMap::new() }
    }

    /// Looks until the service has gone.
    pub async fn run(mut self, service: Service, mut catalog: Catalog) {
        loop {
            tokio::time::sleep(PAUSE).await;
            for (name, source) in catalog.models() {
                if let Some(look) = self.settled(name, source) {
                    // A broken folder is told once; the next change is another try.
                    self.loaded.insert(name.clone(), look);
                    if let Err(reason) = service.load(name, source.clone()).await {
                        tracing::error!(
                            model = name,
                            reason,
                            "the changed model cannot be loaded; the old one goes on"
                        );
                    }
                }
            }
            for (name, source) in catalog.newcomers() {
                if let Some(look) = self.settled(&name, &source) {
                    self.loaded.insert(name.clone(), look);
                    match service.load(&name, source.clone()).await {
                        Ok(_) => catalog.admit(name, source),
                        Err(reason) => {
                            tracing::error!(
                                model = name,
                                reason,
                                "a new model of the repository cannot be loaded"
                            );
                        }
                    }
                }
            }
        }
    }

    /// What the folders look like, if that is new and stood still between two looks. A folder that is gone is no new model.
    fn settled(&mut self, name: &str, source: &FolderSource) -> Option<Look> {
        let look = look(source);
        if look.is_empty() || self.loaded.get(name) == Some(&look) {
            self.pending.remove(name);
            return None;
        }
        if self.pending.get(name) == Some(&look) {
            return self.pending.remove(name);
        }
        self.pending.insert(name.to_owned(), look);
        None
    }
}

fn look(source: &FolderSource) -> Look {
    source.folders().flat_map(files).collect()
}

/// The files of a folder, links followed; what cannot be read is not there.
fn files(folder: &Path) -> Vec<(PathBuf, (u64, Option<SystemTime>))> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    let file = |entry: std::io::Result<std::fs::DirEntry>| {
        let path = entry.ok()?.path();
        let metadata = std::fs::metadata(&path).ok().filter(std::fs::Metadata::is_file)?;
        Some((path, (metadata.len(), metadata.modified().ok())))
    };
    entries.filter_map(file).collect()
}
