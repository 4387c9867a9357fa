//! `--watch`: model folders looked at again and again, and loaded anew when they have changed.
//!
//! By looking, not by the system's notices: those do not travel over network file systems, and end when a folder is replaced by
//! renaming, which is how a training run and Kubernetes' volumes put new files in place. A network file system can also hang, so
//! nothing here looks on a thread that serves.

use super::catalog::{Catalog, FolderSource};
use featherlight::http::Service;
use std::collections::{BTreeMap, HashMap};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::task::spawn_blocking;
use walkdir::WalkDir;

/// Between two looks.
const PAUSE: Duration = Duration::from_secs(1);

/// Where `huggingface_hub` keeps the unfinished files of a download. Elsewhere below a model folder lies what changes for other reasons:
/// logs, checkpoints, photos.
const DOWNLOADS: &str = ".cache/huggingface/download";

/// Size, time and number of each file: another file has another number, even where an archive gave both the same time.
type Files = BTreeMap<PathBuf, (u64, Option<SystemTime>, u64)>;

/// What a model's folders looked like.
#[derive(Clone, Debug, Default, PartialEq)]
struct Look {
    /// The model's own files, the adapter's among them.
    own: Files,
    /// Those of a download: no part of the model, but one that grows says that its own are not complete yet.
    below: Files,
}

/// Remembers what the folders looked like when their models were read.
pub struct Watcher {
    catalog: Catalog,
    /// By the model's name.
    loaded: HashMap<String, Files>,
    /// A look that differs, seen once: a copy may still be under way.
    pending: HashMap<String, Look>,
}

/// A model to load, and whether the service has it already.
struct Change {
    name: String,
    source: Arc<FolderSource>,
    new: bool,
}

impl Watcher {
    /// Takes the folders as they are.
    pub async fn new(catalog: Catalog) -> Self {
        let look_at_all = |catalog: &Catalog| {
            catalog.models().iter().map(|(name, source)| (name.clone(), look(source).own)).collect()
        };
        let seen = catalog.clone();
        // Nothing remembered means that all is loaded once more.
        let loaded = spawn_blocking(move || look_at_all(&seen)).await.unwrap_or_default();
        Self { catalog, loaded, pending: HashMap::new() }
    }

    /// Looks until the service has gone.
    pub async fn run(mut self, service: Service) {
        loop {
            tokio::time::sleep(PAUSE).await;
            let looked = spawn_blocking(move || {
                let changes = self.look_around();
                (self, changes)
            });
            let changes;
            (self, changes) = match looked.await {
                Ok(looked) => looked,
                Err(error) => return tracing::error!(%error, "folders are watched no more"),
            };
            for Change { name, source, new } in changes {
                match service.load(&name, source.clone()).await {
                    Ok(_) if new => self.catalog.admit(name, source),
                    Ok(_) => {}
                    Err(reason) if new => {
                        tracing::error!(model = name, %reason, "a new model of the repository cannot be loaded");
                    }
                    Err(reason) => {
                        tracing::error!(
                            model = name,
                            %reason,
                            "the changed model cannot be loaded; the old one goes on"
                        );
                    }
                }
            }
        }
    }

    /// The models whose folders have changed. Each is told once, loaded or broken: the next change is another try.
    fn look_around(&mut self) -> Vec<Change> {
        let known = self.catalog.models().iter().map(|(name, source)| (name.clone(), source.clone(), false));
        let new = self.catalog.newcomers().into_iter().map(|(name, source)| (name, source, true));
        let all: Vec<_> = known.chain(new).collect();
        let mut changes = Vec::new();
        for (name, source, new) in all {
            if self.has_settled(&name, look(&source)) {
                changes.push(Change { name, source, new });
            }
        }
        changes
    }

    /// Whether the model's own files are new and everything stood still between two looks. A folder that is gone is no new model.
    fn has_settled(&mut self, name: &str, look: Look) -> bool {
        if look.own.is_empty() || self.loaded.get(name) == Some(&look.own) {
            self.pending.remove(name);
            return false;
        }
        let settled = self.pending.get(name) == Some(&look);
        if settled {
            self.pending.remove(name);
            self.loaded.insert(name.to_owned(), look.own);
        } else {
            self.pending.insert(name.to_owned(), look);
        }
        settled
    }
}

fn look(source: &FolderSource) -> Look {
    let mut look = Look::default();
    source.folders().for_each(|folder| look.add(folder));
    look
}

impl Look {
    /// Takes in the files of a folder, links to files followed; what cannot be read is not there.
    fn add(&mut self, folder: &Path) {
        add(&mut self.own, WalkDir::new(folder).max_depth(1).follow_links(true));
        add(&mut self.below, WalkDir::new(folder.join(DOWNLOADS)));
    }
}

fn add(files: &mut Files, entries: WalkDir) {
    for entry in entries.into_iter().flatten() {
        if let Some(metadata) = entry.metadata().ok().filter(std::fs::Metadata::is_file) {
            files.insert(entry.into_path(), (metadata.len(), metadata.modified().ok(), metadata.ino()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn look_at(folder: &Path) -> Look {
        let mut look = Look::default();
        look.add(folder);
        look
    }

    #[test]
    fn a_link_that_turns_to_files_of_the_same_size_and_time_is_a_change() {
        let folder = tempfile::tempdir().expect("a folder");
        let current = folder.path().join("current");
        let looks = ["1", "2"].map(|version| {
            let own = folder.path().join(version);
            std::fs::create_dir(&own).expect("a folder");
            let file = std::fs::File::create(own.join("config.json")).expect("a file");
            file.set_modified(SystemTime::UNIX_EPOCH).expect("a time");
            let _ = std::fs::remove_file(&current);
            std::os::unix::fs::symlink(&own, &current).expect("a link");
            look_at(&current)
        });
        assert_eq!(looks[0].own.len(), 1);
        assert_ne!(looks[0], looks[1]);
    }

    #[test]
    fn files_further_down_that_change_all_the_time_keep_nothing_from_being_read() {
        let folder = tempfile::tempdir().expect("a folder");
        let runs = folder.path().join("runs");
        std::fs::create_dir(&runs).expect("a folder");
        std::fs::write(folder.path().join("config.json"), "{}").expect("a file");
        let mut watcher =
            Watcher { catalog: Catalog::of_nothing(), loaded: HashMap::new(), pending: HashMap::new() };
        let mut look = |text: &str| {
            std::fs::write(runs.join("events.log"), text).expect("a file");
            watcher.has_settled("m", look_at(folder.path()))
        };
        assert!(!look("1"), "seen for the first time");
        assert!(look("12"));
    }

    #[test]
    fn a_download_that_grows_below_the_folder_keeps_it_from_being_read() {
        let folder = tempfile::tempdir().expect("a folder");
        let unfinished = folder.path().join(".cache/huggingface/download");
        std::fs::create_dir_all(&unfinished).expect("folders");
        let (config, part) = (folder.path().join("config.json"), unfinished.join("weights.incomplete"));
        std::fs::write(&config, "{}").expect("a file");
        std::fs::write(&part, "1").expect("a file");
        let catalog = Catalog::of_nothing();
        let mut watcher = Watcher { catalog, loaded: HashMap::new(), pending: HashMap::new() };
        assert!(!watcher.has_settled("m", look_at(folder.path())), "seen for the first time");
        std::fs::write(&part, "12").expect("a file");
        assert!(!watcher.has_settled("m", look_at(folder.path())), "the download goes on");
        assert!(watcher.has_settled("m", look_at(folder.path())), "it stood still");
        std::fs::write(&part, "123").expect("a file");
        assert!(!watcher.has_settled("m", look_at(folder.path())), "nothing of the model's own has changed");
        assert!(!watcher.has_settled("m", look_at(folder.path())));
    }
}
