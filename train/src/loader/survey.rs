//! Every photo of a run decoded once, before the first step.
//!
//! The check of the data calls [`survey`]. What is decoded lands in the cache of the epochs; of each photo nothing else stays
//! than its content's hash, or the reason why it cannot be read.

use super::file::inspect;
use super::pipeline::{Extent, Pipeline};
use super::{LoaderError, Settings};
use std::path::PathBuf;
use std::sync::Arc;

/// The content of each of the photos at `paths` (XXH3 of the file's bytes, 128 bits), or why it cannot be read, in their
/// order; `each` is called for each photo that is behind us, and says whether to go on. Uses the threads, the cache and the limits of `settings`.
///
/// # Errors
/// No thread, or a panic on one. A photo that cannot be read is no error.
pub fn survey(
    paths: Vec<PathBuf>,
    settings: &Settings,
    mut each: impl FnMut() -> bool,
) -> Result<Vec<Result<u128, String>>, LoaderError> {
    let paths: Arc<[PathBuf]> = paths.into();
    let threads = settings.threads;
    let extent = Extent { count: paths.len(), window: threads.get().saturating_mul(16), threads };
    let (files, cache, limits) = (Arc::clone(&paths), settings.cache.clone(), settings.limits.clone());
    let mut pipeline = Pipeline::start(extent, move |at| inspect(&files[at], &cache, &limits))?;
    let mut contents = Vec::with_capacity(paths.len());
    for path in paths.iter() {
        let Some(result) = pipeline.take() else { break };
        contents.push(result.map_err(|message| LoaderError::Panicked { path: path.clone(), message })?);
        if !each() {
            return Err(LoaderError::Stopped);
        }
    }
    Ok(contents)
}
